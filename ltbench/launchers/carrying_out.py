"""What a launcher's process does with a job: print to its log, and say how it went."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ltbench.errors import InterruptedRunError, LtbenchError
from ltbench.launchers import Ended, Job, State

__all__ = ["Report", "carry_out"]


@dataclass(frozen=True)
class Report:
    """How the work went, in values that every process can unpickle; see `Ended`."""

    state: State
    value: Any = None
    message: str = ""
    kind: str = ""
    exit_code: int = 0

    def of(self, job: Job, *, wall_time_s: float, attempts: int) -> Ended:
        """The end of `job`, by this report."""
        return Ended(
            *(job, self.state, self.value, self.message, self.kind, self.exit_code),
            wall_time_s=wall_time_s,
            attempts=attempts,
        )


def carry_out(job: Job) -> Report:
    """Do the work with its output in the log. Raises nothing but what ends the interpreter."""
    try:
        with _printing_to(job):
            return _carried_out(job)
    except OSError as error:
        return Report(
            "failed", message=f"The log {job.log} cannot be written: {error}", exit_code=1
        )


def _carried_out(job: Job) -> Report:
    print(f"--- {job.name}, {_now()}, process {os.getpid()} on {os.uname().nodename}", flush=True)
    try:
        return Report("done", job.work())
    except InterruptedRunError as error:
        print(error, flush=True)
        return Report("interrupted", message=str(error), exit_code=error.exit_code)
    except KeyboardInterrupt:
        print("Interrupted before there was anything to save.", flush=True)
        return Report("interrupted", message="interrupted", exit_code=130)
    except LtbenchError as error:
        print(f"error: {error}", flush=True)
        return Report("failed", None, str(error), type(error).__name__, error.exit_code)
    except Exception as error:  # noqa: BLE001 - a plugin may raise anything; the other jobs go on
        traceback.print_exc(file=sys.stdout)
        text = f"unexpected {type(error).__name__}: {error} (the log holds the traceback)"
        return Report("failed", None, text, type(error).__name__, 1)
    finally:
        sys.stdout.flush()


@contextmanager
def _printing_to(job: Job) -> Iterator[None]:
    """Have all that this process and its children print go to the log, by descriptor.

    A process may have other work afterwards, so what was there before comes back.
    """
    job.log.parent.mkdir(parents=True, exist_ok=True)
    kept = [os.dup(descriptor) for descriptor in (1, 2)]
    try:
        sys.stdout.flush()
        sys.stderr.flush()
        log = os.open(job.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(log)
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for descriptor, before in zip((1, 2), kept, strict=True):
            os.dup2(before, descriptor)
            os.close(before)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
