"""PAD-UFES-20: 2298 clinical pictures of skin, by smartphone, six classes, 16 : 1."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np

from ltbench.dataset import DATASETS, FetchRequest, Source, Split
from ltbench.datasets._by_hand import by_hand
from ltbench.datasets._own import FoldsConfig, split_by
from ltbench.errors import DataMissingError
from ltbench.fetch.download import fetch
from ltbench.fetch.manifest import RemoteFile, size_text
from ltbench.intake.csv_files import read_rows
from ltbench.intake.csv_table import ColumnChoice, table_from_csv
from ltbench.intake.problems import Problems
from ltbench.intake.table import ImageTable
from ltbench.store.dataset import StoredDataset

PAGE = "https://data.mendeley.com/datasets/zr7vgbcyr2/1"
LICENCE = "CC BY 4.0 (attribution)."
CITATION = (
    "Pacheco et al.: PAD-UFES-20: A skin lesion dataset composed of patient data and clinical "
    "images collected from smartphones, Data in Brief 32:106221 (2020)"
)
METADATA = "metadata.csv"
COLUMNS = (
    *("patient_id", "lesion_id", "smoke", "drink", "background_father", "background_mother"),
    *("age", "pesticide", "gender", "skin_cancer_history", "cancer_history", "has_piped_water"),
    *("has_sewage_system", "fitspatrick", "region", "diameter_1", "diameter_2", "diagnostic"),
    *("itch", "grew", "hurt", "changed", "bleed", "elevation", "img_id", "biopsed"),
)
# What is carried along, by the names that other data sets have for it.
FACTS = {
    "age": "age",
    "gender": "sex",
    "region": "site",
    "fitspatrick": "fitspatrick",
    "biopsed": "biopsed",
    "lesion_id": "lesion",
}


@DATASETS.register(
    "pad_ufes_20",
    paper="Pacheco et al., PAD-UFES-20: A skin lesion dataset composed of patient data and "
    "clinical images collected from smartphones, Data in Brief 32:106221, 2020",
    year=2020,
    source="data.mendeley.com/datasets/zr7vgbcyr2/1",
    licence="CC BY 4.0",
    tags=("clinical", "grouped", "pictures"),
)
class PadUfes20(StoredDataset):
    """1641 lesions of 1373 patients; patients are groups."""

    Config = FoldsConfig
    protocols: ClassVar[Mapping[str, str]] = {
        "group": "patients kept whole, every class divided 3:1:1",
        "random": "image by image, every class divided 3:1:1; patients leak",
        "kfold": "dataset.num_folds folds that keep patients whole; dataset.fold is the test part",
    }
    default_protocol = "group"
    default_recipe = "ecl_paper"
    image_origins = frozenset({"PAD-UFES-20"})
    leaky = frozenset({"random"})

    counts: ClassVar[Mapping[str, int]] = {
        **{"ACK": 730, "BCC": 845, "MEL": 52},
        **{"NEV": 244, "SCC": 192, "SEK": 235},
    }
    archive_bytes: ClassVar[Mapping[str, int]] = {
        "imgs_part_1": 1_245_184_680,
        "imgs_part_2": 1_126_646_990,
        "imgs_part_3": 1_220_565_093,
    }

    def class_groups(self) -> Mapping[str, tuple[str, ...]]:
        """The three skin cancers of its paper, whose SCC holds Bowen's disease."""
        return {"melanoma": ("MEL",), "malignant": ("MEL", "BCC", "SCC")}

    def table(self, protocol: str) -> ImageTable:
        """Every row of metadata.csv.

        Raises:
            DataMissingError: the table or the pictures are not here, or not unpacked.
            VerificationError: the table is another one, or pictures are missing.
        """
        return self._table

    @cached_property
    def _table(self) -> ImageTable:
        file = self.root / METADATA
        if not file.is_file():
            raise self._missing()
        packed = [
            archive for archive in self._archives(self.root) if not self._is_unpacked(archive)
        ]
        if packed:
            raise DataMissingError(
                f"{self.info.name}: {', '.join(map(str, packed))} must be unpacked. Run: "
                f"{self.command('fetch')}"
            )
        columns = read_rows(file).columns
        absent = [f"no {name}" for name in COLUMNS if name not in columns]
        problems = Problems(str(file))
        remedy = f"Get {METADATA} anew from {PAGE}."
        problems.add(f"Expected the {len(COLUMNS)} columns of PAD-UFES-20", absent, remedy)
        problems.refuse()
        table = table_from_csv(
            file,
            image_root=self.root,
            columns=ColumnChoice("img_id", "diagnostic", "patient_id", "", tuple(FACTS)),
            class_names=tuple(self.counts),
        )
        found = np.bincount(table.targets, minlength=len(self.counts)).tolist()
        problems.add(
            f"Expected {sum(self.counts.values())} images",
            [
                f"{n} of {name} (published: {count})"
                for n, (name, count) in zip(found, self.counts.items(), strict=True)
                if n != count
            ],
            remedy,
        )
        problems.refuse()
        return replace(table, metadata=_facts(table.metadata))

    def split(self, source: Source, protocol: str, seed: int) -> Split:
        """See `protocols`."""
        return split_by(source, protocol, seed, self.config)

    def fetch(self, request: FetchRequest) -> None:
        """Unpack archives that lie here or in `request.from_dir`; there is no known direct URL.

        Raises:
            DataMissingError: files are missing; the message says where from and where to.
            VerificationError: an archive is damaged, or the table is another one.
        """
        try:
            table = self._table
        except DataMissingError:
            table = None
        if table is None:
            self._unpack(request)
            table = self._table
        request.say(f"{len(table)} images in {self.root}, counts as they should be.")

    def _unpack(self, request: FetchRequest) -> None:
        by_person = request.from_dir is None and request.mirror is None
        if by_person and not self._all_here():
            raise self._missing()
        folder = request.from_dir or self.root
        nested = "images/" if (folder / "images" / "imgs_part_1.zip").is_file() else ""
        archives = [
            RemoteFile(f"{nested}{part}.zip", (PAGE,), about_bytes=size, unpacks_to=part)
            for part, size in self.archive_bytes.items()
        ]
        files = [RemoteFile(METADATA, (PAGE,), about_bytes=300_000), *archives]
        fetch(files, self.root, request, licence=LICENCE, citations=(CITATION,))

    def _archives(self, folder: Path) -> list[Path]:
        """The archives that lie in a folder, beside the table or as Mendeley packs them."""
        places = [
            folder / below / f"{part}.zip"
            for part in self.archive_bytes
            for below in ("", "images")
        ]
        return [place for place in places if place.is_file()]

    def _is_unpacked(self, archive: Path) -> bool:
        return any(self.root.glob(f"**/{archive.stem}/*.png"))

    def _all_here(self) -> bool:
        parts = {archive.stem for archive in self._archives(self.root)}
        parts |= {part for part in self.archive_bytes if (self.root / part).is_dir()}
        return parts == set(self.archive_bytes) and (self.root / METADATA).is_file()

    def _missing(self) -> DataMissingError:
        sizes = [f"{part}.zip ({size_text(size)})" for part, size in self.archive_bytes.items()]
        return by_hand(
            self,
            PAGE,
            [METADATA, *sizes],
            "no direct address of its files is known",
            command=f"{self.command('fetch')}\n   which unpacks them (from another folder: add "
            f"--from-dir DIR); then: {self.command('prepare')}",
        )


def _facts(columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What is carried along; words in lower case, 3.0 as 3."""
    return {
        fact: np.array([cell.lower().removesuffix(".0") for cell in columns[column].tolist()])
        for column, fact in FACTS.items()
    }
