"""What a store is to hold, and where: settled from the files' headers before a pixel is decoded."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from ltbench.errors import RunFailedError
from ltbench.files import canonical_json, sha256_hex
from ltbench.store.contents import FORMAT, PIXELS, StoreSettings, square_file
from ltbench.store.decode import BrokenImageError, read_size

__all__ = ["Plan", "chunk_ends", "file_stats", "measured", "plan_key", "unreadable"]

_MISSING = -1  # in place of a file's size and time
_CHUNK_PIXELS = 8_000_000  # of originals: about 0.1 s of work
_CHUNK_PICTURES = 1024
_PIXELS_A_FILE = 10_000  # what opening a file costs


@dataclass(frozen=True)
class Plan:
    """Where each picture goes.

    Attributes:
        key: digest of ids, file stats, settings and format.
        settings: of the store.
        stats: (bytes, time of change in ns) of each file, int64 (N, 2).
        sizes: (height, width) of the pictures in the files, int64 (N, 2); 0 where unreadable.
        faults: why pictures cannot be read, by position.
        ends: where each chunk of pictures that are written together ends, int64; see `chunk_ends`.
    """

    key: str
    settings: StoreSettings
    stats: np.ndarray
    sizes: np.ndarray
    faults: dict[int, str]
    ends: np.ndarray

    def __len__(self) -> int:
        return len(self.sizes)

    @cached_property
    def stored_sizes(self) -> np.ndarray:
        """(height, width) of each picture in the store, int64 (N, 2)."""
        return self.settings.stored_sizes(self.sizes)

    @cached_property
    def offsets(self) -> np.ndarray:
        """Where each picture begins in the file of pixels, and where it ends; int64 (N + 1,)."""
        return np.concatenate([[0], np.cumsum(self.stored_sizes.prod(axis=1) * 3)])

    @property
    def file_bytes(self) -> dict[str, int]:
        """How long each file of pixels will be, by name."""
        squares = {square_file(s): len(self) * s * s * 3 for s in self.settings.squares}
        return {PIXELS: int(self.offsets[-1]), **squares}

    @cached_property
    def chunks(self) -> list[tuple[int, int]]:
        """(first, last + 1) of the pictures that are written together."""
        ends = self.ends.tolist()
        return list(zip([0, *ends[:-1]], ends, strict=True))

    def to_bytes(self) -> bytes:
        """As a .npz file without the key and the settings."""
        faults = json.dumps(self.faults).encode()
        buffer = io.BytesIO()
        np.savez(
            buffer,
            stats=self.stats,
            sizes=self.sizes,
            faults=np.frombuffer(faults, dtype=np.uint8),
            ends=self.ends,
        )
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes, key: str, settings: StoreSettings) -> Plan:
        """What `to_bytes` gave."""
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            faults = json.loads(arrays["faults"].tobytes())
            return cls(
                key=key,
                settings=settings,
                stats=arrays["stats"],
                sizes=arrays["sizes"],
                faults={int(position): reason for position, reason in faults.items()},
                ends=arrays["ends"],
            )


def file_stats(files: Iterable[Path]) -> np.ndarray:
    """(bytes, time of change in ns) of each file, int64 (N, 2); -1 where there is none.

    Raises:
        RunFailedError: the storage did not answer.
    """
    return np.array([_stat(file) for file in files], dtype=np.int64).reshape(-1, 2)


def plan_key(ids: np.ndarray, stats: np.ndarray, settings: StoreSettings) -> str:
    """SHA-256 (hex) of what decides all bytes of a store."""
    about = {"format": FORMAT, **settings.as_fact(), "ids": ids.tolist()}
    return sha256_hex(canonical_json(about).encode() + stats.astype("<i8").tobytes())


def chunk_ends(sizes: np.ndarray) -> np.ndarray:
    """Cut pictures into chunks of about the same work; where each ends, int64.

    Args:
        sizes: (height, width) of the pictures in the files, int64 (N, 2).
    """
    ends, first, pixels = [], 0, 0
    for end, count in enumerate(sizes.prod(axis=1).tolist(), start=1):
        pixels += count + _PIXELS_A_FILE
        if pixels >= _CHUNK_PIXELS or end - first == _CHUNK_PICTURES or end == len(sizes):
            ends.append(end)
            first, pixels = end, 0
    return np.array(ends, dtype=np.int64)


def measured(job: tuple[int, Sequence[str]]) -> list[tuple[int, int] | str]:
    """(height, width) of each file's picture, or why it has none.

    Args:
        job: position of the first file, and files.
    """
    return [_measured(Path(file)) for file in job[1]]


def unreadable(file: Path, error: OSError) -> RunFailedError:
    """The storage failed, which says nothing about the file."""
    return RunFailedError(
        f"{file} could not be read: {error.strerror or error}. Check that its storage can be "
        "reached, then run the same command again; what was done is kept."
    )


def _stat(file: Path) -> tuple[int, int]:
    try:
        found = os.stat(file)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return _MISSING, _MISSING
    except OSError as error:
        raise unreadable(file, error) from error
    return found.st_size, found.st_mtime_ns


def _measured(file: Path) -> tuple[int, int] | str:
    try:
        return read_size(file)
    except BrokenImageError as error:
        return error.reason
    except (FileNotFoundError, NotADirectoryError):
        return "there is no such file"
    except IsADirectoryError:
        return "it is a folder"
    except PermissionError:
        return "this user may not read it"
    except OSError as error:
        raise unreadable(file, error) from error
