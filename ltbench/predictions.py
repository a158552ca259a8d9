"""Predictions of one split: what every metric is computed from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Predictions:
    """Inference logits of one split, with what is needed to score them.

    Attributes:
        ids: names of the images, str (N,).
        targets: class indices, int64 (N,).
        logits: the method's declared inference logits, float32 (N, C).
        class_names: C names; position is the class index.
        groups: lesion, patient or writer of each image, str (N,); None where unknown.
        metadata: further facts of each image (age, sex, site, ...), str (N,) by name.
    """

    ids: np.ndarray
    targets: np.ndarray
    logits: np.ndarray
    class_names: tuple[str, ...]
    groups: np.ndarray | None = None
    metadata: Mapping[str, np.ndarray] = field(default_factory=dict)
