"""From a decoded picture to those that are stored."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ltbench.store.contents import StoreSettings

__all__ = ["stored_pictures"]


def stored_pictures(pixels: np.ndarray, settings: StoreSettings) -> list[np.ndarray]:
    """The picture with its shorter side at `settings.short_side`, then the squares.

    The first is bicubic and keeps its shape (never enlarged); squares are bilinear and do not. All
    are antialiased, computed by torch in uint8 from the full picture.

    Args:
        pixels: uint8 (height, width, 3), contiguous.

    Returns:
        uint8 (height, width, 3) each, contiguous.
    """
    picture = _channels_last(pixels)
    height, width = pixels.shape[:2]
    stored = settings.stored_size(height, width)
    first = pixels if stored == (height, width) else _resized(picture, stored, "bicubic")
    return [first, *(_resized(picture, (side, side), "bilinear") for side in settings.squares)]


def _channels_last(pixels: np.ndarray) -> Tensor:
    """The same memory as a batch of one.

    Its strides say plainly that channels come last: those of `permute(2, 0, 1)[None]` are read as
    planar, and torch then copies and is slower by a third.
    """
    height, width, channels = pixels.shape
    strides = (height * width * channels, 1, width * channels, channels)
    return torch.from_numpy(pixels).as_strided((1, channels, height, width), strides)


def _resized(picture: Tensor, size: tuple[int, int], mode: str) -> np.ndarray:
    made = F.interpolate(picture, size=size, mode=mode, antialias=True, align_corners=False)
    array: np.ndarray = made[0].permute(1, 2, 0).contiguous().numpy()
    return array
