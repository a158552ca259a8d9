"""Views made on the host, by worker processes or in this one."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import prod

import cv2
import numpy as np
import torch
from torch import Tensor

from ltbench.dataset import Images
from ltbench.views.crew import Crew
from ltbench.views.host import HostView
from ltbench.views.view import View
from ltbench.views.worker import STARTING, Order, WantedView, make_views

__all__ = ["DEPTH", "KEPT", "HostPictures"]

DEPTH = 6
"""Jobs that may be submitted to workers before the first result is called for."""

KEPT = 2
"""A result is valid until `result()` has been called for this many later jobs."""

_PAGE = 4096


class HostPictures:
    """Views made on the host, by worker processes or in this one.

    A picture is a function of (seed, stream word, epoch, draw) and its position alone: it is the
    same for any number of workers, and in any batch.

    Args:
        workers: processes; 0 makes the views here, when a result is called for.

    Attributes:
        depth: jobs that may be submitted before the first result is called for; 0 without workers,
            where any number may, and nothing is gained.

    Raises:
        UsageError: a picture is too small for a view.
    """

    def __init__(
        self, images: Images, views: Mapping[str, View], *, seed: int, workers: int
    ) -> None:
        self._views = {name: HostView(view, images) for name, view in views.items()}
        self._maker: Crew | _Here
        if workers > 0:
            self._maker = Crew(images, dict(views), seed, workers=workers, depth=DEPTH, kept=KEPT)
            self.depth = DEPTH
        else:
            self._maker = _Here(self._views, seed)
            self.depth = 0

    def submit(
        self,
        positions: np.ndarray,
        draws: np.ndarray,
        names: Sequence[str],
        *,
        epoch: int,
        words: Sequence[int],
    ) -> Callable[[], list[Tensor]]:
        """Have views of some pictures made; workers begin at once.

        Args:
            positions: which pictures, int64 (B,).
            draws: what number in the epoch each is, int64 (B,): what `View.draw` takes.
            names: which views; pictures of one call have one size in each.
            words: the generator's stream number for each view.

        Returns:
            To be called once, for one uint8 tensor a view, (B, C, h, w) with channels last in
            memory. It is valid until results of `KEPT` later jobs were called for.

        Raises:
            LtbenchError: from the call for the result: what a worker raised.
            RunFailedError: a worker ended.
        """
        views = [self._views[name] for name in names]
        wanted = _places(views, positions, names, words)
        for source in {id(view.source): view.source for view in views}.values():
            source.soon(positions)
        ready = self._maker.submit(Order(STARTING, 0, 0, positions, draws, epoch, wanted))

        def result() -> list[Tensor]:
            memory = ready()
            batches = [memory[v.offset : v.offset + prod(v.shape)].reshape(v.shape) for v in wanted]
            return [torch.from_numpy(batch).permute(0, 3, 1, 2) for batch in batches]

        return result

    def close(self) -> None:
        """End the workers. Tensors that were handed out stay readable."""
        self._maker.close()


class _Here:
    """Makes views in this process."""

    def __init__(self, views: Mapping[str, HostView], seed: int) -> None:
        self._views, self._seed = views, seed
        self._memories = deque([np.empty(0, np.uint8)] * KEPT)
        # For all of this process: on pictures of this size its threads would only wait.
        cv2.setNumThreads(1)

    def submit(self, order: Order) -> Callable[[], np.ndarray]:
        """The order is made when the result is called for."""

        def ready() -> np.ndarray:
            memory = self._memories.popleft()
            if len(memory) < order.num_bytes:
                memory = np.empty(order.num_bytes, np.uint8)
            self._memories.append(memory)
            with _one_thread():
                make_views(order, self._views, self._seed, memory)
            return memory

        return ready

    def close(self) -> None:
        """Nothing to end."""


@contextmanager
def _one_thread() -> Iterator[None]:
    """As in a worker: sums over several threads differ in their last bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _places(
    views: Sequence[HostView], positions: np.ndarray, names: Sequence[str], words: Sequence[int]
) -> tuple[WantedView, ...]:
    """Where each view's batch goes in the memory of a job."""
    wanted, offset = [], 0
    for view, name, word in zip(views, names, words, strict=True):
        shape = view.batch_shape(positions)
        wanted.append(WantedView(name, word, offset, shape))
        offset += -(-prod(shape) // _PAGE) * _PAGE
    return tuple(wanted)
