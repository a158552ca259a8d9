"""What the tables or folders of a data set say of each image, before a picture is opened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["ImageTable"]


@dataclass(frozen=True)
class ImageTable:
    """One row an image.

    Attributes:
        ids: unique names, str (N,).
        files: where each picture lies, N of them; they need not exist.
        targets: class indices, int64 (N,).
        class_names: C names; position is the class index.
        groups: what must not be divided, str (N,); None where unknown.
        partition: the part each image was given ("train", "val", "test"), str (N,); None if none.
        metadata: further facts by name, str (N,) each; "" where unknown.
        groups_note: what the groups separate and what they do not.
        group_noun: what a group is, in one word: lesion, patient.
        notes: facts a reader of results must see, JSON-able: picked columns, what was left out.
    """

    ids: np.ndarray
    files: tuple[Path, ...]
    targets: np.ndarray
    class_names: tuple[str, ...]
    groups: np.ndarray | None = None
    partition: np.ndarray | None = None
    metadata: Mapping[str, np.ndarray] = field(default_factory=dict)
    groups_note: str = ""
    group_noun: str = "group"
    notes: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    def keep(self, mask: np.ndarray) -> ImageTable:
        """The rows where `mask`, bool (N,), is true; classes and notes stay as they are."""
        positions = np.flatnonzero(mask)
        return replace(
            self,
            ids=self.ids[positions],
            files=tuple(self.files[i] for i in positions.tolist()),
            targets=self.targets[positions],
            groups=None if self.groups is None else self.groups[positions],
            partition=None if self.partition is None else self.partition[positions],
            metadata={name: values[positions] for name, values in self.metadata.items()},
        )
