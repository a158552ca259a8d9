"""A process that makes views: takes orders, writes pixels into shared memory, says when done."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from multiprocessing import reduction
from multiprocessing.connection import Connection
from typing import NamedTuple

import cv2
import numpy as np
import torch

from ltbench.errors import LtbenchError, RunFailedError
from ltbench.spawning import Parcel, packed, unpacked
from ltbench.views.host import HostView
from ltbench.views.shared_memory import SharedMemory

__all__ = ["STARTING", "Answer", "Order", "WantedView", "make_views", "work"]


class WantedView(NamedTuple):
    """One view of an order.

    Attributes:
        word: the generator's stream number.
        offset: where its batch begins in the memory, in bytes.
        shape: of the whole batch, (B, height, width, channels).
    """

    name: str
    word: int
    offset: int
    shape: tuple[int, int, int, int]


@dataclass(frozen=True)
class Order:
    """A batch, or a part of it, to be made in some views.

    Attributes:
        number: of the job, told with the answer.
        slot: which memory.
        first: row of the batch where `positions` begin.
    """

    number: int
    slot: int
    first: int
    positions: np.ndarray
    draws: np.ndarray
    epoch: int
    views: tuple[WantedView, ...]

    @property
    def num_bytes(self) -> int:
        """Of the whole batch, in all views."""
        return max((view.offset + prod(view.shape) for view in self.views), default=0)


STARTING = -1


class Answer(NamedTuple):
    """What a worker says: the number of an order, or `STARTING`; and why it failed, if it did."""

    number: int
    parcel: Parcel | None

    @property
    def error(self) -> LtbenchError | None:
        """The error as it was raised."""
        return None if self.parcel is None else unpacked(self.parcel)


def make_views(order: Order, views: Mapping[str, HostView], seed: int, memory: np.ndarray) -> None:
    """Draw the numbers of an order and render it.

    Args:
        memory: uint8 (num_bytes,).
    """
    last = order.first + len(order.positions)
    for name, word, offset, shape in order.views:
        made = views[name]
        u = made.view.draw(seed, stream=word, epoch=order.epoch, indices=order.draws)
        batch = memory[offset : offset + prod(shape)].reshape(shape)
        made.render(order.positions, u, batch[order.first : last])


def work(connection: Connection, num_slots: int) -> None:
    """Serve until nobody waits any more: the whole work of a process.

    The connection brings a descriptor of each slot's memory, then (pictures, views, seed), then
    orders; every order is answered, one by one.
    """
    # The cores are shared out among the processes already.
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    number = STARTING
    try:
        slots = [SharedMemory(reduction.recv_handle(connection)) for _ in range(num_slots)]
        images, views, seed = connection.recv()
        made = {name: HostView(view, images) for name, view in views.items()}
        while True:
            order = connection.recv()
            number = order.number
            memory = slots[order.slot].view(order.num_bytes)
            connection.send(Answer(number, _error_of(order, made, seed, memory)))
    except (EOFError, ConnectionError):
        return
    except Exception as error:  # of any kind: the parent raises it, and this process ends
        with suppress(ConnectionError):
            connection.send(Answer(number, _parcel(error)))
        raise SystemExit(1) from error


def _error_of(
    order: Order, views: Mapping[str, HostView], seed: int, memory: np.ndarray
) -> Parcel | None:
    """Make the views; errors that tell the user what to do do not end this process."""
    try:
        make_views(order, views, seed, memory)
    except LtbenchError as error:
        return _parcel(error)
    return None


def _parcel(error: Exception) -> Parcel:
    """What `Answer.error` makes an error of again; one that is not ours becomes one."""
    if not isinstance(error, LtbenchError):
        text = "".join(traceback.format_exception(error))
        error = RunFailedError(
            f"A worker process could not make a view: {type(error).__name__}: {error}. Set "
            "machine.workers=0 to see where it happens."
        )
        error.add_note(f"In the worker process:\n{text}")
    return packed(error)
