"""The official Python files of CIFAR-10 and CIFAR-100, unpacked or in their archive.

They are pickles, and a pickle can run code. None is opened before its MD5 is known to be right, and
then by a reader that knows nothing but numbers, texts, lists, dicts and arrays of bytes.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import tarfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ltbench.errors import VerificationError
from ltbench.intake.problems import Problems

__all__ = ["SIDE", "Contents", "Release", "read_release", "unpickled"]

SIDE = 32
_NUM_VALUES = 3 * SIDE * SIDE
# What unpickling raises for other bytes than it should get, besides its own error.
_NOT_PICKLED = (EOFError, ValueError, TypeError, KeyError, IndexError, AttributeError)
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class Release:
    """What the authors published.

    Attributes:
        archive: file name.
        archive_md5: of the archive.
        about_bytes: size of the archive.
        folder: that all its members lie in.
        md5: of the members that are read.
        train: members with training images, in order.
        test: member with the test images.
        meta: member with the class names.
        labels: key of the labels in a member.
        names: key of the class names in `meta`.
        num_images: of each class, by part.
    """

    archive: str
    archive_md5: str
    about_bytes: int
    folder: str
    md5: Mapping[str, str]
    train: tuple[str, ...]
    test: str
    meta: str
    labels: str
    names: str
    num_images: Mapping[str, int]


@dataclass(frozen=True)
class Contents:
    """What the files hold.

    Attributes:
        pixels: uint8 (N, 3, 32, 32) by part, "train" and "test".
        targets: class indices, int64 (N,), by part.
        class_names: C names.
    """

    pixels: Mapping[str, np.ndarray]
    targets: Mapping[str, np.ndarray]
    class_names: tuple[str, ...]


def read_release(release: Release, place: Path, remedy: str) -> Contents:
    """Read and check the files.

    Args:
        release: what they must be.
        place: the archive, or the folder it unpacks to.
        remedy: what to do about damaged ones, for messages.

    Raises:
        VerificationError: files are missing, are not the official ones, or hold something else.
    """
    data = _from_folder(release, place) if place.is_dir() else _from_archive(release, place, remedy)
    _refuse_others(release, data, place, remedy)
    problems = Problems(str(place))
    opened = {member: _opened(member, data[member], problems, remedy) for member in release.md5}
    problems.refuse()
    names = _class_names(release, opened[release.meta], problems, remedy)
    parts = {"train": release.train, "test": (release.test,)}
    for member in (*release.train, release.test):
        _add_unsound(member, opened[member], release.labels, problems, remedy)
    problems.refuse()
    targets = {
        part: np.array([n for m in members for n in opened[m][release.labels]], dtype=np.int64)
        for part, members in parts.items()
    }
    _add_counts(targets, len(names), release.num_images, problems, remedy)
    problems.refuse()
    pixels = {
        part: np.concatenate([opened[m]["data"] for m in members]).reshape(-1, 3, SIDE, SIDE)
        for part, members in parts.items()
    }
    return Contents(pixels, targets, names)


def _from_folder(release: Release, folder: Path) -> dict[str, bytes]:
    files = {member: folder / member for member in release.md5}
    return {member: file.read_bytes() for member, file in files.items() if file.is_file()}


def _from_archive(release: Release, archive: Path, remedy: str) -> dict[str, bytes]:
    """The members, of an archive whose own MD5 is right: before that it is not opened."""
    digest = hashlib.md5(usedforsecurity=False)
    with archive.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    if digest.hexdigest() != release.archive_md5:
        raise VerificationError(
            f"{archive} is not the official archive: expected MD5 {release.archive_md5} and about "
            f"{release.about_bytes} bytes, found {digest.hexdigest()} and {archive.stat().st_size} "
            f"bytes. {remedy}"
        )
    members = {f"{release.folder}/{member}": member for member in release.md5}
    data = {}
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for info in tar:
                opened = tar.extractfile(info) if info.name in members else None
                if opened is not None:
                    data[members[info.name]] = opened.read()
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise VerificationError(f"{archive} is damaged ({error}). {remedy}") from error
    return data


def _refuse_others(release: Release, data: Mapping[str, bytes], place: Path, remedy: str) -> None:
    problems = Problems(str(place))
    absent = [f"no {member}" for member in release.md5 if member not in data]
    problems.add("Expected every file of the release", absent, remedy)
    found = {
        member: hashlib.md5(content, usedforsecurity=False).hexdigest()
        for member, content in data.items()
    }
    problems.add(
        "Expected the MD5 of the official files; they are pickles, and no other one is opened",
        [
            f"{digest} of {member} (official: {release.md5[member]})"
            for member, digest in found.items()
            if digest != release.md5[member]
        ],
        remedy,
    )
    problems.refuse()


def unpickled(data: bytes) -> Any:
    """What a pickle of a release holds: numbers, texts, lists, dicts and arrays of bytes.

    Raises:
        pickle.UnpicklingError: it asks for anything else, which could run code.
    """
    return _Unpickler(io.BytesIO(data), encoding="latin1").load()


class _Unpickler(pickle.Unpickler):
    """Knows the three names that a pickled array of bytes is made of, and no other."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _CALLABLES:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is not allowed")
        return _CALLABLES[module, name]


def _bytes_dtype(name: str, _align: int = 0, _copy: int = 1) -> np.dtype[Any]:
    if name != "u1":
        raise pickle.UnpicklingError(f"it holds an array of {name!r}, expected bytes ('u1')")
    return np.dtype(name, copy=True)


# Python 2 wrote the files, so these are the names of that time.
_CALLABLES: Mapping[tuple[str, str], Callable[..., Any]] = {
    ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],  # type: ignore[dict-item]
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): _bytes_dtype,
}


def _opened(member: str, data: bytes, problems: Problems, remedy: str) -> dict[Any, Any]:
    try:
        found = unpickled(data)
    except (pickle.UnpicklingError, *_NOT_PICKLED) as error:
        problems.add("Expected a pickle of plain data", [f"{member}: {error}"], remedy)
        return {}
    if not isinstance(found, dict):
        problems.add("Expected a pickled dict", [f"{_shape(found)} in {member}"], remedy)
        return {}
    return found


def _class_names(
    release: Release, meta: Mapping[Any, Any], problems: Problems, remedy: str
) -> tuple[str, ...]:
    names = meta.get(release.names)
    if isinstance(names, list) and all(isinstance(name, str) for name in names):
        return tuple(names)
    came = [f"{_shape(names)} in {release.meta}"]
    problems.add(f"Expected a list of class names as '{release.names}'", came, remedy)
    return ()


def _add_unsound(
    member: str, batch: Mapping[Any, Any], key: str, problems: Problems, remedy: str
) -> None:
    pixels, labels = batch.get("data"), batch.get(key)
    is_sound = (
        isinstance(pixels, np.ndarray)
        and pixels.dtype == np.uint8
        and pixels.shape == (len(pixels), _NUM_VALUES)
        and isinstance(labels, list)
        and len(labels) == len(pixels)
        and all(isinstance(label, int) for label in labels)
    )
    problems.add(
        f"Expected 'data', uint8 (N, {_NUM_VALUES}), and '{key}', a list of N integers",
        [] if is_sound else [f"{_shape(pixels)} and {_shape(labels)} in {member}"],
        remedy,
    )


def _add_counts(
    targets: Mapping[str, np.ndarray],
    num_classes: int,
    num_images: Mapping[str, int],
    problems: Problems,
    remedy: str,
) -> None:
    for part, labels in targets.items():
        inside = (labels >= 0) & (labels < num_classes)
        problems.add(
            f"Expected labels from 0 to {num_classes - 1} ({part})",
            [str(label) for label in labels[~inside].tolist()],
            remedy,
        )
        counts = np.bincount(labels[inside], minlength=num_classes).tolist()
        problems.add(
            f"Expected {num_images[part]} images of every class ({part})",
            [f"{n} of class {c}" for c, n in enumerate(counts) if n != num_images[part]],
            remedy,
        )


def _shape(found: Any) -> str:
    if isinstance(found, np.ndarray):
        return f"{found.dtype} {found.shape}"
    return f"a list of {len(found)}" if isinstance(found, list) else type(found).__name__
