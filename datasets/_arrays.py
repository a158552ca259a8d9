"""Pictures that come decoded in an npz file, to a source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ltbench.data.images import ArrayImages
from ltbench.dataset import Source
from ltbench.intake.arrays import WHOLE, ArrayTable

__all__ = ["source_of_arrays"]


def source_of_arrays(
    table: ArrayTable,
    name: str,
    class_names: Sequence[str],
    *,
    groups_note: str,
    notes: Mapping[str, Any] | None = None,
) -> Source:
    """Every picture of the file, part after part; ids are "<name>-<part>-<number>".

    Args:
        table: what the file holds.
        name: what ids begin with.
        class_names: C names.
        groups_note: what is known of groups; the file has none.
        notes: see `Source`.
    """
    counts = {part: len(labels) for part, labels in table.labels.items()}
    pixels = list(table.pixels.values())
    shape = (sum(counts.values()), *pixels[0].shape[1:])
    # Written where it stays: a large set fits into memory twice, but not three times.
    joined = np.concatenate(pixels, out=np.empty(shape, dtype=np.uint8))
    return Source(
        images=ArrayImages(torch.from_numpy(joined)),
        ids=np.array([f"{name}-{part}-{i:06d}" for part in counts for i in range(counts[part])]),
        targets=np.concatenate(list(table.labels.values())),
        class_names=tuple(class_names),
        partition=None if WHOLE in counts else np.repeat(list(counts), list(counts.values())),
        groups_note=groups_note,
        notes=dict(notes or {}),
    )
