"""Views: what a recipe does to pictures before a method sees them.

A view is a list of transforms with numbers. In recipes each is a mapping of one name:

    contrast:
      - random_resized_crop: {size: 224, scale: [0.8, 1.0]}
      - hflip: {p: 0.5}

What a picture becomes depends on (seed, stream, epoch, index) and on nothing else: not on the
batch it is in, the number of workers, or what was drawn before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import PlainSerializer, PlainValidator
from torch import Tensor

from ltbench.data import philox
from ltbench.registry import normalise, suggest
from ltbench.views.affine import Affine
from ltbench.views.colour import ColorJitter, Grayscale
from ltbench.views.rand_augment import RandAugment
from ltbench.views.transforms import (
    CenterCrop,
    HFlip,
    PadCrop,
    Parameters,
    RandomResizedCrop,
    Resize,
    Rotation,
    Shape,
    Shapes,
    Transform,
    VFlip,
)

__all__ = ["TRANSFORMS", "TransformSpec", "View", "ViewSpec", "moved"]

TRANSFORMS: Mapping[str, type[Transform]] = {
    kind.name: kind
    for kind in (
        Affine,
        CenterCrop,
        ColorJitter,
        Grayscale,
        HFlip,
        PadCrop,
        RandAugment,
        RandomResizedCrop,
        Resize,
        Rotation,
        VFlip,
    )
}


def _parse(value: Any) -> Transform:
    if isinstance(value, Transform):
        return value
    if not isinstance(value, Mapping) or len(value) != 1:
        raise ValueError(
            f"expected one transform as a mapping of its name to its settings, such as "
            f"{{hflip: {{p: 0.5}}}}, got {value!r}"
        )
    ((name, settings),) = value.items()
    known = TRANSFORMS.get(normalise(str(name)))
    if known is None:
        raise ValueError(suggest("transform", str(name), list(TRANSFORMS)))
    return known.model_validate({} if settings is None else settings)


def _dump(transform: Transform) -> dict[str, Any]:
    return {transform.name: transform.model_dump(mode="json")}


TransformSpec = Annotated[
    Transform,
    PlainValidator(_parse, json_schema_input_type=dict[str, Any]),
    PlainSerializer(_dump, return_type=dict[str, Any]),
]
"""A field type for one transform, read from and written to the form recipes use."""

ViewSpec = tuple[TransformSpec, ...]
"""A field type for a whole view. Dumps hold every setting, also those left at their default."""


class View:
    """A list of transforms, ready to draw numbers and to render batches."""

    def __init__(self, transforms: Sequence[Transform]) -> None:
        self.transforms = tuple(transforms)
        self.num_words = sum(step.num_words for step in self.transforms)

    @property
    def deterministic(self) -> bool:
        """Whether no transform uses random numbers, so that every epoch shows the same pictures."""
        return self.num_words == 0

    @property
    def settles_size(self) -> bool:
        """Whether pictures of any sizes all come out at one size, whatever their own."""
        return bool(self.transforms) and self.transforms[0].settles_size

    def draw(self, seed: int, *, stream: int, epoch: int, indices: np.ndarray) -> np.ndarray:
        """Draw the numbers of some pictures; a whole epoch at once costs least.

        Args:
            seed: in [0, 2**64).
            stream: in [0, 2**32), a number of its own for each view and use of the seed.
            epoch: 0-based.
            indices: positions in the data set, int64 (B,).

        Returns:
            float64 (B, num_words) in [0, 1); each transform reads its columns in turn.
        """
        return philox.uniform(
            seed, stream=stream, epoch=epoch, index=indices, num_words=self.num_words
        )

    def render(self, images: Tensor, u: np.ndarray, sizes: np.ndarray | None = None) -> Tensor:
        """Apply the view to a batch, on the device the images are on.

        Args:
            images: uint8 (B, C, H, W).
            u: what `draw` gave for these pictures, float64 (B, num_words).
            sizes: (height, width) of pictures in the upper left corners of `images`, int64 (B, 2),
                for views that settle the size; None where they fill them. What lies beyond a
                picture does not matter.

        Returns:
            float32 (B, C, h, w) in [0, 1]: pixels are divided by 255, not yet normalised.

        Raises:
            TypeError: the pictures are not uint8.
            ValueError: another shape of `u` or `sizes`, or sizes that the view cannot settle.
            UsageError: the pictures are too small, or have too many channels, for a step.
        """
        if images.dtype != torch.uint8:
            raise TypeError(f"A view renders uint8 images, got {images.dtype}.")
        if u.shape != (len(images), self.num_words):
            raise ValueError(
                f"Expected drawn numbers of shape {(len(images), self.num_words)}, got {u.shape}. "
                "Draw them with this view, for the pictures of this batch."
            )
        channels, height, width = images.shape[1:]
        shape: Shapes = (channels, height, width)
        if sizes is not None:
            if not self.settles_size or sizes.shape != (len(images), 2):
                names = [step.name for step in self.transforms]
                raise ValueError(
                    f"Expected sizes of shape {(len(images), 2)} and a view whose first step makes "
                    f"pictures one size, got {sizes.shape} and {names}. Render pictures of each "
                    "size apart."
                )
            shape = (channels, sizes[:, :1], sizes[:, 1:])
        host = self._parameters(u, shape)
        device = _to_device(host, images.device)
        # Under autocast the crop's matrix products would run, and round pixels, in bfloat16.
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            out = images.to(torch.float32).div_(255)
            for step, on_host, on_device in zip(self.transforms, host, device, strict=True):
                out = step.apply(out, Parameters(on_host, on_device))
        return out

    def output_shape(self, shape: Shape) -> Shape:
        """(channels, height, width) of the rendered pictures."""
        size = shape[1:]
        for step in self.transforms:
            size = step.output_size(size)
        return shape[0], *size

    def _parameters(self, u: np.ndarray, shape: Shapes) -> list[np.ndarray]:
        tables, start = [], 0
        for step in self.transforms:
            mine = u[:, start : start + step.num_words]
            # Only a first step that settles the size meets pictures of different ones.
            tables.append(step.parameters(mine, shape).astype(np.float32))  # type: ignore[arg-type]
            start += step.num_words
            shape = (shape[0], *step.output_size(shape[1:]))  # type: ignore[arg-type]
        return tables


def _to_device(tables: list[np.ndarray], device: torch.device) -> Sequence[Tensor]:
    """Move all tables in one copy."""
    if not tables:
        return ()
    joined = moved(torch.from_numpy(np.concatenate(tables, axis=1)), device)
    return torch.split(joined, [table.shape[1] for table in tables], dim=1)


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host on the device; the host does not wait for the copy."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
