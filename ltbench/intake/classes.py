"""Class names: their order, names that look alike, and classes that training lacks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ltbench.intake.parts import PARTS
from ltbench.intake.problems import Problems, plural

__all__ = [
    "MAX_CLASSES",
    "absent_classes",
    "add_look_alikes",
    "add_too_few",
    "class_order",
    "untrained",
]

MAX_CLASSES = 100_000  # a larger class index is taken for a damaged one


def class_order(names: Iterable[str]) -> tuple[str, ...]:
    """Distinct names, ascending as numbers where all are integers, else as text."""
    ordered = sorted(set(names))
    numbers = [_number(name) for name in ordered]
    integers = [number for number in numbers if number is not None and number.is_integer()]
    if len(integers) < len(ordered):
        return tuple(ordered)
    return tuple(name for _, name in sorted(zip(integers, ordered, strict=True)))


def add_too_few(names: Sequence[str], problems: Problems) -> None:
    """Note fewer than two classes."""
    if len(names) < 2:
        came = [f"only '{name}'" for name in names] or ["none"]
        problems.add(
            "Expected at least two classes",
            came,
            "Check that this is the right file or folder, or bring images of another class.",
        )


def add_look_alikes(names: Sequence[str], problems: Problems) -> None:
    """Note names that differ only in how they are written."""
    problems.add(
        "Expected class names that differ in more than case, blanks or the form of a number",
        _look_alikes(names),
        "They are probably one class: write it one way.",
    )


def untrained(
    class_names: Sequence[str], targets: np.ndarray, partition: np.ndarray | None
) -> list[str]:
    """The classes without a training image and where they occur, for messages.

    Args:
        targets: class indices, int64 (N,).
        partition: "train", "val" or "test", str (N,); None for no parts: then all are training.
    """
    if partition is None:
        partition = np.full(len(targets), "train")
    counts = _counts(len(class_names), targets, partition)
    found = []
    for index in np.flatnonzero(counts["train"] == 0).tolist():
        elsewhere = [f"{plural(int(counts[p][index]), 'image')} in {p}" for p in PARTS[1:]]
        where = [text for text in elsewhere if not text.startswith("0 ")]
        found.append(f"'{class_names[index]}' ({', '.join(where) or 'no image at all'})")
    return found


def absent_classes(
    class_names: Sequence[str], targets: np.ndarray, partition: np.ndarray | None
) -> dict[str, Any]:
    """The note of classes that are trained on but lack images in another part; {} where none is."""
    if partition is None:
        return {}
    counts = _counts(len(class_names), targets, partition)
    absent = {
        part: [class_names[i] for i in np.flatnonzero(counts[part] == 0).tolist()]
        for part in PARTS[1:]
        if counts[part].any()
    }
    absent = {part: names for part, names in absent.items() if names}
    return {"absent_classes": absent} if absent else {}


def _counts(
    num_classes: int, targets: np.ndarray, partition: np.ndarray
) -> Mapping[str, np.ndarray]:
    return {part: np.bincount(targets[partition == part], minlength=num_classes) for part in PARTS}


def _number(name: str) -> float | None:
    try:
        number = float(name)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _look_alikes(names: Sequence[str]) -> list[str]:
    first: dict[object, str] = {}
    found = []
    for name in names:
        number = _number(name)
        key = " ".join(name.split()).casefold() if number is None else number
        if key in first:
            found.append(f"'{first[key]}' and '{name}'")
        first.setdefault(key, name)
    return found
