"""The pictures of a store, as training and audits take them."""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ltbench.dataset import Fingerprints
from ltbench.errors import UsageError
from ltbench.files import canonical_json
from ltbench.store.contents import FORMAT, PIXELS, Contents, PixelFile, contents_of, square_file

__all__ = ["StoreImages"]


class StoreImages:
    """Some pictures of a store, in some order; fulfils `ltbench.dataset.Images`.

    It is pickled as a folder and row numbers; the process that receives it maps the files anew.

    Args:
        contents: the store.
        rows: of its index, int64 (N,).
        side: take the squares of this side in place of the pictures that kept their shape.
    """

    channels = 3
    on_disk = True

    def __init__(self, contents: Contents, rows: np.ndarray, side: int | None = None) -> None:
        self._folder, self._identity = contents.folder, contents.identity
        self._rows = rows
        self._side = side
        self._contents = contents

    def __getstate__(self) -> tuple[Path, str, np.ndarray, int | None]:
        return self._folder, self._identity, self._rows, self._side

    def __setstate__(self, state: tuple[Path, str, np.ndarray, int | None]) -> None:
        self._folder, self._identity, self._rows, self._side = state

    @cached_property
    def _contents(self) -> Contents:
        return contents_of(self._folder, self._identity)

    @cached_property
    def sizes(self) -> np.ndarray:
        """(height, width) of each picture, int64 (N, 2)."""
        if self._side is not None:
            return np.full((len(self), 2), self._side, dtype=np.int64)
        sizes: np.ndarray = self._contents.index.sizes[self._rows]
        return sizes

    @cached_property
    def _starts(self) -> np.ndarray:
        index, side = self._contents.index, self._side
        per_row = index.offsets if side is None else index.slots * (side * side * 3)
        starts: np.ndarray = per_row[self._rows]
        return starts

    @cached_property
    def _file(self) -> PixelFile:
        return self._contents.files[PIXELS if self._side is None else square_file(self._side)]

    def __len__(self) -> int:
        return len(self._rows)

    def picture(self, position: int) -> np.ndarray:
        """One picture, uint8 (height, width, 3): a view of the file that cannot be written to."""
        height, width = self.sizes[position].tolist()
        start = int(self._starts[position])
        return self._file.flat[start : start + height * width * 3].reshape(height, width, 3)

    def take(self, positions: np.ndarray) -> Tensor:
        """Copies of pictures of one size, uint8 (n, 3, height, width).

        Raises:
            UsageError: their sizes differ.
        """
        sizes = np.unique(self.sizes[positions], axis=0)
        if len(sizes) > 1:
            raise UsageError(
                f"Expected pictures of one size, found {len(sizes)} sizes. Begin the recipe's view "
                "with a resize or a random_resized_crop."
            )
        height, width = sizes[0].tolist() if len(sizes) else (0, 0)
        copies = np.empty((len(positions), 3, height, width), dtype=np.uint8)
        for copy, position in zip(copies, positions.tolist(), strict=True):
            copy[:] = self.picture(position).transpose(2, 0, 1)
        return torch.from_numpy(copies)

    def subset(self, positions: np.ndarray) -> StoreImages:
        """These pictures alone, in this order; no pixel is copied."""
        return StoreImages(self._contents, self._rows[positions], self._side)

    def prepared(self, height: int, width: int) -> StoreImages | None:
        """The squares of this size, where the store keeps them."""
        if height != width or height not in self._contents.settings.squares:
            return None
        return StoreImages(self._contents, self._rows, height)

    def soon(self, positions: np.ndarray) -> None:
        """Have the system fetch these pictures from the disk."""
        self._file.soon(self._starts[positions], self.sizes[positions].prod(axis=1) * 3)

    def digest(self) -> str:
        """SHA-256 (hex) over the settings and the digest of each picture's stored pixels.

        Nothing else in the store matters to it, and no pixel is read.
        """
        about = {"format": FORMAT, "side": self._side, **self._contents.settings.as_fact()}
        digest = hashlib.sha256(f"store {canonical_json(about)}\n".encode())
        digest.update(self._contents.index.stored_digests[self._rows].tobytes())
        return digest.hexdigest()

    def fingerprints(self) -> Fingerprints:
        """Digests of the files, and of the decoded pictures before they were resized."""
        index = self._contents.index
        return Fingerprints(
            files=_hex(index.file_digests[self._rows]), pixels=_hex(index.pixel_digests[self._rows])
        )


def _hex(digests: np.ndarray) -> np.ndarray:
    return np.array([row.tobytes().hex() for row in digests], dtype="<U64")
