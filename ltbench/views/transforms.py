"""The contract of a transform, and the geometric transforms of a view.

A transform works on a whole batch. Its random numbers come from the host; `parameters` turns them
into a small table there, all tables of a view travel in one copy, and `apply` is made of tensor
operations without host synchronisation or branches on tensor values.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Annotated, ClassVar, NamedTuple

import numpy as np
import torch
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn import functional as F

from ltbench.errors import UsageError

__all__ = [
    "CenterCrop",
    "Degrees",
    "HFlip",
    "PadCrop",
    "Parameters",
    "Probability",
    "RandomResizedCrop",
    "Range",
    "Resize",
    "Rotation",
    "Shape",
    "Shapes",
    "Transform",
    "VFlip",
    "inverse_map",
    "sample",
]

Shape = tuple[int, int, int]
Size = tuple[int, int]
# (channels, heights, widths): sides are numbers, or int64 (B, 1) where pictures differ in size.
Shapes = tuple[int, int | np.ndarray, int | np.ndarray]
_CROP_TRIES = 10


class Parameters(NamedTuple):
    """One row of numbers a picture, float32 (B, k), on the host and on the images' device."""

    host: np.ndarray
    device: Tensor


class Transform(BaseModel, ABC):
    """One step of a view. Fields are its settings; `name` is what recipes call it."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    name: ClassVar[str]

    @property
    def num_words(self) -> int:
        """Uniform numbers a picture needs; 0 for a transform that does the same to all."""
        return 0

    @property
    def settles_size(self) -> bool:
        """Whether it takes pictures of different sizes in one batch, and makes them one size."""
        return False

    def parameters(self, u: np.ndarray, shape: Shape) -> np.ndarray:
        """Turn uniform numbers into what `apply` needs.

        Args:
            u: float64 (B, num_words) in [0, 1).
            shape: (channels, height, width) of the incoming pictures.

        Returns:
            (B, k), stored as float32.
        """
        return np.empty((len(u), 0))

    @abstractmethod
    def apply(self, images: Tensor, parameters: Parameters) -> Tensor:
        """Transform float32 images (B, C, H, W) in [0, 1] to (B, C, h, w) in [0, 1]."""

    def output_size(self, size: Size) -> Size:
        """(height, width) after the transform."""
        return size


def _ordered(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] > bounds[1]:
        raise ValueError(f"expected [low, high] with low <= high, got {list(bounds)}")
    return bounds


Probability = Annotated[float, Field(ge=0, le=1)]
Degrees = Annotated[float, Field(ge=0, le=180)]
_Positive = Annotated[float, Field(gt=0)]
Range = Annotated[tuple[_Positive, _Positive], AfterValidator(_ordered)]
_Share = Annotated[float, Field(gt=0, le=1)]
_AreaRange = Annotated[tuple[_Share, _Share], AfterValidator(_ordered)]
_Pixels = Annotated[int, Field(gt=0, le=4096)]


class Rotation(Transform):
    """Turn counter-clockwise by an angle uniform in [-degrees, degrees].

    As torchvision's `RandomRotation`: nearest pixel, zero fill, same size.
    """

    name: ClassVar[str] = "rotation"
    degrees: Degrees

    @property
    def num_words(self) -> int:
        """The angle."""
        return 1

    def parameters(self, u: np.ndarray, shape: Shape) -> np.ndarray:
        """The inverse map, as for `Affine`; counter-clockwise is its negative angle."""
        angle = -self.degrees * (2.0 * u[:, 0] - 1.0)
        return inverse_map(angle, np.ones(len(u)), np.zeros((len(u), 2)), shape)

    def apply(self, images: Tensor, parameters: Parameters) -> Tensor:
        """Take the nearest pixel at the mapped positions."""
        return sample(images, parameters.device, "nearest", "zeros")


class PadCrop(Transform):
    """Pad with zeros on all sides and cut a window of the old size at a random place.

    As in the CIFAR recipe: torchvision's `RandomCrop(size, padding=padding)`.
    """

    name: ClassVar[str] = "pad_crop"
    padding: Annotated[int, Field(ge=0, le=256)]

    @property
    def num_words(self) -> int:
        """Vertical and horizontal offset."""
        return 2

    def parameters(self, u: np.ndarray, shape: Shape) -> np.ndarray:
        """(top, left) of the window in the padded picture, whole numbers in [0, 2 padding]."""
        corner: np.ndarray = np.floor(u * (2 * self.padding + 1))
        return corner

    def apply(self, images: Tensor, parameters: Parameters) -> Tensor:
        """Gather each picture's window from the flat padded picture."""
        batch, channels, height, width = images.shape
        padded = F.pad(images, (self.padding,) * 4)
        top, left = parameters.device.long().unbind(1)
        rows = top[:, None] + torch.arange(height, device=images.device)
        columns = left[:, None] + torch.arange(width, device=images.device)
        flat = rows[:, :, None] * padded.shape[-1] + columns[:, None, :]  # (B, H, W)
        index = flat.view(batch, 1, -1).expand(-1, channels, -1)
        return padded.flatten(2).gather(2, index).view(images.shape)


class _Flip(Transform):
    """Mirror with probability p."""

    dimension: ClassVar[int]
    p: Probability = 0.5

    @property
    def num_words(self) -> int:
        """Whether to mirror."""
        return 1

    def parameters(self, u: np.ndarray, shape: Shape) -> np.ndarray:
        """1 for the pictures that are mirrored, else 0."""
        return u < self.p

    def apply(self, images: Tensor, parameters: Parameters) -> Tensor:
        """Choose between each picture and its mirror image."""
        mirrored = parameters.device[:, 0, None, None, None] > 0
        return torch.where(mirrored, images.flip(self.dimension), images)


class HFlip(_Flip):
    """Mirror left and right with probability p."""

    name: ClassVar[str] = "hflip"
    dimension: ClassVar[int] = -1


class VFlip(_Flip):
    """Mirror top and bottom with probability p."""

    name: ClassVar[str] = "vflip"
    dimension: ClassVar[int] = -2


class Resize(Transform):
    """Antialiased bilinear resize: squashed to size x size, or the shorter side to `size`."""

    name: ClassVar[str] = "resize"
    size: _Pixels
    short_side: bool = False

    @property
    def settles_size(self) -> bool:
        """Only where the aspect is not kept."""
        return not self.short_side

    def parameters(self, u: np.ndarray, shape: Shapes) -> np.ndarray:
        """Of pictures that differ in size, boxes (top, left, height, width) that hold them whole.

        Short-side resizes never meet such pictures: their results would differ in size, too.
        """
        if isinstance(shape[1], int):
            return np.empty((len(u), 0))
        corner = np.zeros((len(u), 2))
        return np.concatenate([corner, np.asarray(shape[1]), np.asarray(shape[2])], axis=1)

    def apply(self, images: Tensor, parameters: Parameters) -> Tensor:
        """Resize all pictures alike, or each from its own size."""
        if parameters.host.shape[1]:
            return _cut_and_resize(images, parameters.device, self.size)
        height, width = images.shape[-2:]
        size = self.output_size((height, width))
        if size == (height, width):
            return images
        return F.interpolate(images, size, mode="bilinear", antialias=True, align_corners=False)

    def output_size(self, size: Size) -> Size:
        """The longer side is truncated to whole pixels, as torchvision does."""
        height, width = size
        if not self.short_side:
            return self.size, self.size
        if height <= width:
            return self.size, int(self.size * width / height)
        return int(self.size * height / width), self.size


class CenterCrop(Transform):
    """Cut size x size from the middle, as torchvision's `CenterCrop`; nothing is padded."""

    name: ClassVar[str] = "center_crop"
    size: _Pixels

    def apply(self, images: Tensor, parameters: Parameters) -> Tensor:
        """Narrow the tensor; no pixel is copied."""
        height, width = images.shape[-2:]
        size, _ = self.output_size((height, width))
        # Halves round to even, here and there.
        top, left = round((height - size) / 2), round((width - size) / 2)
        return images[..., top : top + size, left : left + size]

    def output_size(self, size: Size) -> Size:
        """Always square; refuses pictures that are too small."""
        if min(size) < self.size:
            raise UsageError(
                f"center_crop to {self.size} pixels got pictures of {size[0]} x {size[1]}. "
                "Put a resize before it in the recipe's view, or crop to a smaller size."
            )
        return self.size, self.size


class RandomResizedCrop(Transform):
    """Cut a random box and resize it, antialiased and bilinear, to size x size.

    As torchvision's `RandomResizedCrop`: the area is uniform in `scale` times the picture's, the
    ratio width / height log-uniform in `ratio`, sides are rounded; the first of ten tries that fits
    is taken at a uniform place, else the largest central box of an allowed ratio. All ten are
    drawn at once.
    """

    name: ClassVar[str] = "random_resized_crop"
    size: _Pixels
    scale: _AreaRange = (0.08, 1.0)
    ratio: Range = (3 / 4, 4 / 3)

    @property
    def num_words(self) -> int:
        """Area and ratio of ten tries, then the place."""
        return 2 * _CROP_TRIES + 2

    @property
    def settles_size(self) -> bool:
        """Always square."""
        return True

    def parameters(self, u: np.ndarray, shape: Shapes) -> np.ndarray:
        """(top, left, height, width) of the boxes, whole numbers.

        Unlike other transforms this one takes pictures of different sizes.
        """
        full_height, full_width = (np.asarray(side).reshape(-1, 1) for side in shape[1:])
        low, high = np.log(self.ratio)
        area: np.ndarray = self.scale[0] + u[:, :_CROP_TRIES] * (self.scale[1] - self.scale[0])
        area = area * full_height * full_width
        ratio = np.exp(low + u[:, _CROP_TRIES:-2] * (high - low))
        widths, heights = np.rint(np.sqrt(area * ratio)), np.rint(np.sqrt(area / ratio))
        fits = (widths > 0) & (widths <= full_width) & (heights > 0) & (heights <= full_height)
        found, rows, first = fits.any(1), np.arange(len(u)), fits.argmax(1)
        full_height, full_width = full_height[:, 0], full_width[:, 0]
        central_height, central_width = self._central_box(full_height, full_width)
        height = np.where(found, heights[rows, first], central_height)
        width = np.where(found, widths[rows, first], central_width)
        top = np.floor(u[:, -2] * (full_height - height + 1))
        left = np.floor(u[:, -1] * (full_width - width + 1))
        top = np.where(found, top, (full_height - height) // 2)
        left = np.where(found, left, (full_width - width) // 2)
        return np.stack((top, left, height, width), axis=1)

    def apply(self, images: Tensor, parameters: Parameters) -> Tensor:
        """Cut each picture's box and resize it."""
        return _cut_and_resize(images, parameters.device, self.size)

    def output_size(self, size: Size) -> Size:
        """Always square."""
        return self.size, self.size

    def _central_box(self, height: np.ndarray, width: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Sides of the largest central box of an allowed ratio; halves round to even."""
        narrow, wide = width / height < self.ratio[0], width / height > self.ratio[1]
        return (
            np.where(narrow, np.rint(width / self.ratio[0]), height),
            np.where(wide, np.rint(height * self.ratio[1]), width),
        )


def inverse_map(
    degrees: np.ndarray, scale: np.ndarray, shift: np.ndarray, shape: Shape
) -> np.ndarray:
    """Map output to input positions: R(-angle) (x - shift) / scale, in units of half a side."""
    angle = np.radians(degrees)
    cos, sin = np.cos(angle) / scale, np.sin(angle) / scale
    aspect = shape[1] / shape[2]
    across, down = sin * aspect, -sin / aspect
    x, y = shift[:, 0], shift[:, 1]
    rows = (cos, across, -(cos * x + across * y), down, cos, -(down * x + cos * y))
    return np.stack(rows, axis=1)


def sample(images: Tensor, inverse: Tensor, mode: str, padding: str) -> Tensor:
    """Read images (B, C, H, W) where the inverse map (B, 6) points.

    The grid is made by sums and products, not by `affine_grid`: that is a matrix product, and on a
    device that multiplies in TF32 its positions would be off by up to a tenth of a pixel.
    """
    height, width = images.shape[-2:]
    x = (torch.arange(width, device=images.device) * 2 + 1) / width - 1
    y = ((torch.arange(height, device=images.device) * 2 + 1) / height - 1)[:, None]
    xx, xy, x0, yx, yy, y0 = inverse[:, :, None, None].unbind(1)
    grid = torch.stack((xx * x + (xy * y + x0), yx * x + (yy * y + y0)), dim=-1)
    return F.grid_sample(images, grid, mode=mode, padding_mode=padding, align_corners=False)


def _cut_and_resize(images: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Filter rows and columns by two batched products; weights outside the box are 0.

    Args:
        images: float32 (B, C, H, W).
        boxes: (top, left, height, width), float32 (B, 4).

    Returns:
        (B, C, size, size).
    """
    top, left, height, width = boxes.unbind(1)
    vertical = _triangle_weights(top, height, images.shape[-2], size)
    horizontal = _triangle_weights(left, width, images.shape[-1], size)
    narrow = torch.bmm(images.flatten(1, 2), horizontal.transpose(1, 2))  # (B, C*H, w)
    narrow = narrow.view(*images.shape[:3], size)
    # Sums of rounded weights may exceed 1 by an ulp.
    return torch.matmul(vertical.unsqueeze(1), narrow).clamp_(0, 1)


def _triangle_weights(start: Tensor, length: Tensor, in_size: int, out_size: int) -> Tensor:
    """Weights (B, out_size, in_size) that cut [start, start + length) and resize it.

    The filter of torch's antialiased bilinear resize: a triangle of half-width max(1, step) input
    pixels around each output pixel's centre, cut off at the box and renormalised.
    """
    step = (length / out_size)[:, None, None]
    start, length = start[:, None, None], length[:, None, None]
    outputs = torch.arange(out_size, device=start.device)[:, None] + 0.5
    inputs = torch.arange(in_size, device=start.device) + 0.5
    centre = start + outputs * step
    weights = (1 - (inputs - centre).abs() / step.clamp(min=1)).clamp_(min=0)
    weights *= (inputs > start) & (inputs < start + length)
    return weights / weights.sum(-1, keepdim=True)
