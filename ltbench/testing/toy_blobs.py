"""Toy blobs: a synthetic, separable data set for tests of methods. Never a result of its own.

Each class is a bright blob at a place of its own on an 8 x 8 grey picture, with noise. Class sizes
fall steeply, and the last class has a single training image.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
from pydantic import Field

from ltbench.data.images import ArrayImages
from ltbench.data.philox import uniform
from ltbench.dataset import DATASETS, Dataset, DatasetConfig, Source, Split

_SIZE = 8
_NUM_EVAL = 6


class ToyConfig(DatasetConfig):
    """Settings of toy blobs."""

    train_counts: tuple[int, ...] = Field(
        default=(24, 11, 4, 1), min_length=2, max_length=9, description="training images by class"
    )
    noise: float = Field(default=0.15, ge=0, le=1, description="noise relative to the blob")


@DATASETS.register(
    "toy_blobs",
    paper="none; made for tests",
    year=2026,
    source="synthetic",
    licence="MIT",
    tags=("synthetic",),
)
class ToyBlobs(Dataset):
    """Blobs on a grid, one place a class."""

    Config = ToyConfig
    protocols: ClassVar[Mapping[str, str]] = {"held_out": "made apart, six images a class"}
    default_protocol = "held_out"
    default_recipe = "digits"

    def load(self, protocol: str) -> Source:
        """Draw all pictures."""
        counts = self.config.train_counts
        parts = [
            ("train", counts),
            ("val", (_NUM_EVAL,) * len(counts)),
            ("test", (_NUM_EVAL,) * len(counts)),
        ]
        targets = np.concatenate([np.repeat(np.arange(len(counts)), n) for _, n in parts])
        partition = np.concatenate([np.repeat(name, sum(n)) for name, n in parts])
        noise = uniform(
            7, stream=0, epoch=0, index=np.arange(len(targets)), num_words=_SIZE * _SIZE
        ).reshape(-1, _SIZE, _SIZE)
        rows, columns = np.mgrid[:_SIZE, :_SIZE]
        row, column = 1.5 + 2.0 * (targets // 3), 1.5 + 2.0 * (targets % 3)
        distance = (rows - row[:, None, None]) ** 2 + (columns - column[:, None, None]) ** 2
        pictures = np.exp(-distance) * (1 - self.config.noise) + noise * self.config.noise
        return Source(
            images=ArrayImages((pictures * 255).round().astype(np.uint8)[:, None]),
            ids=np.array([f"toy-{i:04d}" for i in range(len(targets))]),
            targets=targets.astype(np.int64),
            class_names=tuple(f"blob {i}" for i in range(len(counts))),
            partition=partition,
        )

    def split(self, source: Source, protocol: str, seed: int) -> Split:
        """The parts the pictures were drawn for."""
        train, val, test = (
            np.flatnonzero(source.partition == name) for name in ("train", "val", "test")
        )
        return Split(train, val, test, notes={"synthetic": True})
