"""RandAugment: a few operations drawn from a list, all of one strength.

Source: Cubuk et al., NeurIPS 2020, as in torchvision's `RandAugment` (list, magnitudes, uint8).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from ltbench.views.transforms import Parameters, Shape, Transform

__all__ = ["RandAugment"]

_LAST_BIN = 30  # magnitudes are bins 0 .. 30
# Operation -> (magnitude in the first bin, in the last bin, whether its sign is drawn).
_STRENGTHS: Mapping[str, tuple[float, float, bool]] = {
    "identity": (0, 0, False),
    "shear_x": (0, 0.3, True),
    "shear_y": (0, 0.3, True),
    "translate_x": (0, 150 / 331, True),  # times the width
    "translate_y": (0, 150 / 331, True),  # times the height
    "rotate": (0, 30, True),
    "brightness": (0, 0.9, True),
    "color": (0, 0.9, True),
    "contrast": (0, 0.9, True),
    "sharpness": (0, 0.9, True),
    "posterize": (8, 4, False),  # bits, rounded
    "solarize": (1, 0, False),  # times 255
    "auto_contrast": (0, 0, False),
    "equalize": (0, 0, False),
}


class RandAugment(Transform):
    """Apply `num_ops` operations drawn from fourteen, each at the given magnitude.

    The one transform that works on uint8 pictures and, because each operation is code of its own,
    loops on the host: over the groups of pictures that drew the same operation.
    """

    name: ClassVar[str] = "rand_augment"
    num_ops: Annotated[int, Field(ge=1, le=14)] = 2
    magnitude: Annotated[int, Field(ge=0, le=_LAST_BIN)] = 9

    @property
    def num_words(self) -> int:
        """Operation and sign, each time."""
        return 2 * self.num_ops

    def parameters(self, u: np.ndarray, shape: Shape) -> np.ndarray:
        """(operation, signed magnitude), `num_ops` times: (B, 2 num_ops)."""
        magnitudes = self._magnitudes(shape)
        is_signed = np.array([signed for _, _, signed in _STRENGTHS.values()])
        operation = np.floor(u[:, 0::2] * len(_STRENGTHS)).astype(np.int64)
        negative = is_signed[operation] & (u[:, 1::2] < 0.5)
        result = np.empty((len(u), self.num_words))
        result[:, 0::2] = operation
        result[:, 1::2] = np.where(negative, -1.0, 1.0) * magnitudes[operation]
        return result

    def apply(self, images: Tensor, parameters: Parameters) -> Tensor:
        """Apply each drawn operation to the pictures that drew it."""
        operations = list(_operations().values())
        pictures = (images * 255).round_().to(torch.uint8)
        for turn in range(self.num_ops):
            drawn = parameters.host[:, 2 * turn : 2 * turn + 2]
            for pair in np.unique(drawn, axis=0):
                rows = torch.from_numpy(np.flatnonzero((drawn == pair).all(axis=1)))
                rows = rows.to(images.device)
                function = operations[int(pair[0])]
                pictures[rows] = function(pictures[rows], float(pair[1]))
        return pictures.to(torch.float32).div_(255)

    def _magnitudes(self, shape: Shape) -> np.ndarray:
        """The magnitude of each operation at this strength, float64 (14,)."""
        share = self.magnitude / _LAST_BIN
        values = {op: low + share * (high - low) for op, (low, high, _) in _STRENGTHS.items()}
        values["translate_x"] *= shape[2]
        values["translate_y"] *= shape[1]
        values["posterize"] = round(values["posterize"])
        return np.array(list(values.values()))


def _operations() -> Mapping[str, Callable[[Tensor, float], Any]]:
    """The operations by name, in the order of `_STRENGTHS`; each takes uint8 (n, C, H, W)."""
    # Imported late: torchvision takes a second, and few recipes need it.
    from torchvision.transforms.v2 import functional as tv

    def affine(
        x: Tensor, translate: list[int], shear: list[float], center: list[int] | None
    ) -> Any:
        return tv.affine(x, 0.0, translate, 1.0, shear, center=center)

    def tilt(magnitude: float) -> float:
        return math.degrees(math.atan(magnitude))

    def contrast(x: Tensor, magnitude: float) -> Tensor:
        # One at a time: the mean of a picture must not depend on its company, not by one bit.
        return torch.stack([tv.adjust_contrast(picture, 1 + magnitude) for picture in x])

    return {
        "identity": lambda x, m: x,
        "shear_x": lambda x, m: affine(x, [0, 0], [tilt(m), 0.0], [0, 0]),
        "shear_y": lambda x, m: affine(x, [0, 0], [0.0, tilt(m)], [0, 0]),
        "translate_x": lambda x, m: affine(x, [int(m), 0], [0.0, 0.0], None),
        "translate_y": lambda x, m: affine(x, [0, int(m)], [0.0, 0.0], None),
        "rotate": lambda x, m: tv.rotate(x, m),
        "brightness": lambda x, m: tv.adjust_brightness(x, 1 + m),
        "color": lambda x, m: tv.adjust_saturation(x, 1 + m),
        "contrast": contrast,
        "sharpness": lambda x, m: tv.adjust_sharpness(x, 1 + m),
        "posterize": lambda x, m: tv.posterize(x, int(m)),
        "solarize": lambda x, m: tv.solarize(x, 255 * m),
        "auto_contrast": lambda x, m: tv.autocontrast(x),
        "equalize": lambda x, m: tv.equalize(x),
    }
