"""The process that serves one of several devices: joins the others, works, tells how it went.

It never outlives the process that started it, and says everything through one pipe.
"""

from __future__ import annotations

import os
import signal
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning_fabric import Fabric

from ltbench.errors import LtbenchError, RunFailedError
from ltbench.spawning import ASKED_BY_PEOPLE, ASKED_BY_SCHEDULERS, Parcel, packed
from ltbench.training.devices import Seat, join_fabric

__all__ = ["Errand", "Failure", "News", "Tell", "Work", "serve"]

_SIGNALS = (*ASKED_BY_PEOPLE, *ASKED_BY_SCHEDULERS)
_LOOK_S = 0.5  # pause between two looks for the process that started this one

Tell = Callable[[Any], None]
Work = Callable[[Fabric, Tell], None]
"""What each device does; the second argument takes picklable news for the starting process."""


@dataclass(frozen=True)
class Errand:
    """What a worker is sent to do; picklable.

    Attributes:
        meeting: the file at which the workers find each other.
        parent: number of the process that starts them.
    """

    work: Work
    seat: Seat
    meeting: Path
    parent: int


class News(NamedTuple):
    """What the work tells while it goes on."""

    value: Any


class Failure(NamedTuple):
    """Why a worker ended before its work was done.

    Attributes:
        ours: the error is one that tells a user what to do, and not a fault of the code.
        at: time of a clock that all processes of the machine share.
    """

    parcel: Parcel
    ours: bool
    at: float


def serve(errand: Errand, pipe: Connection) -> None:
    """Do the work: all that a worker process does. Ends with code 1 where it failed."""
    _end_with(errand.parent)
    # Until the run is ready to save, a signal ends this process; its parent says which it was.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    try:
        fabric = join_fabric(errand.seat, errand.meeting)
        errand.work(fabric, partial(_send, pipe))
        # The work is done, and a signal could not stop it any more.
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        # A worker that leaves while another still talks to it makes that one fail.
        fabric.barrier()
        torch.distributed.destroy_process_group()
    except LtbenchError as error:
        _tell_why(pipe, Failure(packed(error), ours=True, at=time.monotonic()))
        raise SystemExit(1) from error
    except Exception as error:  # of any kind: the parent raises it, and this process ends
        _tell_why(pipe, Failure(_fault(error), ours=False, at=time.monotonic()))
        raise SystemExit(1) from error


def _end_with(parent: int) -> None:
    """End this process within a second of its parent, whatever it is doing.

    What it has written by then is whole, because files are replaced and never changed.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_LOOK_S)
        os._exit(1)

    threading.Thread(target=watch, name="watch over the parent", daemon=True).start()


def _send(pipe: Connection, value: Any) -> None:
    try:
        pipe.send(News(value))
    except BrokenPipeError as error:
        raise RunFailedError(
            "The process that started this worker is gone, and nobody hears what it has to say. "
            "What was saved is kept; run the same command again to go on."
        ) from error


def _tell_why(pipe: Connection, failure: Failure) -> None:
    with suppress(BrokenPipeError):  # nobody is there to be told
        pipe.send(failure)


def _fault(error: Exception) -> Parcel:
    """A fault of the code, of the machine or of another worker, as a `RunFailedError`."""
    where = "".join(traceback.format_exception(error))
    last = f"{type(error).__name__}: {error}".strip().splitlines()[0]
    told = RunFailedError(
        f"A worker process failed: {last} (add --debug to the command to see where)"
    )
    told.add_note(f"In the worker process:\n{where}")
    return packed(told)
