"""Parts to a split: what is refused, and the notes that every split has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ltbench.data.leaks import group_leak, part_notes
from ltbench.data.longtail import measured_imbalance
from ltbench.dataset import Source, Split
from ltbench.errors import UsageError

__all__ = ["OWN_NOTES", "Parts", "noted_split"]

Parts = dict[str, np.ndarray]
"""Positions, int64, ascending, by "train", "test" and, where there is one, "val"."""

OWN_NOTES = frozenset(
    {"split_by", "counts", "measured_imbalance", "groups", "shared_groups"}
    | {"absent_classes", "leak"}
)
"""The notes that `noted_split` works out."""


def noted_split(
    source: Source,
    parts: Parts,
    split_by: str,
    *,
    notes: Mapping[str, Any] | None = None,
    may_lack: tuple[str, ...] = (),
) -> Split:
    """A split with its notes.

    The notes are `split_by`, `measured_imbalance` of training, those of
    `ltbench.data.leaks.part_notes`, the caller's, `absent_classes` (names, by part) where a part
    lacks classes, and `leak` where test images share a group with another part.

    Args:
        source: what the positions point into.
        parts: positions by name.
        split_by: what was divided: image, group, origin, or whose choice the parts are.
        notes: further ones, JSON-able.
        may_lack: parts that may be without some classes; validation always may.

    Returns:
        The split.

    Raises:
        UsageError: training or test is empty, or lacks a class and is not excused.
    """
    facts = part_notes(source, parts)
    absent = {
        part: [name for name, n in zip(source.class_names, counts, strict=True) if n == 0]
        for part, counts in facts["counts"].items()
    }
    for part in ("train", "test"):
        if not len(parts[part]) or (absent[part] and part not in may_lack):
            raise UsageError(
                f"Expected images of every class in training and test, but the {part} part has "
                f"none of {', '.join(absent[part])}. Give these classes more images (or groups), "
                "leave them out, or use another protocol."
            )
    said: dict[str, Any] = {
        "split_by": split_by,
        "measured_imbalance": {"train": measured_imbalance(facts["counts"]["train"])},
        **facts,
        **(notes or {}),
    }
    if any(absent.values()):
        said["absent_classes"] = {part: names for part, names in absent.items() if names}
    split = Split(train=parts["train"], val=parts.get("val"), test=parts["test"], notes=said)
    leak = group_leak(source, split)
    if leak is not None and leak.leaks:
        said["leak"] = leak.sentence()
    return split
