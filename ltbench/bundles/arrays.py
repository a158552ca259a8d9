"""Predictions in a bundle: arrays that a stranger wrote, read without trusting one number of them.

NumPy would reserve the memory that an array's header asks for, and an npz file is a zip file of its
own; so sizes are compared with what is there before anything is made of them.
"""

from __future__ import annotations

import io
import re
import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from math import prod
from typing import Any, Final

import numpy as np

from ltbench.bundles.members import MAX_MEMBER_BYTES, Members
from ltbench.predictions import Predictions

__all__ = ["PARTS", "read_predictions"]

PARTS: Final = ("val", "test")
_ENTRY = re.compile(r"(val|test)/(ids|targets|logits|class_names|groups)\.npy")
_KINDS: Mapping[str, tuple[str, int]] = {
    "ids": ("U", 1),
    "targets": ("i", 1),
    "logits": ("f", 2),
    "class_names": ("U", 1),
    "groups": ("U", 1),
}
# What NumPy and zipfile raise about bytes that are no arrays; headers are Python literals.
_DAMAGED = (
    *(ValueError, EOFError, RuntimeError, OSError, SyntaxError, tokenize.TokenError, MemoryError),
    *(zipfile.BadZipFile, zlib.error, TypeError),
)
_NEEDED = {"ids", "targets", "logits", "class_names"}


def read_predictions(members: Members, name: str, data: bytes) -> dict[str, Predictions | None]:
    """The predictions of a seed by part, None for a part that is not there.

    Raises:
        VerificationError: no npz file, Python objects (pickles) in it, unknown arrays, or arrays
            that do not fit together.
    """
    arrays: dict[str, dict[str, np.ndarray]] = {part: {} for part in PARTS}
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            _check_sizes(archive)
            for entry in archive.infolist():
                found = _ENTRY.fullmatch(entry.filename)
                if found is None or found[2] in arrays[found[1]]:
                    raise ValueError(f"an array that does not belong there: {entry.filename!r}")
                arrays[found[1]][found[2]] = _array(archive.read(entry), *_KINDS[found[2]])
    except _DAMAGED as error:
        raise members.fault(
            f"{name}: expected arrays of numbers and text, as `val/logits`, without Python "
            f"objects; came {error}. Make the bundle again."
        ) from error
    return {part: _predictions(members, f"{name}, {part}", arrays[part]) for part in PARTS}


def _check_sizes(archive: zipfile.ZipFile) -> None:
    total = sum(entry.file_size for entry in archive.infolist())
    if total > MAX_MEMBER_BYTES:
        raise ValueError(f"arrays of {total} bytes, at most {MAX_MEMBER_BYTES} are read")
    # Other ways of compression have no limit to what they unpack at once.
    for entry in archive.infolist():
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"{entry.filename!r}, compressed in another way than deflate")


def _array(data: bytes, kind: str, dimensions: int) -> np.ndarray:
    """One array of a .npy file whose header tells the truth."""
    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)
    readers: Mapping[tuple[int, int], Any] = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in readers:
        raise ValueError(f"format {version} of NumPy's arrays")
    shape, _, dtype = readers[version](stream)
    if dtype.hasobject:
        raise ValueError("an array of Python objects, which only a pickle can hold")
    if dtype.kind != kind or len(shape) != dimensions:
        raise ValueError(f"an array of {dtype} with {len(shape)} dimensions")
    if any(type(size) is not int or size < 0 for size in shape):
        raise ValueError(f"a header that says the shape {shape}")
    if dtype.itemsize == 0 and prod(shape):
        # Names of no letters: any number of them is no byte in the file, and fills the memory.
        raise ValueError(f"{prod(shape)} names of no letters")
    if prod(shape) * dtype.itemsize != len(data) - stream.tell():
        raise ValueError(f"a header that says {shape} of {dtype}, and other data behind it")
    array: np.ndarray = np.load(io.BytesIO(data), allow_pickle=False)
    return array


def _predictions(
    members: Members, what: str, arrays: Mapping[str, np.ndarray]
) -> Predictions | None:
    if not arrays:
        return None
    missing = sorted(_NEEDED - set(arrays))
    if missing:
        raise members.fault(f"{what}: expected the array '{missing[0]}', found none.")
    num_images, num_classes = len(arrays["ids"]), len(arrays["class_names"])
    for field, array in arrays.items():
        shape: tuple[int, ...] = (num_images,)
        shape = {"class_names": (num_classes,), "logits": (num_images, num_classes)}.get(
            field, shape
        )
        if array.shape != shape:
            raise members.fault(
                f"{what}: expected {field} of shape {shape} for {num_images} ids and "
                f"{num_classes} classes, came {array.shape}."
            )
    return Predictions(
        ids=arrays["ids"],
        targets=arrays["targets"].astype(np.int64),
        logits=arrays["logits"].astype(np.float32),
        class_names=tuple(arrays["class_names"].tolist()),
        groups=arrays.get("groups"),
    )
