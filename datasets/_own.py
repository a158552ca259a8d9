"""What data of one's own have in common: which protocol fits what is known of them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from functools import cached_property
from typing import ClassVar

import numpy as np
from pydantic import Field

from ltbench.data.protocols import given, grouped, k_fold, random_per_class
from ltbench.dataset import DatasetConfig, Source, Split
from ltbench.intake.table import ImageTable
from ltbench.store.dataset import StoredConfig, StoredDataset

PROTOCOLS = {
    "auto": "given where the parts are, else group where groups are known, else random",
    "given": "the parts as they were given; validation carved from training where there is none",
    "group": "groups kept whole, every class divided 3:1:1",
    "random": "image by image, every class divided 3:1:1; groups, where there are any, leak",
    "kfold": "dataset.num_folds folds that keep groups whole; dataset.fold is the test part",
}


class FoldSettings(DatasetConfig):
    """Settings of the protocol kfold."""

    num_folds: int = Field(default=5, ge=3, le=100, description="protocol kfold: folds in all")
    fold: int = Field(default=0, ge=0, description="protocol kfold: the fold that is tested on")


class FoldsConfig(StoredConfig, FoldSettings):
    """Settings of pictures of one's own."""


def fitting_protocol(partition: np.ndarray | None, groups: np.ndarray | None) -> str:
    """What "auto" stands for, by what is known."""
    if partition is not None:
        return "given"
    return "random" if groups is None else "group"


def split_by(source: Source, protocol: str, seed: int, folds: FoldSettings) -> Split:
    """The split of a protocol in `PROTOCOLS`, but "auto"."""
    if protocol == "kfold":
        return k_fold(source, seed, folds.num_folds, folds.fold)
    plain = {"given": given, "group": grouped, "random": random_per_class}
    return plain[protocol](source, seed)


class OwnPictures(StoredDataset):
    """Pictures that a user names; decoded at the first run."""

    Config = FoldsConfig
    protocols: ClassVar[Mapping[str, str]] = PROTOCOLS
    default_protocol = "auto"
    default_recipe = "ecl_paper"
    leaky = frozenset({"random"})
    prepares_itself = True

    def choose_protocol(self, protocol: str) -> str:
        """By what the table knows, where "auto" was asked for."""
        if protocol != "auto":
            return protocol
        return fitting_protocol(self._table.partition, self._table.groups)

    def table(self, protocol: str) -> ImageTable:
        """Every image, whatever the protocol."""
        return self._table

    @cached_property
    def _table(self) -> ImageTable:
        return self.read()

    @abstractmethod
    def read(self) -> ImageTable:
        """Read what the user named."""

    def split(self, source: Source, protocol: str, seed: int) -> Split:
        """See `PROTOCOLS`."""
        return split_by(source, protocol, seed, self.config)
