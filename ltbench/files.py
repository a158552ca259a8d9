"""Files that are either whole or not there: atomic writing, canonical JSON, digests."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import math
import numbers
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

from ltbench.errors import (
    DataMissingError,
    RunFailedError,
    StorageClosedError,
    StorageFullError,
    UsageError,
    VerificationError,
)

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_CLOSED = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})
_IN_THE_WAY = frozenset({errno.ENOTDIR, errno.EEXIST, errno.EISDIR})


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold a folder while several of its files are written, and wait for others that hold it.

    Where a file system has no locks, nothing is waited for.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def storage_errors(folder: Path, choose: str = "--results or --out") -> Iterator[None]:
    """Turn what the operating system says about a write into one message for the user.

    Args:
        folder: where the block writes; the message names it.
        choose: the options or settings with which the user takes another folder.

    Raises:
        StorageFullError: the folder is full, or the storage failed.
        StorageClosedError: the folder is read-only or not ours.
        UsageError: a file stands in its place.
    """
    try:
        yield
    except OSError as error:
        kept = "What was written before is kept."
        if is_full(error):
            raise StorageFullError(
                f"The folder {folder} is full: no space or no quota is left for another file. "
                f"{kept} Free some space or choose another folder ({choose}), then run the "
                "same command again."
            ) from error
        if error.errno in _CLOSED:
            raise StorageClosedError(
                f"The folder {folder} cannot be written to ({error.strerror}). Expected a folder "
                f"that this user may write in. {kept} Mend its permissions or its mount, or choose "
                f"another folder ({choose})."
            ) from error
        if error.errno in _IN_THE_WAY:
            raise UsageError(
                f"Expected a folder at {folder}, but a file of that name is in the way "
                f"({error.filename}). Move it, or choose another folder ({choose})."
            ) from error
        raise StorageFullError(
            f"Writing in {folder} failed: {error.strerror or error}. {kept} Check that the folder "
            "exists and its storage can be reached, then run the same command again."
        ) from error


def is_full(error: OSError) -> bool:
    """Whether there is no space, or no quota, left."""
    return error.errno in _FULL


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file so that at any moment, crashes included, the old or the new one is there whole.

    Raises:
        RunFailedError: the storage is full or failed; an older file at `path` is untouched.
        UsageError: the folder is read-only.
    """
    # In the same folder, because only a rename within one file system is atomic.
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{os.urandom(4).hex()}.tmp")
    with storage_errors(path.parent):
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
    sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, atomically; see `write_bytes`."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, obj: Any) -> None:
    """Write `obj` as indented JSON, keys in the order given, atomically; see `write_bytes`.

    Raises:
        ValueError: a number is NaN or infinite, which JSON cannot hold; store None instead.
    """
    write_text(path, _dumps(obj, indent=1, separators=(",", ": "), sort_keys=False) + "\n")


def canonical_json(obj: Any) -> str:
    """The one way to write `obj`: sorted keys, no spaces, ASCII. What digests are taken over.

    Raises:
        ValueError: a number is NaN or infinite.
    """
    return _dumps(obj, indent=None, separators=(",", ":"), sort_keys=True)


def sha256_hex(data: bytes) -> str:
    """SHA-256 of `data`, 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def read_json(path: Path) -> Any:
    """What the JSON file at `path` holds.

    Raises:
        DataMissingError: there is no such file.
        RunFailedError: the storage did not hand it over; the file itself may be sound.
        VerificationError: the file is damaged: empty, cut short, or not JSON.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise DataMissingError(f"Expected a file at {path}, found none.") from error
    except OSError as error:
        raise RunFailedError(_unreadable(path, error)) from error
    try:
        return json.loads(data.decode("utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise VerificationError(
            f"{path} is damaged: expected JSON, found {len(data)} bytes that are not ({error}). "
            "Restore it from a copy, or move it away and run the command that made it again."
        ) from error


def append_line(path: Path, line: str) -> None:
    """Add one line to a file of lines; it is on the disk when this returns.

    What a crash left of an unfinished line is dropped first, so that lines never run together; a
    line that does not fit on the disk leaves the file as it was.

    Raises:
        RunFailedError: the storage is full or failed.
        UsageError: the folder is read-only.
    """
    data = line.encode("utf-8") + b"\n"
    # Unbuffered, because a buffer that could not be flushed tries again when the file is closed.
    with storage_errors(path.parent), path.open("a+b", buffering=0) as file:
        file.seek(0)
        size = file.read().rfind(b"\n") + 1
        file.truncate(size)
        try:
            if file.write(data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            os.fsync(file.fileno())
        except OSError:
            with suppress(OSError):
                file.truncate(size)
            raise


def whole_lines(path: Path) -> list[str]:
    """The finished lines of a file, without their ends; [] where there is no file.

    Raises:
        RunFailedError: the storage did not hand the file over.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise RunFailedError(_unreadable(path, error)) from error
    return data.decode("utf-8", errors="replace").split("\n")[:-1]


def read_stamped(path: Path) -> tuple[bytes, int] | None:
    """Content and time of change (ns) of a file as its server has it now; None when it is gone.

    Opening makes the clients of network file systems look afresh, which a plain `stat` may not.
    """
    try:
        with path.open("rb") as file:
            return file.read(), os.fstat(file.fileno()).st_mtime_ns
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno == errno.ESTALE:  # removed by another machine
            return None
        raise


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` outlast a power cut, where the file system can promise that."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _unreadable(path: Path, error: OSError) -> str:
    return (
        f"{path} could not be read: {error.strerror or error}. Check its permissions and that its "
        "storage can be reached."
    )


def _dumps(obj: Any, *, indent: int | None, separators: tuple[str, str], sort_keys: bool) -> str:
    try:
        return json.dumps(
            obj,
            indent=indent,
            separators=separators,
            sort_keys=sort_keys,
            allow_nan=False,
            default=_plain_number,
        )
    except ValueError as error:
        where = _first_not_finite(obj, "")
        if where is None:
            raise
        raise ValueError(
            f"JSON holds finite numbers only, but {where}. Store None where a number is undefined."
        ) from error


def _plain_number(value: object) -> int | float:
    # NumPy's scalars: a metric of another dtype must not cost a finished run its record.
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    raise TypeError(f"JSON cannot hold a {type(value).__name__}: {value!r}")


def _first_not_finite(obj: object, where: str) -> str | None:
    if isinstance(obj, numbers.Real):
        return None if math.isfinite(obj) else f"'{where}' is {obj}"
    items: list[tuple[object, object]] = []
    if isinstance(obj, Mapping):
        items = list(obj.items())
    elif isinstance(obj, list | tuple):
        items = list(enumerate(obj))
    for key, value in items:
        found = _first_not_finite(value, f"{where}.{key}" if where else str(key))
        if found is not None:
            return found
    return None


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a JSON number")
