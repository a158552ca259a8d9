"""The id and the file of each row of a table."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from dataclasses import dataclass

from ltbench.errors import DataMissingError
from ltbench.intake.csv_files import CsvRows
from ltbench.intake.image_files import ImageFinder, without_suffix
from ltbench.intake.problems import Problems, listed, plural

__all__ = ["FoundImages", "find_row_images"]


@dataclass(frozen=True)
class FoundImages:
    """The images of a table's rows.

    Attributes:
        ids: names without suffix, or paths as in the table; N of them.
        files: paths relative to the folder of images; None where a problem was noted.
        unlisted: images in the folder that no row names.
    """

    ids: Sequence[str]
    files: Sequence[str | None]
    unlisted: Sequence[str]


def find_row_images(
    rows: CsvRows, column: str, labels: Sequence[str], finder: ImageFinder, problems: Problems
) -> FoundImages:
    """Find each row's file; note what is missing, unclear, or there twice.

    Raises:
        DataMissingError: no row has a file, and nothing else is wrong: the folder is another one.
    """
    names = rows.cells[column]
    candidates = [finder.candidates(name) if name else () for name in names]
    missing = [i for i, name in enumerate(names) if name and not candidates[i]]
    problems.add(
        f"Expected one file for an image below {finder.root}",
        [
            rows.at(i, f"'{names[i]}' may be {listed(found)}")
            for i, found in enumerate(candidates)
            if len(found) > 1
        ],
        "Remove all but one, or name them by their paths.",
    )
    ids = [_id_of(finder.relative(name)) if name else "" for name in names]
    files = [found[0] if len(found) == 1 else None for found in candidates]
    _add_repeated(rows, ids, files, labels, problems)
    _add_missing(rows, names, missing, finder, problems)
    unlisted = set(finder.files).difference(*candidates)
    return FoundImages(ids, files, sorted(unlisted))


def _id_of(path: str) -> str:
    return path if posixpath.dirname(path) else without_suffix(path)


def _add_repeated(
    rows: CsvRows,
    ids: Sequence[str],
    files: Sequence[str | None],
    labels: Sequence[str],
    problems: Problems,
) -> None:
    first_of_file: dict[str, int] = {}
    first_of_id: dict[str, int] = {}
    duplicated, contradicting, one_id = [], [], []
    for i, (name, file) in enumerate(zip(ids, files, strict=True)):
        if not name:
            continue
        first = first_of_file.setdefault(file or name, i)
        other = first_of_id.setdefault(name, i)
        if first != i:
            both = f"rows {rows.numbers[first]} and {rows.numbers[i]} ('{name}'"
            if labels[first] == labels[i] or not (labels[first] and labels[i]):
                duplicated.append(f"{both})")
            else:
                contradicting.append(f"{both}: '{labels[first]}' and '{labels[i]}')")
        elif other != i:
            both = f"rows {rows.numbers[other]} and {rows.numbers[i]}"
            one_id.append(f"{both} ('{name}': {files[other]} and {file})")
    problems.add("Expected one row an image; duplicated", duplicated, "Delete one of each.")
    problems.add(
        "Expected one label an image; contradicting", contradicting, "Find out which is right."
    )
    problems.add(
        "Expected names that differ in more than their suffix; two files of one name",
        one_id,
        "Rename one of them, or put them in two folders and name them by their paths.",
    )


def _add_missing(
    rows: CsvRows,
    names: Sequence[str],
    missing: Sequence[int],
    finder: ImageFinder,
    problems: Problems,
) -> None:
    came = [rows.at(i, f"'{names[i]}'") for i in missing]
    if not problems and len(missing) == len(names):
        raise DataMissingError(
            f"{rows.path}: expected its images below {finder.root}, found none of its "
            f"{plural(len(names), 'row')}: {listed(came, 3)}; {finder.tried()}. That is probably "
            "not the folder of the images: give it with --data-root DIR."
        )
    problems.add(
        f"Expected a file for each row ({finder.tried()})",
        [f"none for {place}" for place in came],
        "Put the files there, or leave the rows out.",
    )
