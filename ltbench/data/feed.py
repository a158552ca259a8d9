"""Batches: which images in which step, rendered on the device; a function of seed and position."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ltbench.data.samplers import epoch_indices
from ltbench.dataset import Images, Source
from ltbench.errors import UsageError
from ltbench.method import Batch, Collective, Stream
from ltbench.registry import suggest
from ltbench.views.device import DevicePictures
from ltbench.views.view import View

# A random word's `stream` number says what it is for: stage, stream within the stage, purpose.
ORDER = 0  # purpose 0 is the order of images; purpose 1 + i is view i of the stream


def stream_word(stage: int, stream: int, purpose: int) -> int:
    """The counter-based generator's stream number for one purpose of one data stream."""
    return (stage << 16) | (stream << 8) | purpose


class Pictures(Protocol):
    """Makes views of the pictures of one part, wherever that happens."""

    @property
    def depth(self) -> int:
        """Jobs that may be submitted before the first is asked for; 0 where nothing is gained."""
        ...

    def submit(
        self,
        positions: np.ndarray,
        draws: np.ndarray,
        names: Sequence[str],
        *,
        epoch: int,
        words: Sequence[int],
    ) -> Callable[[], list[Tensor]]:
        """Views of some pictures, (B, C, h, w) each: uint8, or float32 in [0, 1]."""
        ...

    def close(self) -> None:
        """End what works for this."""
        ...


MakePictures = Callable[[Images, Mapping[str, View], int], Pictures]
"""(pictures of a part, views, seed) to what renders them."""


@dataclass(frozen=True)
class Part:
    """One part of a split: which images of the source, with all that scoring needs.

    Attributes:
        images: those of the whole source; None once the part's own pictures are with a renderer.
    """

    images: Images | None
    positions: np.ndarray
    ids: np.ndarray
    targets: np.ndarray
    groups: np.ndarray | None
    class_names: tuple[str, ...]
    metadata: Mapping[str, np.ndarray] = field(default_factory=dict)

    @classmethod
    def of(cls, source: Source, positions: np.ndarray) -> Part:
        """The part of `source` at `positions`."""
        return cls(
            images=source.images,
            positions=positions,
            ids=source.ids[positions],
            targets=source.targets[positions],
            groups=None if source.groups is None else source.groups[positions],
            class_names=source.class_names,
            metadata={name: values[positions] for name, values in source.metadata.items()},
        )

    def __len__(self) -> int:
        return len(self.positions)

    def pictures(self) -> Images:
        """This part's own pictures, in its order."""
        if self.images is None:
            raise UsageError("This part has handed its pictures on; read them from its renderer.")
        return self.images.subset(self.positions)

    @property
    def class_counts(self) -> tuple[int, ...]:
        """Images of each class."""
        counts = np.bincount(self.targets, minlength=len(self.class_names))
        return tuple(int(n) for n in counts)


class Renderer:
    """The views of one part's pictures, normalised on the device.

    Args:
        mean, std: (channels,) on the scale 0..1, applied after the view.
        channels_last: memory format of what is delivered.
        make_pictures: what makes the views; by default the pictures are held on the device.
    """

    def __init__(
        self,
        part: Part,
        views: Mapping[str, View],
        *,
        mean: Sequence[float],
        std: Sequence[float],
        device: torch.device,
        channels_last: bool = False,
        seed: int = 0,
        make_pictures: MakePictures | None = None,
    ) -> None:
        # The source's images hold validation and test pictures too: they go no further than here.
        self.part = replace(part, images=None)
        self.views = views
        self.device = device
        images = part.pictures()
        self._sizes = images.sizes
        make = make_pictures or (
            lambda images, views, seed: DevicePictures(images, views, seed=seed, device=device)
        )
        self._pictures = make(images, views, seed)
        self._targets = torch.as_tensor(part.targets, dtype=torch.int64, device=device)
        self._mean = torch.tensor(mean, dtype=torch.float32, device=device).view(1, -1, 1, 1)
        self._std = torch.tensor(std, dtype=torch.float32, device=device).view(1, -1, 1, 1)
        self._format = torch.channels_last if channels_last else torch.contiguous_format

    @property
    def depth(self) -> int:
        """Batches that may be asked for ahead, over all streams."""
        return self._pictures.depth

    def close(self) -> None:
        """End the worker processes, if there are any."""
        self._pictures.close()

    def view(self, name: str) -> View:
        """A view of the recipe by name."""
        if name not in self.views:
            raise UsageError(suggest("view", name, sorted(self.views)))
        return self.views[name]

    def request(
        self,
        chosen: np.ndarray,
        draws: np.ndarray,
        names: Sequence[str],
        *,
        epoch: int,
        words: Sequence[int],
    ) -> Callable[[], Batch]:
        """Ask for images `chosen` (positions in the part) in the named views; call for the batch.

        Args:
            draws: what number in the epoch each image is. Views are drawn by it and not by the
                image, so that an image drawn twice in an epoch is not seen twice in one view.
            words: the generator's stream number for each view.
        """
        for name in names:
            self.view(name)
        made = self._pictures.submit(chosen, draws, names, epoch=epoch, words=words)

        def batch() -> Batch:
            index = torch.as_tensor(chosen, dtype=torch.int64).to(self.device, non_blocking=True)
            views = tuple(self._normalise(pictures) for pictures in made())
            return Batch(views, self._targets.index_select(0, index), index)

        return batch

    def batch(
        self,
        chosen: np.ndarray,
        draws: np.ndarray,
        names: Sequence[str],
        *,
        epoch: int,
        words: Sequence[int],
    ) -> Batch:
        """What `request` asks for, at once."""
        return self.request(chosen, draws, names, epoch=epoch, words=words)()

    def in_order(
        self, name: str, batch_size: int, first: int = 0, last: int | None = None
    ) -> Iterator[Batch]:
        """Images first..last-1 in one view without randomness of its own.

        In stored order; where the view keeps different sizes, by size: look at `indices`.
        """
        last = len(self.part) if last is None else last
        everyone = np.arange(first, last)
        for alike in self._of_one_size(name, everyone):
            for start in range(0, len(alike), batch_size):
                chosen = alike[start : start + batch_size]
                yield self.batch(chosen, chosen, (name,), epoch=0, words=(stream_word(255, 0, 1),))

    def _of_one_size(self, name: str, positions: np.ndarray) -> list[np.ndarray]:
        """`positions` divided so that the view makes pictures of one size of each part."""
        if not len(positions) or self.view(name).settles_size:
            return [positions]
        _, size_of = np.unique(self._sizes[positions], axis=0, return_inverse=True)
        return [positions[size_of == size] for size in range(size_of.max() + 1)]

    def _normalise(self, pictures: Tensor) -> Tensor:
        pictures = pictures.to(self.device)
        if pictures.dtype == torch.uint8:
            pictures = pictures.to(torch.float32).div_(255)
        return ((pictures - self._mean) / self._std).contiguous(memory_format=self._format)


class StreamPlan:
    """Which images one stream draws in each batch of each epoch, for one device of several.

    Args:
        batch_size: images a batch over all devices; each takes its contiguous share.
    """

    def __init__(
        self,
        part: Part,
        stream: Stream,
        *,
        batch_size: int,
        drop_last: bool,
        word: int,
        seed: int,
        epochs: int,
        collective: Collective,
    ) -> None:
        self.stream = stream
        self.word = word
        self.batch_size = batch_size
        self._part, self._seed, self._epochs = part, seed, epochs
        self._collective = collective
        if batch_size % collective.world_size:
            raise UsageError(
                f"A stream asks for batches of {batch_size} images, which {collective.world_size} "
                "devices cannot share evenly. Choose a multiple of machine.devices."
            )
        self.num_batches, self._last_size = batches_per_epoch(
            len(part), batch_size, drop_last=drop_last, world_size=collective.world_size
        )
        self._order: tuple[int, np.ndarray] | None = None

    def chosen(self, epoch: int, batch: int) -> tuple[np.ndarray, np.ndarray]:
        """(positions in the part, their numbers in the epoch) of this device's share."""
        order = self._epoch_order(epoch)
        size = self._last_size if batch == self.num_batches - 1 else self.batch_size
        share = size // self._collective.world_size
        start = batch * self.batch_size + self._collective.rank * share
        draws = np.arange(start, start + share)
        return order[draws], draws

    def _epoch_order(self, epoch: int) -> np.ndarray:
        if self._order is None or self._order[0] != epoch:
            order = epoch_indices(
                self._part.targets,
                len(self._part.class_names),
                self.stream.sampler,
                seed=self._seed,
                stream=self.word | ORDER,
                epoch=epoch,
                epochs=self._epochs,
            )
            self._order = (epoch, order)
        return self._order[1]


def batches_per_epoch(
    num_images: int, batch_size: int, *, drop_last: bool, world_size: int
) -> tuple[int, int]:
    """(batches an epoch, size of the last one).

    An incomplete batch is shared evenly, and left out where a device would have less than two
    images, which BatchNorm cannot train on.

    Raises:
        UsageError: there is not one batch.
    """
    whole, rest = divmod(num_images, batch_size)
    rest -= rest % world_size
    if not drop_last and rest >= 2 * world_size:
        return whole + 1, rest
    if whole == 0:
        raise UsageError(
            f"batch_size is {batch_size}, but the training part has {num_images} images. Lower "
            "batch_size, or set drop_last=false to train on incomplete batches of at least two "
            "images a device."
        )
    return whole, batch_size


class StageFeed:
    """All streams of one stage. The first is the batch; the others go round beside it.

    Where worker processes make the views, the next batches are asked for ahead. Which these are
    follows from epoch and step alone.

    Args:
        epochs: of the stage; nothing is asked for beyond its end.
    """

    def __init__(self, renderer: Renderer, plans: Mapping[str, StreamPlan], *, epochs: int) -> None:
        self._renderer = renderer
        (_, self._first), *others = plans.items()
        self._others = dict(others)
        self.num_batches = self._first.num_batches
        self._end = epochs * self.num_batches
        self._ahead = max(renderer.depth // len(plans) - 1, 0)
        self._asked: deque[tuple[int, Callable[[], Batch]]] = deque()

    def batch(self, epoch: int, step: int) -> Batch:
        """The batch of one step; where the others stand follows from epoch and step alone."""
        number = epoch * self.num_batches + step
        while self._asked and self._asked[0][0] != number:
            self._asked.popleft()[1]()  # its place in the ring is free once it was delivered
        following = self._asked[-1][0] + 1 if self._asked else number
        for one in range(following, min(number + self._ahead + 1, self._end)):
            self._asked.append((one, self._request(one)))
        return self._asked.popleft()[1]()

    def _request(self, number: int) -> Callable[[], Batch]:
        first = self._ask(self._first, *divmod(number, self.num_batches))
        if not self._others:
            return first
        others = {
            name: self._ask(plan, *divmod(number, plan.num_batches))
            for name, plan in self._others.items()
        }
        return lambda: first()._replace(also={name: ask() for name, ask in others.items()})

    def _ask(self, plan: StreamPlan, epoch: int, batch: int) -> Callable[[], Batch]:
        chosen, draws = plan.chosen(epoch, batch)
        words = [plan.word | (1 + i) for i in range(len(plan.stream.views))]
        return self._renderer.request(chosen, draws, plan.stream.views, epoch=epoch, words=words)


class TrainingSet:
    """The training part as methods' hooks may see it, and as stages draw from it."""

    def __init__(self, renderer: Renderer, eval_batch_size: int) -> None:
        self.renderer = renderer
        self.part = renderer.part
        self.class_counts = renderer.part.class_counts
        self._eval_batch_size = eval_batch_size

    def iterate(self, split: str = "train", view: str = "eval") -> Iterator[Batch]:
        """Pass once over the training images in one view; see `Renderer.in_order`."""
        if split != "train":
            raise UsageError(f"methods may read the split 'train' only; '{split}' was asked for.")
        return self.renderer.in_order(view, self._eval_batch_size)
