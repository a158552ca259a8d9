"""CSV files as they are met: read strictly, with the row number of everything."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ltbench.errors import UsageError, VerificationError
from ltbench.intake.problems import Problems, listed
from ltbench.intake.user_files import read_text

__all__ = ["DELIMITERS", "CsvRows", "read_rows"]

DELIMITERS = {"comma": ",", "semicolon": ";", "tab": "\t"}


@dataclass(frozen=True)
class CsvRows:
    """The cells of a CSV file by column, without blanks around them.

    Attributes:
        path: the file.
        columns: the header's names, in its order; unnamed columns are left out.
        cells: the cells of each column, N of them.
        numbers: the row each stands in, as an editor counts, from 1; N of them, ascending.
    """

    path: Path
    columns: tuple[str, ...]
    cells: Mapping[str, Sequence[str]]
    numbers: Sequence[int]

    def __len__(self) -> int:
        return len(self.numbers)

    def at(self, position: int, came: str = "") -> str:
        """Where a row stands and what was found there, for messages: "row 7 ('x')"."""
        return f"row {self.numbers[position]}" + (f" ({came})" if came else "")

    def empty_in(self, column: str) -> list[str]:
        """The places where a column has no value."""
        return [self.at(i) for i, cell in enumerate(self.cells[column]) if not cell]


def read_rows(path: Path, *, delimiter: str | None = None) -> CsvRows:
    """Read a CSV file whose first row names the columns.

    Line ends may be LF, CRLF or CR, fields may be quoted, a byte order mark is passed over. Rows
    without any value are passed over, as spreadsheets leave them at the end.

    Args:
        delimiter: "comma", "semicolon" or "tab", or the character; None takes the one that the
            header holds.

    Raises:
        DataMissingError: there is no such file.
        UsageError: the header holds several kinds of delimiters, or another one is asked for.
        VerificationError: not a CSV file in UTF-8, rows of unequal length, names that occur twice,
            a broken quote, or no row; the rows are named.
    """
    text = read_text(path, "a CSV file")
    records, numbers = _records(path, text, _delimiter(path, text, delimiter))
    header, body = records[0], records[1:]
    _refuse_names(path, header, numbers[0])
    if not body:
        raise VerificationError(
            f"{path}: expected rows below the header ({listed(header)}), found none. Get the whole "
            "file."
        )
    _refuse_ragged(path, len(header), body, numbers[1:])
    stripped = ([cell.strip() for cell in column] for column in zip(*body, strict=True))
    cells = {name: column for name, column in zip(header, stripped, strict=True) if name}
    return CsvRows(path, tuple(cells), cells, numbers[1:])


def _delimiter(path: Path, text: str, asked: str | None) -> str:
    if asked is not None:
        asked = DELIMITERS.get(asked, asked)
        if asked not in DELIMITERS.values():
            raise UsageError(
                f"Expected dataset.delimiter as {', '.join(DELIMITERS)}, got '{asked}'."
            )
        return asked
    header = next(line for line in io.StringIO(text, newline="") if line.strip())
    bare = re.sub(r'"[^"]*"', "", header)
    found = [name for name, delimiter in DELIMITERS.items() if delimiter in bare]
    if len(found) > 1:
        raise UsageError(
            f"{path}: expected one kind of delimiter in the header, found "
            f"{' and '.join(found)}: {header.strip()!r}. Say which it is: "
            f"--set dataset.delimiter={found[0]}."
        )
    return DELIMITERS[found[0]] if found else ","


def _records(path: Path, text: str, delimiter: str) -> tuple[list[list[str]], list[int]]:
    """All rows with a value, the header first, and the editor's row in which each begins."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    records, numbers = [], []
    begins = 1
    try:
        for record in reader:
            if any(cell and not cell.isspace() for cell in record):
                records.append(record)
                numbers.append(begins)
            begins = reader.line_num + 1
    except csv.Error as error:
        raise VerificationError(
            f"{path}: expected fields whose quotes are closed, found a broken field in the record "
            f"that begins in row {begins} ({error}). Mend its quotes."
        ) from error
    if not records:
        raise VerificationError(f"{path}: expected a header, found delimiters alone. Get it again.")
    records[0] = [name.strip() for name in records[0]]
    return records, numbers


def _refuse_names(path: Path, header: Sequence[str], row: int) -> None:
    twice = sorted({name for name in header if name and header.count(name) > 1})
    if twice:
        raise VerificationError(
            f"{path}: expected every column's name once in the header, row {row}; found twice: "
            f"{listed(twice)}. Rename or delete one of each."
        )


def _refuse_ragged(
    path: Path, num_columns: int, body: Sequence[Sequence[str]], numbers: Sequence[int]
) -> None:
    problems = Problems(str(path))
    ragged = [
        f"row {number} ({len(record)})"
        for number, record in zip(numbers, body, strict=True)
        if len(record) != num_columns
    ]
    problems.add(
        f"Expected {num_columns} fields a row, as in the header",
        ragged,
        "Mend the rows; a field that holds the delimiter needs quotes.",
    )
    problems.refuse()
