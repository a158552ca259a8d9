"""Crops, resizes, flips and rotations of one uint8 picture, as torchvision makes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
from torch.nn import functional as F

from ltbench.views.host_step import parameters_by_size, room_beside
from ltbench.views.transforms import (
    CenterCrop,
    HFlip,
    PadCrop,
    RandomResizedCrop,
    Resize,
    Rotation,
    Size,
    Transform,
    VFlip,
)

__all__ = ["HostCenterCrop", "HostPadCrop", "HostRandomResizedCrop", "HostResize", "HostTurn"]

_NEAREST = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
# What `cv2.flip` calls a mirror image, by the signs of the map of columns and of rows.
_FLIP_CODES = {(-1.0, 1.0): 1, (1.0, -1.0): 0, (-1.0, -1.0): -1}

_TURNS: tuple[type[Transform], ...] = (HFlip, VFlip, Rotation)


class _Resampler:
    """torch's antialiased bilinear resize of uint8 pictures, the one torchvision uses."""

    def __init__(self) -> None:
        self._reserve(0)

    def resize(self, picture: np.ndarray, size: Size) -> np.ndarray:
        """A resized copy, uint8 (*size, channels)."""
        height, width, channels = picture.shape
        if picture.size > len(self._memory):
            self._reserve(picture.size)
        np.copyto(self._memory[: picture.size].reshape(picture.shape), picture)
        # With any other strides of a batch of one torch takes the picture for a planar one: that
        # costs twice the time here, and a copy in every later step.
        strides = (picture.size, 1, width * channels, channels)
        image = self._scratch.as_strided((1, channels, height, width), strides)
        made = F.interpolate(image, size, mode="bilinear", antialias=True, align_corners=False)
        result: np.ndarray = made[0].permute(1, 2, 0).numpy()
        return result

    def _reserve(self, num_bytes: int) -> None:
        self._memory = np.empty(num_bytes, np.uint8)
        self._scratch = torch.from_numpy(self._memory)


class HostRandomResizedCrop:
    """Cut the box without a copy, then resize it."""

    def __init__(self, transform: RandomResizedCrop) -> None:
        self._transform = transform
        self._size = (transform.size, transform.size)
        self._resampler = _Resampler()

    def plan(self, u: np.ndarray, channels: int, sizes: np.ndarray) -> Sequence[Any]:
        """Boxes: (top, left, height, width) of each picture."""
        boxes = self._transform.parameters(u, (channels, sizes[:, :1], sizes[:, 1:]))
        return list(boxes.astype(np.int64).tolist())

    def apply(self, picture: np.ndarray, planned: Any, row: np.ndarray) -> np.ndarray:
        """The box, resized."""
        top, left, height, width = planned
        box = picture[top : top + height, left : left + width]
        return box if box.shape[:2] == self._size else self._resampler.resize(box, self._size)


class HostResize:
    """Resize whole pictures."""

    def __init__(self, transform: Resize) -> None:
        self._transform = transform
        self._resampler = _Resampler()

    def plan(self, u: np.ndarray, channels: int, sizes: np.ndarray) -> Sequence[Any]:
        """The new size of each picture that has another one."""
        olds = [(height, width) for height, width in sizes.tolist()]
        news = [self._transform.output_size(size) for size in olds]
        return [None if new == old else new for new, old in zip(news, olds, strict=True)]

    def apply(self, picture: np.ndarray, planned: Any, row: np.ndarray) -> np.ndarray:
        """The picture, resized."""
        return self._resampler.resize(picture, planned)


class HostCenterCrop:
    """Narrow the picture; no pixel is copied."""

    def __init__(self, transform: CenterCrop) -> None:
        self._transform = transform

    def plan(self, u: np.ndarray, channels: int, sizes: np.ndarray) -> Sequence[Any]:
        """Corner and size of each picture's window; halves round to even."""
        size = self._transform.size
        return [
            None if (height, width) == (size, size)
            else (round((height - size) / 2), round((width - size) / 2), size)
            for height, width in sizes.tolist()
        ]  # fmt: skip

    def apply(self, picture: np.ndarray, planned: Any, row: np.ndarray) -> np.ndarray:
        """The window."""
        top, left, size = planned
        return picture[top : top + size, left : left + size]


class HostPadCrop:
    """A window of the padded picture, without making that one."""

    def __init__(self, transform: PadCrop) -> None:
        self._transform = transform

    def plan(self, u: np.ndarray, channels: int, sizes: np.ndarray) -> Sequence[Any]:
        """How far down and to the right each window lies from the picture."""
        corners = parameters_by_size(self._transform, u, channels, sizes)
        moves = (corners.astype(np.int64) - self._transform.padding).tolist()
        return [tuple(move) if any(move) else None for move in moves]

    def apply(self, picture: np.ndarray, planned: Any, row: np.ndarray) -> np.ndarray:
        """What the window shows of the picture, and zeros beside it."""
        target = room_beside(picture, row)
        target.fill(0)
        (into_y, from_y), (into_x, from_x) = (
            (slice(max(-move, 0), side - max(move, 0)), slice(max(move, 0), side + min(move, 0)))
            for move, side in zip(planned, picture.shape[:2], strict=True)
        )
        target[into_y, into_x] = picture[from_y, from_x]
        return target


class HostTurn:
    """Flips and at most one rotation that follow each other, in one step.

    All of them map the picture's middle to itself. With positions counted from there, in pixels,
    the input position is A (output position), A the product of the steps' 2 x 2 matrices; the
    nearest pixel is taken, and 0 outside. Without a rotation this is a mirror image, copied.
    """

    def __init__(self, transforms: Sequence[Transform]) -> None:
        self._transforms = tuple(transforms)

    @staticmethod
    def takes(transforms: Sequence[Transform]) -> bool:
        """Whether these steps can be one. A second rotation sees what the first one cut off."""
        kinds = [type(transform) for transform in transforms]
        return all(kind in _TURNS for kind in kinds) and kinds.count(Rotation) <= 1

    def plan(self, u: np.ndarray, channels: int, sizes: np.ndarray) -> Sequence[Any]:
        """The code of each picture's mirror image, or the 2 x 3 matrix that maps its pixels."""
        matrix, start = np.tile(np.eye(2), (len(u), 1, 1)), 0
        for transform in self._transforms:
            mine = u[:, start : start + transform.num_words]
            start += transform.num_words
            table = parameters_by_size(transform, mine, channels, sizes)
            matrix = matrix @ _matrices(transform, table, sizes)
        centre = (sizes[:, ::-1, None] - 1) / 2  # (B, 2, 1): x before y
        maps = np.concatenate((matrix, centre - matrix @ centre), axis=2)
        is_mirror = (matrix[:, 0, 1] == 0) & (matrix[:, 1, 0] == 0)
        signs = matrix[:, [0, 1], [0, 1]].tolist()
        return [
            _FLIP_CODES.get((x, y)) if mirror else one
            for one, mirror, (x, y) in zip(maps, is_mirror.tolist(), signs, strict=True)
        ]

    def apply(self, picture: np.ndarray, planned: Any, row: np.ndarray) -> np.ndarray:
        """The mirror image or the turned picture."""
        target = room_beside(picture, row)
        if isinstance(planned, int):
            cv2.flip(picture, planned, target)
        else:
            cv2.warpAffine(picture, planned, target.shape[1::-1], target, _NEAREST)
        return target


def _matrices(transform: Transform, table: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """(B, 2, 2): from output to input positions, in pixels from the middle, x before y."""
    result = np.tile(np.eye(2), (len(table), 1, 1))
    if isinstance(transform, Rotation):  # (xx, xy, x0, yx, yy, y0) in halves of the sides
        aspect = sizes[:, 1] / sizes[:, 0]
        result[:, 0] = table[:, :2] * np.stack((np.ones(len(table)), aspect), axis=1)
        result[:, 1] = table[:, 3:5] * np.stack((1 / aspect, np.ones(len(table))), axis=1)
    else:
        axis = 0 if isinstance(transform, HFlip) else 1
        result[:, axis, axis] = 1 - 2.0 * table[:, 0]
    return result
