"""CIFAR-10-LT: ten kinds of animals and vehicles, 60 000 pictures, made long-tailed."""

from __future__ import annotations

from ltbench.dataset import DATASETS
from ltbench.datasets._cifar import CifarLT, Release


@DATASETS.register(
    "cifar10_lt",
    paper="Krizhevsky, Learning Multiple Layers of Features from Tiny Images, technical report "
    "2009; the tail: Cao et al., Learning Imbalanced Datasets with Label-Distribution-Aware Margin "
    "Loss, NeurIPS 2019",
    year=2009,
    source="www.cs.toronto.edu/~kriz/cifar.html; lists: kaidic/LDAM-DRW@2536330",
    licence="none stated",
    tags=("objects", "balanced-origin", "download"),
)
class Cifar10LT(CifarLT):
    """5000 training and 1000 test images of every class."""

    image_origins = frozenset({"CIFAR-10"})
    release = Release(
        archive="cifar-10-python.tar.gz",
        archive_md5="c58f30108f718f92721af3b95e74349a",
        about_bytes=170_498_071,
        folder="cifar-10-batches-py",
        md5={
            "data_batch_1": "c99cafc152244af753f735de768cd75f",
            "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
            "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
            "data_batch_4": "634d18415352ddfa80567beed471001a",
            "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
            "test_batch": "40351d587109b95175f43aff81a1287e",
            "batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
        },
        train=("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5"),
        test="test_batch",
        meta="batches.meta",
        labels="labels",
        names="label_names",
        num_images={"train": 5000, "test": 1000},
    )
    percent_duplicates = 3.3
