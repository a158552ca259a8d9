"""What was computed from stored predictions, kept so that it is computed once.

`derived.json` beside a run's predictions holds values of that run alone. What needs several runs is
kept below `<results>/derived/`. A value belongs to its name and to a digest of everything it was
computed from: another digest, and it is computed again. Nothing is lost with these files.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

from ltbench.errors import DataMissingError, RunFailedError, StorageError, VerificationError
from ltbench.files import canonical_json, read_json, sha256_hex, storage_errors, write_json
from ltbench.results import PREDICTIONS, RunFolder

DERIVED: Final = "derived.json"
_ROOT_ABOVE_RUN: Final = 5  # <root>/<dataset>/<protocol>/<method>/<key>/seed-<n>


def derived(folder: RunFolder, name: str, inputs_digest: str, compute: Callable[[], Any]) -> Any:
    """A value that belongs to one run: taken from its `derived.json`, or computed and put there.

    Args:
        folder: the run; a folder that cannot be written to costs the caching, nothing else.
        name: of the value, such as "clinical.melanoma_sensitivity".
        inputs_digest: of all that `compute` reads; see `inputs_digest`.
        compute: gives the value, which JSON must be able to hold.

    Returns:
        The value as JSON gives it back: lists for tuples, texts for the keys of dicts.

    Raises:
        ValueError: the value holds NaN or an infinite number; None stands for what is undefined.
    """
    return kept(folder.path / DERIVED, name, inputs_digest, compute)


def inputs_digest(folder: RunFolder, *parts: Any) -> str:
    """SHA-256 over a run's file of predictions, as it is now, and what else decides a value.

    Args:
        folder: the run.
        parts: JSON-able: settings, and `code_digest` of the modules that compute.

    Raises:
        DataMissingError: the run has no predictions.
    """
    return sha256_hex(canonical_json([predictions_file_digest(folder), *parts]).encode())


def predictions_file_digest(folder: RunFolder) -> str:
    """SHA-256 of the bytes of a run's file of predictions.

    Raises:
        DataMissingError: there is none.
        RunFailedError: the storage did not hand it over.
    """
    path = folder.path / PREDICTIONS
    try:
        return sha256_hex(path.read_bytes())
    except FileNotFoundError as error:
        raise DataMissingError(
            f"Expected predictions at {path}, found none. Run the cell again to make them."
        ) from error
    except OSError as error:
        raise RunFailedError(f"{path} could not be read: {error.strerror or error}.") from error


def code_digest(files: Iterable[str | Path]) -> str:
    """SHA-256 of source files: values of older code are computed again."""
    return sha256_hex(
        "".join(sha256_hex(Path(f).read_bytes()) for f in sorted(files, key=str)).encode()
    )


def kept(path: Path, name: str, digest: str, compute: Callable[[], Any]) -> Any:
    """As `derived`, in a file of the caller's choice."""
    entries = _entries(path)
    entry = entries.get(name)
    if isinstance(entry, dict) and entry.get("inputs") == digest and "value" in entry:
        return entry["value"]
    value = json.loads(canonical_json(compute()))
    try:
        with storage_errors(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
        # Read again: another process may have added values while this one computed.
        write_json(path, {**_entries(path), name: {"inputs": digest, "value": value}})
    except StorageError:
        pass  # archives are read-only; the value is as good
    return value


def shared_folder(folder: RunFolder) -> Path:
    """`<results>/derived` of the results that a run lies in."""
    return folder.path.absolute().parents[_ROOT_ABOVE_RUN - 1] / "derived"


def _entries(path: Path) -> dict[str, Any]:
    """What the file holds; nothing where it is missing or damaged, as all can be computed again."""
    try:
        found = read_json(path)
    except (DataMissingError, VerificationError, RunFailedError):
        return {}
    return found if isinstance(found, dict) else {}
