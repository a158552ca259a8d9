"""TissueMNIST: eight kinds of human kidney cortex cells, grey."""

from __future__ import annotations

from ltbench.dataset import DATASETS
from ltbench.datasets._medmnist import MedMnist, Release


@DATASETS.register(
    "tissuemnist",
    paper="Yang et al., MedMNIST v2, Sci. Data 10:41, 2023; pictures: Ljosa et al., Annotated "
    "high-throughput microscopy image sets for validation, Nature Methods 9:637, 2012 "
    "(BBBC051); Woloshuk et al., In Situ Classification of Cell Types in Human Kidney Tissue "
    "Using 3D Nuclear Staining, Cytometry A 99, 2021",
    year=2023,
    source="medmnist.com; zenodo.org/records/10519652",
    licence="CC BY 4.0",
    tags=("cells", "grey", "arrays", "download"),
)
class TissueMnist(MedMnist):
    """236 386 cells of three tissue specimens."""

    image_origins = frozenset({"BBBC051"})
    release = Release(
        class_names=(
            "Collecting Duct, Connecting Tubule",
            "Distal Convoluted Tubule",
            "Glomerular endothelial cells",
            "Interstitial endothelial cells",
            "Leukocytes",
            "Podocytes",
            "Proximal Tubule Segments",
            "Thick Ascending Limb",
        ),
        channels=1,
        counts={"train": 165_466, "val": 23_640, "test": 47_280},
        md5={
            28: "ebe78ee8b05294063de985d821c1c34b",
            64: "123ece2eba09d0aa5d698fda57103344",
            128: "61b955355d7425a89687b06cca3ce0c2",
            224: "b077128c4a949f0a4eb01517f9037b9c",
        },
        licence="CC BY 4.0 (attribution).",
        citations=(
            "Ljosa et al., Annotated high-throughput microscopy image sets for validation, Nature "
            "Methods 9:637, 2012 (BBBC051)",
            "Woloshuk et al., In Situ Classification of Cell Types in Human Kidney Tissue Using "
            "3D Nuclear Staining, Cytometry A 99, 2021",
        ),
    )
    groups_note = (
        "The file names no groups: all cells are of three tissue specimens, and cells of each can "
        "be in every part."
    )
