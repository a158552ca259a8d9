"""A table of which class of other data is which of ours."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ltbench.errors import VerificationError
from ltbench.intake.csv_files import CsvRows, read_rows
from ltbench.intake.problems import Problems, listed
from ltbench.registry import suggest

__all__ = ["label_map"]

_COLUMNS = ("theirs", "ours")


def label_map(path: Path, theirs: Sequence[str], ours: Sequence[str]) -> dict[str, str | None]:
    """Read a CSV file with the columns theirs and ours, one row for each class of theirs.

    Args:
        theirs: class names of the other data.
        ours: class names that a model knows; several of theirs may be one of ours.

    Returns:
        Our class of each of theirs, in the order of `theirs`; None where "ours" is empty: left out.

    Raises:
        DataMissingError: there is no such file.
        VerificationError: other columns, unknown classes, a class of theirs that stands there twice
            or not at all; all at once, with rows.
    """
    rows = read_rows(path)
    if set(rows.columns) != set(_COLUMNS):
        raise VerificationError(
            f"{path}: expected the header theirs,ours and below it one row for each class of the "
            f"other data, found the header {','.join(rows.columns)}. Write 'theirs,ours' into the "
            "first row."
        )
    problems = Problems(str(path))
    for column, names in zip(_COLUMNS, (theirs, ours), strict=True):
        _add_unknown(rows, column, names, problems)
    first: dict[str, int] = {}
    twice = [
        f"rows {rows.numbers[first[name]]} and {rows.numbers[i]} ('{name}')"
        for i, name in enumerate(rows.cells["theirs"])
        if first.setdefault(name, i) != i
    ]
    problems.add("Expected one row for each class of theirs", twice, "Delete one of each.")
    problems.add(
        "Expected every class of theirs",
        [f"no '{name}'" for name in theirs if name not in first],
        "Add a row for each; leave 'ours' empty to leave the class out.",
    )
    problems.refuse()
    return {name: rows.cells["ours"][first[name]] or None for name in theirs}


def _add_unknown(rows: CsvRows, column: str, names: Sequence[str], problems: Problems) -> None:
    cells = rows.cells[column]
    if column == "theirs":
        problems.add(
            "Expected a class in column 'theirs'",
            [f"nothing in {place}" for place in rows.empty_in(column)],
            "Fill the cells, or delete the rows.",
        )
    known = list(names)
    problems.add(
        f"Expected classes of {column}: {listed(known)}",
        [
            rows.at(i, suggest("class", cell, known).partition(" Available")[0])
            for i, cell in enumerate(cells)
            if cell and cell not in known
        ],
        "Mend the names.",
    )
