"""Colour jitter and grayscale of one uint8 picture, as torchvision makes them on uint8.

torchvision computes in float32, clamps to 0..255 and cuts off the fraction, after every step.
OpenCV rounds: subtracting nearly a half first makes that the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import gcd
from operator import mul
from typing import Any

import cv2
import numpy as np

from ltbench.views.colour import ColorJitter, Grayscale
from ltbench.views.host_step import parameters_by_size, room_over

__all__ = ["HostColorJitter", "HostGrayscale"]

_CUT = -0.4999  # a whole number must not round down
_GREY = (0.2989, 0.587, 0.114)
_BRIGHTNESS, _CONTRAST, _SATURATION, _HUE = range(4)
_NO_CHANGE = (1, 1, 1, 0, 1, 1, 1)  # three factors, hue, three factors
# torchvision cuts off the fraction of the grey picture too: on average a half.
_CUT_OF_GREY = -0.5
# (3, 4): what `cv2.transform` takes. The picture itself, and its grey version in all channels.
_SAME = np.eye(3, 4)
_TO_GREY = np.tile([*_GREY, _CUT_OF_GREY], (3, 1))
_GRAYSCALE = np.tile([*_GREY, _CUT], (3, 1))


class HostColorJitter:
    """The steps that change something, in their order, each clamped and cut to uint8."""

    def __init__(self, transform: ColorJitter) -> None:
        self._transform = transform

    def plan(self, u: np.ndarray, channels: int, sizes: np.ndarray) -> Sequence[Any]:
        """Steps of each picture: (kind, factor), or (hue, share of the circle in 256ths).

        Factors of 1 change nothing and are left out, so that these pictures keep every bit.
        """
        table = parameters_by_size(self._transform, u, channels, sizes)
        before, after, is_mean, is_grey, hue = np.split(table, [3, 6, 9, 12], axis=1)
        kind = np.where(is_mean > 0, _CONTRAST, np.where(is_grey > 0, _SATURATION, _BRIGHTNESS))
        kinds = np.concatenate((kind, np.full_like(kind[:, :1], _HUE), kind), axis=1)
        shift = np.rint(hue * 256) % 256 * (channels == 3)  # a grey picture has no hue
        values = np.concatenate((before, shift, after), axis=1)
        changes = values != _NO_CHANGE
        steps = list(zip(kinds[changes].tolist(), values[changes].tolist(), strict=True))
        ends = changes.sum(axis=1).cumsum().tolist()
        return [steps[start:end] or None for start, end in pairwise([0, *ends])]

    def apply(self, picture: np.ndarray, planned: Any, row: np.ndarray) -> np.ndarray:
        """One step after another, in place."""
        target = room_over(picture, row)
        for kind, value in planned:
            _APPLY[kind](picture, value, target)
            picture = target
        return target


class HostGrayscale:
    """The grey picture in all three channels."""

    def __init__(self, transform: Grayscale) -> None:
        self._transform = transform

    def plan(self, u: np.ndarray, channels: int, sizes: np.ndarray) -> Sequence[Any]:
        """True for the pictures that turn grey."""
        table = parameters_by_size(self._transform, u, channels, sizes)
        return [True if chosen and channels == 3 else None for chosen in table[:, 0].tolist()]

    def apply(self, picture: np.ndarray, planned: Any, row: np.ndarray) -> np.ndarray:
        """Turn it grey."""
        target = room_over(picture, row)
        cv2.transform(picture, _GRAYSCALE, target)
        return target


def _change_brightness(picture: np.ndarray, factor: float, target: np.ndarray) -> None:
    cv2.convertScaleAbs(picture, target, factor, _CUT)


def _change_contrast(picture: np.ndarray, factor: float, target: np.ndarray) -> None:
    """Through `transform`: `convertScaleAbs` would fold what is below 0 to above it."""
    height, width, channels = picture.shape
    sums = cv2.sumElems(picture)
    if channels == 1:
        matrix, total = factor * _SAME[2:, 2:], sums[0]
    else:
        matrix, total = factor * _SAME, sum(map(mul, _GREY, sums)) + _CUT_OF_GREY * height * width
    matrix[:, -1] = (1 - factor) * total / (height * width) + _CUT
    cv2.transform(picture, matrix, target)


def _change_saturation(picture: np.ndarray, factor: float, target: np.ndarray) -> None:
    matrix = factor * _SAME + (1 - factor) * _TO_GREY
    matrix[:, 3] += _CUT
    cv2.transform(picture, matrix, target)


def _turn_hue(picture: np.ndarray, shift: float, target: np.ndarray) -> None:
    """By 256ths of the circle, which is what a byte counts: the sum wraps round by itself."""
    cv2.cvtColor(picture, cv2.COLOR_RGB2HSV_FULL, target)
    height, width, channels = target.shape
    rows = gcd(height, 16)  # long lines are added faster than short ones
    step = np.zeros((rows * width, channels), np.uint8)
    step[:, 0] = shift
    lines = target.reshape(height // rows, -1)
    np.add(lines, step.reshape(-1), out=lines)
    cv2.cvtColor(target, cv2.COLOR_HSV2RGB_FULL, target)


_APPLY = (_change_brightness, _change_contrast, _change_saturation, _turn_hue)
