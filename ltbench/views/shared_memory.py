"""Memory that worker processes write and another process reads."""

from __future__ import annotations

import mmap
import os
import tempfile

import numpy as np

__all__ = ["SharedMemory"]


class SharedMemory:
    """Bytes shared through an open file without a name.

    The system frees them when the last process that has them open is gone, however it ends, so
    nothing is ever left behind. A container's limit on /dev/shm does not count here.

    Args:
        descriptor: of memory made in another process; None makes new memory.

    Attributes:
        descriptor: for other processes, and for its owner to close; views stay readable.
    """

    def __init__(self, descriptor: int | None = None) -> None:
        self.descriptor = _nameless_file() if descriptor is None else descriptor
        self._bytes = np.empty(0, np.uint8)

    def grow(self, num_bytes: int) -> None:
        """Make room for `num_bytes`; only one process may do so."""
        if num_bytes > os.fstat(self.descriptor).st_size:
            os.ftruncate(self.descriptor, num_bytes)

    def view(self, num_bytes: int) -> np.ndarray:
        """The first bytes, uint8 (num_bytes,)."""
        if num_bytes > len(self._bytes):
            size = os.fstat(self.descriptor).st_size
            self._bytes = np.frombuffer(mmap.mmap(self.descriptor, size), np.uint8)
        return self._bytes[:num_bytes]


def _nameless_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("ltbench-views")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
