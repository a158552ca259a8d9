"""Signals that ask to stop: finish the step, save, say how to go on."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from ltbench.errors import InterruptedRunError
from ltbench.spawning import ASKED_BY_PEOPLE, ASKED_BY_SCHEDULERS


class SignalGuard:
    """While entered, SIGINT, SIGTERM, SIGUSR1 and SIGUSR2 only set `received`.

    A second SIGINT or SIGTERM acts as usual. Outside the main thread, where Python allows no
    handlers, the guard does nothing.

    Args:
        patient: a second one, too, is only noted. For worker processes, which get every signal
            twice: Ctrl-C and schedulers reach all processes, and the parent passes its own on.
    """

    def __init__(self, *, patient: bool = False) -> None:
        self._patient = patient
        self.received: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> SignalGuard:
        if threading.current_thread() is threading.main_thread():
            for number in (*ASKED_BY_PEOPLE, *ASKED_BY_SCHEDULERS):
                # None stands for a handler that was not set from Python.
                self._previous[number] = signal.signal(number, self._note) or signal.SIG_DFL
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.received = number
        if not self._patient and number in ASKED_BY_PEOPLE:
            signal.signal(number, self._previous[number])


class _Stop(BaseException):
    """A signal that asks this process to stop."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextmanager
def stoppable(goes_on: Callable[[], str]) -> Iterator[None]:
    """Turn signals that ask to stop into an error that unwinds, where others do the work.

    A second one of a person's, while what is under way is saved, ends this process at once.

    Args:
        goes_on: what is kept and how to go on, for the message; asked when everything has stopped.

    Raises:
        InterruptedRunError: a signal came.
    """
    received: list[int] = []

    def stop(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        if len(received) == 1 or number not in ASKED_BY_SCHEDULERS:
            raise _Stop(number)

    previous: dict[signal.Signals, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for caught in (*ASKED_BY_PEOPLE, *ASKED_BY_SCHEDULERS, signal.SIGHUP):
            previous[caught] = signal.signal(caught, stop) or signal.SIG_DFL
    try:
        yield
    except _Stop as stopped:
        told = (
            goes_on()
            if len(received) == 1
            else "It was told more than once, and waited for nothing: the last checkpoints are "
            "kept. Run the same command again to go on from there."
        )
        text = f"Stopped by signal {stopped.number}. {told}"
        raise InterruptedRunError(text, stopped.number) from None
    finally:
        for caught, handler in previous.items():
            signal.signal(caught, handler)
