"""Groups that lie in two parts of a split: what a model may know again at the test."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ltbench.data.division import class_counts
from ltbench.dataset import Source, Split

__all__ = ["Leak", "Overlap", "group_leak", "part_notes", "shared_groups"]


@dataclass(frozen=True)
class Overlap:
    """How much of one part has its groups in another, too.

    Attributes:
        images: of the one part, whose group is in the other.
        of: images of the one part.
        groups: that are in both.
    """

    images: int
    of: int
    groups: int


@dataclass(frozen=True)
class Leak:
    """The groups that the parts of a split share.

    Attributes:
        test_in_train: test images whose group is in training.
        test_in_train_and_val: test images whose group is in training or validation.
        val_in_train: validation images whose group is in training; None without validation.
        classes: for `test_in_train`, (images, of how many) by class name.
        noun: what a group is, such as "lesion".
    """

    test_in_train: Overlap
    test_in_train_and_val: Overlap
    val_in_train: Overlap | None
    classes: Mapping[str, tuple[int, int]]
    noun: str = "group"

    def as_note(self) -> dict[str, Any]:
        """The same as JSON-able dicts and lists."""
        note = asdict(self)
        note["classes"] = {name: list(pair) for name, pair in self.classes.items()}
        return note

    @property
    def leaks(self) -> bool:
        """Whether a test image shares its group with training or validation."""
        return self.test_in_train_and_val.images > 0

    def sentence(self) -> str:
        """One clause for messages and footers, without a full stop.

        Returns:
            Such as "630 of 2005 test images (31.4 %) share a lesion with the training part"; where
            validation alone shares some, that is what is counted.
        """
        found, where = self.test_in_train, "training"
        if self.leaks and not found.images:
            found, where = self.test_in_train_and_val, "validation"
        percent = 100 * found.images / found.of if found.of else 0.0
        return (
            f"{found.images} of {found.of} test images ({percent:.1f} %) share a {self.noun} with "
            f"the {where} part"
        )


def group_leak(source: Source, split: Split) -> Leak | None:
    """Count the images of one part whose group is in another.

    An image without a known group is to have a group of its own name, and then counts as not
    leaking: the truth may be higher.

    Returns:
        The counts; None where the source has no groups.
    """
    if source.groups is None:
        return None
    groups = source.groups

    def overlap(part: np.ndarray, other: np.ndarray) -> tuple[Overlap, np.ndarray]:
        shared = part[np.isin(groups[part], groups[other])]
        return Overlap(len(shared), len(part), len(np.unique(groups[shared]))), shared

    val = np.array([], dtype=np.int64) if split.val is None else split.val
    in_train, shared = overlap(split.test, split.train)
    found, tested = (class_counts(source, at).tolist() for at in (shared, split.test))
    pairs = zip(found, tested, strict=True)
    return Leak(
        test_in_train=in_train,
        test_in_train_and_val=overlap(split.test, np.concatenate([split.train, val]))[0],
        val_in_train=None if split.val is None else overlap(val, split.train)[0],
        classes=dict(zip(source.class_names, pairs, strict=True)),
        noun=source.group_noun,
    )


def shared_groups(source: Source, parts: Mapping[str, np.ndarray]) -> list[tuple[str, list[str]]]:
    """Pairs of parts that share groups, as ("train and test", the groups); [] without groups."""
    if source.groups is None:
        return []
    held = {name: np.unique(source.groups[positions]) for name, positions in parts.items()}
    names = list(held)
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    shared = [(f"{a} and {b}", np.intersect1d(held[a], held[b]).tolist()) for a, b in pairs]
    return [(pair, groups) for pair, groups in shared if groups]


def part_notes(source: Source, parts: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Facts that the notes of every split hold: images a class and groups of each part, JSON-able.

    Args:
        source: what the positions point into.
        parts: positions by name.

    Returns:
        `counts` (C numbers a part) and, where the source has groups, `groups` (a number a part) and
        `shared_groups`, summed over pairs of parts.
    """
    notes: dict[str, Any] = {
        "counts": {name: class_counts(source, at).tolist() for name, at in parts.items()}
    }
    if source.groups is not None:
        groups = source.groups
        notes["groups"] = {name: len(np.unique(groups[at])) for name, at in parts.items()}
        notes["shared_groups"] = sum(len(found) for _, found in shared_groups(source, parts))
    return notes
