"""Jobs on this machine: one process each, forked from a server that has imported torch already.

Every job has a process of its own, so that memory, a broken CUDA context or a crash of one are no
other's, and none pays the seconds that imports take.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import connection, get_context, parent_process
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, Literal

from ltbench.launchers import Ended, Job
from ltbench.launchers.carrying_out import Report, carry_out
from ltbench.spawning import without_main

__all__ = ["LocalLauncher"]

# What a job imports anyway. None of it starts threads or touches a device when it is imported.
PRELOADED = ("ltbench.api", "ltbench.runner", "ltbench.console", "sklearn.metrics", "timm")

# How long a process that has reported may take to end.
_LEAVING_S = 30.0


@dataclass
class _UnderWay:
    job: Job
    process: BaseProcess
    pipe: Connection
    slot: int
    started: float
    attempts: int


class LocalLauncher:
    """As many jobs at once as there are slots.

    Args:
        slots: the environment of each slot; `{"CUDA_VISIBLE_DEVICES": "0"}` gives its jobs the
            first device alone.
        retries: how often a job is started again whose process died without a word.
        is_held: whether another process is at a job already; such jobs are started last, since
            their process would only wait.
        say: told in one line what a person should know at once.
    """

    def __init__(
        self,
        slots: Sequence[Mapping[str, str]],
        *,
        retries: int = 3,
        is_held: Callable[[Job], bool] = lambda job: False,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._slots = [dict(slot) for slot in slots]
        self._retries = retries
        self._is_held = is_held
        self._say = say
        self._context = get_context("forkserver")
        self._context.set_forkserver_preload(list(PRELOADED))

    def device_kind(self) -> Literal["cpu", "cuda"]:
        """What this machine has."""
        import torch

        return "cuda" if torch.cuda.is_available() else "cpu"

    def room(self, jobs: Sequence[Job]) -> int:
        """The slots, as far as there are jobs for them."""
        return max(1, min(len(self._slots), len(jobs)))

    def when_closed(self) -> str:
        """They are told to save and stop."""
        return "what was under way is saved"

    def run(self, jobs: Sequence[Job]) -> Generator[Ended, None, None]:
        """See `Launcher.run`."""
        waiting = [(job, 1) for job in jobs]
        free = list(range(len(self._slots)))
        under_way: list[_UnderWay] = []
        try:
            while waiting or under_way:
                while waiting and free:
                    job, attempts = waiting.pop(self._next(waiting))
                    under_way.append(self._start(job, free.pop(0), attempts))
                for one in self._ended(under_way):
                    under_way.remove(one)
                    free.append(one.slot)
                    ended = self._end_of(one)
                    if ended is None:
                        waiting.insert(0, (one.job, one.attempts + 1))
                    else:
                        yield ended
        finally:
            _stop(under_way)

    def _next(self, waiting: Sequence[tuple[Job, int]]) -> int:
        """The first job that nobody is at; where all are held, the first, whose process waits."""
        for number, (job, _) in enumerate(waiting):
            if not self._is_held(job):
                return number
        return 0

    def _start(self, job: Job, slot: int, attempts: int) -> _UnderWay:
        ours, theirs = self._context.Pipe(duplex=False)
        process = self._context.Process(
            target=_serve, args=(theirs, job, self._slots[slot]), name=job.name
        )
        with without_main():
            process.start()
        theirs.close()  # so that the pipe ends with the process
        return _UnderWay(job, process, ours, slot, time.monotonic(), attempts)

    def _ended(self, under_way: Sequence[_UnderWay]) -> list[_UnderWay]:
        # Its pipe ends with the process, whatever has become of the server, which alone knows more.
        ready = connection.wait([one.pipe for one in under_way])
        return [one for one in under_way if one.pipe in ready]

    def _end_of(self, one: _UnderWay) -> Ended | None:
        """How it ended; None where it is to be started again."""
        report = _received(one.pipe)
        one.process.join(None if report is None else _LEAVING_S)
        if one.process.exitcode is None:  # a thread of a plugin's holds it
            one.process.kill()
            one.process.join()
        wall_time_s = time.monotonic() - one.started
        if report is not None:
            return report.of(one.job, wall_time_s=wall_time_s, attempts=one.attempts)
        how = _how_it_died(one.process.exitcode)
        if one.attempts <= self._retries:
            self._say(f"{one.job.name}: {how}; it is started again")
            return None
        died = Report("died", message=f"{how}, {one.attempts} times", exit_code=1)
        return died.of(one.job, wall_time_s=wall_time_s, attempts=one.attempts)


def _received(pipe: Connection) -> Report | None:
    """What the process said before it ended."""
    with pipe:
        try:
            report: Report | None = pipe.recv() if pipe.poll() else None
        except EOFError:
            return None
    return report


def _how_it_died(code: int | None) -> str:
    if code is not None and code < 0:
        return f"its process was ended by {signal.Signals(-code).name}"
    return f"its process ended without a word (exit code {code})"


def _stop(under_way: Sequence[_UnderWay]) -> None:
    """Tell the jobs to save and stop, and wait until they have.

    Not by SIGTERM, which a scheduler may have sent to everybody: a second one would end them at
    once.
    """
    for one in under_way:
        if one.process.pid is not None:
            with suppress(ProcessLookupError):
                os.kill(one.process.pid, signal.SIGUSR1)
    for one in under_way:
        with one.pipe, suppress(EOFError):
            while True:
                one.pipe.recv()
        one.process.join()


def _serve(pipe: Connection, job: Job, environment: Mapping[str, str]) -> None:
    """In the job's process: do it and report."""
    os.environ.update(environment)
    # Ctrl-C on a terminal reaches the whole group; the launcher decides what becomes of it.
    os.setsid()
    threading.Thread(target=_end_with_launcher, daemon=True).start()
    with pipe, suppress(BrokenPipeError):  # a launcher that did not wait
        pipe.send(carry_out(job))


def _end_with_launcher() -> None:
    """A job does not outlive its launcher: it saves and stops, as at SIGTERM."""
    launcher: Any = parent_process()
    connection.wait([launcher.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)
