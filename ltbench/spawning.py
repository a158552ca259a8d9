"""Processes that are started beside a run, and the signals that reach all of them."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from types import ModuleType

from ltbench.errors import LtbenchError

__all__ = [
    "ASKED_BY_PEOPLE",
    "ASKED_BY_SCHEDULERS",
    "Parcel",
    "packed",
    "shelter_tracker",
    "signals_blocked",
    "unpacked",
    "without_main",
]

# What asks a run to save and stop. A person who sends one twice means it; schedulers announce the
# end of the time with the second pair (Slurm's `--signal=USR1@90`), and may repeat themselves.
ASKED_BY_PEOPLE = (signal.SIGINT, signal.SIGTERM)
ASKED_BY_SCHEDULERS = (signal.SIGUSR1, signal.SIGUSR2)

Parcel = tuple[type[LtbenchError], tuple[object, ...], dict[str, object]]
"""An error as it goes through a pipe: its class, arguments and attributes."""


def packed(error: LtbenchError) -> Parcel:
    """What `unpacked` makes the error of again in another process."""
    # Not the error itself: unpickling it would call a constructor that may want other arguments.
    return type(error), error.args, vars(error)


def unpacked(parcel: Parcel) -> LtbenchError:
    """The error as it was raised."""
    kind, arguments, attributes = parcel
    error = kind.__new__(kind, *arguments)
    vars(error).update(attributes)
    return error


def shelter_tracker() -> None:
    """Start multiprocessing's resource tracker, which all our processes share, so that it lives on.

    It ignores SIGINT and SIGTERM by itself, but would die of what schedulers send to everybody.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ASKED_BY_SCHEDULERS)
    try:
        resource_tracker.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def signals_blocked() -> Iterator[None]:
    """Processes started here do not see what the terminal or a scheduler sends to all of us.

    This process decides what a signal means. Those that never unblock them end with it.
    """
    shelter_tracker()  # its own start would unblock the first pair
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (*ASKED_BY_PEOPLE, *ASKED_BY_SCHEDULERS))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def without_main() -> Iterator[None]:
    """Processes started here do not run the user's script again, as spawned ones otherwise do.

    It may have no `if __name__ == "__main__"`, and would import what no worker needs.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
