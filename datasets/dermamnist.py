"""DermaMNIST: HAM10000 as small pictures; and its corrected versions DermaMNIST-C and -E."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from ltbench.dataset import DATASETS, Source, Split, place_field
from ltbench.datasets._medmnist import (
    MedMnist,
    MedMnistConfig,
    Release,
    md5_of,
    refuse_other_contents,
)
from ltbench.errors import DataMissingError, UsageError
from ltbench.intake.arrays import arrays_from_npz

PAGE = "https://zenodo.org/records/12739457"
LEAK = (
    "778 of 2005 test images (38.8 %) show a lesion that is in training too (Abhishek et al., "
    "Scientific Data 12:196, 2025); the file does not say which"
)


@dataclass(frozen=True)
class Correction:
    """One of the corrected versions.

    Attributes:
        counts: images by part.
        md5: of the known file of each size that there is.
        groups_note: what its parts separate.
    """

    counts: Mapping[str, int]
    md5: Mapping[int, str]
    groups_note: str


@DATASETS.register(
    "dermamnist",
    paper="Yang et al., MedMNIST v2, Sci. Data 10:41, 2023; pictures: Tschandl, Rosendahl and "
    "Kittler, The HAM10000 dataset, Scientific Data 5:180161, 2018; corrected: Abhishek, Jain and "
    "Hamarneh, Investigating the Quality of DermaMNIST and Fitzpatrick17k, Scientific Data 12:196, "
    "2025",
    year=2023,
    source="medmnist.com; zenodo.org/records/10519652; corrected: zenodo.org/records/12739457",
    licence="CC BY-NC 4.0",
    tags=("dermoscopy", "arrays", "download"),
)
class DermaMnist(MedMnist):
    """10 015 dermoscopic pictures, seven classes, 59 : 1; the official parts share lesions."""

    class Config(MedMnistConfig):
        """Settings of dermamnist."""

        file: Path | None = place_field(
            None,
            description="protocols corrected and extended: the npz file; default: in the data "
            "root, as published",
        )

    protocols: ClassVar[Mapping[str, str]] = {
        **MedMnist.protocols,
        "corrected": "DermaMNIST-C: images of lesions that training has were moved there",
        "extended": "DermaMNIST-E: all of HAM10000 to train, the official ISIC 2018 validation and "
        "test sets",
    }
    leaky = frozenset({"official"})
    image_origins = frozenset({"HAM10000", "ISIC 2018 test"})
    config: Config

    release = Release(
        class_names=("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc"),
        channels=3,
        counts={"train": 7007, "val": 1003, "test": 2005},
        md5={
            28: "0744692d530f8e62ec473284d019b0c7",
            64: "b70a2f5635c6199aeaa28c31d7202e1f",
            128: "2defd784463fa5243564e855ed717de1",
            224: "8974907d8e169bef5f5b96bc506ae45d",
        },
        licence="CC BY-NC 4.0 (attribution, no commercial use).",
        citations=(
            "Tschandl, Rosendahl, Kittler: The HAM10000 dataset, Sci. Data 5:180161 (2018)",
        ),
    )
    corrections: ClassVar[Mapping[str, Correction]] = {
        "corrected": Correction(
            counts={"train": 8215, "val": 573, "test": 1227},
            md5={28: "96e2862980877d45d9cacb5c25de6950", 224: "84920fb70c83b234c295b6f0d4ae2bc0"},
            groups_note="The file names no groups; its authors moved every validation and "
            "test image of a lesion that training has to training.",
        ),
        "extended": Correction(
            counts={"train": 10_015, "val": 193, "test": 1511},
            md5={28: "ecacbf37d9cc79340226bd19bd4c7463", 224: "b59d6a78a036a0bb48a1eff13d94333c"},
            groups_note="The file names no groups. Training holds every image of DermaMNIST and "
            "DermaMNIST-C, their test images too: no model of it may be tested on those.",
        ),
    }
    groups_note = f"The file names no groups: {LEAK}."

    def class_groups(self) -> Mapping[str, tuple[str, ...]]:
        """As of HAM10000, whose akiec holds Bowen's disease, a carcinoma in situ."""
        return {"melanoma": ("mel",), "malignant": ("mel", "bcc", "akiec")}

    def load(self, protocol: str) -> Source:
        """Every image of the file that the protocol reads.

        Raises:
            DataMissingError: the file is not here.
            UsageError: a corrected file is given for the official parts.
            VerificationError: the file is another one, or damaged.
        """
        if protocol != "official":
            return self._corrected(protocol)
        if self.config.file is not None:
            raise UsageError(
                "dataset.file names a corrected version, and protocol 'official' does not read it. "
                "Add --protocol corrected or --protocol extended, or leave dataset.file out."
            )
        return super().load(protocol)

    def split(self, source: Source, protocol: str, seed: int) -> Split:
        """The parts of the file, whatever the seed; the notes say what is known of its leak."""
        split = super().split(source, protocol, seed)
        if protocol == "official":
            return replace(split, notes={**split.notes, "known_leak": LEAK})
        return split

    def _corrected(self, protocol: str) -> Source:
        correction, size = self.corrections[protocol], self.config.size
        name = f"dermamnist_{protocol}_{size}.npz"
        file = self.config.file or self.root / name
        if not file.is_file():
            raise DataMissingError(
                f"Protocol '{protocol}' of dermamnist reads a file of its own: expected it at "
                f"{file}, found none. Get {name} from {PAGE}, which has the sizes "
                f"{' and '.join(map(str, correction.md5))}, and name it with --set "
                "dataset.file=FILE, or put it there."
            )
        table = arrays_from_npz(file)
        release = replace(self.release, counts=correction.counts)
        remedy = f"Give {name} of {PAGE}, or set the protocol and dataset.size that fit the file."
        refuse_other_contents(file, table, release, size, remedy)
        source = self.source(table, f"dermamnist_{protocol}", correction.groups_note)
        digest = md5_of(file)
        known = "known" if digest == correction.md5.get(size) else "not that of a known release"
        return replace(source, notes={"file": f"{file.name}, MD5 {digest}, {known}"})
