"""The files of ISIC 2018 and 2019, each by itself: what it says of each image.

A damaged file is a `VerificationError` that names it and its rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path, PurePosixPath

import numpy as np

from ltbench.errors import DataMissingError
from ltbench.intake.csv_files import CsvRows, read_rows
from ltbench.intake.image_files import find_images, without_suffix
from ltbench.intake.problems import Problems

__all__ = [
    "CLASSES",
    "UNKNOWN",
    "Facts",
    "class_folders",
    "class_name_of",
    "ground_truth",
    "groupings",
    "ham10000",
    "metadata_2019",
    "metadata_2019_test",
    "read_columns",
    "refuse",
]

CLASSES = {
    "ISIC2018": ("MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC"),
    "ISIC2019": ("MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC"),
}
"""Class names by data set, in the order of the official ground truth."""

UNKNOWN = "UNK"
"""The class of test images that are of no class of the training set."""

_ALIASES = {"AK": "AKIEC", "AKIEC": "AK"}
# HAM10000's short words, in those of the challenge's own file.
_CONFIRMATIONS = {
    "histo": "histopathology",
    "follow_up": "serial imaging showing no change",
    "consensus": "single image expert consensus",
    "confocal": "confocal microscopy with consensus dermoscopy",
}
_HAM_COLUMNS = {
    "dx": "class",
    "lesion_id": "lesion",
    "dx_type": "confirmation",
    "age": "age",
    "sex": "sex",
    "localization": "site",
    "dataset": "source",
}
_GROUPINGS_COLUMNS = {"lesion_id": "lesion", "diagnosis_confirm_type": "confirmation"}
_TEST_COLUMNS_2019 = {"age_approx": "age", "anatom_site_general": "site", "sex": "sex"}
_COLUMNS_2019 = {"lesion_id": "lesion", **_TEST_COLUMNS_2019}
# Without these a file is not what it is taken for; other columns are read where they are.
_NEEDED = frozenset({"dx", "lesion_id"})


@dataclass(frozen=True)
class Facts:
    """What one file says: facts ("class", "lesion", "age", ...) by name, of each image."""

    path: Path
    rows: dict[str, dict[str, str]]

    def says(self, fact: str) -> bool:
        """Whether the file says this of its images."""
        return any(fact in facts for facts in self.rows.values())

    def images_of(self, class_name: str) -> list[str]:
        """The images that it says are of a class."""
        return [name for name, facts in self.rows.items() if facts.get("class") == class_name]


def class_name_of(name: str, classes: Sequence[str]) -> str | None:
    """The class of this name; actinic keratosis has two. None if there is no such class."""
    names = (name.upper(), _ALIASES.get(name.upper(), ""))
    return next((one for one in names if one in classes), None)


def ground_truth(path: Path, class_names: tuple[str, ...]) -> Facts:
    """The class of each image from its columns of 0 and 1; class UNK where the file has it."""
    rows = read_columns(path, ("image", *class_names))
    classes = [c for c in (*class_names, UNKNOWN) if c in rows.columns]
    numbers = np.array([[_number(cell) for cell in rows.cells[c]] for c in classes])
    right = np.isin(numbers, (0, 1)).all(axis=0) & (numbers.sum(axis=0) == 1)
    wrong = [
        rows.at(i, f"'{rows.cells['image'][i]}': {_marks(rows, classes, i)}")
        for i in np.flatnonzero(~right).tolist()
    ]
    refuse(path, "Expected 1 for one class of each image and 0 for the others", wrong)
    found = [classes[k] for k in numbers.argmax(axis=0).tolist()]
    images = _images(rows, "image")
    return Facts(path, {name: {"class": c} for name, c in zip(images, found, strict=True)})


def _marks(rows: CsvRows, classes: Sequence[str], i: int) -> str:
    """The cells of a row that are not 0, with their columns."""
    cells = {c: rows.cells[c][i] or "empty" for c in classes}
    return ", ".join(f"{c} {cell}" for c, cell in cells.items() if _number(cell)) or "all 0"


def _number(cell: str) -> float:
    """Of a cell; NaN where it holds none."""
    try:
        return float(cell)
    except ValueError:
        return float("nan")


def _facts_of(path: Path, columns: Mapping[str, str], image: str = "image") -> Facts:
    """The facts that some columns hold, as far as they are there; "" where one is not known."""
    rows = read_columns(path, (image, *sorted(_NEEDED & columns.keys())))
    facts = {
        fact: ["" if cell.lower() == "unknown" else cell for cell in rows.cells[column]]
        for column, fact in columns.items()
        if column in rows.columns
    }
    if "age" in facts:  # some copies have 80.0
        facts["age"] = [age.removesuffix(".0") for age in facts["age"]]
    return Facts(
        path,
        {
            name: {fact: cells[i] for fact, cells in facts.items()}
            for i, name in enumerate(_images(rows, image))
        },
    )


def metadata_2019(path: Path) -> Facts:
    """Lesion, age, site, sex, and the source, which the lesion's id begins with: MSK4_0011169."""
    table = _facts_of(path, _COLUMNS_2019)
    for facts in table.rows.values():
        facts["source"] = "".join(takewhile(str.isalpha, facts["lesion"]))
    return table


def groupings(path: Path) -> Facts:
    """Lesions and confirmations, from the challenge's file."""
    return _facts_of(path, _GROUPINGS_COLUMNS)


def metadata_2019_test(path: Path) -> Facts:
    """Age, site and sex."""
    return _facts_of(path, _TEST_COLUMNS_2019)


def ham10000(path: Path) -> Facts:
    """All of HAM10000_metadata.csv, with classes and confirmations in the challenge's words."""
    table = _facts_of(path, _HAM_COLUMNS, image="image_id")
    wrong = []
    for name, facts in table.rows.items():
        came, facts["class"] = facts["class"], facts["class"].upper()
        if facts["class"] not in CLASSES["ISIC2018"]:
            wrong.append(f"'{came}' of '{name}'")
        if "confirmation" in facts:
            found = facts["confirmation"]
            facts["confirmation"] = _CONFIRMATIONS.get(found, found)
    refuse(path, f"Expected dx among {', '.join(CLASSES['ISIC2018']).lower()}", wrong)
    return table


def class_folders(folder: Path, dataset: str, label_files: str) -> Facts:
    """Classes by the folders that the pictures lie in, as ECL's authors lay them out."""
    classes = CLASSES[dataset]
    rows: dict[str, dict[str, str]] = {}
    file_of: dict[str, str] = {}
    twice = []
    for file in find_images(folder).files:
        picture = PurePosixPath(file)
        class_name, name = class_name_of(picture.parent.name, classes), without_suffix(picture.name)
        if class_name is None:
            continue
        if file_of.setdefault(name, file) != file:
            twice.append(f"'{name}' as {file_of[name]} and {file}")
        rows[name] = {"class": class_name}
    refuse(folder, "Expected one picture an image", twice, "Keep the right one.")
    if not rows:
        raise DataMissingError(
            f"Expected the labels of {dataset} in {folder}: {label_files}, or pictures in folders "
            f"named {', '.join(classes)}; found none. Get the tables from "
            "challenge.isic-archive.com/data."
        )
    return Facts(folder, rows)


def read_columns(path: Path, needed: Sequence[str]) -> CsvRows:
    """A CSV file with these columns and perhaps others."""
    rows = read_rows(path, delimiter=",")
    lacking = [f"no '{column}'" for column in needed if column not in rows.columns]
    refuse(path, f"Expected the columns {', '.join(needed)}", lacking)
    return rows


def _images(rows: CsvRows, column: str) -> Sequence[str]:
    """The names of the images, one a row."""
    first: dict[str, int] = {}
    wrong = []
    for i, name in enumerate(rows.cells[column]):
        if not name:
            wrong.append(rows.at(i, "no name"))
        elif first.setdefault(name, i) != i:
            wrong.append(rows.at(i, f"'{name}', as in {rows.at(first[name])}"))
    refuse(rows.path, "Expected one row an image", wrong)
    return rows.cells[column]


def refuse(
    where: Path | str, expected: str, came: Sequence[str], remedy: str = "Get the file anew."
) -> None:
    """Raise `VerificationError` if anything came that was not expected."""
    problems = Problems(str(where))
    problems.add(expected, came, remedy)
    problems.refuse()
