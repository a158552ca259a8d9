"""Pictures and labels in an npz file, as MedMNIST is published."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ltbench.errors import RunFailedError, VerificationError
from ltbench.intake.classes import MAX_CLASSES, add_too_few, untrained
from ltbench.intake.parts import PARTS
from ltbench.intake.problems import Problems, listed
from ltbench.intake.user_files import opened

__all__ = ["WHOLE", "ArrayTable", "arrays_from_npz"]

WHOLE = "all"
_UNREADABLE = (
    ValueError,
    KeyError,
    EOFError,
    OSError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
)


@dataclass(frozen=True)
class ArrayTable:
    """Decoded pictures by part.

    Attributes:
        pixels: uint8 (N, channels, height, width) by "train", "val" (where there is one) and
            "test"; by "all" alone where the file has no parts.
        labels: class indices, int64 (N,), by the same keys.
        num_classes: C; every class has a training image.
    """

    pixels: Mapping[str, np.ndarray]
    labels: Mapping[str, np.ndarray]
    num_classes: int


def arrays_from_npz(path: Path) -> ArrayTable:
    """Read {train,val,test}_{images,labels}, or images and labels; nothing is ever unpickled.

    Images are uint8 (N, height, width) or (N, height, width, 1 or 3), labels integers from 0, (N,)
    or (N, 1). The validation part may be missing. Other keys are passed over.

    Raises:
        DataMissingError: there is no such file.
        UsageError: it is a folder, or closed to this user.
        RunFailedError: its storage failed, or the arrays do not fit into memory.
        VerificationError: not an npz file, keys missing, arrays that are pickled, damaged or of
            another dtype or shape, numbers of images and labels that differ, labels out of range, a
            class without a training image; all at once, with the keys.
    """
    problems = Problems(str(path))
    with opened(path) as file, _archive(path, file) as archive:
        prefixes = _prefixes(archive.files, problems)
        problems.refuse()
        read_images = {p: _images(archive, f"{x}images", problems) for p, x in prefixes.items()}
        read_labels = {p: _labels(archive, f"{x}labels", problems) for p, x in prefixes.items()}
    images, labels = _sound(read_images), _sound(read_labels)
    for part in [part for part in prefixes if part in images and part in labels]:
        _add_other_count(prefixes[part], images[part], labels[part], problems)
    _add_sizes(prefixes, images, problems)
    problems.refuse()
    num_classes = 1 + max(int(values.max()) for values in labels.values())
    _add_class_problems(num_classes, labels, problems)
    problems.refuse()
    return ArrayTable(images, labels, num_classes)


def _archive(path: Path, file: BinaryIO) -> Any:
    try:
        if zipfile.is_zipfile(file):
            file.seek(0)
            return np.load(file, allow_pickle=False)
    except _UNREADABLE as error:
        raise VerificationError(
            f"{path}: expected an npz file, found a damaged one ({error}). Get it again."
        ) from error
    raise VerificationError(
        f"{path}: expected an npz file, a zip archive of arrays; found another kind of file, or "
        "one that was cut short. Get it again, or write it with numpy.savez."
    )


def _prefixes(keys: Collection[str], problems: Problems) -> dict[str, str]:
    """What stands before "images" and "labels" in the keys of each part."""
    prefixes = {part: f"{part}_" for part in PARTS}
    pairs = {part: [f"{x}images", f"{x}labels"] for part, x in prefixes.items()}
    with_parts = any(key in keys for pair in pairs.values() for key in pair)
    if not with_parts and {"images", "labels"} & set(keys):
        prefixes, pairs = {WHOLE: ""}, {WHOLE: ["images", "labels"]}
    elif not any(key in keys for key in pairs["val"]):
        del prefixes["val"], pairs["val"]
    missing = [key for pair in pairs.values() for key in pair if key not in keys]
    problems.add(
        "Expected the keys train_images, train_labels, test_images and test_labels, perhaps "
        "val_images and val_labels; or images and labels alone",
        [f"no '{key}'" for key in missing],
        f"Its keys are {listed(sorted(keys)) or '(none)'}: rename the arrays, or get the whole "
        "file.",
    )
    return prefixes


def _array(archive: Any, key: str, problems: Problems) -> np.ndarray | None:
    try:
        array = archive[key]
    except _UNREADABLE as error:
        problems.add(
            f"Expected '{key}' as a sound array of numbers",
            [str(error)],
            "Arrays of Python objects are never unpickled, since that may run code. Write plain "
            "arrays with numpy.savez, or get the file again.",
        )
        return None
    except MemoryError as error:
        raise RunFailedError(
            f"{problems.subject}: the array '{key}' does not fit into memory ({error}). "
            "Use a smaller version of the file, or a machine with more memory."
        ) from error
    return array if isinstance(array, np.ndarray) else np.array(array)


def _images(archive: Any, key: str, problems: Problems) -> np.ndarray | None:
    """uint8 (N, channels, height, width); None where a problem was noted."""
    array = _array(archive, key, problems)
    if array is None:
        return None
    is_colour = array.ndim == 4 and array.shape[-1] in (1, 3)
    if array.dtype != np.uint8 or not (array.ndim == 3 or is_colour) or 0 in array.shape:
        problems.add(
            f"Expected '{key}' as uint8 (N, height, width) or (N, height, width, 1 or 3), N > 0",
            [f"{array.dtype} {array.shape}"],
            "Scale values to 0..255 and put channels last.",
        )
        return None
    return array.transpose(0, 3, 1, 2) if is_colour else array[:, None]


def _labels(archive: Any, key: str, problems: Problems) -> np.ndarray | None:
    """int64 (N,); None where a problem was noted."""
    array = _array(archive, key, problems)
    if array is None:
        return None
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        problems.add(
            f"Expected '{key}' as integers (N,) or (N, 1), one class an image",
            [f"{array.dtype} {array.shape}"],
            "Several labels an image (multi-label data) cannot be used.",
        )
        return None
    outside = np.flatnonzero((array < 0) | (array >= MAX_CLASSES)).tolist()
    problems.add(
        f"Expected labels from 0 to less than {MAX_CLASSES} in '{key}'",
        [f"{array[i]} at position {i}" for i in outside],
        "Number the classes from 0.",
    )
    return None if outside else array.astype(np.int64)


def _sound(arrays: Mapping[str, np.ndarray | None]) -> dict[str, np.ndarray]:
    return {part: array for part, array in arrays.items() if array is not None}


def _add_other_count(
    prefix: str, images: np.ndarray, labels: np.ndarray, problems: Problems
) -> None:
    if len(images) != len(labels):
        problems.add(
            f"Expected as many '{prefix}images' as '{prefix}labels'",
            [f"{len(images)} and {len(labels)}"],
            "Get the file again.",
        )


def _add_sizes(
    prefixes: Mapping[str, str], images: Mapping[str, np.ndarray], problems: Problems
) -> None:
    shapes = {f"{prefixes[part]}images": array.shape[1:] for part, array in images.items()}
    if len(set(shapes.values())) > 1:
        problems.add(
            "Expected pictures of one size and number of channels in all parts",
            [f"{shape} in '{key}'" for key, shape in shapes.items()],
            "Channels, height and width must agree.",
        )


def _add_class_problems(
    num_classes: int, labels: Mapping[str, np.ndarray], problems: Problems
) -> None:
    names = [str(label) for label in range(num_classes)]
    whole = WHOLE in labels
    partition = np.repeat(list(labels), [len(values) for values in labels.values()])
    add_too_few(names, problems)
    problems.add(
        f"Expected every class from 0 to {num_classes - 1} in '{'' if whole else 'train_'}labels'",
        untrained(names, np.concatenate(list(labels.values())), None if whole else partition),
        "Number the classes without a gap, and train on every class that is tested.",
    )
