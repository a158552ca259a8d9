"""CIFAR-100-LT: a hundred kinds of things, 60 000 pictures, made long-tailed."""

from __future__ import annotations

from ltbench.dataset import DATASETS
from ltbench.datasets._cifar import CifarLT, Release


@DATASETS.register(
    "cifar100_lt",
    paper="Krizhevsky, Learning Multiple Layers of Features from Tiny Images, technical report "
    "2009; the tail: Cao et al., Learning Imbalanced Datasets with Label-Distribution-Aware Margin "
    "Loss, NeurIPS 2019",
    year=2009,
    source="www.cs.toronto.edu/~kriz/cifar.html; lists: kaidic/LDAM-DRW@2536330",
    licence="none stated",
    tags=("objects", "balanced-origin", "download"),
)
class Cifar100LT(CifarLT):
    """500 training and 100 test images of every one of the fine classes."""

    image_origins = frozenset({"CIFAR-100"})
    release = Release(
        archive="cifar-100-python.tar.gz",
        archive_md5="eb9058c3a382ffc7106e4002c42a8d85",
        about_bytes=169_001_437,
        folder="cifar-100-python",
        md5={
            "train": "16019d7e3df5f24257cddd939b257f8d",
            "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
            "meta": "7973b15100ade9c7d40fb424638fde48",
        },
        train=("train",),
        test="test",
        meta="meta",
        labels="fine_labels",
        names="fine_label_names",
        num_images={"train": 500, "test": 100},
    )
    percent_duplicates = 10.0
