"""The Python twins of the commands that use or check one trained run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ltbench.program import DEFAULT_RESULTS
from ltbench.registry import add_plugins

if TYPE_CHECKING:
    from ltbench.exporting.work import Exported
    from ltbench.runner import Outcome
    from ltbench.user_pictures import UserPredictions
    from ltbench.verification import Verified


def verify(
    run: str | Path | Outcome,
    *,
    weights: bool = True,
    data_root: str | Path | None = None,
    tolerance: float | None = None,
    results: str | Path = DEFAULT_RESULTS,
    plugins: Sequence[str | Path] = (),
) -> Verified:
    """Find every number and digest of a finished run again; see `ltbench.verification`.

    Args:
        run: what `ltbench.run` gave, a folder, `<key>/seed-<n>`, or the beginning of a key.

    Returns:
        The checks with what each found; `failed` holds those that differ.
    """
    from ltbench.results import find_run
    from ltbench.verification import verify_run

    add_plugins([Path(file) for file in plugins])
    folder = find_run(Path(results), _name(run))
    return verify_run(folder, weights=weights, data_root=_path(data_root), tolerance=tolerance)


def predict(
    run: str | Path | Outcome,
    images: Sequence[str | Path],
    out: str | Path,
    *,
    device: str = "auto",
    results: str | Path = DEFAULT_RESULTS,
    plugins: Sequence[str | Path] = (),
) -> UserPredictions:
    """Predict pictures of one's own into a CSV table; see `ltbench.user_pictures`.

    Args:
        images: files, and folders of pictures.

    Returns:
        How many were predicted, and which are `broken`.
    """
    from ltbench.results import find_run
    from ltbench.user_pictures import predict_pictures

    add_plugins([Path(file) for file in plugins])
    folder = find_run(Path(results), _name(run))
    return predict_pictures(folder, [Path(one) for one in images], Path(out), device=device)


def export(
    run: str | Path | Outcome,
    kind: Literal["onnx", "safetensors"],
    out: str | Path,
    *,
    data_root: str | Path | None = None,
    results: str | Path = DEFAULT_RESULTS,
    plugins: Sequence[str | Path] = (),
) -> Exported:
    """Write a trained model for other programs, and its model card; see `ltbench.exporting`.

    Returns:
        The files, and of ONNX how far its logits are from torch's.
    """
    from ltbench.exporting.work import export_run
    from ltbench.results import find_run

    add_plugins([Path(file) for file in plugins])
    folder = find_run(Path(results), _name(run))
    return export_run(folder, kind, Path(out), data_root=_path(data_root))


def _name(run: str | Path | Outcome) -> str:
    return str(run) if isinstance(run, str | Path) else str(run.folder.path)


def _path(given: str | Path | None) -> Path | None:
    return None if given is None else Path(given)
