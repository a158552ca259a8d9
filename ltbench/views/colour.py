"""Colour transforms of a view: jitter and grayscale, with torchvision's arithmetic on floats.

On pictures of one channel saturation, hue and grayscale do nothing.
"""

from __future__ import annotations

from itertools import permutations
from typing import Annotated, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from ltbench.errors import UsageError
from ltbench.views.transforms import Parameters, Probability, Shape, Transform

__all__ = ["ColorJitter", "Grayscale"]

_CONTRAST, _SATURATION, _HUE = 1, 2, 3  # brightness is 0
_ORDERS = np.array(list(permutations(range(4))))  # (24, 4)
_Strength = Annotated[float, Field(ge=0, le=10)]


class ColorJitter(Transform):
    """Change brightness, contrast, saturation and hue, in an order drawn for each picture.

    As torchvision's `ColorJitter` within `RandomApply(p)`. The first three mix a picture x with a
    base: clamp(f x + (1 - f) base, 0, 1), f uniform in [max(0, 1 - strength), 1 + strength]; the
    base is black, the mean of the picture's grey version at that moment, or that grey version.
    Hue turns by a share of the circle uniform in [-hue, hue]. All numbers are always drawn, so
    that switching one of the four off leaves the others as they were.
    """

    name: ClassVar[str] = "color_jitter"
    brightness: _Strength = 0.0
    contrast: _Strength = 0.0
    saturation: _Strength = 0.0
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    p: Probability = 1.0

    @property
    def num_words(self) -> int:
        """Whether, order, three factors, hue."""
        return 6

    def parameters(self, u: np.ndarray, shape: Shape) -> np.ndarray:
        """For the three mixing steps: factors before hue, factors after it, bases; then hue.

        A factor of 1 changes nothing, so each picture meets its three factors in its own order
        and hue between the right two of them, without a branch.

        Returns:
            (B, 13): before (3), after (3), base is the mean (3), base is grey (3), hue (1).
        """
        rows = np.arange(len(u))[:, None]
        applied = u[:, :1] < self.p
        order = _ORDERS[np.floor(u[:, 1] * len(_ORDERS)).astype(np.int64)]
        turn_of_hue = np.argmax(order == _HUE, axis=1)[:, None]
        steps = order[order != _HUE].reshape(-1, 3)
        strength = np.array([self.brightness, self.contrast, self.saturation])
        if shape[0] == 1:
            strength[_SATURATION] = 0.0
        low, high = np.maximum(0.0, 1.0 - strength), 1.0 + strength
        factors = np.where(applied, low + u[:, 2:5] * (high - low), 1.0)[rows, steps]
        is_before = (np.arange(3) < turn_of_hue) | (not self._turns_hue(shape[0]))
        before, after = np.where(is_before, factors, 1.0), np.where(is_before, 1.0, factors)
        hue = np.where(applied, self.hue * (2.0 * u[:, 5:6] - 1.0), 0.0)
        bases = (steps == _CONTRAST, steps == _SATURATION)
        return np.concatenate((before, after, *bases, hue), axis=1)

    def apply(self, images: Tensor, parameters: Parameters) -> Tensor:
        """Mix three times, turn the hue, mix three times."""
        columns = parameters.device[:, :, None, None, None]
        before, after, mean, grey, hue = torch.split(columns, [3, 3, 3, 3, 1], dim=1)
        for step in range(3):
            images = _mix(images, before[:, step], mean[:, step], grey[:, step])
        if not self._turns_hue(images.shape[1]):
            return images
        images = _turn_hue(images, hue[:, 0])
        for step in range(3):
            images = _mix(images, after[:, step], mean[:, step], grey[:, step])
        return images

    def _turns_hue(self, channels: int) -> bool:
        return self.hue > 0 and channels == 3


class Grayscale(Transform):
    """Replace all three channels by the grey picture with probability p."""

    name: ClassVar[str] = "grayscale"
    p: Probability = 0.1

    @property
    def num_words(self) -> int:
        """Whether to."""
        return 1

    def parameters(self, u: np.ndarray, shape: Shape) -> np.ndarray:
        """1 for the pictures that turn grey, else 0."""
        return u < self.p

    def apply(self, images: Tensor, parameters: Parameters) -> Tensor:
        """Choose between each picture and its grey version."""
        if images.shape[1] == 1:
            return images
        chosen = parameters.device[:, 0, None, None, None] > 0
        return torch.where(chosen, _grey(images), images)


def _grey(images: Tensor) -> Tensor:
    """Luminance (B, 1, H, W), with the weights torchvision uses (they sum to 0.9999)."""
    if images.shape[1] == 1:
        return images
    if images.shape[1] != 3:
        raise UsageError(
            f"Colour transforms take pictures of 1 or 3 channels, got {images.shape[1]}. "
            "Remove color_jitter and grayscale from the recipe's views."
        )
    red, green, blue = torch.split(images, 1, dim=1)
    return (red * 0.2989).add_(green, alpha=0.587).add_(blue, alpha=0.114)


def _mix(images: Tensor, factor: Tensor, is_mean: Tensor, is_grey: Tensor) -> Tensor:
    """clamp(factor * images + (1 - factor) * base); the last three are (B, 1, 1, 1)."""
    grey = _grey(images)
    # Row by row: one reduction over the whole picture is split among threads when it is alone,
    # and its last bit would depend on the batch.
    mean = grey.mean(-1, keepdim=True).mean(-2, keepdim=True)
    base = is_mean * mean + is_grey * grey
    return torch.addcmul((1 - factor) * base, images, factor).clamp_(0, 1)


def _turn_hue(images: Tensor, hue: Tensor) -> Tensor:
    """Add `hue` (B, 1, 1, 1), a share of the circle, to the hue of images (B, 3, H, W).

    From HSV a channel is v - chroma * clamp(min(k, 4 - k), 0, 1) with k = (n + 6 h) mod 6 and
    n = 5, 3, 1 for red, green and blue.
    """
    red, green, blue = torch.split(images, 1, dim=1)
    value = images.amax(1, keepdim=True)
    chroma = value - images.amin(1, keepdim=True)
    divisor = torch.where(chroma == 0, 1.0, chroma)
    sextant = torch.where(
        value == red,
        (green - blue) / divisor,
        torch.where(value == green, (blue - red) / divisor + 2.0, (red - green) / divisor + 4.0),
    )
    offsets = torch.arange(5, 0, -2, device=images.device).view(1, 3, 1, 1)
    k = (sextant + hue * 6.0 + offsets).remainder_(6.0)
    turned = value - chroma * torch.minimum(k, 4.0 - k).clamp_(0, 1)
    # Pictures that are not to be changed must not even lose a bit.
    return torch.where(hue == 0, images, turned)
