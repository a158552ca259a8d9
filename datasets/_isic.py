"""The tables of ISIC 2018 (HAM10000) and ISIC 2019, and the lists that ECL's authors released.

Everything is known by the names of images and classes. Rows are sorted by name, so that the same
images give the same splits whichever of the files they were read from.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from ltbench.datasets._isic_files import (
    CLASSES,
    UNKNOWN,
    Facts,
    class_folders,
    class_name_of,
    ground_truth,
    groupings,
    ham10000,
    metadata_2019,
    metadata_2019_test,
    read_columns,
    refuse,
)
from ltbench.errors import DataMissingError, VerificationError
from ltbench.intake.problems import listed
from ltbench.intake.table import ImageTable

__all__ = [
    "CLASSES",
    "ECL_SHA256",
    "ECL_URL",
    "ImageFiles",
    "ecl_digests",
    "isic2018_test",
    "isic2018_training",
    "isic2019_test",
    "isic2019_training",
    "read_ecl_lists",
    "refuse_changed_ecl_lists",
    "with_test_part",
]

ImageFiles = Mapping[str, Path] | Callable[[str], Path | None]
"""Where the picture of an image name lies. A name that a mapping lacks is looked for, later, as
<name>.jpg beside the tables."""

ECL_URL = (
    "https://raw.githubusercontent.com/zylbuaa/ECL/dadfa5dcf4f627e20ca168dc2ca062d096237316/data"
)
"""Followed by /ISIC2018/ISIC2018_train.csv and the like."""

ECL_SHA256 = {
    "ISIC2018_train.csv": "5d5439d4a104a03e3a6ee5e4ffd989a2a0d16a25408c34c58e9e5de188383375",
    "ISIC2018_val.csv": "3c733cf6132ef065c206addcabbf254f0f65f420d767c31695d78ec311278e5b",
    "ISIC2018_test.csv": "65eb72156fabc3386802a4749b1c000480b41e3f0a4c118001b1f61aa1c88e7f",
    "ISIC2019_train.csv": "e92e47b2c54a14b07adda611e3ac05f73022aa0aef268d62c1ecfa00ed160cd1",
    "ISIC2019_val.csv": "0c9cbb83391ad79cadd496adc937ae2ffba05d2a5af303b48677cf529b49958d",
    "ISIC2019_test.csv": "fe07c2e62eef908ef5b3654022ad60bb7203f681d0cdcc848490dbc37fc2004c",
}
"""SHA-256 of the released lists, with line ends as released (LF)."""

TRUTH_2018 = "ISIC2018_Task3_Training_GroundTruth"
LESIONS_2018 = "ISIC2018_Task3_Training_LesionGroupings"
HAM = "HAM10000_metadata"
TEST_2018 = "ISIC2018_Task3_Test_GroundTruth"
TRUTH_2019 = "ISIC_2019_Training_GroundTruth"
FACTS_2019 = "ISIC_2019_Training_Metadata"
TEST_2019 = "ISIC_2019_Test_GroundTruth"
TEST_FACTS_2019 = "ISIC_2019_Test_Metadata"

NOT_SCORED = "ISIC_0035068"
_NO_PATIENTS = "Patients are not recorded: two lesions of one patient can be in two parts."


def isic2018_training(folder: Path, files: ImageFiles) -> ImageTable:
    """The 10 015 training images of ISIC 2018 task 3, which are HAM10000.

    Labels are those of the ground truth, else of HAM10000_metadata.csv, else the names of the
    folders that the pictures lie in (AK and AKIEC are one). Lesions are those of
    LesionGroupings.csv or HAM10000_metadata.csv. What several files say must agree.

    Args:
        folder: holds the tables, each as it is or in a folder of its own name, or class folders.
        files: where each picture lies.

    Returns:
        The table, sorted by name; groups are lesions, None where no file says them.

    Raises:
        DataMissingError: no labels; or labels in a table, but no lesions.
        VerificationError: a file is damaged, or the files contradict each other.
    """
    tables = [
        *_read_if_there(folder, TRUTH_2018, _truth_2018),
        *_read_if_there(folder, LESIONS_2018, groupings),
        *_read_if_there(folder, HAM, ham10000),
    ]
    wanted = f"{LESIONS_2018}.csv or {HAM}.csv"
    return _training(folder, "ISIC2018", tables, files, f"{TRUTH_2018}.csv or {HAM}.csv", wanted)


def isic2018_test(folder: Path, files: ImageFiles) -> ImageTable:
    """The 1512 official test images of ISIC 2018 task 3, less one.

    ISIC_0035068 is left out: the archive marks it synthetic and the official scorer gives it weight
    0. Lesions are not published; each image is a group.

    Args:
        folder: holds the ground truth, as it is or in a folder of its own name.
        files: where each picture lies.

    Returns:
        The table, sorted by name; `not_scored` in its notes says what was left out.

    Raises:
        DataMissingError: no ground truth.
        VerificationError: it is damaged.
    """
    truth = _truth_2018(_needed(folder, TEST_2018))
    return _test(folder, "ISIC2018", [truth], files)


def isic2019_training(folder: Path, files: ImageFiles) -> ImageTable:
    """The 25 331 training images of ISIC 2019.

    Labels are those of the ground truth, else the names of the folders that the pictures lie in.
    2084 images have no lesion_id: each is a group of its own, named "img:<image>".

    Args:
        folder: holds the tables, each as it is or in a folder of its own name, or class folders.
        files: where each picture lies.

    Returns:
        The table, sorted by name; `source` in its metadata is BCN, HAM, MSK or "".

    Raises:
        DataMissingError: no labels; or a ground truth without the metadata that name the lesions.
        VerificationError: a file is damaged, the files contradict each other, or an image is UNK.
    """
    tables = [
        *_read_if_there(folder, TRUTH_2019, _truth_2019),
        *_read_if_there(folder, FACTS_2019, metadata_2019),
    ]
    for table in tables:
        unknown = table.images_of(UNKNOWN)
        refuse(table.path, f"Expected no training image of class {UNKNOWN}", unknown)
    return _training(folder, "ISIC2019", tables, files, f"{TRUTH_2019}.csv", f"{FACTS_2019}.csv")


def isic2019_test(folder: Path, files: ImageFiles) -> ImageTable:
    """The official test images of ISIC 2019 that are of a class of the training set.

    Images of class UNK, which training does not have, are left out, as is ISIC_0035068 (see
    `isic2018_test`: both test sets hold it). Lesions are not published; each image is a group.

    Args:
        folder: holds the ground truth and perhaps the metadata.
        files: where each picture lies.

    Returns:
        The table, sorted by name; `not_scored` in its notes says what was left out.

    Raises:
        DataMissingError: no ground truth.
        VerificationError: a file is damaged, or they name different images.
    """
    tables = [
        _truth_2019(_needed(folder, TEST_2019)),
        *_read_if_there(folder, TEST_FACTS_2019, metadata_2019_test),
    ]
    return _test(folder, "ISIC2019", tables, files)


def with_test_part(training: ImageTable, test: ImageTable) -> ImageTable:
    """Both in one table, told apart by its partition ("train" and "test"), training first.

    Raises:
        VerificationError: an image is in both, or their classes differ.
    """
    both = np.intersect1d(training.ids, test.ids).tolist()
    if both or training.class_names != test.class_names:
        raise VerificationError(
            "Expected a training and a test part of the same classes without a common image, found "
            f"{len(both)} common images ({listed(both)}), and the classes "
            f"{', '.join(training.class_names)} and {', '.join(test.class_names)}. Use the tables "
            "of one data set."
        )
    parts = (training, test)
    groups = None
    if training.groups is not None and test.groups is not None:
        groups = np.concatenate([training.groups, test.groups])
    return ImageTable(
        ids=np.concatenate([part.ids for part in parts]),
        files=training.files + test.files,
        targets=np.concatenate([part.targets for part in parts]),
        class_names=training.class_names,
        groups=groups,
        partition=np.repeat(["train", "test"], [len(part) for part in parts]),
        metadata={
            fact: np.concatenate(
                [part.metadata.get(fact, np.full(len(part), "")) for part in parts]
            )
            for fact in sorted({*training.metadata, *test.metadata})
        },
        groups_note=f"Training: {training.groups_note} Test: {test.groups_note}",
        group_noun=training.group_noun,
        notes={**training.notes, **test.notes},
    )


def read_ecl_lists(folder: Path, dataset: str) -> dict[str, list[tuple[str, str]]]:
    """The lists that ECL's authors released: (image, class name) of each row, by part.

    The class is the one of the column `category`. The column `label` numbers classes in the order
    of a directory listing; it is not used, but must stand for one category each.

    Args:
        folder: holds ISIC2018_train.csv and the like, or a folder named as the data set with them.
        dataset: "ISIC2018" or "ISIC2019".

    Returns:
        Rows of "train", "val" and "test", for `ltbench.data.protocols.listed`.

    Raises:
        DataMissingError: a list is not here.
        VerificationError: a list is damaged, names another class, or its labels and categories do
            not go together.
    """
    classes = CLASSES[dataset]
    category_of: dict[str, str] = {}
    label_of: dict[str, str] = {}
    lists: dict[str, list[tuple[str, str]]] = {}
    wrong = []
    for part, path in _ecl_files(folder, dataset).items():
        rows = read_columns(path, ("image", "category", "label"))
        columns = (rows.cells[name] for name in ("image", "category", "label"))
        lists[part] = []
        for i, (image, category, label) in enumerate(zip(*columns, strict=True)):
            name = class_name_of(category, classes)
            first = category_of.setdefault(label, category), label_of.setdefault(category, label)
            came = f"{path.name} {rows.at(i)}: '{category}' {label}"
            if name is None:
                wrong.append(came)
            elif first != (category, label):
                wrong.append(f"{came}, but before '{first[0]}' {label} or '{category}' {first[1]}")
            lists[part].append((image, name or ""))
    expected = f"Expected categories among {', '.join(classes)}, each with one label"
    refuse(folder, expected, wrong, f"Get the lists anew from {ECL_URL}/{dataset}.")
    return lists


def refuse_changed_ecl_lists(folder: Path, dataset: str) -> None:
    """Refuse lists that are not the released ones; line ends may have been turned into CRLF.

    Raises:
        DataMissingError: a list is not here.
        VerificationError: a list is another one.
    """
    for name, found in ecl_digests(folder, dataset).items():
        if found != ECL_SHA256[name]:
            raise VerificationError(
                f"{folder / name} is not the list that was released: expected SHA-256 "
                f"{ECL_SHA256[name]}, found {found}. Get it anew from {ECL_URL}/{dataset}."
            )


def ecl_digests(folder: Path, dataset: str) -> dict[str, str]:
    """SHA-256 (hex) of each list by its file's name, with line ends as LF.

    Raises:
        DataMissingError: a list is not here.
    """
    return {
        path.name: hashlib.sha256(path.read_bytes().replace(b"\r\n", b"\n")).hexdigest()
        for path in _ecl_files(folder, dataset).values()
    }


def _training(
    folder: Path,
    dataset: str,
    tables: Sequence[Facts],
    files: ImageFiles,
    label_files: str,
    lesion_files: str,
) -> ImageTable:
    has_labels = any(table.says("class") for table in tables)
    has_lesions = any(table.says("lesion") for table in tables)
    if has_labels and not has_lesions:
        raise DataMissingError(
            f"Expected the lesions of {dataset} in {folder}, found its labels alone. Without them "
            f"no split can keep a lesion whole. Put {lesion_files} there."
        )
    if not has_labels:
        tables = [*tables, class_folders(folder, dataset, label_files)]
    rows = _merged(tables)
    note = f"Lesions are not known: put {lesion_files} beside the pictures."
    if has_lesions:
        own = sum(not facts["lesion"] for facts in rows.values())
        alone = f"; {own} images without one are groups of their own" if own else ""
        note = f"Groups are lesions, by the publisher's lesion_id{alone}. {_NO_PATIENTS}"
    return _table(folder, CLASSES[dataset], rows, files, groups_note=note)


def _test(folder: Path, dataset: str, tables: Sequence[Facts], files: ImageFiles) -> ImageTable:
    rows = _merged(tables)
    unknown = set(tables[0].images_of(UNKNOWN))
    notes = {}
    if unknown:
        notes[f"class {UNKNOWN}"] = f"{len(unknown)} images of no class of the training set"
    if NOT_SCORED in rows:
        notes[NOT_SCORED] = "marked synthetic by the archive; of weight 0 for the scorer of 2018"
    kept = {name: facts for name, facts in rows.items() if name not in unknown | {NOT_SCORED}}
    table = {name: {**facts, "lesion": ""} for name, facts in kept.items()}
    return _table(
        folder,
        CLASSES[dataset],
        table,
        files,
        groups_note=f"Groups are single images: the lesions of the {dataset} test set are not "
        "published.",
        notes={"not_scored": notes} if notes else {},
    )


def _table(
    folder: Path,
    class_names: tuple[str, ...],
    rows: Mapping[str, Mapping[str, str]],
    files: ImageFiles,
    *,
    groups_note: str,
    notes: Mapping[str, Any] | None = None,
) -> ImageTable:
    ids = sorted(rows)
    facts = sorted({fact for cells in rows.values() for fact in cells} - {"class"})
    columns = {fact: np.array([rows[name].get(fact, "") for name in ids]) for fact in facts}
    groups = None
    if "lesion" in columns:
        groups = np.array([rows[name]["lesion"] or f"img:{name}" for name in ids])
    found = files.get if isinstance(files, Mapping) else files
    return ImageTable(
        ids=np.array(ids),
        files=tuple(found(name) or folder / f"{name}.jpg" for name in ids),
        targets=np.array([class_names.index(rows[name]["class"]) for name in ids], dtype=np.int64),
        class_names=class_names,
        groups=groups,
        metadata=columns,
        groups_note=groups_note,
        group_noun="lesion",
        notes=dict(notes or {}),
    )


def _merged(tables: Sequence[Facts]) -> dict[str, dict[str, str]]:
    """The facts of each image from all files; earlier files go before later ones."""
    for first, second in combinations(tables, 2):
        where = f"{first.path} and {second.path}"
        alone = [
            f"'{name}' in {one.path.name} alone"
            for one, other in ((first, second), (second, first))
            for name in one.rows
            if name not in other.rows
        ]
        refuse(where, "Expected the same images in both", alone, "Get both, of one release.")
        for fact in ("class", "lesion"):
            wrong = _contradictions(fact, first, second)
            refuse(where, f"Expected the same {fact} in both", wrong, "Get both anew.")
    merged: dict[str, dict[str, str]] = {}
    for table in reversed(tables):
        for name, facts in table.rows.items():
            merged.setdefault(name, {}).update(facts)
    return merged


def _contradictions(fact: str, first: Facts, second: Facts) -> list[str]:
    if not (first.says(fact) and second.says(fact)):
        return []
    return [
        f"'{name}' is '{facts[fact]}' and '{second.rows[name][fact]}'"
        for name, facts in first.rows.items()
        if facts[fact] != second.rows[name][fact]
    ]


def _truth_2018(path: Path) -> Facts:
    return ground_truth(path, CLASSES["ISIC2018"])


def _truth_2019(path: Path) -> Facts:
    return ground_truth(path, CLASSES["ISIC2019"])


def _find(folder: Path, stem: str) -> Path | None:
    # HAM10000_metadata is also handed on without a suffix.
    places = (folder / f"{stem}.csv", folder / stem / f"{stem}.csv", folder / stem)
    return next((place for place in places if place.is_file()), None)


def _needed(folder: Path, stem: str) -> Path:
    path = _find(folder, stem)
    if path is None:
        raise DataMissingError(
            f"Expected {stem}.csv in {folder}, or in a folder of its name there; found none. Get "
            "it from challenge.isic-archive.com/data."
        )
    return path


def _read_if_there(folder: Path, stem: str, read: Callable[[Path], Facts]) -> list[Facts]:
    path = _find(folder, stem)
    return [] if path is None else [read(path)]


def _ecl_files(folder: Path, dataset: str) -> dict[str, Path]:
    names = {part: f"{dataset}_{part}.csv" for part in ("train", "val", "test")}
    for place in (folder, folder / dataset):
        files = {part: place / name for part, name in names.items()}
        if any(file.is_file() for file in files.values()):
            break
    missing = [name for part, name in names.items() if not files[part].is_file()]
    if missing:
        raise DataMissingError(
            f"Expected the lists {', '.join(names.values())} in {folder} or {folder / dataset}, "
            f"found no {', '.join(missing)}. Get them from {ECL_URL}/{dataset}."
        )
    return files
