"""A leaky split without its leak, and one as small that keeps it, to tell the two effects apart."""

from __future__ import annotations

import numpy as np

from ltbench.data.division import class_counts
from ltbench.data.longtail import take_counts
from ltbench.data.noted import OWN_NOTES, Parts, noted_split
from ltbench.dataset import Source, Split
from ltbench.errors import UsageError

__all__ = ["as_many_dropped", "without_shared_groups"]

# Streams of random numbers; see `ltbench.data.protocols`. A number that was used never changes.
_MATCHED = {"train": 0x53504C27, "val": 0x53504C28}


def without_shared_groups(source: Source, split: Split) -> Split:
    """Drop the training and validation images whose group has an image in test.

    Test stays as it is, so that results before and after are of the same images. Groups that
    training and validation share stay in both: they say nothing about the test.

    Args:
        source: with groups.
        split: any split of it.

    Returns:
        The smaller split; `dropped` in its notes has C numbers a part.

    Raises:
        UsageError: the source has no groups, or a class loses its last training image.
    """
    if source.groups is None:
        raise UsageError(
            "Dropping the images that share a group with the test needs groups, and this data set "
            "has none. Use another protocol."
        )
    tested = source.groups[split.test]
    parts = {name: at[~np.isin(source.groups[at], tested)] for name, at in _learnt(split).items()}
    rule = "images of training and validation whose group has a test image"
    return _smaller(source, split, parts, rule)


def as_many_dropped(source: Source, split: Split, clean: Split, seed: int) -> Split:
    """Drop as many training and validation images as `clean` lacks, class by class, at random.

    What `clean` is compared with: its results differ for its missing leak, and for having fewer
    images; this split has the leak and as few images.

    Args:
        source: all images.
        split: the one to drop from.
        clean: of `without_shared_groups(source, split)`.
        seed: of the choice, in [0, 2**64).

    Returns:
        The smaller split; `dropped` in its notes has C numbers a part.

    Raises:
        UsageError: `clean` has another test part, or more images of a class.
    """
    wanted = _learnt(clean)
    if not np.array_equal(split.test, clean.test) or wanted.keys() != _learnt(split).keys():
        raise UsageError(
            "Expected two splits with the same parts and the same test, as without_shared_groups "
            "makes of one the other."
        )
    parts = {
        name: take_counts(
            source.targets,
            at,
            class_counts(source, wanted[name]).tolist(),
            seed=seed,
            stream=_MATCHED[name],
        )
        for name, at in _learnt(split).items()
    }
    rule = "as many images as share a group with the test, at random in each class"
    return _smaller(source, split, parts, rule)


def _learnt(split: Split) -> Parts:
    """The parts that are learnt from."""
    return {"train": split.train} | ({} if split.val is None else {"val": split.val})


def _smaller(source: Source, split: Split, parts: Parts, rule: str) -> Split:
    """The split with these parts in place of its own, and what was dropped in the notes."""
    notes = {name: note for name, note in split.notes.items() if name not in OWN_NOTES}
    notes["dropped_rule"] = rule
    notes["dropped"] = {
        name: (class_counts(source, at) - class_counts(source, parts[name])).tolist()
        for name, at in _learnt(split).items()
    }
    split_by = str(split.notes.get("split_by", "image"))
    # A class that the test lacks was refused or noted when `split` was made.
    return noted_split(
        source, {**parts, "test": split.test}, split_by, notes=notes, may_lack=("test",)
    )
