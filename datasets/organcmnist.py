"""OrganCMNIST: eleven organs in coronal slices of CT scans, grey."""

from __future__ import annotations

from ltbench.dataset import DATASETS
from ltbench.datasets._medmnist import ORGANS, ORGANS_NOTE, MedMnist, Release


@DATASETS.register(
    "organcmnist",
    paper="Yang et al., MedMNIST v2, Sci. Data 10:41, 2023; pictures: Bilic et al., The Liver "
    "Tumor Segmentation Benchmark (LiTS), Medical Image Analysis 84, 2023; Xu et al., "
    "Efficient Multiple Organ Localization in CT Image Using 3D Region Proposal Network, IEEE "
    "TMI 38, 2019",
    year=2023,
    source="medmnist.com; zenodo.org/records/10519652",
    licence="CC BY 4.0",
    tags=("organs", "grey", "arrays", "download"),
)
class OrganCMnist(MedMnist):
    """23 583 coronal slices, cut out around an organ; left and right are classes."""

    default_recipe = "medmnist_organs"
    image_origins = frozenset({"LiTS"})
    release = Release(
        class_names=ORGANS,
        channels=1,
        counts={"train": 12_975, "val": 2392, "test": 8216},
        md5={
            28: "b9ceb9546e10131b32923c5bbeaea2b1",
            64: "3ce34a8724ea6f548e6db4744d03b6a9",
            128: "773c1f009daa3fe5d9a2a201b2a7ed94",
            224: "050f5e875dc056f6768abf94ec9995d1",
        },
        licence="CC BY 4.0 (attribution).",
        citations=(
            "Bilic et al., The Liver Tumor Segmentation Benchmark (LiTS), Medical Image Analysis "
            "84, 2023",
            "Xu et al., Efficient Multiple Organ Localization in CT Image Using 3D Region "
            "Proposal Network, IEEE TMI 38, 2019",
        ),
    )
    groups_note = ORGANS_NOTE
