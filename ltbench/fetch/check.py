"""Is this the file that was meant? Kind, size, digests and, for archives, every byte inside."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from ltbench.fetch.archive import archive_fault
from ltbench.fetch.manifest import RemoteFile, size_text

__all__ = ["HEAD_BYTES", "file_fault", "head_fault"]

HEAD_BYTES = 1024
_BLOCK_BYTES = 1 << 20
_ARCHIVE_ENDS = (".zip", ".npz", ".tar", ".gz", ".tgz")
_WORTH_A_LINE_BYTES = 200_000_000  # more than a second or two of reading

_ZIP, _GZIP, _TEXT = "a zip", "gzip", "text"
_HTML, _XML, _POINTER = "an HTML page", "an XML message", "a Git LFS pointer"
_PAGES = (_HTML, _XML, _POINTER)
_EXPECTED = {
    ".zip": _ZIP,
    ".npz": _ZIP,
    ".xlsx": _ZIP,
    ".gz": _GZIP,
    ".tgz": _GZIP,
    ".csv": _TEXT,
    ".tsv": _TEXT,
    ".txt": _TEXT,
    ".json": "JSON",
}


def head_fault(name: str, head: bytes) -> str | None:
    """Why a file cannot be what its name says, or None, judged by its beginning.

    Args:
        name: its suffix says what is expected; of other suffixes only web pages are refused.
        head: the first bytes, up to `HEAD_BYTES`.
    """
    if not head:
        return "it is empty"
    found = _kind(head[:HEAD_BYTES])
    expected = _EXPECTED.get(Path(name).suffix.lower())
    if expected is None:
        wrong = found in _PAGES
        expected = "data"
    else:
        wrong = found != expected
    return f"expected {expected}, found {found}: it begins with {head[:40]!r}" if wrong else None


def _kind(head: bytes) -> str:
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith(b"<"):
        return _HTML if b"<html" in text or text.startswith(b"<!doctype html") else _XML
    beginnings = {
        b"PK\x03\x04": _ZIP,
        b"PK\x05\x06": _ZIP,  # without a member
        b"\x1f\x8b": _GZIP,
        b"version https://git-lfs": _POINTER,
    }
    for beginning, kind in beginnings.items():
        if head.startswith(beginning):
            return kind
    if b"\0" in head:
        return "other binary data"
    return "JSON" if text.startswith((b"{", b"[")) else _TEXT


def file_fault(file: RemoteFile, path: Path, say: Callable[[str], None]) -> str | None:
    """Why the file at `path` is not `file`, or None. It is only read.

    Args:
        path: where it lies, under any name.
        say: takes a line where the check takes long, or where the content differs from that of a
            public copy that nobody vouches for.
    """
    if not path.is_file():
        return "it is a folder; expected a file"
    try:
        return _file_fault(file, path, say)
    except OSError as error:
        return f"it could not be read ({error.strerror or error})"


def _file_fault(file: RemoteFile, path: Path, say: Callable[[str], None]) -> str | None:
    num_bytes = path.stat().st_size
    if num_bytes >= _WORTH_A_LINE_BYTES:
        say(f"Checking {file.name} ({size_text(num_bytes)}).")
    with path.open("rb") as opened:
        fault = head_fault(file.name, opened.read(HEAD_BYTES))
    if fault is None and file.size is not None and num_bytes != file.size:
        fault = f"expected {file.size} bytes, found {num_bytes}"
    fault = fault or _digest_fault(file, path, say)
    if fault is None and file.name.endswith(_ARCHIVE_ENDS):
        fault = archive_fault(path, file)
    return fault


def _digest_fault(file: RemoteFile, path: Path, say: Callable[[str], None]) -> str | None:
    hashes = {}
    if file.sha256 or file.sha256_seen:
        hashes["SHA-256"] = hashlib.sha256()
    if file.md5:
        hashes["MD5"] = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as opened:
        while hashes and (block := opened.read(_BLOCK_BYTES)):
            for one in hashes.values():
                one.update(block)
    found = {name: one.hexdigest() for name, one in hashes.items()}
    for name, expected in (("SHA-256", file.sha256), ("MD5", file.md5)):
        if expected is not None and found[name] != expected:
            return f"expected the {name} {expected}, found {found[name]}"
    if file.sha256_seen is not None and found["SHA-256"] != file.sha256_seen:
        say(
            f"Note: {file.name} differs from the public copy that was seen before (SHA-256 "
            f"{found['SHA-256']}, there {file.sha256_seen}). Nobody vouches for either, so it is "
            "used; labels and rows are checked when it is read."
        )
    return None
