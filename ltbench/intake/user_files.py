"""Files that a user brings; text is told apart from what is often saved in its place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ltbench.errors import (
    DataMissingError,
    LtbenchError,
    RunFailedError,
    UsageError,
    VerificationError,
)
from ltbench.intake.problems import Problems

__all__ = ["opened", "read_text"]

_UNPACK = "Unpack it, or save the sheet as CSV (UTF-8)"
_AGAIN = "A web page was saved in place of the file: download it again, after a login if needed"
_AS_UTF8 = "Save it again as UTF-8"
# First bytes in lower case, what they are a sign of, and what to do.
_OTHER_KINDS = (
    (b"pk\x03\x04", "a zip archive or an Excel workbook (.xlsx)", _UNPACK),
    (b"\xd0\xcf\x11\xe0", "an old Excel workbook (.xls)", _UNPACK),
    (b"\x1f\x8b", "a gzip archive", "Unpack it"),
    (b"par1", "a Parquet file", "Save it as CSV"),
    (b"%pdf", "a PDF", "Save the table as CSV"),
    (b"\xff\xfe", "text in UTF-16", _AS_UTF8),
    (b"\xfe\xff", "text in UTF-16", _AS_UTF8),
    (b"<", "an HTML page", _AGAIN),
    (b"{", "JSON", "Save it as CSV"),
    (b"version https://git-lfs", "a Git LFS pointer", "Get the file itself: git lfs pull"),
)
_BOM = b"\xef\xbb\xbf"


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """A user's file, open for reading bytes.

    Raises:
        DataMissingError: there is no such file.
        UsageError: it is a folder, or closed to this user.
        RunFailedError: its storage failed.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise _refusal(path, error) from error
    with file:
        yield file


def _refusal(path: Path, error: OSError) -> LtbenchError:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return DataMissingError(
            f"Expected a file at {path}, found none. Check the path, or put the file there."
        )
    if isinstance(error, IsADirectoryError):
        return UsageError(f"Expected a file at {path}, found a folder. Give the file.")
    kind = UsageError if isinstance(error, PermissionError) else RunFailedError
    return kind(
        f"{path} could not be read: {error.strerror or error}. Check its permissions and that its "
        "storage can be reached."
    )


def read_text(path: Path, expected: str) -> str:
    """The text of a UTF-8 file, with or without a byte order mark; line ends stay as they are.

    Args:
        expected: what the file should be, such as "a CSV file".

    Raises:
        DataMissingError, UsageError, RunFailedError: see `opened`.
        VerificationError: it is empty, of another kind, not UTF-8, or holds NUL bytes; the rows are
            named as an editor counts them, from 1.
    """
    with opened(path) as file:
        content = file.read().removeprefix(_BOM)
    start = content[:64].lstrip().lower()
    for sign, kind, remedy in _OTHER_KINDS:
        if start.startswith(sign):
            raise VerificationError(f"{path}: expected {expected}, found {kind}. {remedy}.")
    _refuse_bytes(path, content)
    text = content.decode("utf-8")
    if not text.strip():
        raise VerificationError(f"{path}: expected {expected}, found an empty file. Get it again.")
    return text


def _refuse_bytes(path: Path, content: bytes) -> None:
    """Refuse what is no UTF-8 or holds NUL bytes, row by row only where that is so."""
    if b"\0" not in content and _undecodable(content) is None:
        return
    problems = Problems(str(path))
    undecodable, with_nul = [], []
    for row, line in enumerate(content.splitlines(), start=1):
        if b"\0" in line:
            with_nul.append(f"row {row}")
        place = _undecodable(line)
        if place is not None:
            undecodable.append(f"byte 0x{line[place]:02x} in row {row} (byte {place + 1} of it)")
    problems.add("Expected text in UTF-8", undecodable, f"{_AS_UTF8}.")
    problems.add(
        "Expected text without NUL bytes", with_nul, "The file is damaged or not text: get it again"
    )
    problems.refuse()


def _undecodable(content: bytes) -> int | None:
    """The place of the first byte that is not UTF-8."""
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.start
    return None
