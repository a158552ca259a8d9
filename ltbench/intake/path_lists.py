"""Path lists, as ImageNet-LT and Places-LT are published, to an image table."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ltbench.errors import DataMissingError, UsageError
from ltbench.intake.classes import MAX_CLASSES, absent_classes, add_too_few, untrained
from ltbench.intake.image_files import ImageFinder, find_images
from ltbench.intake.parts import PARTS
from ltbench.intake.problems import Problems, listed, plural
from ltbench.intake.table import ImageTable
from ltbench.intake.user_files import read_text

__all__ = ["table_from_lists"]

_LINE = re.compile(r"(\S(?:.*\S)?) (\d{1,9})")
_LINE_END = re.compile(r"\r\n|\r|\n")
_NO_GROUPS = (
    "Path lists say nothing of lesions or patients: images of one may lie in different parts."
)


class _Line(NamedTuple):
    part: str
    file: Path
    number: int
    path: str
    label: int

    @property
    def where(self) -> str:
        return f"{self.file} line {self.number}"


def table_from_lists(
    lists: Mapping[str, Path], *, image_root: Path, class_names: Sequence[str] | None = None
) -> ImageTable:
    """Read lists of lines "relative/path label" and check that the files are there.

    The label, 0..C-1, stands after the last space. Ids are the
    paths as written, without a leading "./".

    Args:
        lists: the file of each part, by "train", "val" and "test"; "train" is needed.
        image_root: the folder that the paths start from.
        class_names: C names; None takes the folders that the training images lie in, where each
            label has one of its own, else the labels as text.

    Raises:
        DataMissingError: a list or the folder is not there, or none of the images is.
        UsageError: no training list, or another part's name.
        VerificationError: anything wrong in the lists or missing in the folder, all at once, with
            file and line.
    """
    if "train" not in lists or not set(lists) <= set(PARTS):
        raise UsageError(
            f"Expected lists for train and perhaps {' and '.join(PARTS[1:])}, got lists for "
            f"{listed(list(lists)) or 'nothing'}."
        )
    problems = Problems(f"Lists {listed([str(lists[part]) for part in PARTS if part in lists])}")
    finder = find_images(image_root)
    max_label = len(class_names) - 1 if class_names is not None else MAX_CLASSES - 1
    lines = [
        line
        for part in PARTS
        if part in lists
        for line in _read_lines(part, lists[part], finder, max_label, problems)
    ]
    _add_repeated(lines, problems)
    names = _class_names(lines, class_names)
    add_too_few(names, problems)
    targets = np.array([line.label for line in lines], dtype=np.int64)
    partition = np.array([line.part for line in lines])
    if not problems:
        problems.add(
            "Expected a training image of every class",
            untrained(names, targets, partition),
            "Labels are 0 to C - 1 without a gap: get the whole training list.",
        )
    _add_missing(lines, finder, problems)
    problems.refuse()
    return ImageTable(
        ids=np.array([line.path for line in lines]),
        files=tuple(finder.path(line.path) for line in lines),
        targets=targets,
        class_names=names,
        partition=partition,
        groups_note=_NO_GROUPS,
        notes=absent_classes(names, targets, partition),
    )


def _read_lines(
    part: str, file: Path, finder: ImageFinder, max_label: int, problems: Problems
) -> list[_Line]:
    lines: list[_Line] = []
    too_large: list[_Line] = []
    bad = []
    for number, text in enumerate(_LINE_END.split(read_text(file, "a path list")), start=1):
        text = text.rstrip()
        if not text:
            continue
        match = _LINE.fullmatch(text)
        if match is None:
            bad.append(f"{file} line {number} ({text[:80]!r})")
            continue
        line = _Line(part, file, number, finder.relative(match[1]), int(match[2]))
        (lines if line.label <= max_label else too_large).append(line)
    problems.add(
        "Expected lines 'relative/path label', one space between, the label an integer from 0",
        bad,
        "Mend the lines.",
    )
    problems.add(
        f"Expected labels from 0 to {max_label}",
        [f"{line.where} ({line.label})" for line in too_large],
        "Mend the labels, or give the names of all classes.",
    )
    return lines


def _add_repeated(lines: Sequence[_Line], problems: Problems) -> None:
    first: dict[str, _Line] = {}
    repeated = []
    for line in lines:
        other = first.setdefault(line.path, line)
        if other is not line:
            repeated.append(f"{other.where} and {line.where} ('{line.path}')")
    problems.add("Expected every path once in all lists", repeated, "Delete one of each.")


def _class_names(lines: Sequence[_Line], given: Sequence[str] | None) -> tuple[str, ...]:
    """The names given, the training images' folders, or numbers."""
    if given is not None:
        return tuple(given)
    folders: dict[int, set[str]] = {}
    for line in lines:
        if line.part == "train":
            folders.setdefault(line.label, set()).add(f"/{line.path}".split("/")[-2])
    num_classes = max((line.label for line in lines), default=-1) + 1
    names = [next(iter(folders[i])) for i in range(num_classes) if len(folders.get(i, ())) == 1]
    if "" not in names and len(set(names)) == num_classes:
        return tuple(names)
    return tuple(str(label) for label in range(num_classes))


def _add_missing(lines: Sequence[_Line], finder: ImageFinder, problems: Problems) -> None:
    missing = [line for line in lines if line.path not in finder.known]
    came = [f"{line.where} ('{line.path}')" for line in missing]
    if lines and len(missing) == len(lines) and not problems:
        raise DataMissingError(
            f"{problems.subject}: expected their images below {finder.root}, found none of "
            f"{plural(len(lines), 'path')}: {listed(came, 3)}. Paths start from that folder: give "
            "the right one with --data-root DIR."
        )
    problems.add(
        f"Expected a file for each path below {finder.root}",
        [f"none for {place}" for place in came],
        "Put the files there, as the lists have them.",
    )
