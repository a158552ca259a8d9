"""OrganAMNIST: eleven organs in axial slices of CT scans, grey."""

from __future__ import annotations

from ltbench.dataset import DATASETS
from ltbench.datasets._medmnist import ORGANS, ORGANS_NOTE, MedMnist, Release


@DATASETS.register(
    "organamnist",
    paper="Yang et al., MedMNIST v2, Sci. Data 10:41, 2023; pictures: Bilic et al., The Liver "
    "Tumor Segmentation Benchmark (LiTS), Medical Image Analysis 84, 2023; Xu et al., "
    "Efficient Multiple Organ Localization in CT Image Using 3D Region Proposal Network, IEEE "
    "TMI 38, 2019",
    year=2023,
    source="medmnist.com; zenodo.org/records/10519652",
    licence="CC BY 4.0",
    tags=("organs", "grey", "arrays", "download"),
)
class OrganAMnist(MedMnist):
    """58 830 axial slices, cut out around an organ; left and right are classes."""

    default_recipe = "medmnist_organs"
    image_origins = frozenset({"LiTS"})
    release = Release(
        class_names=ORGANS,
        channels=1,
        counts={"train": 34_561, "val": 6491, "test": 17_778},
        md5={
            28: "68e3f8846a6bd62f0c9bf841c0d9eacc",
            64: "2dcccc29b88e6da5a01161ef20cda288",
            128: "eeae80d0a227a8d099027e1b3cfd3b60",
            224: "50747347e05c87dd3aaf92c49f9f3170",
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
