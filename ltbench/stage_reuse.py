"""First stages kept for other runs: what only later stages' settings change is not trained again.

`<results>/stages/<key>/seed-<n>/` holds what a run was when a stage began: `state.pt` (a
checkpoint), the history `epochs.jsonl`, and `origin.json`, written last, which says who made it.
The key is the hash of all that had a say up to there: the cell's own without the settings that the
method declares to act from that stage on only (`Method.stage_settings`), and with the harness's
code and the libraries' versions: no number comes from two of them. The folder may be deleted at any
time; runs then train their first stages themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ltbench import provenance
from ltbench.cell import KEY_LENGTH, Cell
from ltbench.errors import DataMissingError, VerificationError
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
    made_by = {"code": provenance.code_digest(), "versions": provenance.versions()}
    return {**cell.key_parts, **made_by, "config": kept, "before": stage}


@dataclass(frozen=True)
class StageKeeper:
    """Keeps the ends of a run's first stages for other runs. Holds no data: training can reach it.

    Attributes:
        kept_at: a folder for each stage that others may begin with.
        key_parts: what decides the run up to there, by stage.
    """

    folder: RunFolder
    seed: int
    kept_at: Mapping[str, Path]
    key_parts: Mapping[str, dict[str, Any]]

    @classmethod
    def of(cls, cell: Cell, folder: RunFolder, results: Path) -> StageKeeper:
        """What the cell's method declares, or nothing where the user wants nothing kept."""
        stages = list(cell.method_class.stage_settings) if cell.config.machine.keep_stages else []
        return cls(
            folder,
            cell.config.seed,
            {stage: _kept_at(cell, stage, results) for stage in stages},
            {stage: key_parts_before(cell, stage) for stage in stages},
        )

    def keep(self, stage: str) -> None:
        """Keep the run's checkpoint, taken at the end of the stage before `stage`."""
        kept = self.kept_at.get(stage)
        if kept is None or _origin(kept) is not None:
            return
        with storage_errors(kept):
            kept.mkdir(parents=True, exist_ok=True)
        files = {_STATE: self.folder.path / CHECKPOINT, _HISTORY: self.folder.epochs_file}
        contents = {name: file.read_bytes() for name, file in files.items()}
        for name, content in contents.items():
            write_bytes(kept / name, content)
        origin = {
            "before": stage,
            "run": self.folder.name,
            "seed": self.seed,
            "key_parts": self.key_parts[stage],
            "git": provenance.git_state(),
            "digests": {name: sha256_hex(content) for name, content in contents.items()},
        }
        write_json(kept / _ORIGIN, origin)


def take_over(cell: Cell, folder: RunFolder, results: Path) -> dict[str, Any] | None:
    """Give a run that begins anew the checkpoint of a run that shares its first stages.

    Returns:
        What the record says of it (`before`, `run`, `git`); None where there is none.
    """
    for stage in reversed(list(cell.method_class.stage_settings)):
        kept = _kept_at(cell, stage, results)
        origin = _origin(kept)
        if origin is None:
            continue
        taken = {name: origin[name] for name in ("before", "run", "git")}
        # The checkpoint last: without it the run begins anew, whatever else is there.
        write_bytes(folder.epochs_file, (kept / _HISTORY).read_bytes())
        write_json(folder.path / TAKEN_OVER, taken)
        write_bytes(folder.path / CHECKPOINT, (kept / _STATE).read_bytes())
        return taken
    return None


def _origin(kept: Path) -> dict[str, Any] | None:
    """What is said of a kept stage; None where there is none, or one that is not whole.

    A stage that is damaged is trained again and kept anew: it was a copy.
    """
    try:
        origin: dict[str, Any] = read_json(kept / _ORIGIN)
        found = {name: sha256_hex((kept / name).read_bytes()) for name in (_STATE, _HISTORY)}
    except (FileNotFoundError, DataMissingError, VerificationError):
        return None
    return origin if origin.get("digests") == found else None


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
