"""The affine transform: shift, scale and angle in one step."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from torch import Tensor

from ltbench.views.transforms import (
    Degrees,
    Parameters,
    Probability,
    Range,
    Shape,
    Transform,
    inverse_map,
    sample,
)

__all__ = ["Affine"]


class Affine(Transform):
    """Shift, scale and turn in one bilinear step, about the centre.

    The angle is uniform in [-degrees, degrees], the scale in [low, high], each shift in
    [-translate, translate] times its side. Angle (clockwise) and scale are those of torchvision's
    `RandomAffine`.

    Departures: torchvision rounds shifts to whole pixels, which would leave pictures of 8 pixels
    three positions; here they stay fractional.
    """

    name: ClassVar[str] = "affine"
    degrees: Degrees = 0.0
    translate: Probability = 0.0
    scale: Range = (1.0, 1.0)
    padding: Literal["zeros", "border"] = "zeros"

    @property
    def num_words(self) -> int:
        """Angle, two shifts, scale."""
        return 4

    def parameters(self, u: np.ndarray, shape: Shape) -> np.ndarray:
        """The six numbers of the inverse map in coordinates from -1 to 1, row by row."""
        signed = 2.0 * u - 1.0
        # In these coordinates a shift by a fraction of the side is twice that fraction.
        shift = 2.0 * self.translate * signed[:, 1:3]
        scale = self.scale[0] + u[:, 3] * (self.scale[1] - self.scale[0])
        return inverse_map(self.degrees * signed[:, 0], scale, shift, shape)

    def apply(self, images: Tensor, parameters: Parameters) -> Tensor:
        """Sample at the mapped positions."""
        if self.degrees == 0 and self.translate == 0 and self.scale == (1.0, 1.0):
            return images  # sampling would still blur by round-off
        return sample(images, parameters.device, "bilinear", self.padding)
