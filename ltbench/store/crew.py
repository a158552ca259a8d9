"""Work that is spread over processes, or done right here."""

from __future__ import annotations

import atexit
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing import connection, get_context, parent_process
from types import TracebackType
from typing import TypeVar

from ltbench.errors import RunFailedError
from ltbench.spawning import without_main

__all__ = ["Crew"]

Job = TypeVar("Job")
Result = TypeVar("Result")

_WAITING = 2  # jobs a worker, one under way and one next


class Crew:
    """Processes that do jobs; with one worker, this process. They end with it, however it ends."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Crew:
        if self.workers > 1:
            self._pool = ProcessPoolExecutor(
                self.workers, mp_context=get_context("spawn"), initializer=_begin
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def run(
        self, work: Callable[[Job], Result], jobs: Iterable[Job]
    ) -> Iterator[tuple[Job, Result]]:
        """Do all jobs, and give each with its result as soon as it is there, in any order.

        Raises:
            RunFailedError: a process died.
        """
        if self._pool is None:
            yield from ((job, work(job)) for job in jobs)
            return
        left = iter(jobs)
        under_way: dict[Future[Result], Job] = {}
        try:
            while True:
                for job in islice(left, _WAITING * self.workers - len(under_way)):
                    with without_main():  # a new job may start a new process
                        under_way[self._pool.submit(work, job)] = job
                if not under_way:
                    return
                for future in wait(under_way, return_when=FIRST_COMPLETED).done:
                    yield under_way.pop(future), future.result()
        except BrokenProcessPool as error:
            raise RunFailedError(
                "A process that decodes pictures died. What it wrote before is kept. Memory may "
                "have run out: use fewer workers (--workers 1)."
            ) from error


def _begin() -> None:
    # Ctrl-C reaches the whole group; the first process decides what becomes of it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Taking torch's modules down would take half a second; nothing is left to be saved.
    atexit.register(os._exit, 0)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Else a worker whose parent was killed would wait for jobs for ever, or write on."""
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
