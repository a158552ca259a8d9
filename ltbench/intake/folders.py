"""Class folders, alone or below a folder for each part, to an image table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ltbench.intake.classes import (
    absent_classes,
    add_look_alikes,
    add_too_few,
    class_order,
    untrained,
)
from ltbench.intake.image_files import SUFFIXES, ImageFinder, find_images
from ltbench.intake.parts import PART_WORDS, PARTS, part_of
from ltbench.intake.problems import Problems, found_many, with_hint
from ltbench.intake.table import ImageTable

__all__ = ["table_from_folder"]

_NO_GROUPS = "Folders say nothing of lesions or patients: images of one may lie in different parts."


def table_from_folder(root: Path) -> ImageTable:
    """Take the images below class folders; no picture is opened.

    The class folders lie in `root`, or in folders for the parts: train, val or test, or another
    usual word for one of them, in any case. Folders below a class folder belong to the class. Ids
    are paths relative to `root`, suffix included.

    Raises:
        DataMissingError: there is no such folder.
        UsageError: it is a file, or closed to this user.
        VerificationError: images outside class folders, empty class folders, fewer than two
            classes, names that look alike, a class without a training image, folders beside those
            of the parts; all of it at once.
    """
    finder = find_images(root)
    problems = Problems(str(root))
    tops = [folder for folder in finder.folders if "/" not in folder]
    parts = {top: part for top in tops if (part := part_of(top))}
    if parts:
        _add_part_problems(tops, parts, problems)
        tops = list(parts)
    depth = 1 if parts else 0
    class_folders = [f for f in _below(tops, finder.folders) if f.count("/") == depth]
    inside = [file for file in _below(tops, finder.files) if file.count("/") > depth]
    _add_file_problems(finder, [f for f in finder.files if f.count("/") <= depth], problems)
    labels = [file.split("/")[depth] for file in inside]
    class_names = class_order(folder.rpartition("/")[2] for folder in class_folders)
    _add_empty(class_folders, inside, depth, problems)
    add_too_few(class_names, problems)
    add_look_alikes(class_names, problems)
    index = {name: i for i, name in enumerate(class_names)}
    targets = np.array([index[label] for label in labels], dtype=np.int64)
    partition = np.array([parts[_top(file)] for file in inside]) if parts else None
    if not problems:
        problems.add(
            "Expected a training image of every class",
            untrained(class_names, targets, partition),
            "Move images of the class to the folder to train on, or delete its folders.",
        )
    problems.refuse()
    return ImageTable(
        ids=np.array(inside),
        files=tuple(finder.path(file) for file in inside),
        targets=targets,
        class_names=class_names,
        partition=partition,
        groups_note=_NO_GROUPS,
        notes=({"other_files": found_many(finder.others)} if finder.others else {})
        | absent_classes(class_names, targets, partition),
    )


def _top(path: str) -> str:
    return path.partition("/")[0]


def _below(tops: Sequence[str], paths: Sequence[str]) -> list[str]:
    known = set(tops)
    return [path for path in paths if _top(path) in known]


def _add_part_problems(tops: Sequence[str], parts: Mapping[str, str], problems: Problems) -> None:
    others = [top for top in tops if top not in parts]
    problems.add(
        f"Expected folders for parts alone, because there is '{next(iter(parts))}'",
        [with_hint(top, PART_WORDS) for top in others],
        "Move or rename them; class folders lie in the folders of the parts.",
    )
    for part in PARTS:
        same = [f"'{top}'" for top in parts if parts[top] == part]
        if len(same) > 1:
            problems.add(
                f"Expected one folder for the part {part}", same, "Join them, or rename one."
            )
    if "train" not in parts.values():
        came = [f"'{top}'" for top in parts]
        problems.add("Expected a folder 'train' beside the other parts", came, "Add it.")


def _add_file_problems(finder: ImageFinder, stray: Sequence[str], problems: Problems) -> None:
    problems.add(
        "Expected every image in a class folder; image without label", stray, "Move them into one."
    )
    # Ids are stored as UTF-8; what was no text on the disk cannot be.
    problems.add(
        "Expected file names in UTF-8",
        [ascii(file) for file in finder.files if not _is_text(file)],
        "Rename the files.",
    )


def _is_text(name: str) -> bool:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _add_empty(
    class_folders: Sequence[str], inside: Sequence[str], depth: int, problems: Problems
) -> None:
    used = {"/".join(file.split("/")[: depth + 1]) for file in inside}
    problems.add(
        f"Expected images ({' '.join(SUFFIXES)}) in every class folder; empty",
        [f"'{folder}'" for folder in class_folders if folder not in used],
        "Delete the folder, or put its images there.",
    )
