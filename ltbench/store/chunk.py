"""A run of pictures that is decoded, resized and written together, by whichever process."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ltbench.data.images import pixels_digest
from ltbench.errors import RunFailedError
from ltbench.files import storage_errors
from ltbench.store.contents import (
    StoreSettings,
    digest_on_disk,
    pixel_files,
    pixel_names,
    places,
    stored_digest,
)
from ltbench.store.decode import KINDS, BrokenImageError, decode
from ltbench.store.lock import STORE_OPTION
from ltbench.store.plan import unreadable
from ltbench.store.resize import stored_pictures

__all__ = ["RECORD", "Chunk", "Written", "is_on_disk", "write_chunk"]

# What becomes known of a picture when it is decoded; see `contents.Index`.
RECORD = np.dtype(
    [("file", "u1", 32), ("pixels", "u1", 32), ("stored", "u1", 32), ("conversions", "<u4")]
)


@dataclass(frozen=True)
class Chunk:
    """What there is to do.

    Attributes:
        number: of the chunk.
        first: position of its first picture in the plan.
        folder: where the files of pixels lie.
        settings: of the store.
        files: of the n pictures.
        stats: (bytes, time of change in ns) they were planned with, int64 (n, 2).
        sizes: (height, width) their headers say, int64 (n, 2); 0: leave out.
        stored_sizes: int64 (n, 2).
        offsets: in the file of pixels, int64 (n,).
    """

    number: int
    first: int
    folder: Path
    settings: StoreSettings
    files: tuple[str, ...]
    stats: np.ndarray
    sizes: np.ndarray
    stored_sizes: np.ndarray
    offsets: np.ndarray

    def places_of(self, row: int) -> list[tuple[str, int, tuple[int, int, int]]]:
        """Where one of the pictures lies."""
        size, offset = self.stored_sizes[row].tolist(), int(self.offsets[row])
        return places(self.settings, size, offset, self.first + row)


@dataclass(frozen=True)
class Written:
    """What was done.

    Attributes:
        records: one a picture, `RECORD` (n,); zeros where it was left out.
        faults: why further pictures cannot be read, by position in the plan.
    """

    records: np.ndarray
    faults: dict[int, str]


def write_chunk(chunk: Chunk) -> Written:
    """Decode, resize and write; nothing is forced to the disk yet.

    Raises:
        RunFailedError: the storage failed or is full, or a file was changed since it was planned.
    """
    records, faults = np.zeros(len(chunk.files), dtype=RECORD), {}
    with storage_errors(chunk.folder.parent, STORE_OPTION), _one_thread(), ExitStack() as stack:
        names = pixel_names(chunk.settings)
        files = {
            name: stack.enter_context((chunk.folder / name).open("r+b", buffering=0)).fileno()
            for name in names
        }
        for row in _readable(chunk):
            try:
                pictures = _made(chunk, row, records[row])
            except BrokenImageError as error:
                faults[chunk.first + row] = error.reason
                records[row] = np.zeros((), dtype=RECORD)
                continue
            for picture, (name, start, _) in zip(pictures, chunk.places_of(row), strict=True):
                _write(files[name], picture, start)
    return Written(records, faults)


def is_on_disk(job: tuple[Chunk, Written]) -> bool:
    """Whether the files hold every picture of a chunk that is said to have been written."""
    chunk, written = job
    files = pixel_files(chunk.folder, chunk.settings)
    return all(
        digest_on_disk(files, chunk.places_of(row)) == written.records[row]["stored"].tobytes()
        for row in _readable(chunk)
        if chunk.first + row not in written.faults
    )


@contextmanager
def _one_thread() -> Iterator[None]:
    """Pictures are too small to divide, and there is a process for each core."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _readable(chunk: Chunk) -> Iterator[int]:
    return (row for row in range(len(chunk.files)) if chunk.sizes[row, 0])


def _made(chunk: Chunk, row: int, record: np.void) -> list[np.ndarray]:
    """The stored pictures of one file; what is learnt goes into the record."""
    data = _read(Path(chunk.files[row]), chunk.stats[row].tolist())
    decoded = decode(data)
    found, expected = decoded.pixels.shape[:2], tuple(chunk.sizes[row].tolist())
    if found != expected:
        raise BrokenImageError(f"its header says {expected} (height, width), its pixels {found}")
    pictures = stored_pictures(decoded.pixels, chunk.settings)
    record["file"] = np.frombuffer(hashlib.sha256(data).digest(), dtype=np.uint8)
    record["pixels"] = np.frombuffer(bytes.fromhex(pixels_digest(decoded.pixels)), dtype=np.uint8)
    shapes = ((picture.shape, picture.data) for picture in pictures)
    record["stored"] = np.frombuffer(stored_digest(shapes), dtype=np.uint8)
    record["conversions"] = sum(1 << KINDS.index(kind) for kind in decoded.conversions)
    return pictures


def _read(file: Path, stats: list[int]) -> bytes:
    try:
        with file.open("rb", buffering=0) as stream:
            found = os.fstat(stream.fileno())
            data = stream.read()
    except OSError as error:
        raise unreadable(file, error) from error
    if [found.st_size, found.st_mtime_ns] != stats or len(data) != found.st_size:
        raise RunFailedError(
            f"{file} was changed while the pictures were being prepared. Run the same command "
            "again when it is at rest."
        )
    return data


def _write(descriptor: int, picture: np.ndarray, start: int) -> None:
    left = picture.data.cast("B")
    while left:
        count = os.pwrite(descriptor, left, start)
        left, start = left[count:], start + count
