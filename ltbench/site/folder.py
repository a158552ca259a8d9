"""The folder that a site is written to: what is in it, what is still right, what may go."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, ValidationError

from ltbench.errors import DataMissingError, UsageError, VerificationError
from ltbench.files import canonical_json, read_json, sha256_hex, storage_errors

MANIFEST: Final = "site.json"
KIND: Final = "ltbench site"
SCHEMA_VERSION: Final = 1
_TEMPORARY: Final = ".ltbench-"
_MOST_NAMED: Final = 3


class Unit(BaseModel):
    """Files that are made together.

    Attributes:
        stamp: digest of all that they are made from; "" for what is made each time.
        files: SHA-256 (hex) of each file, by its path in the site.
        note: what must still hold for the files to be right.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    stamp: str
    files: dict[str, str]
    note: str = ""


class _Manifest(BaseModel):
    """`site.json`.

    Attributes:
        units: by name.
        begun: files, and folders that end in "/", of a site that is being written: where that is
            cut short, what it left is still known to be ours.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    kind: str
    schema_version: int
    units: dict[str, Unit]
    begun: list[str] = []


@dataclass
class SiteFolder:
    """A folder with a site, or for one."""

    path: Path
    _before: _Manifest
    _planned: tuple[str, ...]
    _has_begun: bool = False
    _units: dict[str, Unit] = field(default_factory=dict)
    _written: set[str] = field(default_factory=set)

    @classmethod
    def opened(cls, path: Path, planned: Iterable[str]) -> SiteFolder:
        """The folder as it is; nothing is written.

        Args:
            planned: where files will be put; a folder, which ends in "/", stands for all below it.

        Raises:
            UsageError: something else than a site is there, or files that no site wrote lie where
                a site's go, or a link stands in place of one of its folders.
        """
        empty = _Manifest(kind=KIND, schema_version=SCHEMA_VERSION, units={})
        with storage_errors(path, "--out"):
            if path.exists() and not path.is_dir():
                raise UsageError(f"Expected a folder at {path}, found a file. Give another --out.")
            is_new = not path.exists() or not any(path.iterdir())
        folder = cls(path, empty if is_new else _read(path), tuple(planned))
        folder._refuse_links()
        folder._refuse_foreign()
        return folder

    def is_right(self, name: str, stamp: str, *, note: str = "") -> bool:
        """Whether a unit was made from the same, and all its files are as they were written."""
        unit = self._before.units.get(name)
        return (
            unit is not None
            and unit.stamp == stamp != ""
            and unit.note == note
            and all(self._digest(file) == digest for file, digest in unit.files.items())
        )

    def unit(self, name: str) -> Unit | None:
        """A unit of the site that was here before."""
        return self._before.units.get(name)

    def begin(self) -> None:
        """Say in the manifest what is about to be written, before the first file is."""
        if self._has_begun:
            return
        self._has_begun = True
        with storage_errors(self.path, "--out"):
            self.path.mkdir(parents=True, exist_ok=True)
            for left in self.path.rglob(f"{_TEMPORARY}*.tmp"):
                left.unlink(missing_ok=True)
        begun = sorted({*self._before.begun, *self._planned})
        self._before = self._before.model_copy(update={"begun": begun})
        self._write_manifest(self._before)

    def put(self, file: str, data: bytes) -> None:
        """Write a file, unless it is there as it should be."""
        if self._digest(file) != sha256_hex(data):
            self.begin()
            write(self.path, file, data)
            self._written.add(file)

    def made(self, name: str, unit: Unit, written: Iterable[str] = ()) -> None:
        """Take in a unit; `written` are those of its files that `put` did not write."""
        self._units[name] = unit
        self._written |= set(written)

    def keep(self, name: str) -> None:
        """Take over a unit as it is."""
        self._units[name] = self._before.units[name]

    def made_unit(self, name: str) -> Unit:
        """A unit of this site."""
        return self._units[name]

    @property
    def files(self) -> set[str]:
        """Of all units that were made or kept."""
        return {file for unit in self._units.values() for file in unit.files}

    @property
    def written(self) -> set[str]:
        """Files that were written."""
        return set(self._written)

    def finish(self) -> int:
        """Remove what earlier sites wrote and this one has not, and write the manifest.

        Returns:
            How many files were removed.
        """
        wanted = self.files
        ours = _Owned(self._before)
        names = {file for unit in self._before.units.values() for file in unit.files}
        names |= {file for one in self._before.begun for file in self._there(one)}
        gone = sorted(file for file in names - wanted if ours.has(file))
        removed = 0
        with storage_errors(self.path, "--out"):
            for file in gone:
                place = self.path / file
                if place.is_file():
                    place.unlink()
                    removed += 1
                for folder in list(place.parents)[: len(PurePosixPath(file).parts) - 1]:
                    if folder.is_dir() and not any(folder.iterdir()):
                        folder.rmdir()
        units = dict(sorted(self._units.items()))
        self._write_manifest(_Manifest(kind=KIND, schema_version=SCHEMA_VERSION, units=units))
        return removed

    def _refuse_links(self) -> None:
        """What is written or removed below a link would be so elsewhere."""
        files = (file for unit in self._before.units.values() for file in unit.files)
        below = [
            PurePosixPath(f"{name}-") for name in (*self._planned, *self._before.begun, *files)
        ]
        folders = {self.path / parent for one in below for parent in one.parents[:-1]}
        within = (found for folder in folders for found in folder.rglob("*"))
        links = [one for one in (*folders, *within) if one.is_symlink() and one.is_dir()]
        if links:
            raise UsageError(
                f"{min(links)} is a link to another folder; what is below it is no site's to "
                "change. Remove the link, or give another --out."
            )

    def _refuse_foreign(self) -> None:
        ours = _Owned(self._before)
        foreign = [one for name in self._planned for one in self._there(name) if not ours.has(one)]
        if foreign:
            more = " and more" if len(foreign) > _MOST_NAMED else ""
            raise UsageError(
                f"{', '.join(foreign[:_MOST_NAMED])}{more} in {self.path}: no site wrote this, and "
                "it is where a site's files go. Move it away, or give another --out."
            )

    def _there(self, name: str) -> Iterator[str]:
        """The files that a path, or a folder that ends in "/", has now."""
        place = self.path / name
        if not name.endswith("/"):
            if place.exists() or place.is_symlink():
                yield name
        elif place.is_dir():
            for file in sorted(place.rglob("*")):
                if not file.is_dir() and not file.name.startswith(_TEMPORARY):
                    yield file.relative_to(self.path).as_posix()

    def _digest(self, file: str) -> str | None:
        try:
            return sha256_hex((self.path / file).read_bytes())
        except OSError:
            return None

    def _write_manifest(self, manifest: _Manifest) -> None:
        data = (canonical_json(manifest.model_dump(mode="json")) + "\n").encode()
        if self._digest(MANIFEST) != sha256_hex(data):
            write(self.path, MANIFEST, data)


class _Owned:
    """Which files a manifest says are a site's."""

    def __init__(self, manifest: _Manifest) -> None:
        self._files = {file for unit in manifest.units.values() for file in unit.files}
        self._files |= {one for one in manifest.begun if not one.endswith("/")}
        self._files.add(MANIFEST)
        self._folders = tuple(one for one in manifest.begun if one.endswith("/"))

    def has(self, file: str) -> bool:
        return file in self._files or file.startswith(self._folders)


def write(root: Path, file: str, data: bytes) -> None:
    """Write one file of a site: at any moment the old or the new one is there whole.

    It is not forced onto the disk, as a run's results are: after a power cut the same command
    finds by the digests in the manifest what is missing, and makes it again.
    """
    place = root / file
    temporary = place.with_name(f"{_TEMPORARY}{os.getpid()}-{os.urandom(4).hex()}.tmp")
    with storage_errors(root, "--out"):
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_bytes(data)
            os.replace(temporary, place)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise


def digests_of(files: Mapping[str, bytes]) -> dict[str, str]:
    """SHA-256 (hex) of each file."""
    return {file: sha256_hex(data) for file, data in files.items()}


def _read(path: Path) -> _Manifest:
    """The manifest of a folder that is not empty."""
    foreign = UsageError(
        f"Expected a site or a new folder at {path}; something else is there. Give another --out."
    )
    try:
        found: Any = read_json(path / MANIFEST)
    except DataMissingError as error:
        raise foreign from error
    if not isinstance(found, dict) or found.get("kind") != KIND:
        raise foreign
    try:
        manifest = _Manifest.model_validate(found)
    except ValidationError as error:
        raise VerificationError(
            f"{path / MANIFEST} is damaged ({error.errors()[0]['msg']}). Remove the folder, or "
            "give another --out."
        ) from error
    if manifest.schema_version != SCHEMA_VERSION or not all(map(_is_below, _paths(manifest))):
        raise VerificationError(
            f"{path / MANIFEST}: expected a site of schema version {SCHEMA_VERSION} whose files "
            f"lie in it. Remove the folder, or give another --out."
        )
    return manifest


def _paths(manifest: _Manifest) -> Iterator[str]:
    yield from manifest.begun
    for unit in manifest.units.values():
        yield from unit.files


def _is_below(file: str) -> bool:
    """Whether a path stays in the site: what a manifest names may be removed."""
    parts = PurePosixPath(file)
    return bool(parts.parts) and not parts.is_absolute() and ".." not in parts.parts
