"""ImageNet-LT: 1000 classes, 1280 to 5 training images, from ImageNet's 2012 challenge."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from ltbench.dataset import DATASETS
from ltbench.datasets._listed import LISTS_PAGE, ListedPictures, Lists
from ltbench.errors import DataMissingError
from ltbench.fetch.manifest import login_needed
from ltbench.intake.table import ImageTable

PAGE = "https://image-net.org/challenges/LSVRC/2012/2012-downloads.php"


@DATASETS.register(
    "imagenet_lt",
    paper="Liu et al., Large-Scale Long-Tailed Recognition in an Open World, CVPR 2019; pictures: "
    "Russakovsky et al., ImageNet Large Scale Visual Recognition Challenge, IJCV 115, 2015",
    year=2019,
    source="image-net.org (login); lists: facebookresearch/classifier-balancing, data/ImageNet_LT",
    licence="for research and teaching; see image-net.org",
    tags=("objects", "login", "pictures"),
)
class ImageNetLT(ListedPictures):
    """Validation: 20 images a class of ImageNet's training part. Test: its validation part."""

    image_origins = frozenset({"ImageNet-1k"})
    protocols: ClassVar[Mapping[str, str]] = {
        "published": "the lists of Liu et al.: long-tailed training, balanced validation and test",
    }
    lists = Lists(
        files={
            "train": "ImageNet_LT_train.txt",
            "val": "ImageNet_LT_val.txt",
            "test": "ImageNet_LT_test.txt",
        },
        counts={"val": 20_000, "test": 50_000},
        recalled={"train": 115_846},
        num_classes=1000,
    )
    expected = (
        "train/<wnid>/<wnid>_<number>.JPEG, of ILSVRC2012_img_train.tar",
        "val/<wnid>/ILSVRC2012_val_<number>.JPEG, of ILSVRC2012_img_val.tar, sorted into classes",
        f"lists/{', lists/'.join(lists.files.values())}, of {LISTS_PAGE}",
    )

    def missing(self) -> DataMissingError:
        """ImageNet is behind a login."""
        return login_needed(
            self.info.name, PAGE, self.root, self.expected, command=self.command("prepare")
        )

    def table(self, protocol: str) -> ImageTable:
        """Every line of the lists; see `ListedPictures.table`."""
        flat = next((self.root / "val").glob("ILSVRC2012_val_*.JPEG"), None)
        if flat is not None:
            raise DataMissingError(
                f"{self.info.name}: expected ImageNet's validation images in folders of their "
                f"classes, {self.root}/val/<wnid>/{flat.name}, found {flat}. Sort them: each line "
                f"of {self.lists.files['test']} names an image with its folder."
            )
        return super().table(protocol)
