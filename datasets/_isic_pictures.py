"""What ISIC 2018 and 2019 have in common: download, protocols, and where pictures lie."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from ltbench.data.dropping import as_many_dropped, without_shared_groups
from ltbench.data.protocols import grouped, k_fold, listed, official, random_per_class
from ltbench.dataset import FetchRequest, PrepareRequest, Source, Split, place_field
from ltbench.datasets._isic import (
    ECL_SHA256,
    ECL_URL,
    ecl_digests,
    read_ecl_lists,
    refuse_changed_ecl_lists,
    with_test_part,
)
from ltbench.datasets._own import FoldsConfig
from ltbench.errors import DataMissingError, UsageError, VerificationError
from ltbench.fetch.download import fetch
from ltbench.fetch.manifest import RemoteFile
from ltbench.intake.image_files import ImageFinder, find_images
from ltbench.intake.table import ImageTable
from ltbench.store.dataset import StoredDataset

MIRRORS = (
    "https://isic-archive.s3.amazonaws.com/challenges",
    "https://isic-challenge-data.s3.amazonaws.com",
)
LISTS_FOLDER = "ecl_splits"
PROTOCOLS = {
    "group": "lesions kept whole, every class divided 3:1:1",
    "paper": "the lists that ECL's authors released, which divide lesions among the parts",
    "paper_clean": "paper, without the training and validation images of lesions that are tested; "
    "training and validation still share lesions",
    "paper_matched": "paper, with as many images dropped as paper_clean drops, but at random",
    "random": "image by image, every class divided 3:1:1, as the paper describes; lesions leak",
    "official": "the challenge's training and test sets; validation carved from training by lesion",
    "kfold": "dataset.num_folds folds that keep lesions whole; dataset.fold is the test part",
}


class Manifest(BaseModel):
    """What is to be downloaded, and what the tables must then hold.

    Attributes:
        files: of the data set.
        counts: training images of each class.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    files: tuple[RemoteFile, ...]
    counts: dict[str, int]


class IsicConfig(FoldsConfig):
    """Settings of an ISIC data set."""

    paper_lists: Path | None = place_field(
        None, description="folder of the lists ECL's authors released; default: as fetched"
    )
    manifest: Path | None = place_field(
        None, description="YAML file of files and counts to fetch in place of the known ones"
    )


class IsicPictures(StoredDataset):
    """An ISIC challenge data set in its official layout, or in class folders."""

    Config = IsicConfig
    protocols: ClassVar[Mapping[str, str]] = PROTOCOLS
    default_protocol = "group"
    default_recipe = "ecl_paper"
    leaky = frozenset({"paper", "paper_clean", "paper_matched", "random"})

    dataset: ClassVar[str]
    known: ClassVar[Manifest]
    training_input: ClassVar[str]
    licence: ClassVar[str]
    citations: ClassVar[tuple[str, ...]]

    @abstractmethod
    def training(self) -> ImageTable:
        """The training images."""

    @abstractmethod
    def test(self) -> ImageTable:
        """The official test images that can be scored."""

    def table(self, protocol: str) -> ImageTable:
        """Training images, and for `official` the test images too."""
        return self._both() if protocol == "official" else self._training

    def whole_table(self) -> ImageTable:
        """Training images, and the official test images where they are here."""
        try:
            test = self.test()
        except DataMissingError:
            return self._training
        here = any(self.finder.candidates(name) for name in test.ids.tolist())
        return self._both() if here else self._training

    def split(self, source: Source, protocol: str, seed: int) -> Split:
        """See `PROTOCOLS`."""
        if protocol.startswith("paper"):
            return self._paper(source, protocol, seed)
        if protocol == "kfold":
            return k_fold(source, seed, self.config.num_folds, self.config.fold)
        plain = {"group": grouped, "random": random_per_class, "official": official}
        return plain[protocol](source, seed)

    def split_settings(self, protocol: str) -> dict[str, Any]:
        """For the paper's protocols with the digests of the lists, wherever they lie."""
        settings = super().split_settings(protocol)
        if protocol.startswith("paper"):
            settings["lists"] = ecl_digests(self._lists_folder, self.dataset)
        return settings

    def fetch(self, request: FetchRequest) -> None:
        """Download tables, pictures and the authors' lists; check counts and labels."""
        manifest = self._manifest()
        fetch(manifest.files, self.root, request, licence=self.licence, citations=self.citations)
        table = self._training
        found = np.bincount(table.targets, minlength=len(table.class_names)).tolist()
        counts = dict(zip(table.class_names, found, strict=True))
        if counts != manifest.counts:
            raise VerificationError(
                f"The labels in {self.root} are not those of {self.info.name}: expected images by "
                f"class {manifest.counts}, found {counts}. Get the ground truth anew."
            )
        request.say(f"{len(table)} training images, counts and labels as they should be.")

    def prepare(self, request: PrepareRequest) -> None:
        """Decode every picture; training pictures that no table names are refused first."""
        folder = f"{self.training_input}/"
        known = set(self._training.ids.tolist())
        stray = [
            file
            for file in self.finder.files
            if file.startswith(folder) and Path(file).stem not in known
        ]
        if stray:
            raise VerificationError(
                f"{self.root}: expected a label for every training picture, found none for "
                f"{len(stray)}: {', '.join(stray[:10])}. Get the ground truth anew, or move them."
            )
        super().prepare(request)

    @cached_property
    def finder(self) -> ImageFinder:
        """Every picture below the root."""
        if not self.root.is_dir() or not any(self.root.iterdir()):
            raise DataMissingError(
                f"{self.info.name} is not here: expected its files in {self.root}. Run: "
                f"{self.command('fetch')} --accept-licence\nwhich shows sizes and licence first; "
                f"then: {self.command('prepare')}"
            )
        return find_images(self.root)

    def file_of(self, name: str) -> Path | None:
        """Where a picture lies; None if nowhere.

        Raises:
            VerificationError: in two places.
        """
        return self.finder.find(name) if self.finder.candidates(name) else None

    @cached_property
    def _training(self) -> ImageTable:
        # First of all, so that a folder that is missing is told from one that lacks a table.
        _ = self.finder
        return self.training()

    def _both(self) -> ImageTable:
        return with_test_part(self._training, self.test())

    def _paper(self, source: Source, protocol: str, seed: int) -> Split:
        rows = read_ecl_lists(self._lists_folder, self.dataset)
        left_out = source.notes.get("left_out", {})
        kept = {
            part: [row for row in found if row[0] not in left_out] for part, found in rows.items()
        }
        paper = listed(source, kept)
        paper = replace(paper, notes={**paper.notes, "lists": self._whose()})
        if protocol == "paper":
            return paper
        clean = without_shared_groups(source, paper)
        return clean if protocol == "paper_clean" else as_many_dropped(source, paper, clean, seed)

    @property
    def _lists_folder(self) -> Path:
        """Where the authors' lists are, or should be."""
        folder: Path = self.config.paper_lists or self.root / LISTS_FOLDER
        try:
            ecl_digests(folder, self.dataset)
        except DataMissingError as error:
            raise DataMissingError(
                f"{error} Or run: {self.command('fetch')} --accept-licence, or name their folder "
                "with --set dataset.paper_lists=DIR."
            ) from error
        return folder

    def _whose(self) -> str:
        try:
            refuse_changed_ecl_lists(self._lists_folder, self.dataset)
        except VerificationError:
            return "given by path; not the ones that ECL's authors released"
        return f"released by ECL's authors, {ECL_URL}"

    def _manifest(self) -> Manifest:
        file = self.config.manifest
        if file is None:
            return self.known
        try:
            return Manifest.model_validate(yaml.safe_load(file.read_text("utf-8")))
        except (OSError, yaml.YAMLError, ValidationError) as error:
            raise UsageError(
                f"dataset.manifest: {file} is no manifest of files and counts: {error}"
            ) from error


def mirrored(name: str, year: int) -> tuple[str, ...]:
    """URLs of a challenge file on both mirrors."""
    return tuple(f"{mirror}/{year}/{name}" for mirror in MIRRORS)


def paper_lists(dataset: str) -> tuple[RemoteFile, ...]:
    """The three lists that ECL's authors released; wanted by the paper protocols alone."""
    return tuple(
        RemoteFile(
            name=f"{LISTS_FOLDER}/{name}",
            urls=(f"{ECL_URL}/{dataset}/{name}",),
            about_bytes=300_000,
            sha256=digest,
            optional=True,
        )
        for name, digest in ECL_SHA256.items()
        if name.startswith(dataset)
    )


def archive(
    name: str, year: int, about_bytes: int, num_pictures: int, *, optional: bool = False
) -> RemoteFile:
    """A zip of pictures, which unpacks to the folder of its name."""
    return RemoteFile(
        name=f"{name}.zip",
        urls=mirrored(f"{name}.zip", year),
        about_bytes=about_bytes,
        unpacks_to=name,
        num_files={".jpg": num_pictures},
        optional=optional,
    )
