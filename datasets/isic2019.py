"""ISIC 2019: 25 331 dermoscopic pictures of three sources, eight classes, 54 : 1."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

import numpy as np

from ltbench.data.protocols import shifted
from ltbench.dataset import DATASETS, Source, Split
from ltbench.datasets._isic import isic2019_test, isic2019_training
from ltbench.datasets._isic_pictures import (
    PROTOCOLS,
    IsicConfig,
    IsicPictures,
    Manifest,
    archive,
    mirrored,
    paper_lists,
)
from ltbench.errors import UsageError
from ltbench.fetch.manifest import RemoteFile
from ltbench.intake.table import ImageTable

_LEARNT_FROM, _TESTED_ON = frozenset({"HAM", "MSK"}), frozenset({"BCN"})


def _table(name: str, size: int | None, seen: str | None, *, optional: bool = False) -> RemoteFile:
    return RemoteFile(
        name=f"{name}.csv",
        urls=mirrored(f"{name}.csv", 2019),
        about_bytes=size or 500_000,
        sha256_seen=seen,
        optional=optional,
    )


@DATASETS.register(
    "isic2019",
    paper="Combalia et al., BCN20000: Dermoscopic Lesions in the Wild, arXiv 1908.02288; Tschandl, "
    "Rosendahl and Kittler, The HAM10000 dataset, Scientific Data 5:180161, 2018; Codella et al., "
    "Skin Lesion Analysis Toward Melanoma Detection, ISBI 2018",
    year=2019,
    source="challenge.isic-archive.com/data/#2019",
    licence="CC BY-NC 4.0",
    tags=("dermoscopy", "grouped", "download"),
)
class Isic2019(IsicPictures):
    """BCN_20000, HAM10000 and MSK; lesions are groups, and 2084 images without one stand alone."""

    Config = IsicConfig
    dataset = "ISIC2019"
    image_origins = frozenset({"HAM10000", "BCN_20000", "MSK", "ISIC 2019 test"})
    training_input = "ISIC_2019_Training_Input"
    protocols: ClassVar[Mapping[str, str]] = {
        **PROTOCOLS,
        "source": "train on HAM10000 and MSK, test on BCN_20000; images without lesion_id left out",
    }
    licence = (
        "CC BY-NC 4.0 (attribution, no commercial use), of BCN_20000, HAM10000 and MSK. Keep "
        "ATTRIBUTION.txt."
    )
    citations = (
        "BCN_20000: Combalia et al.: BCN20000: Dermoscopic Lesions in the Wild, arXiv 1908.02288",
        "HAM10000: Tschandl, Rosendahl, Kittler, Sci. Data 5:180161 (2018)",
        "MSK: Codella et al.: Skin Lesion Analysis Toward Melanoma Detection, arXiv 1710.05006",
    )
    known = Manifest(
        files=(
            _table(
                "ISIC_2019_Training_GroundTruth",
                1_291_479,
                "aa88e9638fe4df9ef330dc4ba22fa4bd475c44af692fffb870c73091ab25cdcd",
            ),
            _table(
                "ISIC_2019_Training_Metadata",
                1_214_351,
                "d93994a8ed201d474de9a7af7e17ec30929cbc4a5220659ecbde17cbe83e9316",
            ),
            archive("ISIC_2019_Training_Input", 2019, 9_770_000_000, 25_331),
            _table("ISIC_2019_Test_GroundTruth", None, None, optional=True),
            _table("ISIC_2019_Test_Metadata", None, None, optional=True),
            archive("ISIC_2019_Test_Input", 2019, 3_600_000_000, 8238, optional=True),
            *paper_lists("ISIC2019"),
        ),
        counts={
            **{"MEL": 4522, "NV": 12_875, "BCC": 3323, "AK": 867},
            **{"BKL": 2624, "DF": 239, "VASC": 253, "SCC": 628},
        },
    )

    def class_groups(self) -> Mapping[str, tuple[str, ...]]:
        """AK does not count as malignant: actinic keratoses come before a carcinoma."""
        return {"melanoma": ("MEL",), "malignant": ("MEL", "BCC", "SCC")}

    def training(self) -> ImageTable:
        """25 331 images of 13 931 groups."""
        return isic2019_training(self.root, self.file_of)

    def test(self) -> ImageTable:
        """The official test images of the eight classes; UNK is left out and counted."""
        return isic2019_test(self.root, self.file_of)

    def table(self, protocol: str) -> ImageTable:
        """As of every ISIC set; for `source` the classes that both sides hold."""
        if protocol != "source":
            return super().table(protocol)
        return _of_both_sides(super().table(protocol))

    def split(self, source: Source, protocol: str, seed: int) -> Split:
        """See `protocols`."""
        if protocol != "source":
            return super().split(source, protocol, seed)
        return shifted(source, seed, source.metadata["source"], _LEARNT_FROM, _TESTED_ON)


def _of_both_sides(table: ImageTable) -> ImageTable:
    """The images of classes that training and test sources both hold."""
    if "source" not in table.metadata:
        raise UsageError(
            "Protocol 'source' needs to know where pictures come from, which "
            "ISIC_2019_Training_Metadata.csv says by lesion_id. Put it beside the pictures."
        )
    by = table.metadata["source"]
    sides = [
        set(table.targets[np.isin(by, sorted(side))].tolist())
        for side in (_LEARNT_FROM, _TESTED_ON)
    ]
    kept = sorted(sides[0] & sides[1])
    lost = [name for i, name in enumerate(table.class_names) if i not in kept]
    if not lost:
        return table
    new_index = np.full(len(table.class_names), -1)
    new_index[kept] = np.arange(len(kept))
    small = table.keep(np.isin(table.targets, kept))
    return replace(
        small,
        targets=new_index[small.targets].astype(np.int64),
        class_names=tuple(table.class_names[i] for i in kept),
        notes={**table.notes, "classes_of_one_side_only": lost},
    )
