"""Groups that lie in two parts of a split: what a model may know again at the test."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ltbench.data.division import class_counts
from ltbench.dataset import Source, Split

__all__ = ["UNKNOWN_GROUP", "Leak", "Overlap", "group_leak", "part_notes", "shared_groups"]


UNKNOWN_GROUP = "img:"
"""What the name of a group begins with that stands for one image whose group is not known."""


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
        unknown: test images whose group is not known, and which count as not leaking.
    """

    test_in_train: Overlap
    test_in_train_and_val: Overlap
    val_in_train: Overlap | None
    classes: Mapping[str, tuple[int, int]]
    noun: str = "group"
    unknown: int = 0

    def as_note(self) -> dict[str, Any]:
        """The same as JSON-able dicts and lists, with the sentence."""
        note = {**asdict(self), "sentence": self.sentence()}
        note["classes"] = {name: list(pair) for name, pair in self.classes.items()}
        return note

    @property
    def leaks(self) -> bool:
        """Whether a test image shares its group with training or validation."""
        return self.test_in_train_and_val.images > 0

    @property
    def shares(self) -> bool:
        """Whether any two parts share a group."""
        return self.leaks or (self.val_in_train is not None and self.val_in_train.images > 0)

    def sentence(self) -> str:
        """One clause for messages and footers, without a full stop.

        Returns:
            Such as "630 of 2005 test images (31.4 %) share a lesion with the training part"; where
            validation alone shares some, that is what is counted.
        """
        found, where = self.test_in_train, "training"
        if self.unknown == found.of:
            return f"the {self.noun} of no test image is known, so a leak cannot be measured"
        if self.leaks and not found.images:
            found, where = self.test_in_train_and_val, "validation"
        percent = 100 * found.images / found.of if found.of else 0.0
        text = (
            f"{found.images} of {found.of} test images ({percent:.1f} %) share a {self.noun} with "
            f"the {where} part"
        )
        if self.unknown:
            text += f", and of {self.unknown} the {self.noun} is not known"
        if self.val_in_train is not None and self.val_in_train.images:
            val = self.val_in_train
            text += f"; {val.images} of {val.of} validation images share one with training"
        return text


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
        unknown=int(np.char.startswith(groups[split.test].astype(np.str_), UNKNOWN_GROUP).sum()),
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
