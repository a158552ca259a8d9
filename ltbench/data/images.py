"""Pictures that are already decoded, and stand-ins for those that were never opened."""

from __future__ import annotations

import hashlib
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ltbench.dataset import Fingerprints, Images
from ltbench.errors import DataMissingError, UsageError, VerificationError

__all__ = ["ArrayImages", "UnreadImages", "common_shape", "pixels_digest"]


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

    @property
    def channels(self) -> int:
        """Of every picture."""
        return self.shape[0]

    @property
    def sizes(self) -> np.ndarray:
        """(height, width) of each picture, int64 (N, 2), all alike."""
        return np.tile(np.array(self.shape[1:], dtype=np.int64), (len(self), 1))

    @property
    def on_disk(self) -> bool:
        """Never."""
        return False

    def __len__(self) -> int:
        return len(self.tensor)

    def picture(self, position: int) -> np.ndarray:
        """One picture, uint8 (height, width, channels)."""
        found: np.ndarray = self.tensor[position].permute(1, 2, 0).numpy()
        return found

    def take(self, positions: np.ndarray) -> Tensor:
        """Copies of the pictures at `positions`, uint8 (n, channels, height, width)."""
        chosen = torch.from_numpy(np.array(positions, dtype=np.int64))
        return self.tensor[chosen.to(self.tensor.device)]

    def subset(self, positions: np.ndarray) -> ArrayImages:
        """Copies of these pictures alone."""
        return ArrayImages(self.take(positions))

    def prepared(self, height: int, width: int) -> None:
        """Nothing is kept beside the pictures themselves."""

    def soon(self, positions: np.ndarray) -> None:
        """They are in memory already."""

    def fingerprints(self) -> Fingerprints:
        """Digests of each picture's size and pixels; there are no files."""
        return Fingerprints(
            None, np.array([pixels_digest(self.picture(i)) for i in range(len(self))])
        )

    def digest(self) -> str:
        """SHA-256 (hex) over shape, dtype and bytes; the same on every machine."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        # The shape goes in too: the same bytes as other pictures are not the same pictures.
        digest = hashlib.sha256(f"uint8 {tuple(self.tensor.shape)}\n".encode())
        digest.update(self.tensor.cpu().numpy().data)
        return digest.hexdigest()


def pixels_digest(picture: np.ndarray) -> str:
    """SHA-256 (hex) of a picture's size and pixels, uint8 (height, width, channels)."""
    digest = hashlib.sha256(f"uint8 {picture.shape}\n".encode())
    digest.update(np.ascontiguousarray(picture).data)
    return digest.hexdigest()


def common_shape(images: Images) -> tuple[int, int, int]:
    """(channels, height, width) of pictures of one size.

    Raises:
        UsageError: their sizes differ.
    """
    sizes = np.unique(images.sizes, axis=0)
    if len(sizes) != 1:
        raise UsageError(
            f"Expected pictures of one size, found {len(sizes)} sizes. Begin the recipe's view "
            "with a resize or a random_resized_crop."
        )
    return images.channels, int(sizes[0, 0]), int(sizes[0, 1])


class UnreadImages:
    """Stands for pictures that nobody has opened, where tables alone are looked at.

    Args:
        count: pictures.
        reason: why they were not opened, for whoever asks for one.
    """

    channels = 3
    on_disk = True

    def __init__(self, count: int, reason: str) -> None:
        self._count = count
        self._reason = reason

    def __len__(self) -> int:
        return self._count

    @property
    def sizes(self) -> np.ndarray:
        """Not known."""
        raise self._unread()

    def picture(self, position: int) -> np.ndarray:
        """Not here."""
        raise self._unread()

    def take(self, positions: np.ndarray) -> Tensor:
        """Not here."""
        raise self._unread()

    def subset(self, positions: np.ndarray) -> UnreadImages:
        """As many as there are positions."""
        return UnreadImages(len(positions), self._reason)

    def prepared(self, height: int, width: int) -> None:
        """None are."""

    def soon(self, positions: np.ndarray) -> None:
        """Nothing to fetch."""

    def digest(self) -> str:
        """Not known."""
        raise self._unread()

    def fingerprints(self) -> Fingerprints:
        """Not known."""
        raise self._unread()

    def _unread(self) -> DataMissingError:
        return DataMissingError(self._reason)
