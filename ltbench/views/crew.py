"""Worker processes that make views, as seen from the process they work for."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import pickle
import signal
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from multiprocessing import connection, reduction
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

import numpy as np

from ltbench.dataset import Images
from ltbench.errors import LtbenchError, RunFailedError, UsageError
from ltbench.spawning import signals_blocked, without_main
from ltbench.views.shared_memory import SharedMemory
from ltbench.views.view import View
from ltbench.views.worker import STARTING, Answer, Order, work

__all__ = ["Crew"]

_GOODBYE_S = 5.0
_UNPICKLABLE = (pickle.PicklingError, AttributeError, TypeError)  # which one, classes differ in


class _Slot:
    """Memory for one batch, and who waits for it."""

    def __init__(self) -> None:
        self.memory = SharedMemory()
        self.owner: weakref.ref[partial[np.ndarray]] | None = None
        self.job = STARTING


class Crew:
    """Worker processes and a ring of batches they write into.

    Each batch is shared out evenly: that gives the first batch as early as can be. Orders go
    through a pipe to each worker; pixels never do.

    Args:
        depth: orders that may be given before the first is asked for.
        kept: batches that stay as they are after they were handed out, the newest included.
    """

    def __init__(
        self,
        images: Images,
        views: Mapping[str, View],
        seed: int,
        *,
        workers: int,
        depth: int,
        kept: int,
    ) -> None:
        self._slots = [_Slot() for _ in range(depth + kept)]
        self._depth = depth
        self._kept: deque[_Slot] = deque(maxlen=kept)
        self._number = STARTING
        self._parts: dict[int, int] = {}  # of each job, those that are not made yet
        self._errors: dict[int, LtbenchError] = {}
        self._failure: LtbenchError | None = None
        self._pipes, self._processes = _start(workers, len(self._slots))
        descriptors = [slot.memory.descriptor for slot in self._slots]
        end = partial(_end, os.getpid(), self._pipes, self._processes, descriptors)
        self.close = weakref.finalize(self, end)
        # At exit multiprocessing joins its children, which do not end by themselves. What is
        # registered last runs first.
        self.close.atexit = False
        atexit.register(self.close)
        try:
            self._introduce((images, views, seed))
        except _UNPICKLABLE as error:
            self.close()
            raise UsageError(
                f"These pictures cannot be handed to worker processes ({type(images).__name__}: "
                f"{error}). Set machine.workers=0, or make their class one that can be pickled."
            ) from error

    def submit(self, order: Order) -> Callable[[], np.ndarray]:
        """Have an order made; its number and slot are chosen here.

        Returns:
            To be called once: waits, and gives the memory, uint8 (order.num_bytes,).

        Raises:
            RunFailedError: a worker has ended.
            RuntimeError: more than `depth` batches are asked for, or this was closed.
        """
        if not self.close.alive:
            raise RuntimeError("The worker processes were ended by close().")
        if self._failure is not None:
            raise self._failure
        slot = self._free_slot()
        slot.memory.grow(order.num_bytes)
        self._number = slot.job = self._number + 1
        order = replace(order, number=slot.job, slot=self._slots.index(slot))
        self._parts[slot.job] = self._share_out(order)
        ready = partial(self._wait, order, slot)
        slot.owner = weakref.ref(ready)
        return ready

    def _introduce(self, message: object) -> None:
        """Hand every worker the slots and what it needs for orders."""
        for pipe, process in zip(self._pipes, self._processes, strict=True):
            try:
                for slot in self._slots:
                    reduction.send_handle(pipe, slot.memory.descriptor, process.pid)
                pipe.send(message)
            except ConnectionError:
                self._hear(pipe)

    def _share_out(self, order: Order) -> int:
        """Give every worker its rows; returns how many have any."""
        total, workers, parts = len(order.positions), len(self._pipes), 0
        for number, pipe in enumerate(self._pipes):
            rows = slice(total * number // workers, total * (number + 1) // workers)
            if rows.start == rows.stop:
                continue
            part = replace(
                order,
                first=rows.start,
                positions=order.positions[rows],
                draws=order.draws[rows],
            )
            try:
                pipe.send(part)
            except ConnectionError:
                self._hear(pipe)
            parts += 1
        return parts

    def _wait(self, order: Order, slot: _Slot) -> np.ndarray:
        self._finish(order.number)
        slot.owner = None
        self._kept.append(slot)
        del self._parts[order.number]
        error = self._errors.pop(order.number, None)
        if error is not None:
            raise error
        return slot.memory.view(order.num_bytes)

    def _finish(self, job: int) -> None:
        """Listen until all parts of a job are made."""
        while self._parts.get(job):
            if self._failure is not None:
                raise self._failure
            ready = connection.wait(self._pipes)
            for pipe in self._pipes:
                if pipe in ready:
                    self._hear(pipe)

    def _hear(self, pipe: Connection) -> None:
        """Take one answer; a pipe without anyone at its end says that a worker is gone."""
        try:
            answer: Answer = pipe.recv()
        except (EOFError, ConnectionError):
            process = self._processes[self._pipes.index(pipe)]
            self._failure = self._failure or _gone(process)
            return
        error = answer.error
        if isinstance(error, RunFailedError) or answer.number == STARTING:
            self._failure = self._failure or error  # the worker ends
        if answer.number != STARTING:
            self._parts[answer.number] -= 1
            if error is not None:
                self._errors.setdefault(answer.number, error)

    def _free_slot(self) -> _Slot:
        """A slot that nobody reads or waits for.

        Counted are orders, not slots: before anything was handed out more slots are free, and what
        is allowed would depend on it.
        """
        waited_for = [s for s in self._slots if s.owner is not None and s.owner() is not None]
        if len(waited_for) >= self._depth:
            raise RuntimeError(
                f"{self._depth} batches were asked for and none was taken: call for one first."
            )
        slot = next(s for s in self._slots if s not in waited_for and s not in self._kept)
        # Nobody may have waited for its last job, which then goes on writing.
        self._finish(slot.job)
        self._parts.pop(slot.job, None)
        self._errors.pop(slot.job, None)
        return slot


def _start(workers: int, num_slots: int) -> tuple[list[Connection], list[BaseProcess]]:
    """Processes that import nothing but what they need, and our ends of their pipes."""
    context = multiprocessing.get_context("spawn")
    pipes: list[Connection] = []
    processes: list[BaseProcess] = []
    with signals_blocked(), without_main():
        for number in range(workers):
            ours, theirs = context.Pipe()
            name = f"ltbench-views-{number}"
            process = context.Process(target=work, args=(theirs, num_slots), name=name, daemon=True)
            process.start()
            theirs.close()  # or the end of the worker would not show
            pipes.append(ours)
            processes.append(process)
    return pipes, processes


def _gone(process: BaseProcess) -> RunFailedError:
    process.join(_GOODBYE_S)
    code = process.exitcode
    how = f"exit code {code}"
    if code is not None and code < 0:
        how = f"killed by {signal.Signals(-code).name}"
    return RunFailedError(
        f"A worker process that makes views ended ({how}); expected it to live as long as the run. "
        "If the system killed it for want of memory, lower machine.workers or batch_size. What was "
        "saved is kept: run the same command again."
    )


def _end(
    owner: int,
    pipes: Sequence[Connection],
    processes: Sequence[BaseProcess],
    descriptors: Sequence[int],
) -> None:
    """End the workers, who hold nothing that would have to be put in order first."""
    if os.getpid() != owner:
        return  # a fork of the process they belong to
    for pipe in pipes:
        pipe.close()
    for process in processes:
        process.kill()
    for process in processes:
        process.join()
    for descriptor in descriptors:
        os.close(descriptor)
