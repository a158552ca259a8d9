"""The class and the part of each row of a table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass

import numpy as np

from ltbench.intake.classes import add_look_alikes, add_too_few, class_order
from ltbench.intake.columns_found import FoundColumns, bit, plain, setting
from ltbench.intake.csv_files import CsvRows
from ltbench.intake.parts import PART_WORDS, part_of
from ltbench.intake.problems import NUM_LISTED, Problems, with_hint

__all__ = ["Labels", "add_empty_cells", "read_labels", "read_parts"]


@dataclass(frozen=True)
class Labels:
    """The class of each row.

    Attributes:
        values: class names, N of them; "" where a problem was noted.
        class_names: C names; position is the class index.
        dropped: one-hot columns that no row uses and that are no class therefore.
    """

    values: Sequence[str]
    class_names: tuple[str, ...]
    dropped: tuple[str, ...] = ()

    def targets(self) -> np.ndarray:
        """Class indices, int64 (N,), where no problem was noted."""
        index = {name: i for i, name in enumerate(self.class_names)}
        return np.array([index[value] for value in self.values], dtype=np.int64)


def add_empty_cells(rows: CsvRows, found: FoundColumns, problems: Problems) -> None:
    """Note the rows without an image, a label or a part."""
    for column in (found.image, found.label, found.split):
        if column is not None:
            problems.add(
                f"Expected a value in column '{column}'",
                [f"nothing in {place}" for place in rows.empty_in(column)],
                "Fill the cells, or leave the rows out.",
            )


def read_labels(
    rows: CsvRows,
    found: FoundColumns,
    class_names: Sequence[str] | None,
    problems: Problems,
    *,
    for_training: bool = True,
) -> Labels:
    """The class of each row, from its label or its one-hot columns.

    Args:
        class_names: the classes that may occur, in order; None takes those that do, ordered by
            name or number, or as the one-hot columns are.
        for_training: there must be two classes.
    """
    if found.label is None:
        labels = _from_one_hot(rows, found.one_hot, problems)
    else:
        values = rows.cells[found.label]
        labels = Labels(values, class_order(set(values) - {""}))
    if class_names is None:
        if for_training:
            add_too_few(labels.class_names, problems)
        add_look_alikes(labels.class_names, problems)
        return labels
    return _among(labels, tuple(class_names), rows, problems)


def _among(
    labels: Labels, class_names: tuple[str, ...], rows: CsvRows, problems: Problems
) -> Labels:
    unknown = {value for value in set(labels.values) - {"", *class_names}}
    problems.add(
        f"Expected the classes {', '.join(class_names)}",
        _misspelt(rows, labels.values, unknown, class_names),
        "Mend the labels, or leave the rows out.",
    )
    dropped = tuple(name for name in labels.dropped if name not in class_names)
    return Labels(labels.values, class_names, dropped)


def _from_one_hot(rows: CsvRows, columns: Sequence[str], problems: Problems) -> Labels:
    hot = np.zeros((len(columns), len(rows)), dtype=bool)
    sound = np.ones(len(rows), dtype=bool)
    for row_of_hot, column in zip(hot, columns, strict=True):
        cells = rows.cells[column]
        bits = {cell: bit(cell) for cell in set(cells)}
        row_of_hot[:] = [bits[cell] is True for cell in cells]
        wrong = [i for i, cell in enumerate(cells) if bits[cell] is None]
        sound[wrong] = False
        problems.add(
            f"Expected 0 or 1 in the one-hot column '{column}'",
            [rows.at(i, f"'{cells[i]}'") for i in wrong],
            "Mend the cells; a column that is no class goes into dataset.metadata.",
        )
    names = np.array(columns)
    unclear = np.flatnonzero(sound & (hot.sum(axis=0) != 1)).tolist()
    problems.add(
        f"Expected a single 1 in each row of the one-hot columns {', '.join(columns)}",
        [rows.at(i, ", ".join(names[hot[:, i]]) or "none") for i in unclear],
        f"Mend the rows; a column that is no class goes into dataset.metadata, and "
        f"{setting('label')} names a label column.",
    )
    sound[unclear] = False
    values = np.where(sound, names[hot.argmax(axis=0)], "").tolist()
    used = hot.any(axis=1)
    return Labels(values, tuple(names[used].tolist()), tuple(names[~used].tolist()))


def read_parts(rows: CsvRows, column: str, problems: Problems) -> list[str]:
    """The part of each row, "train", "val" or "test"; "" where a problem was noted."""
    cells = rows.cells[column]
    words = {cell: part_of(cell) or "" for cell in set(cells)}
    unknown = {cell for cell, part in words.items() if cell and not part}
    if unknown and plain(column) == "fold" and all(_is_integer(cell) for cell in words if cell):
        problems.add(
            f"Expected the words train, val and test in column '{column}'",
            [f"numbers: {', '.join(sorted(unknown))}"],
            "Folds are no parts: rename the column or set "
            f"{setting('split')}= (nothing), and choose the protocol kfold.",
        )
        return [words[cell] for cell in cells]
    problems.add(
        f"Expected one of {', '.join(PART_WORDS)} in column '{column}'",
        _misspelt(rows, cells, unknown, PART_WORDS),
        "Mend the words.",
    )
    return [words[cell] for cell in cells]


def _misspelt(
    rows: CsvRows, cells: Sequence[str], unknown: Set[str], known: Iterable[str]
) -> list[str]:
    """The places of unknown words; hints, which are dear, for those alone that will be shown."""
    positions = [i for i, cell in enumerate(cells) if cell in unknown]
    first = [rows.at(i, with_hint(cells[i], known)) for i in positions[:NUM_LISTED]]
    return first + [rows.at(i) for i in positions[NUM_LISTED:]]


def _is_integer(cell: str) -> bool:
    return cell.removeprefix("-").isdecimal()
