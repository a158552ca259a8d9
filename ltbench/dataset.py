"""The contract of a data set: what a plugin in `datasets/` must hand over."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from ltbench.registry import DATASETS, PluginInfo

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "DATASETS",
    "Dataset",
    "DatasetConfig",
    "FetchRequest",
    "Fingerprints",
    "Images",
    "PrepareRequest",
    "Source",
    "Split",
    "place_field",
]


def place_field(default: Any, *, description: str) -> Any:
    """A setting that says where something lies: it decides no result, so no key holds it."""
    return Field(default=default, description=description, json_schema_extra={"place": True})


class DatasetConfig(BaseModel):
    """Settings of a data set: frozen, unknown keys refused. Give each bounds and a description."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True
    )

    def identity(self) -> dict[str, Any]:
        """The settings that decide what the data are, JSON-able: all but those of places."""
        places = {
            name
            for name, field in type(self).model_fields.items()
            if isinstance(field.json_schema_extra, dict) and field.json_schema_extra.get("place")
        }
        return self.model_dump(mode="json", exclude=places)


@dataclass(frozen=True)
class Fingerprints:
    """What tells equal pictures apart from different ones, one entry a picture.

    Attributes:
        files: SHA-256 (hex) of each file's bytes, str (N,); None where there are no files.
        pixels: SHA-256 (hex) of each picture's size and decoded pixels, str (N,).
    """

    files: np.ndarray | None
    pixels: np.ndarray


class Images(Protocol):
    """Decoded pictures, addressed by position; each may have a size of its own."""

    @property
    def channels(self) -> int:
        """1 or 3."""
        ...

    @property
    def sizes(self) -> np.ndarray:
        """(height, width) of each picture, int64 (N, 2)."""
        ...

    @property
    def on_disk(self) -> bool:
        """Whether pictures are read from a disk when they are asked for."""
        ...

    def __len__(self) -> int: ...

    def picture(self, position: int) -> np.ndarray:
        """One picture, uint8 (height, width, channels). Never write to it."""
        ...

    def take(self, positions: np.ndarray) -> Tensor:
        """Copies of pictures of one size, uint8 (n, channels, height, width)."""
        ...

    def subset(self, positions: np.ndarray) -> Images:
        """These pictures alone, in this order."""
        ...

    def prepared(self, height: int, width: int) -> Images | None:
        """The same pictures, resized from their files to one size, where these are kept."""
        ...

    def soon(self, positions: np.ndarray) -> None:
        """These pictures will be read next; pictures on a disk may be fetched ahead."""
        ...

    def digest(self) -> str:
        """SHA-256 (hex) of every pixel, so that no changed picture passes for the old one."""
        ...

    def fingerprints(self) -> Fingerprints:
        """Digests of each picture, for audits."""
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
        group_noun: what a group is, in one word: lesion, patient, writer.
        metadata: further facts of each image (age, sex, site, source, ...), str (N,) by name; ""
            where unknown. They are stored with predictions, and decide nothing.
        notes: facts a reader of results must see, JSON-able, such as what was left out.
    """

    images: Images
    ids: np.ndarray
    targets: np.ndarray
    class_names: tuple[str, ...]
    groups: np.ndarray | None = None
    partition: np.ndarray | None = None
    groups_note: str = ""
    group_noun: str = "group"
    metadata: Mapping[str, np.ndarray] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)


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


@dataclass(frozen=True)
class FetchRequest:
    """How a data set is to be downloaded.

    Attributes:
        accept_licence: the user has said that they accept the licence.
        from_dir: files that were placed by hand are taken from here, and nothing is downloaded.
        mirror: a base URL to try in place of the known ones.
        say: takes lines for the user.
    """

    accept_licence: bool = False
    from_dir: Path | None = None
    mirror: str | None = None
    say: Callable[[str], None] = lambda line: None


@dataclass(frozen=True)
class PrepareRequest:
    """How a data set's files are to be decoded.

    Attributes:
        workers: processes.
        skip_broken: leave out, and record, what cannot be read.
        on_progress: takes (pictures done, pictures in all).
        say: takes lines for the user.
    """

    workers: int = 1
    skip_broken: bool = False
    on_progress: Callable[[int, int], None] = lambda done, total: None
    say: Callable[[str], None] = lambda line: None


class Dataset(ABC):
    """One data set: how its images are found, and which protocols split it.

    `protocols` maps each protocol's name to one line that says what it is; `leaky` names those that
    are known to share groups between training and test, and are kept to compare with.

    Attributes:
        image_origins: names of the collections that its pictures were taken from. Results on two
            data sets that have one in common say partly the same, and never count as two
            independent ones. Empty where it is not known, as of a user's own files.
        for_training: False where nothing is to be trained: tables are then taken as they are, with
            one class alone, or classes without a training image.
    """

    Config: ClassVar[type[DatasetConfig]] = DatasetConfig
    info: ClassVar[PluginInfo]
    protocols: ClassVar[Mapping[str, str]]
    default_protocol: ClassVar[str]
    default_recipe: ClassVar[str]
    leaky: ClassVar[frozenset[str]] = frozenset()
    image_origins: ClassVar[frozenset[str]] = frozenset()
    for_training: bool = True

    def __init__(self, config: Any, data_root: Path | None = None) -> None:
        self.config = config
        self.data_root = data_root

    @abstractmethod
    def load(self, protocol: str) -> Source:
        """Every image that `protocol` draws on; `DataMissingError`, with what to do, if missing."""

    @abstractmethod
    def split(self, source: Source, protocol: str, seed: int) -> Split:
        """Split by `protocol`, the same lists for the same seed on every machine and version."""

    def split_settings(self, protocol: str) -> dict[str, Any]:
        """Everything but images and seed that decides the split of a protocol, JSON-able.

        Where a split is read from files, their digests belong here: lists are stored by it.
        """
        settings: dict[str, Any] = self.config.identity()
        return settings

    def choose_protocol(self, protocol: str) -> str:
        """The protocol to use, for data sets where a name such as "auto" stands for another."""
        return protocol

    def class_groups(self) -> Mapping[str, tuple[str, ...]]:
        """Classes that clinical reports set together against the rest: names by group.

        Such as {"melanoma": ("MEL",), "malignant": ("MEL", "BCC")}; the first is what is reported
        first. It decides no result. Classes that a protocol leaves out may be named.
        """
        return {}

    def fetch(self, request: FetchRequest) -> None:
        """Download the files; nothing to do where pictures come with a package or from the user.

        Raises:
            UsageError: the licence was not accepted.
            DataMissingError: the download failed, or needs a login; the message says what to do.
            VerificationError: a file is not what it should be.
        """
        request.say(f"{self.info.name} needs no download: {self.info.source}.")

    def prepare(self, request: PrepareRequest) -> None:
        """Decode the files once; nothing to do where pictures come decoded."""
        request.say(f"{self.info.name} needs no preparation: its pictures come decoded.")

    def verify(self) -> None:
        """Compare what is stored of the pictures with its digests, where something is stored.

        Raises:
            VerificationError: some have changed.
        """
        return

    @classmethod
    def opens(cls, path: Path) -> Mapping[str, Any] | None:
        """The settings with which this data set reads what lies at `path`; None where it cannot."""
        return None
