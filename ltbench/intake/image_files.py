"""The image files of a folder, found by one walk, and which of them a name means."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ltbench.errors import DataMissingError, RunFailedError, UsageError, VerificationError
from ltbench.intake.problems import listed

__all__ = ["SUFFIXES", "ImageFinder", "find_images", "without_suffix"]

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
_LEFTOVERS = frozenset({"__MACOSX"})  # what macOS adds to zip archives


def without_suffix(name: str) -> str:
    """The name without the suffix of an image; any other ending belongs to the name."""
    stem, dot, suffix = name.rpartition(".")
    return stem if stem and f"{dot}{suffix}".lower() in SUFFIXES else name


@dataclass(frozen=True)
class ImageFinder:
    """What lies in a folder, at any depth; hidden files and folders are left out.

    Attributes:
        root: the folder.
        files: images, as paths relative to `root` with "/" between folders; ascending.
        others: the other files, likewise.
        folders: the folders, likewise.
    """

    root: Path
    files: tuple[str, ...]
    others: tuple[str, ...]
    folders: tuple[str, ...]

    def candidates(self, name: str) -> tuple[str, ...]:
        """The files that a name may mean, as relative paths; one where all is well.

        A path, relative to `root` or absolute, means the file there; a bare name means a file in
        any folder. Where it ends in no image suffix, any suffix is right; the case of suffixes
        does not matter. A file that is called exactly so wins.
        """
        name = self.relative(name)
        if name in self.known:
            return (name,)
        index = self._by_path if "/" in name else self._by_name
        return tuple(index.get(_key(name), ()))

    def find(self, name: str) -> Path:
        """Where the one file lies that a name means; see `candidates`.

        Raises:
            DataMissingError: there is none.
            VerificationError: there are several.
        """
        found = self.candidates(name)
        if not found:
            raise DataMissingError(
                f"Expected an image '{name}', found none: {self.tried()}. Put the file there."
            )
        if len(found) > 1:
            raise VerificationError(
                f"{self.root}: expected one file for the image '{name}', found {listed(found)}. "
                "Remove all but one, or name it by its path."
            )
        return self.path(found[0])

    def path(self, relative: str) -> Path:
        """Where a file of `files` lies."""
        return Path(f"{self.root}/{relative}")

    def relative(self, name: str) -> str:
        """A name as a table has it, as a path relative to `root` with "/" between folders."""
        name = posixpath.normpath(name.replace("\\", "/"))
        return name.removeprefix(f"{self._absolute_root}/") if name.startswith("/") else name

    def tried(self) -> str:
        """Where and how names were looked for, for messages."""
        return (
            f"looked through the {len(self.files)} images in {self.root} and its folders, for "
            f"names as they are and with {' '.join(SUFFIXES)} in any case"
        )

    @cached_property
    def _absolute_root(self) -> str:
        return os.path.abspath(self.root).rstrip("/")

    @cached_property
    def known(self) -> frozenset[str]:
        """`files`, to look them up by their exact paths."""
        return frozenset(self.files)

    @cached_property
    def _by_path(self) -> dict[str, list[str]]:
        return _indexed((file, file) for file in self.files)

    @cached_property
    def _by_name(self) -> dict[str, list[str]]:
        return _indexed((posixpath.basename(file), file) for file in self.files)


def find_images(root: Path) -> ImageFinder:
    """Walk through a folder once; links are followed, unless they lead back up.

    Raises:
        DataMissingError: there is no such folder.
        UsageError: it is a file, or a folder in it is closed to this user.
        RunFailedError: its storage failed.
    """
    files: list[str] = []
    others: list[str] = []
    folders: list[str] = []
    waiting = [("", frozenset({os.path.realpath(root)}))]
    try:
        while waiting:
            folder, above = waiting.pop()
            for entry in _entries(root, folder):
                name = f"{folder}{entry.name}"
                if not entry.is_dir():
                    is_image = without_suffix(entry.name) != entry.name
                    (files if is_image else others).append(name)
                    continue
                real = os.path.realpath(entry.path)
                if real not in above:
                    folders.append(name)
                    waiting.append((f"{name}/", above | {real}))
    except OSError as error:
        raise _unreadable(root, error) from error
    return ImageFinder(root, *(tuple(sorted(names)) for names in (files, others, folders)))


def _entries(root: Path, folder: str) -> list[os.DirEntry[str]]:
    with os.scandir(f"{root}/{folder}") as entries:
        return [e for e in entries if not e.name.startswith(".") and e.name not in _LEFTOVERS]


def _unreadable(root: Path, error: OSError) -> Exception:
    if isinstance(error, NotADirectoryError):
        return UsageError(
            f"Expected a folder of images at {root}, found a file. Give the folder it lies in."
        )
    if isinstance(error, FileNotFoundError) and not root.exists():
        return DataMissingError(
            f"Expected a folder of images at {root}, found none. Give the folder that holds the "
            "images with --data-root DIR, or put them there."
        )
    kind = UsageError if isinstance(error, PermissionError) else RunFailedError
    return kind(
        f"The folder {error.filename or root} could not be read: {error.strerror or error}. Check "
        "its permissions and that its storage can be reached."
    )


def _key(name: str) -> str:
    stem = without_suffix(name)
    return stem + name[len(stem) :].lower()


def _indexed(named: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Files by name with its suffix in lower case, and by name without it."""
    index: dict[str, list[str]] = {}
    for name, file in named:
        stem = without_suffix(name)
        index.setdefault(stem, []).append(file)
        index.setdefault(stem + name[len(stem) :].lower(), []).append(file)
    return index
