"""What a launcher's process does with a job: print to its log, and say how it went."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ltbench.errors import InterruptedRunError, LtbenchError, StorageFullError
from ltbench.files import is_full, storage_errors
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
        with _printing_to(job.log):
            _note(f"--- {job.name}, {_now()}, process {os.getpid()} on {os.uname().nodename}")
            report = _carried_out(job)
            if report.message:
                _note(f"{report.state}: {report.message}")
            return report
    except LtbenchError as error:  # of the log itself
        return _failed(error)


def _carried_out(job: Job) -> Report:
    try:
        return Report("done", job.work())
    except InterruptedRunError as error:
        return Report("interrupted", message=str(error), exit_code=error.exit_code)
    except KeyboardInterrupt:
        text = "interrupted before there was anything to save"
        return Report("interrupted", message=text, exit_code=130)
    except LtbenchError as error:
        return _failed(error)
    except Exception as error:  # noqa: BLE001 - a plugin may raise anything; the other jobs go on
        _note(traceback.format_exc())
        if isinstance(error, OSError) and is_full(error):
            # What is printed goes to the log, and may be the first that finds no space.
            return Report("failed", None, str(error), StorageFullError.__name__, 1)
        text = f"unexpected {type(error).__name__}: {error} (the log holds the traceback)"
        return Report("failed", None, text, type(error).__name__, 1)


def _failed(error: LtbenchError) -> Report:
    return Report("failed", None, str(error), type(error).__name__, error.exit_code)


def _note(text: str) -> None:
    """To the log, as far as there is space for it."""
    with suppress(OSError):
        print(text, flush=True)


@contextmanager
def _printing_to(log: Path) -> Iterator[None]:
    """Have all that this process and its children print go to the log, by descriptor.

    A process may have other work afterwards, so what was there before comes back.
    """
    with storage_errors(log.parent):
        log.parent.mkdir(parents=True, exist_ok=True)
        opened = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    _flush()
    kept = [os.dup(descriptor) for descriptor in (1, 2)]
    os.dup2(opened, 1)
    os.dup2(opened, 2)
    os.close(opened)
    try:
        yield
    finally:
        _flush()
        for descriptor, before in zip((1, 2), kept, strict=True):
            os.dup2(before, descriptor)
            os.close(before)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
