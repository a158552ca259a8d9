"""A worker: takes trials from studies until every budget is met."""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial
from sqlalchemy.engine import URL

from ltbench.errors import InterruptedRunError
from ltbench.registry import import_plugins
from ltbench.runner import Place
from ltbench.training.signals import SignalGuard
from ltbench.tuning.plan import StudyPlan
from ltbench.tuning.storage import Timing, open_storage, storage_faults
from ltbench.tuning.study import Study
from ltbench.tuning.trial import Outcome, try_settings

__all__ = ["Order", "open_studies", "quiet_optuna", "work"]

OnTrial = Callable[[StudyPlan, FrozenTrial], None]


@dataclass(frozen=True)
class Order:
    """What a worker is told; picklable.

    Attributes:
        url: of the studies' database.
        plans: the studies, in the order in which their places are filled.
    """

    plans: tuple[StudyPlan, ...]
    url: URL
    results: Path
    data_root: Path | None = None
    plugins: tuple[Path, ...] = ()
    timing: Timing = field(default_factory=Timing)


def work(
    order: Order,
    on_trial: OnTrial = lambda plan, trial: None,
    say: Callable[[str], None] = print,
) -> None:
    """Take trials until every study is complete or in trouble.

    Args:
        on_trial: told of each trial of this worker as it ends.
        say: told what a trial waits for.

    Raises:
        InterruptedRunError: told to stop; the trial under way is saved and waits.
        RunFailedError: the database failed, or a trial could not be ended.
    """
    import_plugins(order.plugins)
    with SignalGuard() as guard, storage_faults(order.url), quiet_optuna():
        worker = _Worker(order, guard, say)
        while worker.open_studies():
            worker.stop_if_told()
            if not worker.take_one(on_trial):
                time.sleep(order.timing.poll_s)


def open_studies(order: Order) -> list[Study]:
    """The studies of an order, made where they are not there yet."""
    storage = open_storage(order.url, order.timing)
    return [Study(plan, storage, order.timing) for plan in order.plans]


class _Worker:
    """One process's view of all studies."""

    def __init__(self, order: Order, guard: SignalGuard, say: Callable[[str], None]) -> None:
        self._guard = guard
        self._studies = open_studies(order)
        self._place = Place(order.results, order.data_root, plugins=order.plugins, on_wait=say)

    def open_studies(self) -> list[Study]:
        """Those whose budget is not met; dead workers' trials are cleared on the way."""
        found = [one for one in self._studies if not one.is_complete and one.trouble() is None]
        for study in found:
            study.clear_dead()
        return found

    def stop_if_told(self) -> None:
        """Raise where a signal came between two trials."""
        if self._guard.received is not None:
            raise InterruptedRunError(
                f"Stopped by signal {self._guard.received} between two trials. Run the same "
                "command again to go on.",
                self._guard.received,
            )

    def take_one(self, on_trial: OnTrial) -> bool:
        """End one trial of the first study that has a place; False where none has."""
        for study in self.open_studies():
            if study.has_place():
                ended = study.run_trial(partial(self._try, study.plan))
                if ended is not None:
                    on_trial(study.plan, ended)
                return True
        return False

    def _try(
        self, plan: StudyPlan, settings: Mapping[str, Any], trial: optuna.Trial, may_prune: bool
    ) -> dict[str, Any]:
        """Train with every tuning seed; with the first, epochs are reported and may end it."""
        outcomes: list[Outcome] = []
        for seed in plan.seeds:

            def report(step: int, summary: Mapping[str, Any], first: bool = not outcomes) -> bool:
                if not first:
                    return False
                trial.report(float(summary[plan.objective.removeprefix("val.")]), step)
                return may_prune and trial.should_prune()

            outcomes.append(
                try_settings(
                    plan.trial_request(settings, seed),
                    self._place,
                    report,
                    stop_signal=lambda: self._guard.received,
                    check=plan.check,
                )
            )
            if outcomes[-1].state != "complete":
                break
        return _summed(plan, settings, outcomes)


def _summed(
    plan: StudyPlan, settings: Mapping[str, Any], outcomes: Sequence[Outcome]
) -> dict[str, Any]:
    """What a study keeps of a trial: enough for every table, wherever the folders are."""
    last = outcomes[-1]
    values = [one.value(plan.objective) for one in outcomes]
    return {
        "state": last.state,
        "value": values[-1] if last.state != "complete" else statistics.fmean(values),
        "values": values,
        "epochs": sum(one.epochs for one in outcomes),
        "wall_time_s": round(sum(one.wall_time_s for one in outcomes), 3),
        "runs": [one.folder for one in outcomes],
        "settings": {**plan.space.defaults, **settings},
    }


@contextmanager
def quiet_optuna() -> Iterator[None]:
    """Without Optuna's own lines: what is to be known of a trial, its end tells."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
