"""What data of one's own have in common: which protocol fits what is known of them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from pydantic import Field, field_validator

from ltbench.data.protocols import given, grouped, k_fold, random_per_class
from ltbench.dataset import DatasetConfig, Source, Split, place_field
from ltbench.errors import UsageError
from ltbench.intake.problems import listed, with_hint
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


class PositiveSettings(DatasetConfig):
    """What clinical reports look for."""

    positive: tuple[str, ...] = place_field(
        (), description="classes that `eval` sets against the rest, such as [melanoma]"
    )

    @field_validator("positive", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    def class_groups(self, class_names: Sequence[str] | None = None) -> dict[str, tuple[str, ...]]:
        """For `Dataset.class_groups`.

        Args:
            class_names: where they are known, names that are not among them are refused.

        Raises:
            UsageError: an unknown class.
        """
        for name in self.positive:
            if class_names is not None and name not in class_names:
                raise UsageError(
                    f"dataset.positive: expected names among {listed(list(class_names))}; got "
                    f"{with_hint(name, class_names)}."
                )
        return {"positive": self.positive} if self.positive else {}


class FoldsConfig(StoredConfig, FoldSettings):
    """Settings of picture files that are divided here."""


class OwnConfig(FoldsConfig, PositiveSettings):
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

    Config = OwnConfig
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
        table = self.read()
        self.config.class_groups(table.class_names)
        return table

    def class_groups(self) -> Mapping[str, tuple[str, ...]]:
        """What the user named."""
        groups: Mapping[str, tuple[str, ...]] = self.config.class_groups()
        return groups

    @abstractmethod
    def read(self) -> ImageTable:
        """Read what the user named."""

    def split(self, source: Source, protocol: str, seed: int) -> Split:
        """See `PROTOCOLS`."""
        return split_by(source, protocol, seed, self.config)
