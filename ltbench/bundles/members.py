"""The members of a bundle, a zip file or a folder: which there are, and their bytes, checked."""

from __future__ import annotations

import errno
import io
import json
import math
import re
import stat
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, NoReturn

from ltbench.errors import DataMissingError, RunFailedError, UsageError, VerificationError
from ltbench.files import sha256_hex, storage_errors, write_bytes

__all__ = [
    "MANIFEST",
    "MAX_BYTES",
    "MAX_MEMBERS",
    "MAX_MEMBER_BYTES",
    "Members",
    "parse_json",
    "write_members",
    "zip_bytes",
]

MANIFEST: Final = "manifest.json"
MAX_MEMBERS: Final = 1000
MAX_MEMBER_BYTES: Final = 512 * 2**20
MAX_BYTES: Final = 2 * 2**30
MAX_JSON_BYTES: Final = 32 * 2**20

# Components begin with a letter, a digit or _: so there is no `..`, no hidden file, no root, no
# drive and no backslash.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@+-]*(/[A-Za-z0-9_][A-Za-z0-9_.@+-]*)*")
_NAME_LENGTH = 200
_ENCRYPTED = 0x1
_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError)
_AGAIN = "Ask its maker for the bundle again, as `leaderboard bundle` writes it."


class Members:
    """What a bundle holds, by name; nothing is unpacked onto the disk.

    Args:
        path: a zip file, or a folder.

    Attributes:
        sizes: bytes of each member, by name, the manifest among them.

    Raises:
        DataMissingError: nothing is there.
        VerificationError: no bundle, or one that is damaged, too large, or not safe to read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.exists():
            raise DataMissingError(f"Expected a bundle at {path}, found nothing there.")
        self.sizes, self._read = _in_folder(path) if path.is_dir() else _in_zip(path)
        _check_names(self)
        if MANIFEST not in self.sizes:
            raise self.fault(f"expected a {MANIFEST}, found none. {_AGAIN}")

    def fault(self, text: str) -> VerificationError:
        """An error that names this bundle."""
        return VerificationError(f"{self.path}: {text}")

    def read(self, name: str) -> bytes:
        """The bytes of one member."""
        try:
            data = self._read(name)
        except OSError as error:
            if error.errno == errno.EINVAL:  # a place in the zip file before its beginning
                raise self.fault(f"{name} is damaged ({error}). {_AGAIN}") from error
            raise RunFailedError(
                f"{self.path}: {name} could not be read ({error.strerror or error}). Check the "
                "file's permissions and its storage."
            ) from error
        except _DAMAGED as error:
            raise self.fault(f"{name} is damaged ({error}). {_AGAIN}") from error
        if len(data) != self.sizes[name]:
            raise self.fault(
                f"expected {self.sizes[name]} bytes of {name}, came {len(data)}. {_AGAIN}"
            )
        return data

    def read_checked(self, name: str, digest: str) -> bytes:
        """The bytes of one member, which must have this SHA-256 (hex)."""
        data = self.read(name)
        found = sha256_hex(data)
        if found != digest:
            raise self.fault(
                f"the manifest says SHA-256 {digest} of {name}, its bytes have {found}. The "
                f"member was changed after the bundle was made. {_AGAIN}"
            )
        return data

    def json(self, name: str, data: bytes) -> dict[str, Any]:
        """The JSON object in the bytes of a member."""
        try:
            return parse_json(data)
        except ValueError as error:
            raise self.fault(f"expected a JSON object in {name}: {error}. {_AGAIN}") from error


def parse_json(data: bytes) -> dict[str, Any]:
    """A JSON object that a stranger wrote.

    Raises:
        ValueError: too long, too deep, no object, a NaN, a number that float64 cannot hold, or a
            key that stands twice.
    """
    if len(data) > MAX_JSON_BYTES:
        raise ValueError(f"{len(data)} bytes, at most {MAX_JSON_BYTES} are read")
    try:
        found = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_once,
            parse_constant=_refuse_constant,
            parse_float=_finite,
            parse_int=_finite_int,
        )
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(found, dict):
        raise ValueError(f"found {str(found)[:60]!r}")
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {max(keys, key=keys.count)!r} stands twice")
    return found


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a JSON number")


def _finite(text: str) -> float:
    """A number that arithmetic and JSON can go on with: 1e999 is read as infinite elsewhere."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:20]} is larger than any number that is read")
    return number


def _finite_int(text: str) -> int:
    _finite(text)
    return int(text)


def _check_names(members: Members) -> None:
    for name in members.sizes:
        if len(name) > _NAME_LENGTH or not _NAME.fullmatch(name):
            raise members.fault(
                f"the member {name[:_NAME_LENGTH]!r} has no name that is safe. Expected parts of "
                "letters, digits and _ . @ + - with / between them, none beginning with a dot; "
                "nothing was unpacked. Do not use this bundle."
            )
    if len(members.sizes) > MAX_MEMBERS:
        raise members.fault(f"{len(members.sizes)} members; at most {MAX_MEMBERS} are read.")
    name = max(members.sizes, key=members.sizes.__getitem__, default="")
    if name and members.sizes[name] > MAX_MEMBER_BYTES:
        raise members.fault(
            f"{name} says it has {members.sizes[name]} bytes; at most {MAX_MEMBER_BYTES} are read."
        )
    if sum(members.sizes.values()) > MAX_BYTES:
        raise members.fault(
            f"{sum(members.sizes.values())} bytes in all; at most {MAX_BYTES} are read."
        )


def _in_folder(path: Path) -> tuple[dict[str, int], Callable[[str], bytes]]:
    sizes = {}
    for file in sorted(path.rglob("*")):
        name = file.relative_to(path).as_posix()
        if file.is_symlink() or not (file.is_file() or file.is_dir()):
            raise VerificationError(
                f"{path}: expected plain files, {name} is a link or a device. Do not use this "
                "bundle."
            )
        if file.is_file():
            sizes[name] = file.stat().st_size
        if len(sizes) > MAX_MEMBERS:
            raise VerificationError(
                f"{path}: more than {MAX_MEMBERS} files. Expected a bundle: a zip file, or a "
                f"folder with a {MANIFEST}."
            )
    return sizes, lambda name: (path / name).read_bytes()


def _in_zip(path: Path) -> tuple[dict[str, int], Callable[[str], bytes]]:
    try:
        # Left open: it is read from once or twice, and closed with this process.
        archive = zipfile.ZipFile(path)
        entries = archive.infolist()
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise RunFailedError(f"{path} could not be read ({error.strerror or error}).") from (
                error
            )
        raise VerificationError(f"{path} is no bundle: its zip file is damaged. {_AGAIN}") from (
            error
        )
    except _DAMAGED as error:
        raise VerificationError(
            f"{path} is no bundle: expected a zip file or a folder ({error}). {_AGAIN}"
        ) from error
    sizes: dict[str, int] = {}
    for entry in entries:
        fault = _entry_fault(entry, sizes)
        if fault:
            raise VerificationError(f"{path}: {fault}. Do not use this bundle.")
        sizes[entry.filename] = entry.file_size
    return sizes, archive.read


def _entry_fault(entry: zipfile.ZipInfo, before: Mapping[str, int]) -> str:
    """What is wrong with one entry of a zip file; "" for nothing."""
    name = entry.orig_filename
    if name != entry.filename:
        return f"the member {name!r} has no name that is safe"
    if name in before:
        return f"the member {name!r} stands twice"
    if entry.is_dir():
        return f"expected files, {name!r} is a folder"
    mode = entry.external_attr >> 16
    if mode and stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        return f"expected plain files, {name!r} is a link or a device"
    if entry.flag_bits & _ENCRYPTED:
        return f"the member {name!r} is encrypted"
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return f"the member {name!r} is compressed in another way than deflate"
    return ""


def zip_bytes(members: Mapping[str, bytes]) -> bytes:
    """A zip file of these members, the same bytes for the same members (and version of zlib)."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in sorted(members):
            # A date and rights of their own would make each bundle another file.
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            entry.create_system = 3
            entry.external_attr = (stat.S_IFREG | 0o644) << 16
            archive.writestr(entry, members[name], zipfile.ZIP_DEFLATED, compresslevel=9)
    return buffer.getvalue()


def write_members(out: Path, members: Mapping[str, bytes]) -> None:
    """Write a bundle: a zip file where the name ends in .zip, else a folder, manifest last.

    Raises:
        UsageError: the folder holds something already.
    """
    with storage_errors(out.parent):
        out.parent.mkdir(parents=True, exist_ok=True)
    if out.suffix == ".zip":
        write_bytes(out, zip_bytes(members))
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(
            f"Expected a new folder, or a file that ends in .zip, at {out}; something is there. "
            "Choose another --out, or move it away."
        )
    for name in sorted(members, key=lambda name: (name == MANIFEST, name)):
        file = out / name
        with storage_errors(file.parent):
            file.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(file, members[name])
