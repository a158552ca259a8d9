"""A run on several devices: one process each, signals passed on, errors brought back."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException

from ltbench.errors import InterruptedRunError, LtbenchError, RunFailedError
from ltbench.files import read_json, write_json
from ltbench.run_config import RunConfig
from ltbench.spawning import ASKED_BY_PEOPLE, ASKED_BY_SCHEDULERS, shelter_tracker
from ltbench.training.devices import make_fabric

Work = Callable[[Fabric], None]

_RENDEZVOUS = (
    *("MASTER_ADDR", "MASTER_PORT", "RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK"),
    *("WORLD_SIZE", "LOCAL_WORLD_SIZE"),
)


class _Parcel:
    """What goes to a worker. No dataclass: Fabric walks through those, and refuses frozen ones."""

    def __init__(self, work: Work, errors: Path) -> None:
        self.work = work
        self.errors = errors


def on_devices(config: RunConfig, work: Work) -> None:
    """Call the picklable `work(fabric)` in one process a device and wait.

    Raises:
        LtbenchError: what the first failing process raised.
    """
    # DDP warns whenever a step happens to use every parameter; workers read this at import.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    shelter_tracker()
    with (
        tempfile.TemporaryDirectory(prefix="ltbench-") as errors,
        _own_rendezvous(),
        _signals_to_children() as received,
    ):
        try:
            make_fabric(config).launch(_in_worker, _Parcel(work, Path(errors)))  # type: ignore[arg-type]
        except (ProcessRaisedException, ProcessExitedException) as error:
            raise _told(Path(errors), error, received) from error
    if received:
        raise InterruptedRunError(
            f"Stopped by signal {received[0]}, after the run was complete.", received[0]
        )


def _in_worker(fabric: Fabric, parcel: _Parcel) -> None:
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    try:
        parcel.work(fabric)
        # A worker that leaves while another still talks to it makes that one abort.
        fabric.barrier()
        torch.distributed.destroy_process_group()
    except LtbenchError as error:
        told = {"message": str(error), "kind": type(error).__name__, "exit_code": error.exit_code}
        write_json(parcel.errors / f"{fabric.global_rank}.json", told)
        raise
    except KeyboardInterrupt as error:
        # torch takes it for success, and the parent would wait for a result for ever.
        raise RunFailedError("Interrupted before the run was ready to save.") from error


def _told(folder: Path, error: Exception, received: Sequence[int]) -> LtbenchError:
    told = [read_json(file) for file in sorted(folder.glob("*.json"))]
    if not told and received:
        return InterruptedRunError(
            f"Stopped by signal {received[0]}, before the run was ready to save or without giving "
            "it the time. The last checkpoint is kept; run the same command again to go on.",
            received[0],
        )
    if not told:
        return RunFailedError(f"A worker process failed: {str(error).strip().splitlines()[-1]}")
    first = told[0]
    if first["kind"] == InterruptedRunError.__name__:
        return InterruptedRunError(first["message"], first["exit_code"] - 128)
    found = LtbenchError(first["message"])
    found.exit_code = first["exit_code"]
    return found


@contextmanager
def _signals_to_children() -> Iterator[list[int]]:
    """Pass signals that ask to stop on to the workers, which save; this process waits for them.

    A second SIGINT or SIGTERM ends the workers at once. Outside the main thread, where Python
    allows no handlers, nothing is passed on. Yields the signals that came.
    """
    received: list[int] = []
    others = set(multiprocessing.active_children())

    def forward(number: int, _frame: object) -> None:
        received.append(number)
        insists = sum(one in ASKED_BY_PEOPLE for one in received) > 1
        for child in set(multiprocessing.active_children()) - others:
            if child.pid is not None:
                os.kill(child.pid, signal.SIGKILL if insists else number)

    previous: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number in (*ASKED_BY_PEOPLE, *ASKED_BY_SCHEDULERS):
            previous[number] = signal.signal(number, forward) or signal.SIG_DFL
    try:
        yield received
    finally:
        for caught, handler in previous.items():
            signal.signal(caught, handler)


@contextmanager
def _own_rendezvous() -> Iterator[None]:
    """Let our workers find each other by themselves, whatever an outer launcher has set.

    Fabric leaves its port in the environment, where the next run, or a run beside this one, would
    take it for its own.
    """
    kept = {name: os.environ.pop(name) for name in _RENDEZVOUS if name in os.environ}
    try:
        yield
    finally:
        for name in _RENDEZVOUS:
            os.environ.pop(name, None)
        os.environ.update(kept)
