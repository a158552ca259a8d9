"""What CIFAR-10-LT and CIFAR-100-LT have in common: files, the long tail, protocols."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field

from ltbench.data.images import ArrayImages
from ltbench.data.longtail import (
    Imbalance,
    carve,
    exponential_counts,
    held_out,
    step_counts,
    take_counts,
)
from ltbench.data.noted import noted_split
from ltbench.data.places import data_home
from ltbench.dataset import Dataset, DatasetConfig, FetchRequest, Source, Split
from ltbench.datasets._cifar_files import Release, read_release
from ltbench.errors import DataMissingError, UsageError
from ltbench.fetch.download import fetch
from ltbench.fetch.manifest import RemoteFile
from ltbench.store.dataset import shell_path

__all__ = ["CifarConfig", "CifarLT", "Release", "authors_subset"]

VAL_FRACTION = 0.1
URL = "https://www.cs.toronto.edu/~kriz"
LICENCE = "none is stated; the authors ask to cite their report."
CITATIONS = (
    "Krizhevsky: Learning Multiple Layers of Features from Tiny Images, technical report, 2009",
    "Cao et al.: Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss, NeurIPS "
    "2019 (for the long tail)",
)


class CifarConfig(DatasetConfig):
    """Settings of a long-tailed CIFAR."""

    imbalance: Imbalance = Field(
        default=100.0, description="largest over smallest class of the training part"
    )
    profile: Literal["exponential", "step"] = Field(
        default="exponential",
        description="how the classes shrink: along a curve, or the second half at once",
    )
    balanced_validation: bool = Field(
        default=False,
        description="held_out only: the same number of validation images of every class",
    )


class CifarLT(Dataset):
    """Pictures of 32 x 32 pixels in colour; both official parts are balanced as they come."""

    Config = CifarConfig
    protocols: ClassVar[Mapping[str, str]] = {
        "held_out": "validation from a tenth of the training images, tail cut from the rest; "
        "official test",
        "published": "the lists of LDAM-DRW (split seed 0); official test, no validation",
    }
    default_protocol = "held_out"
    default_recipe = "cifar_lt"
    config: CifarConfig

    release: ClassVar[Release]
    percent_duplicates: ClassVar[float]

    @property
    def root(self) -> Path:
        """The archive, its unpacked folder, or the folder that one of them lies in."""
        return self.data_root or data_home() / self.info.name

    def load(self, protocol: str) -> Source:
        """All images, training first, in the order of the files.

        Raises:
            DataMissingError: the files are not here.
            VerificationError: a file is damaged, or is not the official one.
        """
        remedy = f"Move it away and get it anew: {self._command()}"
        contents = read_release(self.release, self._place(), remedy)
        short, parts = self.info.name.removesuffix("_lt"), contents.targets
        return Source(
            images=ArrayImages(torch.from_numpy(np.concatenate(list(contents.pixels.values())))),
            ids=np.array([f"{short}-{p}-{i:05d}" for p in parts for i in range(len(parts[p]))]),
            targets=np.concatenate(list(parts.values())),
            class_names=contents.class_names,
            partition=np.repeat(list(parts), [len(labels) for labels in parts.values()]),
            groups_note="No groups are known. Barz and Denzler (ciFAIR, 2020) found that "
            f"{self.percent_duplicates:g} % of the test images have a near-duplicate in training.",
        )

    def split(self, source: Source, protocol: str, seed: int) -> Split:
        """See `protocols`."""
        if protocol == "published":
            return self._published(source, seed)
        if self.config.profile == "step":
            return self._held_out_step(source, seed)
        return held_out(
            source,
            imbalance=self.config.imbalance,
            seed=seed,
            val_fraction=VAL_FRACTION,
            balanced_validation=self.config.balanced_validation,
        )

    def fetch(self, request: FetchRequest) -> None:
        """Download the archive, unless it or its folder is here; it is read as it is.

        Raises: as `ltbench.fetch.download.fetch`.
        """
        release, root = self.release, self.root
        folder = root.parent if root.name == release.archive else root
        unpacked = self._unpacked()
        if unpacked is not None:
            request.say(f"Everything is in {unpacked} already.")
            return
        archive = RemoteFile(
            name=release.archive,
            urls=(f"{URL}/{release.archive}",),
            about_bytes=release.about_bytes,
            md5=release.archive_md5,
        )
        fetch([archive], folder, request, licence=LICENCE, citations=CITATIONS)

    def _published(self, source: Source, seed: int) -> Split:
        pool = np.flatnonzero(source.partition == "train")
        counts = self._counts(self.release.num_images["train"], source.class_names)
        chosen = authors_subset(source.targets[pool], counts, seed)
        lists = "of LDAM-DRW, rand_number 0"
        if seed != 0:
            lists = f"drawn as LDAM-DRW draws them, with {seed} in place of rand_number 0"
        return noted_split(
            source,
            {"train": pool[chosen], "test": np.flatnonzero(source.partition == "test")},
            "image",
            notes={"nominal_imbalance": self.config.imbalance, "lists": lists},
        )

    def _held_out_step(self, source: Source, seed: int) -> Split:
        names, imbalance = source.class_names, self.config.imbalance
        train_pool, val_pool = carve(
            source, np.flatnonzero(source.partition == "train"), VAL_FRACTION, seed
        )
        head, val_head = (
            int(np.bincount(source.targets[pool]).min()) for pool in (train_pool, val_pool)
        )
        val_counts = [val_head] * len(names)
        if not self.config.balanced_validation:  # the same profile, at least one image a class
            val_counts = step_counts(val_head, len(names), min(imbalance, val_head))
        train_counts = self._counts(head, names)
        return noted_split(
            source,
            {
                "train": take_counts(source.targets, train_pool, train_counts, seed=seed),
                "val": take_counts(source.targets, val_pool, val_counts, seed=seed),
                "test": np.flatnonzero(source.partition == "test"),
            },
            "image",
            notes={"nominal_imbalance": imbalance},
        )

    def _counts(self, head: int, names: Sequence[str]) -> list[int]:
        profile = step_counts if self.config.profile == "step" else exponential_counts
        return profile(head, len(names), self.config.imbalance, class_names=names)

    def _unpacked(self) -> Path | None:
        folders = (self.root, self.root / self.release.folder)
        return next((one for one in folders if (one / self.release.meta).is_file()), None)

    def _place(self) -> Path:
        """The unpacked folder, else the archive."""
        root, name = self.root, self.release.archive
        archives = (place for place in (root, root / name) if place.is_file())
        place = self._unpacked() or next(archives, None)
        if place is None:
            raise DataMissingError(
                f"{self.info.name} is not here: expected {name}, or its folder "
                f"{self.release.folder} with {self.release.meta}, in {root}. Run: "
                f"{self._command()}\nor download {URL}/{name} into that folder; it need not be "
                "unpacked."
            )
        return place

    def _command(self) -> str:
        where = f" --data-root {shell_path(self.data_root)}" if self.data_root else ""
        return f"python bench.py data fetch {self.info.name}{where} --accept-licence"


def authors_subset(targets: np.ndarray, counts: Sequence[int], seed: int) -> np.ndarray:
    """The images that LDAM-DRW keeps of each class.

    Class by class, in order, its positions are shuffled by NumPy's legacy generator and the first
    ones are kept. NumPy promises that this generator never changes.

    Args:
        targets: class indices of the training images in the order of the files, int64 (N,).
        counts: images wanted of each class, C numbers.
        seed: their `rand_number`, 0 in all of their runs; in [0, 2**32).

    Returns:
        Positions, int64, ascending.

    Raises:
        UsageError: the seed is too large for that generator.

    Source: kaidic/LDAM-DRW@2536330, imbalance_cifar.py, gen_imbalanced_data.
    """
    if seed >= 2**32:
        raise UsageError(
            f"Protocol 'published' takes a split seed below 2**32, got {seed}: the authors' "
            "generator takes no larger one. Seed 0 gives their own lists."
        )
    generator = np.random.RandomState(seed)
    chosen = []
    for c, count in enumerate(counts):
        positions = np.flatnonzero(targets == c)
        generator.shuffle(positions)
        chosen.append(positions[:count])
    return np.sort(np.concatenate(chosen)).astype(np.int64)
