"""BloodMNIST: eight kinds of blood cells, in colour."""

from __future__ import annotations

from ltbench.dataset import DATASETS
from ltbench.datasets._medmnist import MedMnist, Release


@DATASETS.register(
    "bloodmnist",
    paper="Yang et al., MedMNIST v2, Sci. Data 10:41, 2023; pictures: Acevedo et al., A "
    "dataset of microscopic peripheral blood cell images for development of automatic "
    "recognition systems, Data in Brief 30:105474, 2020",
    year=2023,
    source="medmnist.com; zenodo.org/records/10519652",
    licence="CC BY 4.0",
    tags=("cells", "arrays", "download"),
)
class BloodMnist(MedMnist):
    """17 092 single cells of healthy persons."""

    image_origins = frozenset({"PBC blood cells"})
    release = Release(
        class_names=(
            "basophil",
            "eosinophil",
            "erythroblast",
            "immature granulocytes(myelocytes, metamyelocytes and promyelocytes)",
            "lymphocyte",
            "monocyte",
            "neutrophil",
            "platelet",
        ),
        channels=3,
        counts={"train": 11_959, "val": 1712, "test": 3421},
        md5={
            28: "7053d0359d879ad8a5505303e11de1dc",
            64: "2b94928a2ae4916078ca51e05b6b800b",
            128: "adace1e0ed228fccda1f39692059dd4c",
            224: "b718ff6835fcbdb22ba9eacccd7b2601",
        },
        licence="CC BY 4.0 (attribution).",
        citations=(
            "Acevedo et al., A dataset of microscopic peripheral blood cell images for "
            "development of automatic recognition systems, Data in Brief 30:105474, 2020",
        ),
    )
    groups_note = "The file names no groups: cells of one person can be in two parts."
