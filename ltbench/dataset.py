"""The contract of a data set: what a plugin in `datasets/` must hand over."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict

from ltbench.registry import DATASETS, PluginInfo

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["DATASETS", "Dataset", "DatasetConfig", "Images", "Source", "Split"]


class DatasetConfig(BaseModel):
    """Settings of a data set: frozen, unknown keys refused. Give each bounds and a description."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True
    )


class Images(Protocol):
    """Decoded pictures, addressed by position."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        ...

    def __len__(self) -> int: ...

    def take(self, positions: np.ndarray) -> Tensor:
        """The pictures at `positions`, uint8 (n, channels, height, width)."""
        ...

    def digest(self) -> str:
        """SHA-256 (hex) of every pixel, so that no changed picture passes for the old one."""
        ...


@dataclass(frozen=True)
class Source:
    """Every image of a data set before any split.

    Attributes:
        images: the pictures, N of them.
        ids: unique names, str (N,): what lists, predictions and audits refer to.
        targets: class indices, int64 (N,).
        class_names: C names; position is the class index. Names, not indices, are what is stored.
        groups: what must not be split (lesion, patient, writer), str (N,); None where unknown.
        partition: the publisher's own part of each image ("train", "test", ...), str (N,), or None.
        groups_note: what the groups separate and what they do not, for the footers of tables.
    """

    images: Images
    ids: np.ndarray
    targets: np.ndarray
    class_names: tuple[str, ...]
    groups: np.ndarray | None = None
    partition: np.ndarray | None = None
    groups_note: str = ""


@dataclass(frozen=True)
class Split:
    """Positions in a `Source`, int64, ascending; the three parts are disjoint.

    Attributes:
        val: None where the protocol has no validation; then the last epoch is reported.
        notes: facts a reader of the results must see, such as a known leak.
    """

    train: np.ndarray
    val: np.ndarray | None
    test: np.ndarray
    notes: Mapping[str, Any] = field(default_factory=dict)


class Dataset(ABC):
    """One data set: how its images are found, and which protocols split it.

    `protocols` maps each protocol's name to one line that says what it is.
    """

    Config: ClassVar[type[DatasetConfig]] = DatasetConfig
    info: ClassVar[PluginInfo]
    protocols: ClassVar[Mapping[str, str]]
    default_protocol: ClassVar[str]
    default_recipe: ClassVar[str]

    def __init__(self, config: Any, data_root: Path | None = None) -> None:
        self.config = config
        self.data_root = data_root

    @abstractmethod
    def load(self) -> Source:
        """Read the images; `DataMissingError`, with what to do, where they are not here."""

    @abstractmethod
    def split(self, source: Source, protocol: str, seed: int) -> Split:
        """Split by `protocol`, the same lists for the same seed on every machine and version."""
