"""One process at a time."""

from __future__ import annotations

import fcntl
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ltbench.errors import RunFailedError
from ltbench.files import storage_errors

__all__ = ["alone"]

STORE_OPTION = "--set dataset.store=DIR"

_LOG = logging.getLogger(__name__)


@contextmanager
def alone(lock: Path) -> Iterator[None]:
    """Hold the lock file `lock`, and remove it at the end; wait while another process holds it.

    Raises:
        RunFailedError: the process that holds it waits for this one.
    """
    with storage_errors(lock.parent, STORE_OPTION):
        descriptor = _taken(lock)
    try:
        with suppress(OSError):  # a disk that is full
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, _name(os.getpid()), 0)
        yield
    finally:
        with suppress(OSError):
            lock.unlink()
        os.close(descriptor)


def _taken(lock: Path) -> int:
    while True:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _wait_for(descriptor, lock)
            # Whoever held it before may have removed the file that was locked just now.
            if os.stat(lock).st_ino == os.fstat(descriptor).st_ino:
                return descriptor
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _wait_for(descriptor: int, lock: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        if os.pread(descriptor, 1000, 0) == _name(os.getppid()):
            raise RunFailedError(
                "A worker process ran the script that started it from the top, and would wait for "
                'it for ever. Put what the script does below `if __name__ == "__main__":`.'
            ) from None
        _LOG.warning("Another process is preparing the same pictures (%s); waiting.", lock)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as error:
        _LOG.warning(
            "%s has no file locks (%s): do not prepare the same pictures from two processes.",
            lock.parent,
            error.strerror,
        )


def _name(pid: int) -> bytes:
    return f"{socket.gethostname()} {pid}".encode()
