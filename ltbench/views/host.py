"""Views on the host: picture by picture in uint8, with torchvision's rounding and clamping.

About ten times as fast as decoding each file anew and applying torchvision's transforms to it:
pictures come decoded, steps write in place into the batch, and each uses the fastest exact form.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ltbench.dataset import Images
from ltbench.errors import UsageError
from ltbench.views.colour import ColorJitter, Grayscale
from ltbench.views.host_colour import HostColorJitter, HostGrayscale
from ltbench.views.host_geometry import (
    HostCenterCrop,
    HostPadCrop,
    HostRandomResizedCrop,
    HostResize,
    HostTurn,
)
from ltbench.views.host_step import FloatStep, HostStep
from ltbench.views.transforms import CenterCrop, PadCrop, RandomResizedCrop, Resize, Transform
from ltbench.views.view import View

__all__ = ["HostView"]

_FAST: Mapping[type[Transform], Callable[[Any], HostStep]] = {
    CenterCrop: HostCenterCrop,
    ColorJitter: HostColorJitter,
    Grayscale: HostGrayscale,
    PadCrop: HostPadCrop,
    RandomResizedCrop: HostRandomResizedCrop,
    Resize: HostResize,
}


class _Stage(NamedTuple):
    """A step, the columns of the drawn numbers it reads, and sizes of what comes in, (K, 2)."""

    step: HostStep
    words: slice
    sizes: np.ndarray


class HostView:
    """A view compiled for one source of pictures.

    A first resize to a square is left out where the source keeps pictures resized to it from their
    files: these are read instead.

    Args:
        images: the pictures; positions count in them.

    Attributes:
        view: what was compiled.
        source: what is read: `images`, or its prepared pictures.
        channels: 1 or 3.
        output_sizes: (height, width) of each picture's view, int64 (N, 2).

    Raises:
        UsageError: some pictures are too small for a step.
    """

    def __init__(self, view: View, images: Images) -> None:
        self.view = view
        prepared = _prepared(view, images)
        self.source = images if prepared is None else prepared
        self.channels = images.channels
        sizes, self._kind_of = np.unique(self.source.sizes, axis=0, return_inverse=True)
        self._stages: list[_Stage] = []
        start = 0
        for group in _groups(view.transforms[prepared is not None :]):
            words = slice(start, start + sum(transform.num_words for transform in group))
            self._stages.append(_Stage(_compiled(group), words, sizes))
            start = words.stop
            for transform in group:
                sizes = _sizes_after(transform, sizes)
        self.output_sizes: np.ndarray = sizes[self._kind_of]

    def render(self, positions: np.ndarray, u: np.ndarray, out: np.ndarray) -> None:
        """Make the views of some pictures; what else is in the batch changes none of them.

        Args:
            positions: which pictures, int64 (B,), B >= 1; their views have one size.
            u: what `View.draw` gave for them, float64 (B, num_words).
            out: uint8 (B, height, width, channels), contiguous; written in place.

        Raises:
            ValueError: another shape of `u` or `out`, or views of several sizes.
        """
        self._check(positions, u, out)
        kinds = self._kind_of[positions]
        plans = [
            (
                stage.step.apply,
                stage.step.plan(u[:, stage.words], self.channels, stage.sizes[kinds]),
            )
            for stage in self._stages
        ]
        for number, position in enumerate(positions.tolist()):
            row = out[number]
            picture = self.source.picture(position)
            for apply, plan in plans:
                planned = plan[number]
                if planned is not None:
                    picture = apply(picture, planned, row)
            if picture is not row:
                np.copyto(row, picture)

    def batch_shape(self, positions: np.ndarray) -> tuple[int, int, int, int]:
        """(B, height, width, channels) of a batch of these pictures' views.

        Raises:
            UsageError: their sizes differ.
        """
        sizes = self.output_sizes[positions]
        if not (sizes == sizes[:1]).all():
            raise UsageError(
                f"Expected pictures whose views have one size, got {len(np.unique(sizes, axis=0))} "
                "sizes in one batch. Begin the view with a resize or a random_resized_crop."
            )
        height, width = sizes[0].tolist()
        return len(positions), height, width, self.channels

    def _check(self, positions: np.ndarray, u: np.ndarray, out: np.ndarray) -> None:
        if u.shape != (len(positions), self.view.num_words):
            raise ValueError(
                f"Expected drawn numbers of shape {(len(positions), self.view.num_words)}, got "
                f"{u.shape}. Draw them with this view, for these pictures."
            )
        shape = self.batch_shape(positions)
        if out.dtype != np.uint8 or not out.flags.c_contiguous or out.shape != shape:
            raise ValueError(
                f"Expected a contiguous uint8 batch of shape {shape}, got {out.dtype} {out.shape}."
            )


def _prepared(view: View, images: Images) -> Images | None:
    """The pictures as the view's first resize would make them, where they are kept."""
    first = view.transforms[0] if view.transforms else None
    if isinstance(first, Resize) and not first.short_side:
        return images.prepared(first.size, first.size)
    return None


def _groups(transforms: Sequence[Transform]) -> list[list[Transform]]:
    """Transforms in order, those together that are one step on the host."""
    groups: list[list[Transform]] = []
    for transform in transforms:
        if groups and HostTurn.takes([*groups[-1], transform]):
            groups[-1].append(transform)
        else:
            groups.append([transform])
    return groups


def _compiled(group: Sequence[Transform]) -> HostStep:
    if HostTurn.takes(group):
        return HostTurn(group)
    # By its very class: what a subclass changes, its own arithmetic alone knows.
    return _FAST.get(type(group[0]), FloatStep)(group[0])


def _sizes_after(transform: Transform, sizes: np.ndarray) -> np.ndarray:
    made = [transform.output_size((height, width)) for height, width in sizes.tolist()]
    return np.array(made, dtype=np.int64).reshape(-1, 2)
