"""Data sets whose pictures are files: a table says what they are, a store holds them decoded."""

from __future__ import annotations

import logging
import os
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field, field_validator
from tqdm import tqdm

from ltbench.data.images import UnreadImages
from ltbench.data.places import data_home
from ltbench.dataset import (
    Dataset,
    DatasetConfig,
    Images,
    PrepareRequest,
    Source,
    place_field,
)
from ltbench.errors import DataMissingError
from ltbench.files import canonical_json, sha256_hex
from ltbench.intake.table import ImageTable
from ltbench.store.layout import Store, StoreSettings
from ltbench.store.writer import write_store

__all__ = ["StoredConfig", "StoredDataset", "shell_path"]

_LOG = logging.getLogger(__name__)
_PARALLEL_FROM = 500  # pictures; below that, starting processes takes longer than decoding
_Side = Annotated[int, Field(ge=8, le=4096)]


class StoredConfig(DatasetConfig):
    """Settings of a data set of files."""

    short_side: _Side = Field(
        default=256, description="shorter side of stored pictures, in pixels; none is enlarged"
    )
    squares: tuple[_Side, ...] = Field(
        default=(224,), description="sides of square copies made straight from the files"
    )
    store: Path | None = place_field(
        None, description="folder for the store; default: stores/ in the data folder"
    )
    skip_broken: bool = place_field(
        False, description="leave out, and record, pictures that cannot be read"
    )

    @field_validator("squares")
    @classmethod
    def _ascending(cls, squares: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(sorted(set(squares)))


class StoredDataset(Dataset):
    """A data set of picture files.

    A subclass gives `table`. `prepare` decodes every picture of `whole_table` once; `load` reads
    the store, and makes it first where `prepares_itself`.
    """

    Config: ClassVar[type[DatasetConfig]] = StoredConfig
    prepares_itself: ClassVar[bool] = False

    @abstractmethod
    def table(self, protocol: str) -> ImageTable:
        """The images that `protocol` draws on, from tables and folders alone."""

    def whole_table(self) -> ImageTable:
        """The images of all protocols: what is prepared."""
        return self.table(self.choose_protocol(self.default_protocol))

    @property
    def root(self) -> Path:
        """Where the files lie."""
        return self.data_root or data_home() / self.info.name

    def store_folder(self) -> Path:
        """Where the store of these files and settings lies."""
        settings = {"short_side": self.config.short_side, "squares": self.config.squares}
        about = canonical_json({"root": self._place(), **settings})
        folder: Path = self.config.store or data_home() / "stores"
        return folder / f"{self.info.name}-{sha256_hex(about.encode())[:12]}"

    def _place(self) -> str:
        """What tells the files of two stores of one data set apart."""
        return str(self.root.resolve())

    def prepare(self, request: PrepareRequest) -> None:
        """Decode every picture into the store; what is there already is kept.

        Raises:
            DataMissingError: neither the files nor a store of them are here.
        """
        table = self.whole_table()
        if not any(file.exists() for file in table.files):
            self._say_without_files(table, request)
            return
        store = self._write(
            table,
            workers=request.workers,
            skip_broken=request.skip_broken or self.config.skip_broken,
            on_progress=request.on_progress,
        )
        store.verify()
        request.say(f"{len(store.ids)} pictures in {self.store_folder()}, every pixel checked")
        for kind, count in sorted(store.conversions.items()):
            request.say(f"converted, {kind}: {count}")
        for left in store.left_out:
            request.say(f"left out: {left['id']} ({left['file']}): {left['reason']}")

    def _say_without_files(self, table: ImageTable, request: PrepareRequest) -> None:
        try:
            store = Store.open(self.store_folder())
        except DataMissingError as error:
            raise DataMissingError(
                f"The tables of {self.info.name} name {len(table)} pictures, and none of them is "
                f"in {self.root}. Run: {self.command('fetch')}"
            ) from error
        store.verify()
        request.say(
            f"{len(store.ids)} pictures in {self.store_folder()}, every pixel checked; their files "
            "are no longer here, and not needed"
        )

    def load(self, protocol: str) -> Source:
        """The images of a protocol, from the store.

        Raises:
            DataMissingError: the files or the store are not here, or were changed since.
        """
        table = self.table(protocol)
        store = self._store(table)
        return self._source(*self._readable(table, store))

    def unread(self, protocol: str, reason: str) -> Source:
        """What `load` gives, from the tables alone; asking for a picture raises `reason`."""
        table = self.table(protocol)
        return self._source(table, UnreadImages(len(table), reason))

    def verify(self) -> None:
        """Read every stored pixel again and compare it with its digest, where there is a store.

        Raises:
            VerificationError: some have changed.
        """
        Store.open(self.store_folder()).verify()

    def _readable(self, table: ImageTable, store: Store) -> tuple[ImageTable, Images]:
        """The rows that the store holds, with its pictures; those left out go to the notes."""
        left_out = {left["id"]: left["reason"] for left in store.left_out}
        missing = np.array([name in left_out for name in table.ids.tolist()], dtype=bool)
        if missing.any():
            reasons = {name: left_out[name] for name in table.ids[missing].tolist()}
            table = replace(table.keep(~missing), notes={**table.notes, "left_out": reasons})
        return table, store.images(table.ids)

    def _source(self, table: ImageTable, images: Images) -> Source:
        return Source(
            images=images,
            ids=table.ids,
            targets=table.targets,
            class_names=table.class_names,
            groups=table.groups,
            partition=table.partition,
            groups_note=table.groups_note,
            group_noun=table.group_noun,
            metadata=table.metadata,
            notes=table.notes,
        )

    def _store(self, table: ImageTable) -> Store:
        folder = self.store_folder()
        try:
            store = Store.open(folder)
        except DataMissingError:
            why = f"no store of its pictures at {folder}"
        else:
            changed = changed_since(store, table)
            if not changed:
                return store
            why = f"its store at {folder} does not hold them as they are: {changed}"
        if not self.prepares_itself:
            is_whole = all(file.exists() for file in table.files)
            first = "" if is_whole else f"{self.command('fetch')}\nthen: "
            raise DataMissingError(
                f"{self.info.name} is not prepared: {why}. Run: {first}{self.command('prepare')}"
            )
        _LOG.warning("Decoding %d pictures once: %s.", len(table), why)
        many = len(table) >= _PARALLEL_FROM
        with tqdm(total=len(table), unit="picture", disable=None, leave=False) as bar:
            return self._write(
                self.whole_table(),
                workers=min(8, len(os.sched_getaffinity(0))) if many else 1,
                skip_broken=self.config.skip_broken,
                on_progress=lambda done, total: _move(bar, done, total),
            )

    def _write(
        self,
        table: ImageTable,
        *,
        workers: int,
        skip_broken: bool,
        on_progress: Callable[[int, int], None],
    ) -> Store:
        return write_store(
            self.store_folder(),
            table.ids,
            table.files,
            StoreSettings(self.config.short_side, self.config.squares),
            workers=workers,
            skip_broken=skip_broken,
            on_progress=on_progress,
        )

    def command(self, verb: str) -> str:
        """The `data` command for this data set where it lies, for messages."""
        where = f" --data-root {shell_path(self.data_root)}" if self.data_root else ""
        return f"python bench.py data {verb} {self.info.name}{where}"


def changed_since(store: Store, table: ImageTable) -> str:
    """What of the table the store lacks or holds from another version of the file; "" if nothing.

    Files that are gone are fine: the store stands for them.
    """
    known = dict(zip(store.ids.tolist(), store.file_stats.tolist(), strict=True))
    for left in store.left_out:
        known[left["id"]] = [int(number) for number in left["stat"].split()]
    for name, file in zip(table.ids.tolist(), table.files, strict=True):
        try:
            found = file.stat()
        except OSError:
            if name not in known:
                return f"'{name}' is not in it, nor is its file at {file}"
            continue
        if name not in known:
            return f"'{name}' is not in it"
        if [found.st_size, found.st_mtime_ns] != known[name]:
            return f"{file} was changed since"
    return ""


def shell_path(path: Path) -> str:
    """A path as a shell takes it."""
    import shlex

    return shlex.quote(str(path))


def _move(bar: Any, done: int, total: int) -> None:
    bar.total = total
    bar.update(done - bar.n)
