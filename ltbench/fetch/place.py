"""The folder that downloads go to: room, permission, and one process at a time."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ltbench.errors import RunFailedError, UsageError
from ltbench.fetch.manifest import size_text
from ltbench.files import storage_errors

__all__ = ["alone", "require_room", "writing"]


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """As `storage_errors`, for the data folder.

    Raises:
        RunFailedError: the folder is full, or the storage failed.
        UsageError: the folder cannot be written to.
    """
    with storage_errors(folder, "--data-root"):
        yield


def require_room(folder: Path, num_bytes: int, purpose: str) -> None:
    """Raise `RunFailedError` unless `num_bytes` are free where `folder` is or will be."""
    existing = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    free = shutil.disk_usage(existing).free
    if num_bytes > free:
        raise RunFailedError(
            f"Not enough room in {folder}: {num_bytes / 1e9:.2f} GB are needed ({purpose}), "
            f"{free / 1e9:.2f} GB are free. Free {size_text(num_bytes - free)}, or choose another "
            "folder with --data-root."
        )


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Keep other processes from fetching `path` while the block runs.

    Raises:
        UsageError: another process is fetching it, or its folder cannot be written to.
    """
    lock = path.with_name(f".{path.name}.lock")
    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        if _is_taken(descriptor, lock):
            raise UsageError(
                f"Another process is fetching {path}. Wait until it has ended, then run the same "
                "command again."
            )
        try:
            yield
        finally:
            with suppress(OSError):
                lock.unlink()
    finally:
        os.close(descriptor)


def _is_taken(descriptor: int, lock: Path) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False  # a file system without locks
    # Whoever held it before may have removed the file that was locked just now.
    try:
        return os.stat(lock).st_ino != os.fstat(descriptor).st_ino
    except FileNotFoundError:
        return True
