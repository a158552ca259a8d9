"""Noise of any size, to measure speed with: nothing can be learnt from it."""

from typing import ClassVar

import numpy as np
from pydantic import Field

from ltbench.data.images import ArrayImages
from ltbench.dataset import DATASETS, Dataset, DatasetConfig, Source, Split

NUM_CLASSES = 10
NUM_HELD_OUT = 100


@DATASETS.register(
    "noise_pictures",
    paper="none: made for measuring speed",
    year=2026,
    source="numpy.random.default_rng(0)",
    licence="MIT",
    tags=("synthetic",),
)
class NoisePictures(Dataset):
    """Ten classes of uniform noise."""

    class Config(DatasetConfig):
        """Settings of noise_pictures."""

        size: int = Field(28, ge=4, le=512, description="height and width in pixels")
        channels: int = Field(1, ge=1, le=3, description="1 is grey, 3 is colour")
        images: int = Field(12_800, ge=20, description="training images")

    protocols: ClassVar = {"held_out": "one hundred images each for validation and test"}
    default_protocol = "held_out"
    default_recipe = "fashion"
    config: Config

    def load(self, protocol) -> Source:
        """Training images first, then validation, then test."""
        count = self.config.images + 2 * NUM_HELD_OUT
        shape = (count, self.config.channels, self.config.size, self.config.size)
        pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        return Source(
            images=ArrayImages(pixels),
            ids=np.array([f"noise-{i:06d}" for i in range(count)]),
            targets=np.arange(count, dtype=np.int64) % NUM_CLASSES,
            class_names=tuple(f"noise {i}" for i in range(NUM_CLASSES)),
        )

    def split(self, source: Source, protocol: str, seed: int) -> Split:
        """In stored order."""
        held = self.config.images + np.array([0, NUM_HELD_OUT, 2 * NUM_HELD_OUT])
        return Split(
            train=np.arange(held[0]),
            val=np.arange(held[0], held[1]),
            test=np.arange(held[1], held[2]),
        )
