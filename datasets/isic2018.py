"""ISIC 2018 task 3 (HAM10000): 10 015 dermoscopic pictures, seven classes, 58 : 1."""

from __future__ import annotations

from collections.abc import Mapping

from ltbench.dataset import DATASETS
from ltbench.datasets._isic import isic2018_test, isic2018_training
from ltbench.datasets._isic_pictures import (
    IsicConfig,
    IsicPictures,
    Manifest,
    archive,
    mirrored,
    paper_lists,
)
from ltbench.fetch.manifest import RemoteFile
from ltbench.intake.table import ImageTable

_TRUTH = "ISIC2018_Task3_Training_GroundTruth"
_TEST_TRUTH = "ISIC2018_Task3_Test_GroundTruth"
_LESIONS = "ISIC2018_Task3_Training_LesionGroupings.csv"


def _table(name: str, *, optional: bool = False) -> RemoteFile:
    return RemoteFile(
        name=f"{name}.zip",
        urls=mirrored(f"{name}.zip", 2018),
        about_bytes=100_000,
        unpacks_to=name,
        num_files={".csv": 1},
        optional=optional,
    )


@DATASETS.register(
    "isic2018",
    paper="Tschandl, Rosendahl and Kittler, The HAM10000 dataset, Scientific Data 5:180161, 2018; "
    "Codella et al., Skin Lesion Analysis Toward Melanoma Detection 2018, arXiv 1902.03368",
    year=2018,
    source="challenge.isic-archive.com/data/#2018, task 3",
    licence="CC BY-NC 4.0",
    tags=("dermoscopy", "grouped", "download"),
)
class Isic2018(IsicPictures):
    """HAM10000 with lesions as groups; all of it lies inside ISIC 2019."""

    Config = IsicConfig
    dataset = "ISIC2018"
    image_origins = frozenset({"HAM10000", "ISIC 2018 test"})
    training_input = "ISIC2018_Task3_Training_Input"
    licence = (
        "CC BY-NC 4.0 (attribution, no commercial use); some copies of HAM10000 say CC BY-NC-SA. "
        "Keep ATTRIBUTION.txt."
    )
    citations = (
        "Tschandl, Rosendahl, Kittler: The HAM10000 dataset, Sci. Data 5:180161 (2018)",
        "Codella et al.: Skin Lesion Analysis Toward Melanoma Detection 2018, arXiv 1902.03368",
    )
    known = Manifest(
        files=(
            _table(_TRUTH),
            RemoteFile(name=_LESIONS, urls=mirrored(_LESIONS, 2018), about_bytes=600_000),
            archive("ISIC2018_Task3_Training_Input", 2018, 2_800_000_000, 10_015),
            _table(_TEST_TRUTH, optional=True),
            archive("ISIC2018_Task3_Test_Input", 2018, 420_000_000, 1512, optional=True),
            *paper_lists("ISIC2018"),
        ),
        counts={
            **{"MEL": 1113, "NV": 6705, "BCC": 514, "AKIEC": 327},
            **{"BKL": 1099, "DF": 115, "VASC": 142},
        },
    )

    def class_groups(self) -> Mapping[str, tuple[str, ...]]:
        """AKIEC counts as malignant: it holds Bowen's disease, a carcinoma in situ."""
        return {"melanoma": ("MEL",), "malignant": ("MEL", "BCC", "AKIEC")}

    def training(self) -> ImageTable:
        """10 015 images of 7470 lesions."""
        return isic2018_training(self.root, self.file_of)

    def test(self) -> ImageTable:
        """1511 of 1512 images: ISIC_0035068 is not scored."""
        return isic2018_test(self.root, self.file_of)
