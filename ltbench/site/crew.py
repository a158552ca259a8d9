"""Pages and figures made by several processes."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Final, Protocol

from ltbench.errors import LtbenchError, RunFailedError
from ltbench.site.folder import Unit
from ltbench.spawning import Parcel, packed, signals_blocked, unpacked, without_main

__all__ = ["Result", "Task", "made_together"]

Result = tuple[dict[str, Unit], list[str]]
"""Units by name, and the files that were written."""

# A process takes a second or two to start; with less to do than this it is not worth it.
_WORK_A_PROCESS_S: Final = 4.0


class Task(Protocol):
    """Something to be made; picklable."""

    @property
    def work_s(self) -> float:
        """About how long it takes."""

    def make(self, root: Path) -> Result:
        """Write the files into the folder of the site."""


def made_together(tasks: Sequence[Task], root: Path, jobs: int) -> Iterator[Result]:
    """Do tasks, in as many processes as are worth their start; in any order.

    Args:
        root: the folder of the site.
        jobs: the most processes.

    Raises:
        LtbenchError: what a task met; those that are under way are finished first.
    """
    processes = min(jobs, int(sum(task.work_s for task in tasks) / _WORK_A_PROCESS_S))
    if processes <= 1:
        for task in tasks:
            yield task.make(root)
        return
    context = multiprocessing.get_context("spawn")
    with signals_blocked(), without_main():
        pool = ProcessPoolExecutor(processes, mp_context=context)
        waiting = [pool.submit(_made, task, root) for task in tasks]
    try:
        for future in as_completed(waiting):
            yield _opened(future.result())
    except BrokenProcessPool as error:
        raise RunFailedError(
            "A process that makes pages was ended from outside, perhaps for want of memory. What "
            "was written is kept; run the same command again, or with --jobs 1."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _made(task: Task, root: Path) -> tuple[Result, None] | tuple[None, Parcel]:
    try:
        return task.make(root), None
    except LtbenchError as error:
        return None, packed(error)


def _opened(found: tuple[Result, None] | tuple[None, Parcel]) -> Result:
    result, parcel = found
    if parcel is not None:
        raise unpacked(parcel)
    assert result is not None
    return result
