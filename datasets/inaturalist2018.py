"""iNaturalist 2018: 8142 species as they were photographed, long-tailed by nature."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from ltbench.dataset import DATASETS, FetchRequest
from ltbench.datasets._listed import LISTS_PAGE, ListedPictures, Lists
from ltbench.errors import DataMissingError
from ltbench.fetch.download import fetch
from ltbench.fetch.manifest import RemoteFile, listed

LICENCE = (
    "for non-commercial research; the pictures' own licences differ. See "
    "github.com/visipedia/inat_comp, 2018."
)
CITATION = (
    "Van Horn et al.: The iNaturalist Species Classification and Detection Dataset, CVPR 2018"
)


@DATASETS.register(
    "inaturalist2018",
    paper="Van Horn et al., The iNaturalist Species Classification and Detection Dataset, CVPR "
    "2018",
    year=2018,
    source="github.com/visipedia/inat_comp, 2018; lists: facebookresearch/classifier-balancing, "
    "data/iNaturalist18",
    licence="non-commercial research",
    tags=("species", "pictures", "download"),
)
class INaturalist2018(ListedPictures):
    """The validation part of the competition is the test part here, since its test is secret."""

    image_origins = frozenset({"iNaturalist 2018"})
    protocols: ClassVar[Mapping[str, str]] = {
        "published": "train on the training list, test on the competition's validation list; no "
        "validation",
    }
    lists = Lists(
        files={"train": "iNaturalist18_train.txt", "test": "iNaturalist18_val.txt"},
        counts={"test": 24_426},
        recalled={"train": 437_513},
        num_classes=8142,
    )
    expected = (
        "train_val2018/<kingdom or class>/<species>/<hash>.jpg, of train_val2018.tar.gz",
        f"lists/{', lists/'.join(lists.files.values())}, of {LISTS_PAGE}",
    )
    archive: ClassVar[RemoteFile] = RemoteFile(
        name="train_val2018.tar.gz",
        urls=("https://ml-inat-competition-datasets.s3.amazonaws.com/2018/train_val2018.tar.gz",),
        about_bytes=120_000_000_000,
        md5="b1c6952ce38f31868cc50ea72d066cc3",
        unpacks_to="train_val2018",
    )

    def missing(self) -> DataMissingError:
        """The pictures can be downloaded, the lists cannot."""
        return DataMissingError(
            f"{self.info.name} is not here: expected in {self.root}:\n{listed(self.expected)}\n"
            f"Run: {self.command('fetch')} --accept-licence\nwhich downloads about 120 GB and says "
            "where the lists are."
        )

    def fetch(self, request: FetchRequest) -> None:
        """Download and unpack the pictures, about 120 GB; then check them against the lists.

        Raises: as `ltbench.fetch.download.fetch` and `ListedPictures.fetch`.
        """
        self.list_files()  # small, and needed: to be said before 120 GB are downloaded
        fetch([self.archive], self.root, request, licence=LICENCE, citations=(CITATION,))
        super().fetch(request)
