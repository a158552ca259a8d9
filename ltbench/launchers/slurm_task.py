"""What a Slurm job does: carry out the work, and at the time limit go back into the queue."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import FrameType
from typing import Any

from ltbench.launchers import Job
from ltbench.launchers.carrying_out import Report, carry_out
from ltbench.launchers.slurm_commands import queue, requeue
from ltbench.spawning import ASKED_BY_SCHEDULERS

__all__ = ["Result", "Task"]

Handler = Callable[[int, FrameType | None], Any]


@dataclass(frozen=True)
class Result:
    """What a job leaves for the launcher: its report, seconds since its last start, restarts."""

    report: Report
    wall_time_s: float
    restarts: int


class Task:
    """A job as submitit runs it.

    Until the run is ready to save, submitit's own handler answers the time limit's signal: it
    requeues the job, a few times, since nothing was gained. From then on the run saves, and comes
    back here; as every time it was some steps forward, that may happen as often as it must.
    """

    def __init__(self, job: Job) -> None:
        self._job = job

    def __call__(self) -> Result:
        """In the job. Comes back only with what is final."""
        started = time.monotonic()
        for number in ASKED_BY_SCHEDULERS:
            handler = signal.getsignal(number)
            if callable(handler):
                signal.signal(number, partial(_leave_at_once, handler))
        report = carry_out(self._job)
        if report.state == "interrupted":
            _after_saving(report.exit_code - 128)
        seconds = time.monotonic() - started
        return Result(report, seconds, int(os.environ.get("SLURM_RESTART_COUNT", "0")))

    def checkpoint(self) -> Any:
        """Asked by submitit's handler: what is to be run again."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def _leave_at_once(handler: Handler, number: int, frame: FrameType | None) -> None:
    """Submitit's handler, which requeues the job and then raises SystemExit where it stands.

    That may be where a plugin is imported, and whatever it raises taken for a mistake in it.
    """
    try:
        handler(number, frame)
    except SystemExit:
        sys.stdout.flush()
        os._exit(128 + number)


def _after_saving(number: int) -> None:
    """Do what the signal was for, and end this process; come back to have the launcher told."""
    ours = _number()
    if number in ASKED_BY_SCHEDULERS or (number == signal.SIGTERM and _is_preempted(ours)):
        if requeue(ours):
            print("Saved, and back in the queue.", flush=True)
            sys.exit(128 + number)
    elif number == signal.SIGTERM:
        # Cancelled, or requeued by Slurm: a result would say that the job is over, and a requeue
        # of ours would bring a cancelled job back.
        print("Saved.", flush=True)
        sys.exit(128 + number)


def _is_preempted(ours: str) -> bool:
    """Whether SIGTERM came with time to save, while for Slurm the job goes on.

    A job that ends by itself in this time counts as failed, and Slurm does not requeue it.
    """
    standing = (queue() or {}).get(ours)
    return standing is not None and standing.state == "RUNNING"


def _number() -> str:
    """This job's, as squeue writes it."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    if array is None:
        return os.environ["SLURM_JOB_ID"]
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
