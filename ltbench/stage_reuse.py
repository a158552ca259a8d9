"""First stages kept for other runs: what only later stages' settings change is not trained again.

`<results>/stages/<key>/seed-<n>/` holds what a run was when a stage began: `state.pt` (a
checkpoint), the history `epochs.jsonl`, and `origin.json`, written last, which says who made it.
The key is the hash of all that had a say up to there: the cell's own without the settings that the
method declares to act from that stage on only (`Method.stage_settings`). The folder may be deleted
at any time; runs then train their first stages themselves.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ltbench import provenance
from ltbench.cell import KEY_LENGTH, Cell
from ltbench.files import (
    canonical_json,
    read_json,
    sha256_hex,
    storage_errors,
    write_bytes,
    write_json,
)
from ltbench.results import RunFolder
from ltbench.settings import flat
from ltbench.training.checkpoint import CHECKPOINT

STAGES = "stages"
# In the folder of a run that took its first stages over: from whom.
TAKEN_OVER = "taken_over.json"
_STATE, _HISTORY, _ORIGIN = "state.pt", "epochs.jsonl", "origin.json"
# Names of settings, which are in the key themselves.
_LABELS = ("preset", "recipe")


def key_parts_before(cell: Cell, stage: str) -> dict[str, Any]:
    """What decides a run up to the beginning of `stage`, but the seed; JSON-able."""
    later = cell.method_class.stage_settings
    names = list(later)
    inactive = {key for name in names[names.index(stage) :] for key in later[name]} | {*_LABELS}
    settings = flat(cell.key_parts["config"])
    kept = {key: value for key, value in settings.items() if key not in inactive}
    return {**cell.key_parts, "config": kept, "before": stage}


def keep(cell: Cell, folder: RunFolder, stage: str, results: Path) -> None:
    """Keep the run's checkpoint, taken at the end of the stage before `stage`, for other runs."""
    if stage not in cell.method_class.stage_settings or not cell.config.machine.keep_stages:
        return
    kept = _kept_at(cell, stage, results)
    if (kept / _ORIGIN).is_file():
        return
    with storage_errors(kept):
        kept.mkdir(parents=True, exist_ok=True)
    write_bytes(kept / _STATE, (folder.path / CHECKPOINT).read_bytes())
    write_bytes(kept / _HISTORY, folder.epochs_file.read_bytes())
    origin = {
        "before": stage,
        "run": folder.name,
        "seed": cell.config.seed,
        "key_parts": key_parts_before(cell, stage),
        "versions": provenance.versions(),
        "git": provenance.git_state(),
    }
    write_json(kept / _ORIGIN, origin)


def take_over(cell: Cell, folder: RunFolder, results: Path) -> dict[str, Any] | None:
    """Give a run that begins anew the checkpoint of a run that shares its first stages.

    Returns:
        What the record says of it (`before`, `run`, `versions`, `git`); None where there is none.
    """
    for stage in reversed(list(cell.method_class.stage_settings)):
        kept = _kept_at(cell, stage, results)
        if not (kept / _ORIGIN).is_file():
            continue
        origin = read_json(kept / _ORIGIN)
        taken = {name: origin[name] for name in ("before", "run", "versions", "git")}
        # The checkpoint last: without it the run begins anew, whatever else is there.
        write_bytes(folder.epochs_file, (kept / _HISTORY).read_bytes())
        write_json(folder.path / TAKEN_OVER, taken)
        write_bytes(folder.path / CHECKPOINT, (kept / _STATE).read_bytes())
        return taken
    return None


def forget(folder: RunFolder) -> None:
    """Before a run begins anew: what an earlier attempt took over is no part of it."""
    (folder.path / TAKEN_OVER).unlink(missing_ok=True)


def taken_over(folder: RunFolder) -> dict[str, Any] | None:
    """What `take_over` said when this run began; None where it trained all of its stages."""
    file = folder.path / TAKEN_OVER
    taken: dict[str, Any] | None = read_json(file) if file.is_file() else None
    return taken


def _kept_at(cell: Cell, stage: str, results: Path) -> Path:
    parts = canonical_json(key_parts_before(cell, stage))
    key = sha256_hex(parts.encode())[:KEY_LENGTH]
    return results / STAGES / key / f"seed-{cell.config.seed}"
