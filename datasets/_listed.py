"""What the large sets that are published as path lists have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from ltbench.data.noted import noted_split
from ltbench.dataset import FetchRequest, Source, Split, place_field
from ltbench.errors import DataMissingError
from ltbench.intake.path_lists import table_from_lists
from ltbench.intake.problems import Problems
from ltbench.intake.table import ImageTable
from ltbench.store.dataset import StoredConfig, StoredDataset

__all__ = ["LISTS_PAGE", "ListedConfig", "ListedPictures", "Lists", "names_by_folder"]

LISTS_PAGE = "https://github.com/facebookresearch/classifier-balancing, folder data"


@dataclass(frozen=True)
class Lists:
    """The published lists.

    Attributes:
        files: names by part; a set without "val" has no validation.
        counts: lines by part, as they were counted in the published files.
        recalled: lines by part that nobody counted in the published file; a difference is said.
        num_classes: C.
    """

    files: Mapping[str, str]
    counts: Mapping[str, int]
    num_classes: int
    recalled: Mapping[str, int] = field(default_factory=dict)


class ListedConfig(StoredConfig):
    """Settings of a set of path lists."""

    squares: tuple[Annotated[int, Field(ge=8, le=4096)], ...] = Field(
        default=(), description="sides of square copies made straight from the files"
    )
    lists: Path | None = place_field(
        None, description="folder of the list files; default: lists/ in the data root"
    )


class ListedPictures(StoredDataset):
    """Pictures below the data root, in the parts that published lists give them."""

    Config = ListedConfig
    default_protocol = "published"
    default_recipe = "imagenet_lt"
    config: ListedConfig

    lists: ClassVar[Lists]
    expected: ClassVar[tuple[str, ...]]

    @abstractmethod
    def missing(self) -> DataMissingError:
        """What to say where the pictures are not here."""

    def table(self, protocol: str) -> ImageTable:
        """Every line of the lists.

        Raises:
            DataMissingError: lists or pictures are not here.
            VerificationError: the lists are other ones, or pictures are missing.
        """
        return self._table

    @cached_property
    def _table(self) -> ImageTable:
        if not self.root.is_dir():
            raise self.missing()
        files = self.list_files()
        table = table_from_lists(files, image_root=self.root)
        notes = self._counted(table, files)
        return replace(table, class_names=names_by_folder(table), notes={**table.notes, **notes})

    def _place(self) -> str:
        # Other lists name other pictures of the folder, and have a store of their own.
        return f"{super()._place()} {(self.config.lists or self.root / 'lists').resolve()}"

    def list_files(self) -> dict[str, Path]:
        """Where the lists lie, by part; `DataMissingError` if one does not."""
        folder = self.config.lists or self.root / "lists"
        files = {part: folder / name for part, name in self.lists.files.items()}
        absent = [file.name for file in files.values() if not file.is_file()]
        if absent:
            raise DataMissingError(
                f"{self.info.name}: expected its lists in {folder}, found no {', '.join(absent)}. "
                f"Get them from {LISTS_PAGE}, or name their folder with --set dataset.lists=DIR."
            )
        return files

    def _counted(self, table: ImageTable, files: Mapping[str, Path]) -> dict[str, str]:
        """What differs from the numbers that nobody counted; other differences are refused."""
        assert table.partition is not None
        parts, times = np.unique(table.partition, return_counts=True)
        found = dict(zip(parts.tolist(), times.tolist(), strict=True))
        problems = Problems(f"The lists in {next(iter(files.values())).parent}")
        remedy = f"These are not the published lists: get them from {LISTS_PAGE}."
        problems.add(
            "Expected as many lines as were published",
            [
                f"{found[part]} in {files[part].name} (published: {count})"
                for part, count in self.lists.counts.items()
                if found[part] != count
            ],
            remedy,
        )
        if len(table.class_names) != self.lists.num_classes:
            came = [str(len(table.class_names))]
            problems.add(f"Expected {self.lists.num_classes} classes", came, remedy)
        problems.refuse()
        return {
            f"lines_{part}": f"{found[part]}; {count} are said to be published, which was not "
            "confirmed"
            for part, count in self.lists.recalled.items()
            if found[part] != count
        }

    def split(self, source: Source, protocol: str, seed: int) -> Split:
        """The parts of the lists, whatever the seed."""
        assert source.partition is not None
        parts = {name: np.flatnonzero(source.partition == name) for name in self.lists.files}
        notes = {}
        if "val" not in parts:
            notes["validation"] = "none is published; the last epoch is reported"
        return noted_split(source, parts, "publisher", notes=notes, may_lack=("test",))

    def fetch(self, request: FetchRequest) -> None:
        """Check what is here; pictures that are not are a person's to get.

        Raises:
            DataMissingError: they are not here; the message says where from and where to.
            VerificationError: the lists or the pictures are not what they should be.
        """
        table = self.table(self.default_protocol)
        request.say(f"Everything is in {self.root} already: {len(table)} pictures.")


def names_by_folder(table: ImageTable) -> tuple[str, ...]:
    """The folder of each class's training images, below the first one; else the label.

    `train/n01440764/x.JPEG` gives n01440764, `train_val2018/Plantae/7291/x.jpg` Plantae/7291; a
    folder of a single letter, by which some copies sort, is left out.

    Args:
        table: its ids are paths, its partition has "train".
    """
    assert table.partition is not None
    folders: dict[int, set[str]] = {}
    for path, target, part in zip(
        table.ids.tolist(), table.targets.tolist(), table.partition.tolist(), strict=True
    ):
        if part == "train":
            folders.setdefault(target, set()).add(_folder(path))
    labels = range(len(table.class_names))
    names = [next(iter(folders[label])) for label in labels if len(folders[label]) == 1]
    if len(set(names)) == len(labels) and "" not in names:
        return tuple(names)
    return tuple(str(label) for label in labels)


def _folder(path: str) -> str:
    steps = PurePosixPath(path).parts[1:-1]
    return "/".join(steps[1:] if len(steps) > 1 and len(steps[0]) == 1 else steps)
