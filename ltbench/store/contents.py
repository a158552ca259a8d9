"""What lies in a finished store: the header, the index and the files of pixels."""

from __future__ import annotations

import hashlib
import io
import mmap
import os
import weakref
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property, lru_cache
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from ltbench.errors import DataMissingError, RunFailedError, UsageError, VerificationError
from ltbench.files import canonical_json, read_json, sha256_hex

__all__ = [
    "FORMAT",
    "HEADER",
    "INDEX",
    "PIXELS",
    "Contents",
    "Index",
    "PixelFile",
    "StoreSettings",
    "contents_of",
    "digest_on_disk",
    "open_contents",
    "pixel_files",
    "pixel_names",
    "places",
    "sealed",
    "square_file",
    "stored_digest",
]

FORMAT = 1  # of the files, and of how pixels are made: other pixels need another number
HEADER, INDEX, PIXELS = "store.json", "index.npz", "pixels.bin"
_OPENINGS = 5  # tries, where a store is replaced at this moment
_REMEDY = "Move it away and prepare the data set again (bench.py data prepare)."


@dataclass(frozen=True)
class StoreSettings:
    """What is kept of each picture.

    Attributes:
        short_side: of stored pictures, in pixels; smaller ones are kept as they are.
        squares: sides of further copies, resized straight from the decoded file to a square.

    Raises:
        UsageError: a side below 1, or one that is given twice.
    """

    short_side: int = 256
    squares: tuple[int, ...] = (224,)

    def __post_init__(self) -> None:
        if min(self.short_side, *self.squares, 1) < 1 or len(set(self.squares)) < len(self.squares):
            raise UsageError(
                "Expected sides of 1 pixel or more, each square once; got short_side "
                f"{self.short_side} and squares {list(self.squares)}."
            )

    def stored_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) after resizing; the longer side is rounded down, as torchvision does."""
        stored: list[int] = self.stored_sizes(np.array([[height, width]]))[0].tolist()
        return stored[0], stored[1]

    def stored_sizes(self, sizes: np.ndarray) -> np.ndarray:
        """The same for many, int64 (N, 2); (0, 0) stays what it is."""
        short = sizes.min(axis=1, keepdims=True)
        return np.where(
            short > self.short_side, self.short_side * sizes // np.maximum(short, 1), sizes
        )

    def as_fact(self) -> dict[str, Any]:
        """JSON-able."""
        return {"short_side": self.short_side, "squares": list(self.squares)}

    @property
    def square_bytes(self) -> int:
        """Of all squares of one picture."""
        return sum(side * side * 3 for side in self.squares)


@dataclass(frozen=True)
class Index:
    """One row a stored picture.

    Attributes:
        ids: str (N,).
        slots: place in the files of squares, int64 (N,).
        offsets: where its pixels begin in the file of pixels, int64 (N,).
        sizes: stored (height, width), int64 (N, 2).
        original_sizes: (height, width) of the decoded file, int64 (N, 2).
        file_stats: (bytes, time of change in ns) of the file, int64 (N, 2).
        conversions: a bit for each of `decode.KINDS`, uint32 (N,).
        file_digests: SHA-256 of the file's bytes, uint8 (N, 32).
        pixel_digests: SHA-256 of the decoded picture's size and pixels, uint8 (N, 32).
        stored_digests: SHA-256 of the stored pictures, see `stored_digest`, uint8 (N, 32).
    """

    ids: np.ndarray
    slots: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray
    original_sizes: np.ndarray
    file_stats: np.ndarray
    conversions: np.ndarray
    file_digests: np.ndarray
    pixel_digests: np.ndarray
    stored_digests: np.ndarray

    def to_bytes(self) -> bytes:
        """As a .npz file; the same bytes for the same index."""
        buffer = io.BytesIO()
        np.savez(buffer, **{field.name: getattr(self, field.name) for field in fields(self)})
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Index:
        """What `to_bytes` gave.

        Raises:
            ValueError: it is something else.
        """
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
                return cls(**{field.name: arrays[field.name] for field in fields(cls)})
        except (KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(f"no index: {error}") from error


class PixelFile:
    """A file of pixels, open from the start, so that a store put in its place is not read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._descriptor = os.open(path, os.O_RDONLY)
        except FileNotFoundError as error:
            raise VerificationError(f"Expected {path}, none is there. {_REMEDY}") from error
        except OSError as error:
            raise RunFailedError(f"{path} could not be opened ({error.strerror}).") from error
        weakref.finalize(self, os.close, self._descriptor)

    @property
    def num_bytes(self) -> int:
        """Its size."""
        return os.fstat(self._descriptor).st_size

    @cached_property
    def flat(self) -> np.ndarray:
        """All bytes, uint8, mapped into memory: only what is touched is read."""
        mapped = mmap.mmap(self._descriptor, 0, access=mmap.ACCESS_READ)
        return np.frombuffer(mapped, dtype=np.uint8)

    def read(self, start: int, count: int) -> bytes:
        """Bytes from `start` on; fewer where the file ends. The map is not touched."""
        return os.pread(self._descriptor, count, start)

    def soon(self, starts: np.ndarray, counts: np.ndarray) -> None:
        """Let the system fetch these ranges from the disk, where it takes such hints."""
        if hasattr(os, "posix_fadvise"):
            for start, count in zip(starts.tolist(), counts.tolist(), strict=True):
                os.posix_fadvise(self._descriptor, start, count, os.POSIX_FADV_WILLNEED)


class Contents:
    """A finished store, its header and index checked."""

    def __init__(self, folder: Path, header: dict[str, Any], index: Index) -> None:
        self.folder = folder
        self.header = header
        self.index = index
        settings = header["settings"]
        self.settings = StoreSettings(settings["short_side"], tuple(settings["squares"]))
        self.files = pixel_files(folder, self.settings)

    @property
    def identity(self) -> str:
        """Differs wherever anything in the store does."""
        identity: str = self.header["digest"]
        return identity


def square_file(side: int) -> str:
    """The name of the file that holds the squares of one size."""
    return f"square-{side}.bin"


def pixel_files(folder: Path, settings: StoreSettings) -> dict[str, PixelFile]:
    """The files of pixels, by name."""
    return {name: PixelFile(folder / name) for name in pixel_names(settings)}


def pixel_names(settings: StoreSettings) -> list[str]:
    """The names of the files of pixels."""
    return [PIXELS, *(square_file(side) for side in settings.squares)]


def places(
    settings: StoreSettings, size: Sequence[int], offset: int, slot: int
) -> list[tuple[str, int, tuple[int, int, int]]]:
    """Where one picture lies: (name of the file, first byte, shape), the squares last.

    Args:
        size: stored (height, width).
        offset: in the file of pixels.
        slot: in those of squares.
    """
    return [
        (PIXELS, offset, (size[0], size[1], 3)),
        *(
            (square_file(side), slot * side * side * 3, (side, side, 3))
            for side in settings.squares
        ),
    ]


def digest_on_disk(
    files: Mapping[str, PixelFile], where: Iterable[tuple[str, int, tuple[int, int, int]]]
) -> bytes:
    """`stored_digest` of what the files hold now at these `places`."""
    return stored_digest(
        (shape, files[name].read(start, prod(shape))) for name, start, shape in where
    )


def stored_digest(pictures: Iterable[tuple[tuple[int, ...], Any]]) -> bytes:
    """SHA-256 over the shape and the bytes of each stored picture, 32 bytes."""
    digest = hashlib.sha256()
    for shape, pixels in pictures:
        digest.update(f"uint8 {shape}\n".encode())
        digest.update(pixels)
    return digest.digest()


def sealed(header: dict[str, Any]) -> dict[str, Any]:
    """The header with its own digest."""
    return {**header, "digest": sha256_hex(canonical_json(header).encode())}


def open_contents(folder: Path) -> Contents:
    """Read and check the header, the index, and the sizes of the files; no pixel is read.

    All files are open when this returns: what is put in the store's place later is not read.

    Raises:
        DataMissingError: there is no finished store of this format.
        VerificationError: it is damaged.
    """
    for _ in range(_OPENINGS):
        header = _header(folder)
        try:
            contents = _opened(folder, header)
        except VerificationError:
            if _header(folder) == header:
                raise
            continue
        # Else files of two stores may have been opened while one replaced the other.
        if _header(folder) == header:
            return contents
    raise VerificationError(f"The store at {folder} is being replaced over and over. {_REMEDY}")


def _opened(folder: Path, header: dict[str, Any]) -> Contents:
    data = _read(folder / INDEX)
    if sha256_hex(data) != header["index"]:
        raise VerificationError(
            f"{folder / INDEX} is damaged: its digest is not the one in {HEADER}. {_REMEDY}"
        )
    contents = Contents(folder, header, Index.from_bytes(data))
    for name, file in contents.files.items():
        size = header["files"][name]
        if file.num_bytes != size:
            raise VerificationError(
                f"Expected {size} bytes in {file.path}, it has {file.num_bytes}. {_REMEDY}"
            )
    return contents


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise VerificationError(f"Expected {path}, none is there. {_REMEDY}") from error


@lru_cache(maxsize=8)
def contents_of(folder: Path, identity: str) -> Contents:
    """The store at `folder`, which must still be the one it was; opened once a process.

    Raises:
        VerificationError: it is another one, or damaged.
    """
    contents = open_contents(folder)
    if contents.identity != identity:
        raise VerificationError(
            f"The store at {folder} was replaced by another while it was in use. Run the same "
            "command again."
        )
    return contents


def _header(folder: Path) -> dict[str, Any]:
    try:
        header = read_json(folder / HEADER)
    except DataMissingError as error:
        raise DataMissingError(
            f"There is no finished store at {folder}. Prepare the data set first (bench.py data "
            "prepare); what an interrupted preparation has done is kept."
        ) from error
    if isinstance(header, dict) and header.get("format") not in (None, FORMAT):
        raise DataMissingError(
            f"The store at {folder} has format {header['format']}; this version reads format "
            f"{FORMAT}. Prepare the data set again (bench.py data prepare)."
        )
    bare = {k: v for k, v in header.items() if k != "digest"} if isinstance(header, dict) else {}
    if not bare or sealed(bare) != header:
        raise VerificationError(
            f"{folder / HEADER} is damaged: its digest does not fit what it says. {_REMEDY}"
        )
    return bare | {"digest": header["digest"]}
