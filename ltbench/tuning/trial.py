"""One setting with one seed, trained and validated as a run is, without a test part.

A trial's folder is `<results>/tuning/<dataset>/<protocol>/<method>/<key>/seed-<n>/`, its key that
of the run with the same settings. While it trains it holds what a run's folder holds; when it ends,
`trial.json` and the history stay. The same settings asked for again, by another study too, go on
from the checkpoint or find what came of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from threading import Event
from typing import Any, Literal

import numpy as np

from ltbench import claims, provenance
from ltbench.cell import Cell, prepare
from ltbench.config import Request, asked, resolve
from ltbench.errors import DataMissingError, DivergedError, RunFailedError, VerificationError
from ltbench.files import read_json, write_json
from ltbench.metrics import selection_value, validation_summary
from ltbench.record import now
from ltbench.results import RunFolder
from ltbench.runner import LAST_WEIGHTS, SET_ASIDE, Place, beginning, fit
from ltbench.stage_reuse import TAKEN_OVER
from ltbench.training.checkpoint import CHECKPOINT
from ltbench.training.devices import make_fabric, settle

__all__ = ["FOLDER", "Outcome", "Report", "State", "trial_cell", "trial_folder", "try_settings"]

FOLDER = "tuning"  # below the root of the runs
_MARK = "trial.json"
_VERSION = 1

State = Literal["complete", "pruned", "diverged"]
Report = Callable[[int, Mapping[str, Any]], bool]
"""(epochs so far over all stages, validation summary) to whether the trial is to stop here."""


@dataclass(frozen=True)
class Outcome:
    """What came of settings with one seed.

    Attributes:
        state: "complete"; "pruned" when it was stopped early; "diverged" when a number was not
            finite, which the same settings will do again.
        summary: `validation_summary` of the reported weights; where it was pruned, of the epoch it
            would have reported had it ended there; None where it diverged.
        epochs: epochs trained.
        wall_time_s: training and validation, over all sessions and stages.
        folder: `<key>/seed-<n>`.
    """

    state: State
    summary: dict[str, Any] | None
    epochs: int
    wall_time_s: float
    folder: str

    def value(self, objective: str) -> float:
        """The objective; 0, its lowest, where the trial diverged."""
        return 0.0 if self.summary is None else selection_value(self.summary, objective)


class _Stopped(Exception):  # noqa: N818 - not an error
    """The trial was told to stop early."""


def trial_cell(request: Request, place: Place) -> Cell:
    """The cell of a run with these settings, its test part gone.

    Raises:
        UsageError, DataMissingError, VerificationError: what a run with them would be refused for.
    """
    config = resolve(request)
    cell = prepare(
        config,
        results=place.results,
        data_root=place.data_root,
        asked=asked(request),
        sources=place.sources,
    )
    return replace(cell, split=replace(cell.split, test=np.empty(0, dtype=np.int64)))


def trial_folder(cell: Cell, place: Place) -> RunFolder:
    """Where the trial belongs."""
    return RunFolder.at(
        place.results / FOLDER,
        dataset=cell.config.dataset_name,
        protocol=cell.config.protocol,
        method=cell.config.method_label,
        key=cell.key,
        seed=cell.config.seed,
    )


def try_settings(
    request: Request,
    place: Place,
    report: Report,
    *,
    stop_signal: Callable[[], int | None],
    check: Callable[[Cell], None] = lambda cell: None,
) -> Outcome:
    """Train and validate, go on from a checkpoint, or find what came of it before.

    Args:
        request: with its seed among the settings.
        report: told of every validated epoch in order, from the first also when going on.
        stop_signal: a signal's number saves and stops.
        check: raises where the cell is not what the study is about.

    Raises:
        UsageError: the settings are refused.
        InterruptedRunError: stopped by a signal, saved, or while another process trains the same.
    """
    cell = trial_cell(request, place)
    check(cell)
    settle(cell.config)
    folder = trial_folder(cell, place)
    over = Event()  # then the claim leaves no trace
    claim = claims.acquire(
        folder.path,
        wait=True,
        on_wait=lambda holder: _tell_of_wait(place, folder, holder),
        done=over.is_set,
        stop=stop_signal,
    )
    assert claim is not None
    with claim:
        found = _found(folder, cell, report)
        if found is None:
            folder.clear_leftovers()
            folder.create()
            (folder.path / _MARK).unlink(missing_ok=True)
            beginning(cell, folder, place)
            found = _train(cell, folder, place, report, stop_signal, claim.check)
            claim.check()
            _close(folder, found)
        over.set()
    return found


def _tell_of_wait(place: Place, folder: RunFolder, holder: str) -> None:
    if place.on_wait is not None:
        place.on_wait(f"waits for {folder.name}: the same settings are being trained by {holder}")


def _train(
    cell: Cell,
    folder: RunFolder,
    place: Place,
    report: Report,
    stop_signal: Callable[[], int | None],
    still_mine: Callable[[], None],
) -> Outcome:
    teller = _Teller(folder, report)
    watched = replace(place, on_epoch=lambda row: teller.tell())
    started = time.monotonic()
    try:
        trainer, val = fit(make_fabric(cell.config), cell, folder, watched, stop_signal, still_mine)
        teller.tell()  # where the process before us died between its last epoch and its mark
    except _Stopped:
        return _outcome_at(folder, cell, teller.told)
    except DivergedError:
        history = folder.epochs()
        spent = max(_spent(history), time.monotonic() - started)
        return Outcome("diverged", None, len(history), spent, folder.name)
    if val is None:
        raise RunFailedError(f"{folder.path}: a trial needs a validation part, and has none.")
    spent = trainer.log.totals.wall_time_s
    history = folder.epochs()
    return Outcome("complete", validation_summary(val), len(history), spent, folder.name)


class _Teller:
    """Reports the epochs of a history, each once."""

    def __init__(self, folder: RunFolder, report: Report) -> None:
        self._folder = folder
        self._report = report
        self.told = 0

    def tell(self) -> None:
        """Report what is new; raises `_Stopped` where the trial is to stop there."""
        for number, row in enumerate(self._folder.epochs()[self.told :], start=self.told + 1):
            self.told = number
            if row["val"] is not None and self._report(number, row["val"]):
                raise _Stopped


def _found(folder: RunFolder, cell: Cell, report: Report) -> Outcome | None:
    """What came of the same settings before, its epochs reported anew; None where it must train.

    This study may stop it earlier than another did, and may not stop where another had.
    """
    mark = _mark(folder)
    if mark is None:
        return None
    teller = _Teller(folder, report)
    try:
        teller.tell()
    except _Stopped:
        return _outcome_at(folder, cell, teller.told)
    return None if mark.state == "pruned" else mark


def _mark(folder: RunFolder) -> Outcome | None:
    """What a trial left; None where there is none, or a damaged one, which is trained anew."""
    try:
        stored = read_json(folder.path / _MARK)
    except (DataMissingError, VerificationError):
        return None
    if not isinstance(stored, dict) or stored.get("schema_version") != _VERSION:
        return None
    return Outcome(**stored["outcome"])


def _close(folder: RunFolder, outcome: Outcome) -> None:
    """Write the mark; then what only a run needs is removed."""
    mark = {
        "schema_version": _VERSION,
        "outcome": asdict(outcome),
        "versions": provenance.versions(),
        "git": provenance.git_state(),
        "finished_at": now(),
    }
    write_json(folder.path / _MARK, mark)
    for name in (CHECKPOINT, SET_ASIDE, TAKEN_OVER, LAST_WEIGHTS):
        (folder.path / name).unlink(missing_ok=True)


def _outcome_at(folder: RunFolder, cell: Cell, epochs: int) -> Outcome:
    """A trial that was stopped after so many epochs."""
    history = folder.epochs()[:epochs]
    summary = _selected(history, cell.config.select)["val"]
    return Outcome("pruned", summary, epochs, _spent(history), folder.name)


def _selected(history: Sequence[Mapping[str, Any]], select: str) -> Mapping[str, Any]:
    """The epoch that a run would report that ended here: of the last stage, the latest of ties."""
    rows = [row for row in history if row["stage"] == history[-1]["stage"] and row["val"]]
    if select == "last":
        return rows[-1]
    return max(reversed(rows), key=lambda row: selection_value(row["val"], select))


def _spent(history: Sequence[Mapping[str, Any]]) -> float:
    return float(history[-1]["wall_time_s"]) if history else 0.0
