"""A run on several devices: one process each, watched, signals passed on, errors brought back."""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from ltbench.errors import InterruptedRunError, LtbenchError, RunFailedError
from ltbench.run_config import RunConfig
from ltbench.spawning import ASKED_BY_PEOPLE, ASKED_BY_SCHEDULERS, signals_blocked, unpacked
from ltbench.training.devices import Seat
from ltbench.training.worker import Errand, Failure, News, Tell, Work, serve

# How long workers may go on once one of them has failed: to tell what they met themselves.
_GRACE_S = 5.0


@dataclass(eq=False)
class _Worker:
    """One device's process, seen from the one that started it.

    Attributes:
        exit_code: of a process that ended by itself; negative for the signal that killed it.
    """

    seat: Seat
    process: BaseProcess
    pipe: Connection
    failure: Failure | None = None
    exit_code: int | None = None

    def hear(self, tell: Tell) -> bool:
        """Take in one message; False where none will come any more."""
        try:
            message: News | Failure = self.pipe.recv()
        except (EOFError, OSError):  # it has closed its end, perhaps in the middle of a message
            return False
        if isinstance(message, Failure):
            self.failure = message
        else:
            tell(message.value)
        return True


def on_devices(config: RunConfig, work: Work, tell: Tell = lambda value: None) -> None:
    """Call the picklable `work(fabric, tell)` in one process a device and wait.

    Args:
        tell: called in this process with whatever the work tells, as it comes.

    Raises:
        LtbenchError: what the first failing process raised; none of them lives on.
    """
    # DDP warns whenever a step happens to use every parameter; workers read this at import.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    workers: list[_Worker] = []
    with (
        tempfile.TemporaryDirectory(prefix="ltbench-") as folder,
        _signals_to(workers) as received,
        _ended(workers),
    ):
        with signals_blocked():
            meeting = Path(folder) / "meeting"
            for seat in Seat.all_of(config):
                workers += [_start(Errand(work, seat, meeting, os.getpid()))]
        _attend(workers, tell)
    if any(worker.exit_code != 0 for worker in workers):
        raise _reason(workers, received)
    if received:
        raise InterruptedRunError(
            f"Stopped by signal {received[0]}, after the run was complete.", received[0]
        )


def _start(errand: Errand) -> _Worker:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    name = f"ltbench-device-{errand.seat.rank}"
    process = context.Process(target=serve, args=(errand, theirs), name=name)
    process.start()
    theirs.close()  # or the end of the worker would not show
    return _Worker(errand.seat, process, ours)


def _attend(workers: Sequence[_Worker], tell: Tell) -> None:
    """Listen until all workers have ended, or for a moment longer than the first that failed."""
    pipes = {worker.pipe: worker for worker in workers}
    running = {worker.process.sentinel: worker for worker in workers}
    deadline = None
    while running:
        left = None if deadline is None else max(deadline - time.monotonic(), 0)
        ready = connection.wait([*pipes, *running], left)
        if not ready:
            return
        for one in ready:
            if isinstance(one, Connection) and not pipes[one].hear(tell):
                del pipes[one]
        for one in ready:
            if not isinstance(one, int):
                continue
            worker = running.pop(one)
            while worker.pipe in pipes and worker.pipe.poll() and worker.hear(tell):
                pass
            pipes.pop(worker.pipe, None)
            worker.process.join()
            worker.exit_code = worker.process.exitcode
        if deadline is None and any(w.failure or w.exit_code for w in workers):
            deadline = time.monotonic() + _GRACE_S


@contextmanager
def _ended(workers: Sequence[_Worker]) -> Iterator[None]:
    """No worker lives on afterwards. They hold nothing that would have to be put in order first."""
    try:
        yield
    finally:
        for worker in workers:
            worker.process.kill()
        for worker in workers:
            worker.process.join()
            worker.pipe.close()


def _reason(workers: Sequence[_Worker], received: Sequence[int]) -> LtbenchError:
    """Why the run ended: of all that went wrong, what made the rest go wrong."""
    failures = sorted((w.failure for w in workers if w.failure), key=lambda failure: failure.at)
    for failure in failures:
        if failure.ours:
            return unpacked(failure.parcel)
    if received:
        return InterruptedRunError(
            f"Stopped by signal {received[0]}, before the run was ready to save or without giving "
            "it the time. The last checkpoint is kept; run the same command again to go on.",
            received[0],
        )
    # The others fail because one is gone, so that what they say comes last.
    for worker in workers:
        if worker.exit_code is not None and worker.exit_code < 0:
            return _killed(worker)
    if failures:
        return unpacked(failures[0].parcel)
    return RunFailedError(
        "A worker process ended without a word, with exit code "
        f"{next(worker.exit_code for worker in workers if worker.exit_code)}. What it printed "
        "stands above. What was saved is kept; run the same command again to go on."
    )


def _killed(worker: _Worker) -> RunFailedError:
    number = -(worker.exit_code or 0)
    name = signal.Signals(number).name if number in list(signal.Signals) else f"signal {number}"
    memory = " If the system killed it for want of memory, lower batch_size."
    return RunFailedError(
        f"A worker process, device {worker.seat.rank} of {worker.seat.num_devices} (counted from "
        f"0), was killed by {name}, and the others were ended."
        f"{memory if number == signal.SIGKILL else ''} What was saved is kept; run the same "
        "command again to go on."
    )


@contextmanager
def _signals_to(workers: Sequence[_Worker]) -> Iterator[list[int]]:
    """Pass signals that ask to stop on to the workers, which save; this process waits for them.

    A second SIGINT or SIGTERM ends the workers at once. Outside the main thread, where Python
    allows no handlers, nothing is passed on. Yields the signals that came.
    """
    received: list[int] = []

    def forward(number: int, _frame: object) -> None:
        received.append(number)
        insists = sum(one in ASKED_BY_PEOPLE for one in received) > 1
        for worker in workers:
            if worker.process.pid is not None and worker.exit_code is None:
                with suppress(ProcessLookupError):
                    os.kill(worker.process.pid, signal.SIGKILL if insists else number)

    previous: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number in (*ASKED_BY_PEOPLE, *ASKED_BY_SCHEDULERS):
            previous[number] = signal.signal(number, forward) or signal.SIG_DFL
    try:
        yield received
    finally:
        for caught, handler in previous.items():
            signal.signal(caught, handler)
