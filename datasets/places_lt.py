"""Places-LT: 365 kinds of places, 4980 to 5 training images, from Places365-Standard."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from ltbench.dataset import DATASETS
from ltbench.datasets._by_hand import by_hand
from ltbench.datasets._listed import LISTS_PAGE, ListedPictures, Lists
from ltbench.errors import DataMissingError

PAGE = "http://places2.csail.mit.edu/download.html"


@DATASETS.register(
    "places_lt",
    paper="Liu et al., Large-Scale Long-Tailed Recognition in an Open World, CVPR 2019; pictures: "
    "Zhou et al., Places: A 10 Million Image Database for Scene Recognition, TPAMI 40, 2018",
    year=2019,
    source="places2.csail.mit.edu; lists: facebookresearch/classifier-balancing, data/Places_LT",
    licence="pictures: see places2.csail.mit.edu",
    tags=("scenes", "pictures"),
)
class PlacesLT(ListedPictures):
    """Validation: 20 images a class. Test: 100 a class, of Places365's validation part."""

    image_origins = frozenset({"Places365"})
    protocols: ClassVar[Mapping[str, str]] = {
        "published": "the lists of Liu et al.: long-tailed training, balanced validation and test",
    }
    lists = Lists(
        files={
            "train": "Places_LT_train.txt",
            "val": "Places_LT_val.txt",
            "test": "Places_LT_test.txt",
        },
        counts={"train": 62_500, "val": 7300, "test": 36_500},
        num_classes=365,
    )
    expected = (
        "train/<class>/<number>.jpg and val/<class>/<name>.jpg, of "
        "places365standard_easyformat.tar (256 x 256 pixels)",
        f"lists/{', lists/'.join(lists.files.values())}, of {LISTS_PAGE}",
    )

    def missing(self) -> DataMissingError:
        """No digest of the archive is known, so nothing could be checked."""
        return by_hand(self, PAGE, self.expected, "no digest of its archive is known")
