"""A run on several devices: one process each, signals passed on, errors brought back."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from lightning_fabric import Fabric
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException

from ltbench.config import RunConfig
from ltbench.errors import InterruptedRunError, LtbenchError, RunFailedError
from ltbench.training.devices import make_fabric

Work = Callable[[Fabric], None]


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
    with tempfile.TemporaryDirectory(prefix="ltbench-") as errors, _signals_to_children():
        try:
            make_fabric(config).launch(_in_worker, _Parcel(work, Path(errors)))  # type: ignore[arg-type]
        except (ProcessRaisedException, ProcessExitedException) as error:
            raise _told(Path(errors), error) from error


def _in_worker(fabric: Fabric, parcel: _Parcel) -> None:
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    try:
        parcel.work(fabric)
        # A worker that leaves while another still talks to it makes that one abort.
        fabric.barrier()
        torch.distributed.destroy_process_group()
    except LtbenchError as error:
        told = {"message": str(error), "kind": type(error).__name__, "exit_code": error.exit_code}
        file = parcel.errors / f"{fabric.global_rank}.json"
        file.write_text(json.dumps(told), encoding="utf-8")
        raise


def _told(folder: Path, error: Exception) -> LtbenchError:
    told = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("*.json"))]
    if not told:
        return RunFailedError(f"A worker process failed: {str(error).strip().splitlines()[-1]}")
    first = told[0]
    if first["kind"] == InterruptedRunError.__name__:
        return InterruptedRunError(first["message"], first["exit_code"] - 128)
    found = LtbenchError(first["message"])
    found.exit_code = first["exit_code"]
    return found


@contextmanager
def _signals_to_children() -> Iterator[None]:
    """Pass SIGTERM and SIGINT on to the workers, which save; this process waits for them."""

    def forward(number: int, _frame: object) -> None:
        for child in multiprocessing.active_children():
            if child.pid is not None:
                os.kill(child.pid, number)

    previous = {n: signal.signal(n, forward) for n in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
