"""Pictures that are already decoded: one uint8 array in memory."""

from __future__ import annotations

import hashlib
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ltbench.errors import VerificationError

__all__ = ["ArrayImages"]


class ArrayImages:
    """All pictures of a small data set in one tensor; fulfils `ltbench.dataset.Images`.

    Args:
        pixels: uint8 (N, channels, height, width). An array is copied, so that nobody else can
            change a picture after its digest was taken.

    Attributes:
        tensor: every picture, uint8 (N, channels, height, width), for those who keep the whole set
            on a device. Never write to it.

    Raises:
        VerificationError: another dtype or number of dimensions, or a picture without a pixel.
    """

    def __init__(self, pixels: np.ndarray | Tensor) -> None:
        tensor = pixels if isinstance(pixels, Tensor) else torch.from_numpy(pixels.copy())
        if tensor.dtype != torch.uint8 or tensor.ndim != 4 or 0 in tensor.shape[1:]:
            raise VerificationError(
                "Expected pictures as uint8 (N, channels, height, width), got "
                f"{tensor.dtype} {tuple(tensor.shape)}. Scale the values to 0..255 and give grey "
                "pictures one channel."
            )
        self.tensor = tensor.contiguous()

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        channels, height, width = self.tensor.shape[1:]
        return channels, height, width

    def __len__(self) -> int:
        return len(self.tensor)

    def take(self, positions: np.ndarray) -> Tensor:
        """Copies of the pictures at `positions`, uint8 (n, channels, height, width)."""
        chosen = torch.from_numpy(np.array(positions, dtype=np.int64))
        return self.tensor[chosen.to(self.tensor.device)]

    def digest(self) -> str:
        """SHA-256 (hex) over shape, dtype and bytes; the same on every machine."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        # The shape goes in too: the same bytes as other pictures are not the same pictures.
        digest = hashlib.sha256(f"uint8 {tuple(self.tensor.shape)}\n".encode())
        digest.update(self.tensor.cpu().numpy().data)
        return digest.hexdigest()
