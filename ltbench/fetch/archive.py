"""Archives that nobody vouches for: looked through first, then unpacked whole or not at all."""

from __future__ import annotations

import errno
import gzip
import lzma
import os
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Protocol

from ltbench.errors import VerificationError
from ltbench.fetch.manifest import RemoteFile, listed, name_fault, size_text
from ltbench.fetch.place import require_room, writing
from ltbench.files import sync_folder

__all__ = ["archive_fault", "folder_fault", "unpack"]

# Images hardly shrink and tables about tenfold; what grows more than this is no data set.
GROWTH = 30
ALWAYS_ALLOWED_BYTES = 100_000_000
_BLOCK_BYTES = 1 << 20
_FOREIGN_FOLDER = "__MACOSX"  # added by macOS: it holds a "._x.jpg" for every x.jpg
_TARS = (".tar", ".tar.gz", ".tgz")
_READ_ERRORS = (
    tarfile.TarError,
    gzip.BadGzipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    RuntimeError,  # a password
    IndexError,
    ValueError,
)


class _UnreadableError(Exception):
    """The archive is damaged, or of a kind that cannot be read."""


@dataclass(frozen=True)
class _Member:
    name: str
    size: int
    is_folder: bool
    is_plain: bool  # a file or a folder, and no link or device

    @property
    def parts(self) -> tuple[str, ...]:
        return PurePosixPath(self.name).parts

    @property
    def is_wanted(self) -> bool:
        return not self.is_folder and not self.is_foreign

    @property
    def is_foreign(self) -> bool:
        return self.parts[:1] == (_FOREIGN_FOLDER,)


class _Stream(Protocol):
    def read(self, size: int = -1, /) -> bytes: ...

    def close(self) -> None: ...


_Opened = tuple[_Member, Callable[[], _Stream | None]]


def archive_fault(path: Path, file: RemoteFile) -> str | None:
    """Why an archive cannot be used, or None. Nothing is written.

    Where it is to be unpacked, its members are looked at first: names, kinds, numbers by suffix and
    declared sizes, so that no bomb goes off. Then every byte is read and its CRC-32 compared.

    Args:
        path: a zip, npz, tar, tar.gz, tgz or gz.
        file: says which it is by its name, and what to expect.
    """
    try:
        with _reading():
            fault = _members_fault(_members(path, file), file) if file.unpacks_to else None
            if fault is None:
                _read_through(path, file.name)
    except _UnreadableError as error:
        return str(error)
    return fault


def folder_fault(folder: Path, file: RemoteFile) -> str | None:
    """Why a folder is not the unpacked archive: the numbers of files by suffix; None if it is."""
    if not folder.is_dir():
        return "it is a file; expected a folder"
    names = (name for _path, _folders, files in os.walk(folder) for name in files)
    return _count_fault(names, file)


def unpack(path: Path, file: RemoteFile, root: Path) -> Path:
    """Unpack an archive to `root / file.unpacks_to`; the folder appears whole, at the end.

    What an interrupted call left is removed first. Modes, owners and times are not taken over.

    Args:
        path: the archive; it is only read.

    Returns:
        The folder.

    Raises:
        RunFailedError: there is too little room.
        UsageError: `root` cannot be written to.
        VerificationError: a member is damaged, or refused; no folder was made.
    """
    folder = root.joinpath(*_top(file))
    temporary = folder.with_name(f".{folder.name}.unpacking")
    try:
        with writing(root), _reading():
            shutil.rmtree(temporary, ignore_errors=True)
            members = _members(path, file)
            fault = _members_fault(members, file)
            if fault is None:
                require_room(root, sum(one.size for one in members), f"to unpack {path.name}")
                _write_members(path, file, temporary)
                fault = folder_fault(temporary, file)
            if fault is None:
                os.replace(temporary, folder)
                sync_folder(folder.parent)
    except _UnreadableError as error:
        fault = str(error)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    if fault is not None:
        raise VerificationError(f"{path} was not unpacked: {fault}.")
    return folder


def _write_members(path: Path, file: RemoteFile, folder: Path) -> None:
    folder.mkdir(parents=True)
    written = []
    for member, opened in _walk(path, file.name):
        stream = opened() if member.is_wanted else None
        if stream is None:
            continue
        target = folder.joinpath(*member.parts[len(_top(file)) :])
        target.parent.mkdir(parents=True, exist_ok=True)
        with closing(stream), target.open("xb") as out:
            shutil.copyfileobj(stream, out, _BLOCK_BYTES)
        if target.stat().st_size != member.size:
            raise _UnreadableError(f"its member {member.name} is cut short")
        written.append(target)
    # In a second pass, when most is on the disk anyway: the new name must not outlive the bytes.
    for target in written:
        descriptor = os.open(target, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _read_through(path: Path, name: str) -> None:
    for member, opened in _walk(path, name):
        stream = None if member.is_folder else opened()
        while stream is not None and stream.read(_BLOCK_BYTES):
            pass


@contextmanager
def _reading() -> Iterator[None]:
    """What the libraries raise for damaged archives, in words."""
    try:
        yield
    except zipfile.BadZipFile as error:
        if "not a zip file" in str(error):
            short = "it is cut short or damaged: the table of contents at its end is missing"
            raise _UnreadableError(short) from error
        raise _UnreadableError(f"it is damaged ({error})") from error
    except NotImplementedError as error:
        raise _UnreadableError(
            f"it is packed in a way that Python cannot read ({error}). Unpack it with another "
            "program, such as 7-Zip, below the data root"
        ) from error
    except (*_READ_ERRORS, OSError) as error:
        # Offsets before the file's beginning (EINVAL) and the bz2 module (no number) end here too.
        if not isinstance(error, _READ_ERRORS) and error.errno not in (None, errno.EINVAL):
            raise
        raise _UnreadableError(f"it is cut short or damaged ({error})") from error


def _walk(path: Path, name: str) -> Iterator[_Opened]:
    """Each member with what opens it; that must be called before the next member is asked for."""
    if name.endswith((".zip", ".npz")):
        yield from _walk_zip(path)
    elif name.endswith(_TARS):
        yield from _walk_tar(path, name)
    else:
        with gzip.open(path) as stream:
            yield _Member(name, path.stat().st_size, False, True), lambda: stream


def _walk_zip(path: Path) -> Iterator[_Opened]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)  # 0 where it was not made on Unix
            # `filename` is cut at a zero byte; `orig_filename` is what the archive says.
            yield (
                _Member(
                    name=info.orig_filename,
                    size=info.file_size,
                    is_folder=info.is_dir(),
                    is_plain=kind in (0, stat.S_IFREG, stat.S_IFDIR),
                ),
                partial(archive.open, info),
            )


def _walk_tar(path: Path, name: str) -> Iterator[_Opened]:
    with path.open("rb") if name.endswith(".tar") else gzip.open(path) as stream:
        with tarfile.open(fileobj=stream, mode="r|") as archive:
            for info in archive:
                yield (
                    _Member(info.name, info.size, info.isdir(), info.isdir() or info.isreg()),
                    partial(archive.extractfile, info),
                )
        # The CRC-32 stands at the end of a gzip, behind the last member.
        while stream.read(_BLOCK_BYTES):
            pass


def _members(path: Path, file: RemoteFile) -> list[_Member]:
    limit = ALWAYS_ALLOWED_BYTES + GROWTH * max(file.likely_bytes, path.stat().st_size)
    members, num_bytes = [], 0
    for member, _opened in _walk(path, file.name):
        members.append(member)
        num_bytes += member.size
        if num_bytes > limit:  # before its bytes are read
            raise _UnreadableError(
                f"it would grow to more than {size_text(limit)} (allowed: {GROWTH} times its size "
                f"and {size_text(ALWAYS_ALLOWED_BYTES)}), as zip bombs do"
            )
    return members


def _members_fault(members: list[_Member], file: RemoteFile) -> str | None:
    faults = [
        f"{member.name!r}: {fault}" for member in members if (fault := _member_fault(member, file))
    ]
    times = Counter(member.parts for member in members if not member.is_folder)
    faults += [f"'{'/'.join(one)}': occurs {num} times" for one, num in times.items() if num > 1]
    folders = {parts[:depth] for parts in times for depth in range(1, len(parts))}
    faults += [f"'{'/'.join(one)}': is a file and a folder" for one in times if one in folders]
    if faults:
        return f"members are refused, so nothing was unpacked:\n{listed(faults)}\n"
    names = [member.parts[-1] for member in members if member.is_wanted]
    return _count_fault(names, file) if names else "it holds no file"


def _member_fault(member: _Member, file: RemoteFile) -> str | None:
    fault = name_fault(member.name)
    if fault is not None:
        return fault
    if not member.is_plain:
        return "a link or device, expected a file"
    top = _top(file)
    # The folders above it may be listed too; a file lies deeper.
    depth = min(len(top), len(member.parts)) if member.is_folder else len(top)
    is_within = member.parts[:depth] == top[:depth] and (member.is_folder or member.parts != top)
    return None if is_within or member.is_foreign else f"outside the folder {file.unpacks_to}"


def _count_fault(names: Iterable[str], file: RemoteFile) -> str | None:
    found = Counter(PurePosixPath(name).suffix.lower() for name in names if name[0] != ".")
    wrong = [
        f"{expected} {suffix} files, found {found[suffix]}"
        for suffix, expected in (file.num_files or {}).items()
        if found[suffix] != expected
    ]
    return f"expected {', '.join(wrong)}" if wrong else None


def _top(file: RemoteFile) -> tuple[str, ...]:
    assert file.unpacks_to is not None
    return PurePosixPath(file.unpacks_to).parts
