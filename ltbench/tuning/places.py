"""Who may take a trial: a study has so many places, and workers anywhere that want them.

A trial holds a place from when it is made until it is given up: refused settings, or processes that
died one after the other and came no further. One that failed otherwise is tried again under a new
number, with what was drawn for it and the place it had; its folder has the checkpoint.

Numbers are given out in order, and a place that was given up is never taken up again. So a trial
that begins with fewer than N places held by lower numbers can never become the N+1st that ends, and
workers need nothing in common but the database. A trial made beyond the budget is given up at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

__all__ = [
    "BEYOND",
    "FACTS",
    "MOST_TRIES",
    "NOTE",
    "OWNER",
    "POSITION",
    "STOPPED",
    "fail",
    "failures",
    "finished",
    "has_place",
    "holds_place",
    "position_of",
    "try_again",
]

FACTS = "facts"  # a study's user attribute
# User attributes of trials: who works on it, how many were drawn before it, why it was given up,
# whether it was told to stop; of one that is tried again, which trial that was, the first of them,
# how many epochs it had told of, and how many in a row came no further.
OWNER, POSITION, NOTE, STOPPED = "owner", "position", "note", "stopped"
RETRY_OF, PLACE, TOLD, TRIES = "retry_of", "place", "told", "tries"
BEYOND = "beyond the budget"
MOST_TRIES = 5

_ENDED = (TrialState.COMPLETE, TrialState.PRUNED)


def finished(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Those that count as the budget: complete or pruned, by number."""
    return sorted((t for t in trials if t.state in _ENDED), key=lambda trial: trial.number)


def has_place(trials: Sequence[FrozenTrial], budget: int) -> bool:
    """Whether a worker may take or make a trial now."""
    if any(t.state == TrialState.WAITING for t in trials) and len(finished(trials)) < budget:
        return True
    return len(_held(trials)) < budget


def holds_place(trials: Sequence[FrozenTrial], number: int, budget: int) -> bool:
    """Whether a trial that has just begun is within the budget, and no other tries the same."""
    (mine,) = (t for t in trials if t.number == number)
    again = mine.user_attrs.get(RETRY_OF)
    double = again is not None and any(
        t.user_attrs.get(RETRY_OF) == again for t in trials if t.number < number
    )
    before = sum(place < _place(mine) for place in _held(trials))
    return before < budget and not double


def position_of(trials: Sequence[FrozenTrial], trial: FrozenTrial) -> int:
    """How many were drawn before this one; the same however often some were tried again."""
    kept: int | None = trial.user_attrs.get(POSITION)
    if kept is not None:
        return kept
    return sum(t.number < trial.number and _was_drawn(t) for t in trials)


def failures(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Trials that were drawn and given up: refused settings, or a process that died every time."""
    return [
        t
        for t in trials
        if t.state == TrialState.FAIL
        and POSITION in t.user_attrs
        and (t.user_attrs.get(NOTE, BEYOND) != BEYOND or _next_try(t) > MOST_TRIES)
    ]


def fail(study: optuna.Study, trial: FrozenTrial) -> None:
    """Fail a trial whose worker is gone."""
    # Refused where another process was first, or the worker lived and ended it.
    with suppress(ValueError, UpdateFinishedTrialError):
        study.tell(trial.number, state=TrialState.FAIL)


def try_again(study: optuna.Study) -> None:
    """Let trials be tried again that failed by no fault of their settings, whoever failed them.

    Two processes may do so at once; `holds_place` lets one of the two go on.
    """
    trials = study.get_trials(deepcopy=False)
    for trial in trials:
        if _is_pending(trial, trials):
            study.add_trial(_again(study, trial))


def _again(study: optuna.Study, trial: FrozenTrial) -> FrozenTrial:
    # Of half a draw the other half would be drawn otherwise.
    whole = set(trial.params) == set(study.user_attrs[FACTS]["space"])
    return optuna.create_trial(
        state=TrialState.WAITING,
        params=trial.params if whole else {},
        distributions=trial.distributions if whole else {},
        user_attrs={
            POSITION: trial.user_attrs[POSITION],
            RETRY_OF: trial.number,
            PLACE: _place(trial),
            TOLD: len(trial.intermediate_values),
            TRIES: _next_try(trial),
        },
    )


def _held(trials: Sequence[FrozenTrial]) -> set[int]:
    """The places that are held, each by the number of the first trial that had it."""
    return {_place(t) for t in trials if t.state != TrialState.FAIL or _is_pending(t, trials)}


def _is_pending(trial: FrozenTrial, trials: Sequence[FrozenTrial]) -> bool:
    """Whether it failed by no fault of its settings, and does not wait to be tried again yet."""
    return (
        trial.state == TrialState.FAIL
        and POSITION in trial.user_attrs  # else nothing was drawn that could be tried again
        and NOTE not in trial.user_attrs
        and _next_try(trial) <= MOST_TRIES
        and not any(t.user_attrs.get(RETRY_OF) == trial.number for t in trials)
    )


def _was_drawn(trial: FrozenTrial) -> bool:
    if RETRY_OF in trial.user_attrs or trial.user_attrs.get(NOTE) == BEYOND:
        return False
    # One that died before it was given a position was never drawn; one that runs will be.
    return trial.state != TrialState.FAIL or POSITION in trial.user_attrs


def _place(trial: FrozenTrial) -> int:
    place: int = trial.user_attrs.get(PLACE, trial.number)
    return place


def _next_try(trial: FrozenTrial) -> int:
    """The how-manieth try the next one is, counted anew whenever one came further."""
    tried: int = trial.user_attrs.get(TRIES, 1)
    if trial.user_attrs.get(STOPPED):
        return tried
    came_further = len(trial.intermediate_values) > trial.user_attrs.get(TOLD, 0)
    return 2 if came_further else tried + 1
