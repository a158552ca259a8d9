"""Launchers: who carries out many pieces of work, each in a process of its own.

A launcher knows nothing of runs and grids. It is given jobs and gives back how each ended; what a
job does is a callable, and what it leaves behind is on the disk, where claims keep two launchers
from doing the same at once.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

__all__ = ["Ended", "Job", "Launcher", "State"]

# failed: the work raised. died: its process ended without a word, as often as it was tried.
# interrupted: it was told to stop, and has saved what there was to save.
State = Literal["done", "failed", "died", "interrupted"]


@dataclass(frozen=True)
class Job:
    """One piece of work for a process of its own, on this machine or another.

    Attributes:
        name: what people call it.
        work: picklable, takes nothing; what it returns goes back to the launcher, so it is small.
        log: a file that takes what the work prints, appended to.
        num_cpus: cores it keeps busy.
        num_gpus: CUDA devices it needs; a part of one where several jobs share a device.
    """

    name: str
    work: Callable[[], Any]
    log: Path
    num_cpus: int = 1
    num_gpus: float = 0.0


@dataclass(frozen=True)
class Ended:
    """How a job ended.

    Attributes:
        value: what the work returned; None unless `state` is "done".
        message: why it failed or died, for people.
        kind: name of the error's class; empty unless the work raised.
        exit_code: what a command that ends so would exit with.
        wall_time_s: from its last start to its end.
        attempts: processes that were started for it.
    """

    job: Job
    state: State
    value: Any = None
    message: str = ""
    kind: str = ""
    exit_code: int = 0
    wall_time_s: float = 0.0
    attempts: int = 1


class Launcher(Protocol):
    """Carries out jobs, as many at once as it has room for."""

    def device_kind(self) -> Literal["cpu", "cuda"]:
        """What jobs find where they run, which need not be this machine."""
        ...

    def room(self, jobs: Sequence[Job]) -> int:
        """How many of these run side by side; at least 1."""
        ...

    def run(self, jobs: Sequence[Job]) -> Generator[Ended, None, None]:
        """Do all jobs and give each as it ends, in any order.

        Closing the iterator tells what is under way to save and stop, and waits for it; where jobs
        outlive their launcher, it leaves them alone.
        """
        ...

    def when_closed(self) -> str:
        """What becomes of the jobs under way when `run` is closed, in words: "... is saved"."""
        ...
