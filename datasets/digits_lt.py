"""Digits-LT: the 1797 real handwritten digits that come with scikit-learn, made long-tailed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from ltbench.data.images import ArrayImages
from ltbench.data.longtail import Imbalance, held_out
from ltbench.dataset import DATASETS, Dataset, DatasetConfig, Source, Split

IMAGES_A_BLOCK = 45
# 12 of the 40 blocks to test and 4 to validation leave a head class of just over 100 images, so
# that truncation costs the tail next to nothing: ratio 20 ends at 5 images, ratio 50 at 2.
TEST_FRACTION = 0.3
VAL_FRACTION = 0.15


@DATASETS.register(
    "digits_lt",
    paper="Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning "
    "Repository 1998, doi 10.24432/C50P49",
    year=1998,
    source="scikit-learn load_digits (UCI, the test part of the set: 13 writers)",
    licence="CC BY 4.0",
    tags=("digits", "embedded", "balanced-origin", "grouped"),
)
class DigitsLT(Dataset):
    """Ten digits, 8 x 8 grey pixels, about 180 images a class; nothing to download.

    Small enough to train in seconds, with a clear gap between head and tail at the default
    imbalance. Test holds 51 images of every class or a few more, validation's head class about 16,
    training's about 104.
    """

    class Config(DatasetConfig):
        """Settings of digits_lt."""

        imbalance: Imbalance = Field(
            default=20.0, description="largest over smallest class of the training part"
        )
        balanced_validation: bool = Field(
            default=False, description="the same number of validation images of every class"
        )

    protocols: ClassVar[Mapping[str, str]] = {
        "held_out": "whole blocks of neighbouring images to test (balanced), validation, training",
    }
    default_protocol = "held_out"
    default_recipe = "digits"
    image_origins = frozenset({"UCI optical digits"})
    config: Config

    def load(self, protocol: str) -> Source:
        """All 1797 images.

        Source: sklearn.datasets.load_digits, values 0..16, scaled to 0..255 by round(v * 255 / 16).
        """
        from sklearn.datasets import load_digits

        digits: Any = load_digits()
        pixels = np.rint(digits.images * 255 / 16).astype(np.uint8)
        numbers = range(len(pixels))
        return Source(
            images=ArrayImages(pixels[:, None]),
            ids=np.array([f"digits-{i:04d}" for i in numbers]),
            targets=digits.target.astype(np.int64),
            class_names=tuple(str(digit) for digit in range(10)),
            groups=np.array([f"block-{i // IMAGES_A_BLOCK:02d}" for i in numbers]),
            groups_note=f"Groups are blocks of {IMAGES_A_BLOCK} neighbouring images, which mostly "
            "share a hand. They stand in for the writers, who are not recorded: a writer at the "
            "border of two blocks can be in two parts.",
        )

    def split(self, source: Source, protocol: str, seed: int) -> Split:
        """By whole blocks; see `ltbench.data.longtail.held_out`."""
        return held_out(
            source,
            imbalance=self.config.imbalance,
            seed=seed,
            val_fraction=VAL_FRACTION,
            balanced_validation=self.config.balanced_validation,
            test_fraction=TEST_FRACTION,
        )
