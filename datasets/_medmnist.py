"""What the sets of MedMNIST have in common: one npz file a size, official parts, in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from ltbench.data.places import data_home
from ltbench.data.protocols import given
from ltbench.dataset import Dataset, DatasetConfig, FetchRequest, Source, Split
from ltbench.datasets._arrays import source_of_arrays
from ltbench.errors import DataMissingError
from ltbench.fetch.download import fetch
from ltbench.fetch.manifest import RemoteFile
from ltbench.intake.arrays import ArrayTable, arrays_from_npz
from ltbench.intake.problems import Problems
from ltbench.store.dataset import shell_path

__all__ = [
    "ORGANS",
    "ORGANS_NOTE",
    "MedMnist",
    "MedMnistConfig",
    "Release",
    "md5_of",
    "refuse_other_contents",
]

URL = "https://zenodo.org/records/10519652/files"
CITATION = (
    "Yang et al.: MedMNIST v2, a large-scale lightweight benchmark for 2D and 3D biomedical image "
    "classification, Scientific Data 10:41 (2023)"
)
ORGANS = (
    *("bladder", "femur-left", "femur-right", "heart", "kidney-left", "kidney-right"),
    *("liver", "lung-left", "lung-right", "pancreas", "spleen"),
)
"""The classes of the three organ sets, in the order of MedMNIST/MedMNIST, info.py."""
ORGANS_NOTE = (
    "The file names no groups. MedMNIST says that its parts were made by CT scan (115 scans to "
    "train, 16 to validate, 70 to test), not which picture is of which scan."
)
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class Release:
    """One set, in every size.

    Attributes:
        class_names: C names.
        channels: 1 or 3.
        counts: images by part.
        md5: of the file of each size.
        licence: of the pictures.
        citations: of those whose pictures they were.
    """

    class_names: tuple[str, ...]
    channels: int
    counts: Mapping[str, int]
    md5: Mapping[int, str]
    licence: str
    citations: tuple[str, ...]


class MedMnistConfig(DatasetConfig):
    """Settings of a set of MedMNIST."""

    size: Literal[28, 64, 128, 224] = Field(
        default=28, description="side of the pictures, in pixels; each size is a file of its own"
    )


class MedMnist(Dataset):
    """A set of MedMNIST, version 2 (28 pixels) or MedMNIST+ (larger ones)."""

    Config = MedMnistConfig
    protocols: ClassVar[Mapping[str, str]] = {
        "official": "the publisher's training, validation and test parts",
    }
    default_protocol = "official"
    default_recipe = "medmnist"
    config: MedMnistConfig

    release: ClassVar[Release]
    groups_note: ClassVar[str]

    @property
    def root(self) -> Path:
        """The folder of the files; one for all sets."""
        return self.data_root or data_home() / "medmnist"

    @property
    def remote(self) -> RemoteFile:
        """The file of the chosen size."""
        size, release = self.config.size, self.release
        name = f"{self.info.name}{'' if size == 28 else f'_{size}'}.npz"
        return RemoteFile(
            name=name,
            urls=(f"{URL}/{name}?download=1",),
            about_bytes=sum(release.counts.values()) * size * size * release.channels,
            md5=release.md5[size],
        )

    def load(self, protocol: str) -> Source:
        """Every image, part after part.

        Raises:
            DataMissingError: the file is not here.
            VerificationError: it is another one, or damaged.
        """
        return self._official

    @cached_property
    def _official(self) -> Source:
        remote = self.remote
        file = self.root / remote.name
        if not file.is_file():
            raise DataMissingError(
                f"{self.info.name} is not here: expected {remote.name} in {self.root}. Run: "
                f"{self._command()}\nor download {remote.urls[0]} into that folder."
            )
        remedy = f"Move it away and get it anew: {self._command()}"
        problems = Problems(str(file))
        digest = md5_of(file)
        problems.add(
            f"Expected the MD5 {remote.md5} of version 3 of the release",
            [] if digest == remote.md5 else [digest],
            remedy,
        )
        problems.refuse()
        table = arrays_from_npz(file)
        refuse_other_contents(file, table, self.release, self.config.size, remedy)
        return self.source(table, self.info.name, self.groups_note)

    def source(self, table: ArrayTable, name: str, groups_note: str) -> Source:
        """The pictures of a file; ids begin with `name`."""
        return source_of_arrays(table, name, self.release.class_names, groups_note=groups_note)

    def split(self, source: Source, protocol: str, seed: int) -> Split:
        """The parts of the file, whatever the seed."""
        return given(source, seed)

    def fetch(self, request: FetchRequest) -> None:
        """Download the file of the chosen size.

        Raises: as `ltbench.fetch.download.fetch`.
        """
        fetch(
            [self.remote],
            self.root,
            request,
            licence=self.release.licence,
            citations=(CITATION, *self.release.citations),
        )

    def _command(self) -> str:
        size = "" if self.config.size == 28 else f" --set dataset.size={self.config.size}"
        where = f" --data-root {shell_path(self.data_root)}" if self.data_root else ""
        return f"python bench.py data fetch {self.info.name}{size}{where} --accept-licence"


def md5_of(file: Path) -> str:
    """MD5 (hex) of a file."""
    digest = hashlib.md5(usedforsecurity=False)
    with file.open("rb") as opened:
        while block := opened.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def refuse_other_contents(
    file: Path, table: ArrayTable, release: Release, size: int, remedy: str
) -> None:
    """Refuse pictures that are not those of the set: numbers, shape and classes.

    Raises:
        VerificationError: anything differs; the message says all of it.
    """
    problems = Problems(str(file))
    counts = {part: len(labels) for part, labels in table.labels.items()}
    problems.add(
        "Expected " + ", ".join(f"{n} {part} images" for part, n in release.counts.items()),
        [] if counts == release.counts else [f"{n} {part} images" for part, n in counts.items()],
        remedy,
    )
    expected = (release.channels, size, size)
    shapes = {pixels.shape[1:] for pixels in table.pixels.values()}
    problems.add(
        f"Expected pictures of (channels, height, width) {expected}, by dataset.size",
        [str(shape) for shape in sorted(shapes - {expected})],
        remedy,
    )
    num_classes = len(release.class_names)
    outside = [
        f"{label} in {part}"
        for part, labels in table.labels.items()
        for label in np.unique(labels[labels >= num_classes]).tolist()
    ]
    problems.add(f"Expected labels from 0 to {num_classes - 1}", outside, remedy)
    if not outside and table.num_classes < num_classes:
        came = [f"labels to {table.num_classes - 1} alone"]
        problems.add(f"Expected images of {num_classes} classes", came, remedy)
    problems.refuse()
