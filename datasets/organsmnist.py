"""OrganSMNIST: eleven organs in sagittal slices of CT scans, grey."""

from __future__ import annotations

from ltbench.dataset import DATASETS
from ltbench.datasets._medmnist import ORGANS, ORGANS_NOTE, MedMnist, Release


@DATASETS.register(
    "organsmnist",
    paper="Yang et al., MedMNIST v2, Sci. Data 10:41, 2023; pictures: Bilic et al., The Liver "
    "Tumor Segmentation Benchmark (LiTS), Medical Image Analysis 84, 2023; Xu et al., "
    "Efficient Multiple Organ Localization in CT Image Using 3D Region Proposal Network, IEEE "
    "TMI 38, 2019",
    year=2023,
    source="medmnist.com; zenodo.org/records/10519652",
    licence="CC BY 4.0",
    tags=("organs", "grey", "arrays", "download"),
)
class OrganSMnist(MedMnist):
    """25 211 sagittal slices, cut out around an organ; left and right are classes."""

    default_recipe = "medmnist_organs"
    image_origins = frozenset({"LiTS"})
    release = Release(
        class_names=ORGANS,
        channels=1,
        counts={"train": 13_932, "val": 2452, "test": 8827},
        md5={
            28: "9ab87b696fb54e2a387ebe992d6ed5f1",
            64: "53a6d115339d874c25e309a994ff46d3",
            128: "ded0c5fa01a95dc4978b956f613e9b8e",
            224: "b354719e553fbbb2513d5533f52a4cb1",
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
