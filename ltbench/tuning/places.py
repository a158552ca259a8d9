"""Who may take a trial: a study has so many places, and workers anywhere that want them.

A trial that is complete, pruned, running or waiting holds a place; a failed one has given it back.
Numbers are given out in order, and a trial that failed never comes back, so a trial with fewer than
N places taken by lower numbers when it begins can never become the N+1st that ends. A worker that
created one beyond the budget fails it at once and waits.

A trial whose worker died is failed and waits to be tried again under a new number, with what was
drawn for it; its folder has the checkpoint.
"""

from __future__ import annotations

from collections.abc import Sequence

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
    "RETRY_OF",
    "fail",
    "failures",
    "finished",
    "holds_place",
    "is_retry",
    "position_of",
    "retry",
    "taken",
]

FACTS = "facts"  # a study's user attribute
# User attributes of trials.
OWNER, POSITION, RETRY_OF, TRIES, NOTE = "owner", "position", "retry_of", "tries", "note"
BEYOND = "beyond the budget"
MOST_TRIES = 4

_ENDED = (TrialState.COMPLETE, TrialState.PRUNED)


def finished(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Those that count as the budget: complete or pruned, by number."""
    return sorted((t for t in trials if t.state in _ENDED), key=lambda trial: trial.number)


def taken(trials: Sequence[FrozenTrial]) -> int:
    """Places that ended or running trials hold; a waiting one is there for a worker to take."""
    return sum(t.state in (*_ENDED, TrialState.RUNNING) for t in trials)


def holds_place(trials: Sequence[FrozenTrial], number: int, budget: int) -> bool:
    """Whether a trial that has just begun is within the budget, and not tried again already."""
    before = [t for t in trials if t.number < number and t.state != TrialState.FAIL]
    (mine,) = (t for t in trials if t.number == number)
    double = is_retry(mine) and any(
        t.user_attrs.get(RETRY_OF) == mine.user_attrs[RETRY_OF] for t in before
    )
    return len(before) < budget and not double


def position_of(trials: Sequence[FrozenTrial], trial: FrozenTrial) -> int:
    """How many were drawn before this one; the same however often some were tried again."""
    kept: int | None = trial.user_attrs.get(POSITION)
    if kept is not None:
        return kept
    return sum(t.number < trial.number and _was_drawn(t) for t in trials)


def _was_drawn(trial: FrozenTrial) -> bool:
    if is_retry(trial) or trial.user_attrs.get(NOTE) == BEYOND:
        return False
    # One that died before it was given a position was never drawn; one that runs will be.
    return trial.state != TrialState.FAIL or POSITION in trial.user_attrs


def is_retry(trial: FrozenTrial) -> bool:
    """Whether it tries again what another trial began."""
    return RETRY_OF in trial.user_attrs


def failures(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Trials that were drawn and given up: refused settings, or a process that died every time."""
    again = {t.user_attrs.get(RETRY_OF) for t in trials}
    return [
        t
        for t in trials
        if t.state == TrialState.FAIL
        and t.number not in again
        and POSITION in t.user_attrs
        and t.user_attrs.get(NOTE) != BEYOND
    ]


def fail(study: optuna.Study, trial: FrozenTrial) -> None:
    """Fail a trial whose worker is gone, and let it be tried again."""
    try:
        study.tell(trial.number, state=TrialState.FAIL)
    except (ValueError, UpdateFinishedTrialError):
        return  # another process was first, or the worker lived and ended it
    retry(study, trial)


def retry(study: optuna.Study, trial: FrozenTrial) -> None:
    """Let a failed trial be tried again, a few times: the fault may be its settings'."""
    tries = trial.user_attrs.get(TRIES, 1)
    if POSITION not in trial.user_attrs or tries >= MOST_TRIES:
        return
    # Of half a draw the other half would be drawn otherwise.
    whole = set(trial.params) == set(study.user_attrs[FACTS]["space"])
    drawn = trial.params if whole else {}
    study.add_trial(
        optuna.create_trial(
            state=TrialState.WAITING,
            params=drawn,
            distributions=trial.distributions if drawn else {},
            user_attrs={
                POSITION: trial.user_attrs[POSITION],
                RETRY_OF: trial.number,
                TRIES: tries + 1,
            },
        )
    )
