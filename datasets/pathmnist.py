"""PathMNIST: nine kinds of tissue in histology of colorectal cancer, in colour."""

from __future__ import annotations

from collections.abc import Mapping

from ltbench.dataset import DATASETS
from ltbench.datasets._medmnist import MedMnist, Release


@DATASETS.register(
    "pathmnist",
    paper="Yang et al., MedMNIST v2, Sci. Data 10:41, 2023; pictures: Kather et al., "
    "Predicting survival from colorectal cancer histology slides using deep learning, PLOS "
    "Medicine 16:e1002730, 2019",
    year=2023,
    source="medmnist.com; zenodo.org/records/10519652",
    licence="CC BY 4.0",
    tags=("histology", "arrays", "download"),
)
class PathMnist(MedMnist):
    """107 180 patches; the test part is of another clinical centre."""

    image_origins = frozenset({"NCT-CRC-HE-100K", "CRC-VAL-HE-7K"})
    release = Release(
        class_names=(
            "adipose",
            "background",
            "debris",
            "lymphocytes",
            "mucus",
            "smooth muscle",
            "normal colon mucosa",
            "cancer-associated stroma",
            "colorectal adenocarcinoma epithelium",
        ),
        channels=3,
        counts={"train": 89_996, "val": 10_004, "test": 7180},
        md5={
            28: "a8b06965200029087d5bd730944a56c1",
            64: "55aa9c1e0525abe5a6b9d8343a507616",
            128: "ac42d08fb904d92c244187169d1fd1d9",
            224: "2c51a510bcdc9cf8ddb2af93af1eadec",
        },
        licence="CC BY 4.0 (attribution).",
        citations=(
            "Kather et al., Predicting survival from colorectal cancer histology slides using "
            "deep learning, PLOS Medicine 16:e1002730, 2019",
        ),
    )
    groups_note = (
        "The file names no groups. The test part is of another clinical centre; patches of one "
        "slide can be in training and validation."
    )

    def class_groups(self) -> Mapping[str, tuple[str, ...]]:
        """The one class that is the cancer itself."""
        return {"adenocarcinoma": ("colorectal adenocarcinoma epithelium",)}
