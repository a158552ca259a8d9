"""Pictures on the run's device, as far as they fit, and views made of them there in batches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import prod
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ltbench.data.images import ArrayImages
from ltbench.dataset import Images
from ltbench.errors import UsageError
from ltbench.views.transforms import Resize
from ltbench.views.view import View, moved

__all__ = ["DevicePictures", "can_render", "free_memory"]

_SHARE_OF_MEMORY = 0.6  # the rest is for the model, its activations and the views themselves
_BLOCK_BYTES = 64 << 20  # of pictures moved at once when a device is filled
_AS_STORED = 0  # in place of a square's side
_AHEAD = 4  # batches a disk may be told of before they are read


def can_render(view: View, images: Images) -> bool:
    """Whether a device can make this view of these pictures in batches.

    Pictures of different sizes need a view whose first step makes them one size, unless the view
    draws nothing: then the caller can ask for them size by size.
    """
    return view.settles_size or view.deterministic or len(np.unique(images.sizes, axis=0)) <= 1


def free_memory(device: torch.device) -> int | None:
    """Bytes that pictures may take: 60 % of a CUDA device's free memory; None (all) elsewhere."""
    if device.type != "cuda":
        return None
    free, _total = torch.cuda.mem_get_info(device)
    return int(_SHARE_OF_MEMORY * free)


class _Frame(NamedTuple):
    """What pictures of a batch are laid into, each at the upper left.

    Attributes:
        sizes: (height, width) of each picture, int64 (B, 2); None where all fill the frame.
    """

    height: int
    width: int
    sizes: np.ndarray | None


class DevicePictures:
    """Views of pictures, made in batches on a device.

    A picture is a function of (seed, stream word, epoch, draw) and its position alone; on the CPU
    to the last bit, whatever else is in its batch and however many pictures are held. A view that
    begins with a resize to a square begins with the pictures that were prepared at that size from
    the files, where these are kept.

    Args:
        images: of one part.
        budget_bytes: of the device's memory that pictures may take. Those that come first are
            moved there once, when a view first asks for their kind; the others for each batch.
            Never more than `free_memory` says by then. None holds all.

    Attributes:
        depth: jobs that are worth submitting before the first is asked for; 0 where no disk can
            be told of them.
    """

    def __init__(
        self,
        images: Images,
        views: Mapping[str, View],
        *,
        seed: int,
        device: torch.device,
        budget_bytes: int | None = None,
    ) -> None:
        self._seed = seed
        self._device = device
        self._budget = budget_bytes
        self._bases: dict[int, Images] = {_AS_STORED: images}
        self._views = {name: (view, self._base_of(view)) for name, view in views.items()}
        self._held: dict[int, _Held] = {}
        self.depth = _AHEAD if images.on_disk and budget_bytes is not None else 0

    def submit(
        self,
        positions: np.ndarray,
        draws: np.ndarray,
        names: Sequence[str],
        *,
        epoch: int,
        words: Sequence[int],
    ) -> Callable[[], list[Tensor]]:
        """Views of some pictures; they are made when the result is called for.

        Args:
            positions: of the pictures, int64 (B,).
            draws: what number in the epoch each is, int64 (B,).
            names: of views, one tensor each.
            words: the generator's stream number for each view.

        Returns:
            A call that gives one float32 (B, C, h, w) in [0, 1] a view, not normalised. The host
            waits for no operation of the device.

        Raises:
            UsageError: the pictures differ in size, and a view begins with no step that makes them
                one size.
        """
        chosen = [self._views[name] for name in names]
        frames: dict[tuple[int, bool], _Frame] = {}
        for view, base in chosen:
            kind = (base, view.settles_size)
            if kind not in frames:
                frames[kind] = self._hold(base).frame(positions, padded=view.settles_size)
        for base in {base for base, _ in frames}:
            self._held[base].soon(positions)

        def result() -> list[Tensor]:
            gathered: dict[tuple[int, bool], Tensor] = {}
            rendered = []
            for (view, base), word in zip(chosen, words, strict=True):
                kind = (base, view.settles_size)
                frame = frames[kind]
                if kind not in gathered:
                    gathered[kind] = self._hold(base).gather(positions, frame)
                u = view.draw(self._seed, stream=word, epoch=epoch, indices=draws)
                rendered.append(view.render(gathered[kind], u, frame.sizes))
            return rendered

        return result

    def close(self) -> None:
        """Let the pictures go."""
        self._held.clear()

    def _base_of(self, view: View) -> int:
        """The key of the pictures a view begins with; a resize to their own size does nothing."""
        first = view.transforms[0] if view.transforms else None
        if not isinstance(first, Resize) or first.short_side:
            return _AS_STORED
        if first.size not in self._bases:
            prepared = self._bases[_AS_STORED].prepared(first.size, first.size)
            if prepared is None:
                return _AS_STORED
            self._bases[first.size] = prepared
        return first.size

    def _hold(self, base: int) -> _Held:
        """The pictures of one kind, on the device as far as they fit."""
        if base not in self._held:
            images = self._bases[base]
            kind = _Alike if len(np.unique(images.sizes, axis=0)) <= 1 else _Ragged
            self._held[base] = kind(images, self._device, self._bytes_left())
        return self._held[base]

    def _bytes_left(self) -> int | None:
        if self._budget is None:
            return None
        left = self._budget - sum(held.num_bytes for held in self._held.values())
        # Since the budget was set, other parts' pictures and the model may have come.
        free = free_memory(self._device)
        return max(left if free is None else min(left, free), 0)


class _Held(ABC):
    """Pictures of one kind.

    Attributes:
        count: how many are on the device; they are the first.
        num_bytes: what these take there.
    """

    count: int
    num_bytes: int

    def __init__(self, images: Images, device: torch.device) -> None:
        self._images = images
        self._device = device

    @abstractmethod
    def frame(self, positions: np.ndarray, *, padded: bool) -> _Frame:
        """For these pictures; `padded` if they may be laid into a larger one."""

    @abstractmethod
    def _from_device(self, positions: np.ndarray, frame: _Frame) -> Tensor:
        """Pictures that are held, in their frame, uint8 (n, C, height, width)."""

    @abstractmethod
    def _from_host(self, positions: np.ndarray, frame: _Frame) -> Tensor:
        """The same of pictures that are not held."""

    def soon(self, positions: np.ndarray) -> None:
        """Have those fetched from the disk that are not held."""
        others = positions[positions >= self.count]
        if len(others):
            self._images.soon(others)

    def gather(self, positions: np.ndarray, frame: _Frame) -> Tensor:
        """Pictures in their frame, uint8 (B, C, height, width), on the device."""
        held = positions < self.count
        if held.all():
            return self._from_device(positions, frame)
        if not held.any():
            return self._from_host(positions, frame)
        shape = (len(positions), self._images.channels, frame.height, frame.width)
        out = torch.empty(shape, dtype=torch.uint8, device=self._device)
        for chosen, read in ((held, self._from_device), (~held, self._from_host)):
            rows = np.flatnonzero(chosen)
            out.index_copy_(0, _numbers(rows, self._device), read(positions[rows], frame))
        return out


class _Alike(_Held):
    """Pictures of one size, in one tensor (count, C, H, W)."""

    def __init__(self, images: Images, device: torch.device, budget: int | None) -> None:
        super().__init__(images, device)
        height, width = (int(side) for side in images.sizes[0]) if len(images) else (1, 1)
        self._frame = _Frame(height, width, None)
        shape = (images.channels, height, width)
        picture_bytes = prod(shape)
        self.count, self.num_bytes = len(images), 0
        if isinstance(images, ArrayImages) and images.tensor.device == device:
            self._tensor = images.tensor
            return
        if budget is not None:
            self.count = min(len(images), budget // picture_bytes)
        self.num_bytes = self.count * picture_bytes
        self._tensor = torch.empty((self.count, *shape), dtype=torch.uint8, device=device)
        step = max(1, _BLOCK_BYTES // picture_bytes)
        for start in range(0, self.count, step):
            block = np.arange(start, min(start + step, self.count))
            self._tensor[start : start + len(block)] = images.take(block).to(device)

    def frame(self, positions: np.ndarray, *, padded: bool) -> _Frame:
        """They fill it."""
        return self._frame

    def _from_device(self, positions: np.ndarray, frame: _Frame) -> Tensor:
        return self._tensor.index_select(0, _numbers(positions, self._device))

    def _from_host(self, positions: np.ndarray, frame: _Frame) -> Tensor:
        return moved(self._images.take(positions), self._device)


class _Ragged(_Held):
    """Pictures of many sizes, pixel after pixel in one tensor (num_pixels, C).

    Frames are as high and wide as all pictures need, not those of the batch: matrix products of
    other lengths add up in another order, and the last bits of a picture would depend on its batch.
    """

    def __init__(self, images: Images, device: torch.device, budget: int | None) -> None:
        super().__init__(images, device)
        self._sizes = images.sizes
        height, width = (int(side) for side in self._sizes.max(axis=0))
        self._bounds = height, width
        areas = self._sizes.prod(axis=1)
        ends = np.cumsum(areas)
        self._starts = ends - areas
        limit = ends[-1] if budget is None else budget // images.channels
        self.count = int(np.searchsorted(ends, limit, side="right"))
        num_pixels = int(ends[self.count - 1]) if self.count else 0
        self.num_bytes = num_pixels * images.channels
        self._pixels = torch.empty((num_pixels, images.channels), dtype=torch.uint8, device=device)
        for block in self._blocks():
            pixels = self._read(block)
            first = int(self._starts[block[0]])
            self._pixels[first : first + len(pixels)] = pixels.to(device)

    def frame(self, positions: np.ndarray, *, padded: bool) -> _Frame:
        """One that fits all; or just the size they have.

        Raises:
            UsageError: they have several, and may not be padded.
        """
        sizes = self._sizes[positions]
        if padded:
            return _Frame(*self._bounds, sizes)
        distinct = np.unique(sizes, axis=0)
        if len(distinct) != 1:
            raise UsageError(
                f"Expected a batch of pictures of one size, got {len(distinct)} sizes, from "
                f"{_text(distinct[0])} to {_text(distinct[-1])}. Begin the recipe's view with a "
                "resize or a random_resized_crop, or ask for the pictures of each size apart."
            )
        return _Frame(int(distinct[0, 0]), int(distinct[0, 1]), None)

    def _from_device(self, positions: np.ndarray, frame: _Frame) -> Tensor:
        return self._cut(self._pixels, self._starts[positions], self._sizes[positions], frame)

    def _from_host(self, positions: np.ndarray, frame: _Frame) -> Tensor:
        sizes = self._sizes[positions]
        areas = sizes.prod(axis=1)
        pixels = moved(self._read(positions), self._device)
        return self._cut(pixels, np.cumsum(areas) - areas, sizes, frame)

    def _cut(self, pixels: Tensor, starts: np.ndarray, sizes: np.ndarray, frame: _Frame) -> Tensor:
        """Lay pictures into their frame; beyond a picture its last row and column go on."""
        table = _numbers(np.column_stack([starts, sizes]), self._device)
        start, height, width = table[:, :, None, None].unbind(1)
        y = torch.arange(frame.height, device=self._device)[:, None].minimum(height - 1)
        x = torch.arange(frame.width, device=self._device).minimum(width - 1)
        index = start + y * width + x  # (B, H, W)
        found = pixels.index_select(0, index.flatten()).view(*index.shape, -1)
        # In the memory format of pictures of one size, for which torch chooses the same kernels.
        return found.permute(0, 3, 1, 2).contiguous()

    def _read(self, positions: np.ndarray) -> Tensor:
        """Pixels of some pictures one after another, uint8 (n, C), on the host."""
        channels = self._images.channels
        pictures = [self._images.picture(at).reshape(-1, channels) for at in positions.tolist()]
        return torch.from_numpy(np.concatenate(pictures))

    def _blocks(self) -> Iterator[np.ndarray]:
        """Positions of the pictures that are held, of about a block of bytes each."""
        block_of = self._starts[: self.count] * self._images.channels // _BLOCK_BYTES
        changes = np.flatnonzero(np.diff(block_of)) + 1
        return (block for block in np.split(np.arange(self.count), changes) if len(block))


def _text(size: np.ndarray) -> str:
    return f"{size[0]} x {size[1]}"


def _numbers(values: np.ndarray, device: torch.device) -> Tensor:
    return moved(torch.from_numpy(np.ascontiguousarray(values, dtype=np.int64)), device)
