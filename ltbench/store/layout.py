"""A finished store of decoded pictures.

A store is a folder:

- `pixels.bin`: the pictures one after the other, uint8 (height, width, 3) each, sizes of their own.
- `square-<side>.bin`: the same pictures resized to a square, all of one size.
- `index.npz`: for each picture its id, its place in these files, its sizes, and its digests.
- `store.json`: settings, sizes of the files, digest of the index, what was converted or left out,
  and its own digest. It is written last.

`ltbench.store.writer` makes it. It is never changed: other files or settings make a new one.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np

from ltbench.errors import DataMissingError, VerificationError
from ltbench.intake.problems import listed, plural
from ltbench.store.contents import (
    Contents,
    StoreSettings,
    digest_on_disk,
    open_contents,
    places,
)
from ltbench.store.images import StoreImages

__all__ = ["Store", "StoreSettings"]


class Store:
    """Every picture of a data set, decoded and resized once; see this module for the files.

    Attributes:
        settings: what is kept of each picture.
        ids: of the stored pictures, str (N,), in the order they were given in.
        file_stats: (bytes, time of change in ns) of each picture's file, int64 (N, 2).
        conversions: how many pictures were converted, by kind; see `decode.KINDS`.
        left_out: id, file and reason of each picture that could not be read.
    """

    def __init__(self, contents: Contents) -> None:
        self._contents = contents
        self.settings = contents.settings
        self.ids: np.ndarray = contents.index.ids
        self.file_stats: np.ndarray = contents.index.file_stats
        self.conversions: dict[str, int] = contents.header["conversions"]
        self.left_out: list[dict[str, str]] = contents.header["left_out"]

    @classmethod
    def open(cls, folder: Path) -> Store:
        """The store at `folder`. Sizes of files and the index are checked, pixels are not read.

        Raises:
            DataMissingError: there is none, or it is not finished.
            VerificationError: it is damaged.
        """
        return cls(open_contents(folder.absolute()))

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return self._contents.folder

    @property
    def plan(self) -> str:
        """Digest of what it was made from: ids, sizes and times of files, settings."""
        plan: str = self._contents.header["plan"]
        return plan

    def images(self, ids: np.ndarray) -> StoreImages:
        """The pictures with these ids, in this order.

        Raises:
            DataMissingError: the store lacks some; the message names them.
        """
        wanted = np.asarray(ids).tolist()
        missing = [name for name in wanted if name not in self._row_of]
        if missing:
            raise DataMissingError(
                f"The store at {self.folder} lacks {plural(len(missing), 'picture')}: "
                f"{listed(missing)}. Prepare the data set again (bench.py data prepare)."
            )
        rows = np.array([self._row_of[name] for name in wanted], dtype=np.int64)
        return StoreImages(self._contents, rows)

    def verify(self) -> None:
        """Read every pixel and compare with the digests that were taken at writing.

        Raises:
            VerificationError: some pictures have changed; the message names them.
        """
        files, index = self._contents.files, self._contents.index
        changed = [
            name
            for name, size, offset, slot, digest in zip(
                index.ids.tolist(),
                index.sizes.tolist(),
                index.offsets.tolist(),
                index.slots.tolist(),
                index.stored_digests,
                strict=True,
            )
            if digest_on_disk(files, places(self.settings, size, offset, slot)) != digest.tobytes()
        ]
        if changed:
            raise VerificationError(
                f"The store at {self.folder} is damaged: {plural(len(changed), 'picture')} "
                f"changed since writing: {listed(changed)}. Move the folder away and prepare the "
                "data set again (bench.py data prepare)."
            )

    @cached_property
    def _row_of(self) -> dict[str, int]:
        return {name: row for row, name in enumerate(self.ids.tolist())}
