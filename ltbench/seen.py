"""What a run has seen: names, groups and pixels of the images it was trained or selected on.

Kept beside its predictions, so that an external test can tell strangers from acquaintances.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from ltbench.dataset import Source, Split
from ltbench.errors import DataMissingError, VerificationError
from ltbench.files import write_bytes

__all__ = ["FILE", "Seen", "read_seen", "seen_in", "write_seen"]

FILE: Final = "seen.npz"


class Seen(NamedTuple):
    """Marks of images, ascending, each once.

    Attributes:
        ids: names, str.
        groups: str; empty where no groups are known.
        pixels: SHA-256 (hex) of size and decoded pixels, str.
    """

    ids: np.ndarray
    groups: np.ndarray
    pixels: np.ndarray

    def shared_with(self, other: Seen) -> dict[str, int]:
        """How many marks of the other's are among these, by kind."""
        return {
            kind: int(np.isin(theirs, ours).sum())
            for kind, ours, theirs in zip(self._fields, self, other, strict=True)
        }


def seen_in(source: Source, positions: np.ndarray) -> Seen:
    """The marks of these images."""
    groups = np.array([], dtype=np.str_) if source.groups is None else source.groups[positions]
    pixels = source.images.subset(positions).fingerprints().pixels
    return Seen(np.unique(source.ids[positions]), np.unique(groups), np.unique(pixels))


def write_seen(path: Path, source: Source, split: Split) -> None:
    """Write the marks of training and validation, atomically."""
    learnt = split.train if split.val is None else np.concatenate([split.train, split.val])
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **seen_in(source, learnt)._asdict())
    write_bytes(path, buffer.getvalue())


def read_seen(path: Path) -> Seen:
    """What `write_seen` wrote.

    Raises:
        DataMissingError: there is no such file.
        VerificationError: it is damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            return Seen(*(stored[field] for field in Seen._fields))
    except FileNotFoundError as error:
        raise DataMissingError(
            f"Expected at {path} what the run has seen, found none: it was made by an older "
            "version. Run the cell again."
        ) from error
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise VerificationError(
            f"{path} is damaged: {error}. Restore it from a copy, or run the cell again."
        ) from error
