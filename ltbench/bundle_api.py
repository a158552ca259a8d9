"""The Python twins of the `leaderboard` commands."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ltbench.program import DEFAULT_RESULTS
from ltbench.registry import add_plugins

if TYPE_CHECKING:
    from ltbench.bundles.work import Rerun


def bundle(
    name: str,
    out: str | Path,
    *,
    seeds: Sequence[int] | None = None,
    results: str | Path = DEFAULT_RESULTS,
    plugins: Sequence[str | Path] = (),
) -> dict[str, Any]:
    """Write a bundle of one configuration and its seeds; `bench.py leaderboard bundle`.

    Args:
        name: a key, its beginning, or one of its runs.
        out: a file that ends in .zip, or a new folder.

    Returns:
        The bundle's manifest, with the `digest` of the whole.
    """
    from ltbench.bundles.work import make_bundle

    add_plugins([Path(file) for file in plugins])
    manifest = make_bundle(Path(results), str(name), Path(out), seeds).manifest
    return {**manifest.model_dump(mode="json"), "digest": manifest.digest}


def build_board(
    paths: Sequence[str | Path],
    out: str | Path,
    *,
    methods: Sequence[str] | None = None,
    dataset: str | None = None,
    protocol: str | None = None,
    again: Rerun | None = None,
    data_root: str | Path | None = None,
    plugins: Sequence[str | Path] = (),
) -> dict[str, Any]:
    """Make a board; `bench.py leaderboard build`, see `ltbench.bundles.work.build`.

    Returns:
        Its folder as `board`, and the rows that were `added`.
    """
    from ltbench.bundles.work import build

    add_plugins([Path(file) for file in plugins])
    board, rows = build(
        [Path(path) for path in paths],
        Path(out),
        again=again,
        data_root=_path(data_root),
        methods=methods,
        dataset=dataset,
        protocol=protocol,
    )
    return {"board": str(board.folder), "added": rows}


def add_to_board(
    bundle: str | Path,
    board: str | Path | None = None,
    *,
    again: Rerun | None = None,
    dry_run: bool = False,
    data_root: str | Path | None = None,
    plugins: Sequence[str | Path] = (),
) -> dict[str, Any]:
    """Check a bundle and add it as a row; `bench.py leaderboard add`.

    Returns:
        The `board`, the row's `file` (None with `dry_run`), and the `row`.
    """
    from ltbench.bundles.work import add

    add_plugins([Path(file) for file in plugins])
    added = add(
        Path(bundle),
        board=_path(board),
        again=again,
        dry_run=dry_run,
        data_root=_path(data_root),
    )
    file = None if added.file is None else str(added.file)
    return {"board": str(added.board), "file": file, "row": added.row}


def check_boards(
    boards: Sequence[str | Path] = (), *, data_root: str | Path | None = None
) -> list[dict[str, Any]]:
    """Compute every number of boards again; see `ltbench.bundles.work.check`."""
    from ltbench.bundles.work import check

    return check([Path(board) for board in boards], _path(data_root))


def _path(given: str | Path | None) -> Path | None:
    return None if given is None else Path(given)
