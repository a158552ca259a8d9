"""A study in its database: opened and checked, trials taken and ended, the dead cleared away."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning, UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from ltbench.errors import InterruptedRunError, UsageError, VerificationError
from ltbench.files import canonical_json
from ltbench.owner import Owner
from ltbench.record import now
from ltbench.settings import flat
from ltbench.tuning import places
from ltbench.tuning.places import BEYOND, FACTS, NOTE, OWNER, POSITION, STOPPED
from ltbench.tuning.plan import StudyPlan, differences
from ltbench.tuning.sampling import PositionedSampler, make_pruner
from ltbench.tuning.storage import Timing

__all__ = ["FROZEN", "OUTCOME", "Study", "Try", "nearest"]

FROZEN = "frozen"  # when the budget was met; a study's user attribute
OUTCOME = "outcome"  # what came of a trial; a trial's user attribute
# So many refused draws in a row, and the space hardly holds anything that the method takes.
_MOST_REFUSED = 30

Try = Callable[[Mapping[str, Any], optuna.Trial, bool], dict[str, Any]]
"""(settings, trial, whether it may be pruned) to what came of it: `value`, `state`, costs."""


class _GivenUp(Exception):  # noqa: N818 - not an error
    """The trial is failed with a note: settings refused, or no place left."""


class Study:
    """One study, as one process sees it.

    Args:
        timing: how long a sign of life is waited for.

    Raises:
        VerificationError: the database holds another study under this name.
    """

    def __init__(self, plan: StudyPlan, storage: RDBStorage, timing: Timing | None = None) -> None:
        self.plan = plan
        self._storage = storage
        self._timing = timing or Timing()
        self._owner = Owner.here()
        self._seen: dict[int, float] = {}  # trials that nobody owns yet, and since when
        self._sampler = PositionedSampler(plan.facts["sampler"], plan.space, self._enter)
        self.optuna = optuna.create_study(
            storage=storage,
            sampler=self._sampler,
            pruner=make_pruner(plan.facts["pruner"]),
            study_name=plan.name,
            direction="maximize",
            load_if_exists=True,
        )
        self._check_facts()

    def trials(self) -> list[FrozenTrial]:
        """All trials as they are now, by number."""
        return self.optuna.get_trials(deepcopy=False)

    @property
    def is_complete(self) -> bool:
        """Whether the budget is met."""
        return len(places.finished(self.trials())) >= self.plan.trials

    def trouble(self) -> str | None:
        """Why the study cannot go on; None where it can."""
        drawn = [t for t in self.trials() if t.user_attrs.get(NOTE) != BEYOND]
        last = drawn[-_MOST_REFUSED:]
        if len(last) < _MOST_REFUSED or not all(
            t.state == TrialState.FAIL and NOTE in t.user_attrs for t in last
        ):
            return None
        return (
            f"Study {self.plan.name} stopped: its last {_MOST_REFUSED} draws were all refused, the "
            f"last one for: {last[-1].user_attrs[NOTE]}. Narrow the space with --search."
        )

    def has_place(self) -> bool:
        """Whether another trial may begin now."""
        return places.has_place(self.trials(), self.plan.trials)

    def clear_dead(self) -> None:
        """Fail trials whose worker is gone, and let what failed so be tried again."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            optuna.storages.fail_stale_trials(self.optuna)  # of other machines, by heartbeat
        for trial in self.trials():
            if trial.state == TrialState.RUNNING and self._is_dead(trial):
                places.fail(self.optuna, trial)
        places.try_again(self.optuna)

    def run_trial(self, try_settings: Try) -> FrozenTrial | None:
        """Take one trial and end it.

        Args:
            try_settings: trains; raises UsageError for settings that are refused, and anything
                else where it could not end the trial, which is then tried again.

        Returns:
            The trial; None where there was no place, or another process took us for dead.
        """
        taken: list[optuna.Trial] = []
        faults: list[BaseException] = []

        def objective(trial: optuna.Trial) -> float:
            taken.append(trial)
            try:
                return self._objective(trial, try_settings)
            except (_GivenUp, optuna.TrialPruned, UpdateFinishedTrialError):
                raise
            except BaseException as error:
                faults.append(error)
                if isinstance(error, InterruptedRunError):
                    trial.set_user_attr(STOPPED, True)
                raise

        try:
            self.optuna.optimize(objective, n_trials=1, catch=(_GivenUp,))
        except (UpdateFinishedTrialError, ValueError, UnboundLocalError) as error:
            if faults:
                raise faults[0] from None
            if isinstance(error, UnboundLocalError):
                # Optuna 5.0's own, where the database is away when a trial ends.
                raise error.__context__ or error from None
            # Optuna says so where another process took us for dead, and has failed our trial.
            if not taken or self._as_stored(taken[0]).state != TrialState.FAIL:
                raise
            return None
        ended = self._as_stored(taken[0])
        return None if ended.user_attrs.get(NOTE) == BEYOND else ended

    def freeze(self) -> None:
        """Note that the budget is met; what waits for a place that is gone never gets one."""
        if FROZEN not in self.optuna.user_attrs:
            self.optuna.set_user_attr(FROZEN, now())

    @property
    def frozen(self) -> str | None:
        """When the budget was met."""
        at: str | None = self.optuna.user_attrs.get(FROZEN)
        return at

    def _objective(self, trial: optuna.Trial, try_settings: Try) -> float:
        if not places.holds_place(self.trials(), trial.number, self.plan.trials):
            trial.set_user_attr(NOTE, BEYOND)
            raise _GivenUp(BEYOND)
        untuned = self._sampler.position == 0
        space = self.plan.space
        # Defaults outside the ranges cannot be told to the sampler; the trial has them anyway.
        settings = {} if untuned and not space.holds_defaults else space.suggest(trial)
        try:
            outcome = try_settings(settings, trial, not untuned)
        except UsageError as error:
            if untuned:
                raise
            trial.set_user_attr(NOTE, " ".join(str(error).split()))
            raise _GivenUp from error
        trial.set_user_attr(OUTCOME, outcome)
        if outcome["state"] != "complete":
            raise optuna.TrialPruned(outcome["state"])
        return float(outcome["value"])

    def _enter(self, trial: FrozenTrial) -> int:
        """A trial begins: it is ours, alive, and has its position."""
        position = places.position_of(self.trials(), trial)
        mine = json.loads(canonical_json(asdict(self._owner)))
        self._storage.record_heartbeat(trial._trial_id)
        self._storage.set_trial_user_attr(trial._trial_id, OWNER, mine)
        self._storage.set_trial_user_attr(trial._trial_id, POSITION, position)
        return position

    def _is_dead(self, trial: FrozenTrial) -> bool:
        stored = trial.user_attrs.get(OWNER)
        owner = None if stored is None else Owner.read(canonical_json(stored).encode())
        if owner is not None:
            self._seen.pop(trial.number, None)
            return owner.is_alive() is False
        # Its worker died in the moment between making the trial and signing it, or is in it now.
        since = self._seen.setdefault(trial.number, time.monotonic())
        return time.monotonic() - since > self._timing.grace_s

    def _as_stored(self, trial: optuna.Trial) -> FrozenTrial:
        return next(t for t in self.trials() if t.number == trial.number)

    def _check_facts(self) -> None:
        ours = json.loads(canonical_json(dict(self.plan.facts)))
        stored = self.optuna.user_attrs.get(FACTS)
        if stored is None:
            self.optuna.set_user_attr(FACTS, ours)
        elif stored != ours:
            raise VerificationError(
                f"The study {self.plan.name} in the database was made for something else: "
                f"{', '.join(differences(stored, ours))} differ. Its name is a digest of these, so "
                "the database was changed by hand; use another --storage."
            )


def nearest(plan: StudyPlan, storage: RDBStorage) -> str | None:
    """Of the other studies of the same method on the same data, what the likeliest differs in.

    None where this study is there already, or no other is.
    """
    found = {
        one.study_name: one.user_attrs[FACTS]
        for one in optuna.get_all_study_summaries(storage, include_best_trial=False)
        if one.study_name.startswith(f"{plan.group}/") and FACTS in one.user_attrs
    }
    if plan.name in found or not found:
        return None
    ours = json.loads(canonical_json(dict(plan.facts)))
    changes = {name: differences(facts, ours) for name, facts in found.items()}
    name = min(changes, key=lambda one: len(changes[one]))
    told = [
        f"{key.removeprefix('cell.').removeprefix('config.')} was {_at(found[name], key)}, is "
        f"{_at(ours, key)}"
        for key in changes[name][:4]
    ]
    more = f", and {len(changes[name]) - 4} more" if len(changes[name]) > 4 else ""
    return f"not the study {name}: {'; '.join(told)}{more}"


def _at(facts: Mapping[str, Any], key: str) -> Any:
    value = flat(facts).get(key, "not there")
    text = str(value)
    return text if len(text) <= 24 else f"{text[:20]}..."
