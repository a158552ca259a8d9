"""A file of finished work: what a line says is true, however the process ended."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from ltbench.files import canonical_json

__all__ = ["Journal", "first_entry"]


class Journal:
    """Entries, one line each with its checksum; the first says what the others belong to.

    Args:
        path: the file. It is kept where its first entry is `head`, and begun anew otherwise; what
            follows a torn line is dropped.
        head: JSON-able.
    """

    def __init__(self, path: Path, head: dict[str, Any]) -> None:
        self.path = path
        whole = [end for end, _ in _lines(path)] if first_entry(path) == head else []
        self._end = whole[-1] if whole else 0
        self._file = path.open("r+b" if whole else "w+b", buffering=0)
        self._file.truncate(self._end)
        if not whole:
            self.append(head)

    def append(self, entry: dict[str, Any]) -> None:
        """Add an entry; it is on the disk when this returns.

        Raises:
            OSError: it is not; the journal is as before.
        """
        line = _line(entry)
        try:
            written = 0
            while written < len(line):
                written += os.pwrite(self._file.fileno(), line[written:], self._end + written)
            os.fsync(self._file.fileno())
        except OSError:
            with suppress(OSError):
                self._file.truncate(self._end)
            raise
        self._end += len(line)

    def entries(self) -> Iterator[dict[str, Any]]:
        """All but the first, read from the file one at a time."""
        lines = _lines(self.path)
        next(lines)
        for _, entry in lines:
            yield entry

    def close(self) -> None:
        """Nothing is appended any more."""
        self._file.close()


def first_entry(path: Path) -> dict[str, Any] | None:
    """What the journal at `path` belongs to; None where there is none."""
    return next((entry for _, entry in _lines(path)), None)


def _line(entry: dict[str, Any]) -> bytes:
    text = canonical_json(entry).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(where it ends, entry) of each line up to the first that is torn."""
    end = 0
    with suppress(FileNotFoundError), path.open("rb") as file:
        for line in file:
            text = line[9:-1]
            if not line.endswith(b"\n") or line[:9] != b"%08x " % zlib.crc32(text):
                return
            end += len(line)
            yield end, json.loads(text)
