"""A table of one row an image: CSV file and folder of images to an image table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ltbench.intake.classes import absent_classes, untrained
from ltbench.intake.columns_found import ColumnChoice, FoundColumns, find_columns, plain
from ltbench.intake.csv_files import CsvRows, read_rows
from ltbench.intake.csv_images import FoundImages, find_row_images
from ltbench.intake.csv_labels import Labels, add_empty_cells, read_labels, read_parts
from ltbench.intake.image_files import find_images
from ltbench.intake.problems import Problems, found_many, plural
from ltbench.intake.table import ImageTable

__all__ = ["ColumnChoice", "table_from_csv"]

_FOUND_ALL = ColumnChoice()
_NO_GROUPS = (
    "The table has no group column: images of one lesion or patient may lie in different parts."
)


def table_from_csv(
    path: Path,
    *,
    image_root: Path,
    columns: ColumnChoice = _FOUND_ALL,
    class_names: tuple[str, ...] | None = None,
    delimiter: str | None = None,
    for_training: bool = True,
) -> ImageTable:
    """Read a CSV file of images and labels and find the files; no picture is opened.

    An image's id is its name in the table without its suffix, or its path where it has folders.
    Rows without a group are groups of their own, "img:" and the id.

    Args:
        image_root: folder of the images; names are looked for at any depth, paths start here.
        columns: the columns that the user named; the others are found by their names.
        class_names: the classes that may occur, in order; None takes those that do. Where they are
            given, a table that has test rows alone is right as well.
        delimiter: see `read_rows`.
        for_training: there must be two classes, and where there are parts, a training image of
            each.

    Raises:
        DataMissingError: there is no such file or folder, or none of the images is in the folder.
        UsageError: it is not clear which columns to read.
        VerificationError: anything wrong in the file or missing in the folder, all at once, with
            rows.
    """
    rows = read_rows(path, delimiter=delimiter)
    found = find_columns(rows, columns)
    finder = find_images(image_root)
    problems = Problems(str(path))
    add_empty_cells(rows, found, problems)
    labels = read_labels(rows, found, class_names, problems, for_training=for_training)
    parts = None if found.split is None else read_parts(rows, found.split, problems)
    partition = None if parts is None else np.array(parts)
    if not problems and partition is not None and for_training:
        _add_untrained(labels, partition, class_names is not None, problems)
    images = find_row_images(rows, found.image, labels.values, finder, problems)
    problems.refuse()
    groups, num_alone = _groups(rows, found.group, images.ids)
    targets = labels.targets()
    return ImageTable(
        ids=np.array(images.ids),
        files=tuple(finder.path(file) for file in images.files if file is not None),
        targets=targets,
        class_names=labels.class_names,
        groups=groups,
        partition=partition,
        metadata={name: np.array(rows.cells[name]) for name in found.metadata},
        groups_note=_groups_note(found.group, num_alone),
        notes=_notes(found, labels, images, num_alone)
        | absent_classes(labels.class_names, targets, partition),
    )


def _add_untrained(
    labels: Labels, partition: np.ndarray, classes_are_given: bool, problems: Problems
) -> None:
    if classes_are_given and not (partition == "train").any():
        return
    problems.add(
        "Expected a training image of every class",
        untrained(labels.class_names, labels.targets(), partition),
        "Move images of the class to train, or leave the class out.",
    )


# What programs write where there is nothing; as one group it would hold strangers together.
_NO_GROUP = frozenset({"", "nan", "na", "n/a", "#n/a", "none", "null", "unknown", "-"})


def _groups(rows: CsvRows, column: str | None, ids: Sequence[str]) -> tuple[np.ndarray | None, int]:
    """The groups, and how many images are groups of their own for want of one."""
    if column is None:
        return None, 0
    cells = rows.cells[column]
    known = ["" if cell.lower() in _NO_GROUP else cell for cell in cells]
    groups = [cell or f"img:{name}" for cell, name in zip(known, ids, strict=True)]
    return np.array(groups), sum(not cell for cell in known)


def _groups_note(column: str | None, num_alone: int) -> str:
    if column is None:
        return _NO_GROUPS
    note = f"Groups are the values of column '{column}'"
    if "lesion" in plain(column):
        note += "; a patient may have several lesions, so lesion-disjoint is not patient-disjoint"
    elif "patient" in plain(column) or "subject" in plain(column):
        note += ": no patient is in two parts of a grouped split"
    else:
        note += "; the table does not say whether a patient may be in several of them"
    if num_alone:
        note += f". {plural(num_alone, 'image')} without a value: each a group of its own"
    return f"{note}."


def _notes(
    found: FoundColumns, labels: Labels, images: FoundImages, num_alone: int
) -> dict[str, Any]:
    notes: dict[str, Any] = {"columns": found.note()}
    if num_alone:
        notes["groups_fallback"] = num_alone
    if labels.dropped:
        notes["dropped_classes"] = list(labels.dropped)
    if images.unlisted:
        notes["unlisted_files"] = found_many(images.unlisted)
    return notes
