"""Predictions in a file: what every metric can be recomputed from, without a GPU."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np

from ltbench.errors import DataMissingError, VerificationError
from ltbench.files import canonical_json, sha256_hex, write_bytes
from ltbench.predictions import Predictions

_FIELDS: Final = ("ids", "targets", "logits", "class_names", "groups")
_METADATA: Final = "metadata/"


def write(path: Path, predictions: Mapping[str, Predictions | None]) -> None:
    """Write the predictions of all parts into one npz file, atomically, no pickles.

    Args:
        predictions: by part, "val" and "test"; None where the protocol has no such part.
    """
    write_bytes(path, to_bytes(predictions))


def to_bytes(predictions: Mapping[str, Predictions | None], *, compressed: bool = True) -> bytes:
    """The npz file that `write` writes."""
    arrays: dict[str, np.ndarray] = {}
    for part, given in predictions.items():
        if given is not None:
            fields = _as_arrays(given, f"the predictions of '{part}'")
            arrays |= {f"{part}/{field}": array for field, array in fields.items()}
    buffer = io.BytesIO()
    # Names are stored four bytes a letter, mostly zeros: compressing makes small runs smaller.
    save = np.savez_compressed if compressed else np.savez
    save(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def read(path: Path, part: str) -> Predictions:
    """The stored predictions of one part, "val" or "test".

    Raises:
        DataMissingError: the run has stored none, or none of this part.
        VerificationError: the file is damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            names = {name.removeprefix(f"{part}/"): name for name in stored.files}
            wanted = {
                field: name
                for field, name in names.items()
                if name.startswith(f"{part}/") and (field in _FIELDS or field.startswith(_METADATA))
            }
            arrays = {field: stored[name] for field, name in wanted.items()}
            parts = sorted({name.partition("/")[0] for name in stored.files})
        if not arrays:
            raise DataMissingError(
                f"{path} holds no predictions of '{part}', only of: {', '.join(parts)}."
            )
        _check_shapes(arrays, "the stored arrays")
        class_names = tuple(arrays.pop("class_names").tolist())
        metadata = {
            field.removeprefix(_METADATA): arrays.pop(field)
            for field in list(arrays)
            if field.startswith(_METADATA)
        }
        return Predictions(class_names=class_names, metadata=metadata, **arrays)
    except FileNotFoundError as error:
        raise DataMissingError(
            f"Expected predictions at {path}, found none. Run the cell again to make them."
        ) from error
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise VerificationError(
            f"{path} is damaged: expected the arrays {', '.join(_FIELDS)} of '{part}', got "
            f"{type(error).__name__}: {error}. Restore it from a copy, or run the cell again."
        ) from error


def predictions_digest(predictions: Predictions) -> str:
    """SHA-256 over ids, targets, float32 logits and class names; the same on every machine."""
    arrays = _as_arrays(predictions, "the predictions")
    names = {field: arrays[field].tolist() for field in ("ids", "class_names")}
    # The text ends where the numbers begin, whose lengths follow from its number of names.
    text = canonical_json(names).encode() + b"\n"
    targets = arrays["targets"].astype("<i8").tobytes()
    return sha256_hex(text + targets + arrays["logits"].astype("<f4").tobytes())


def _as_arrays(predictions: Predictions, what: str) -> dict[str, np.ndarray]:
    arrays = {
        "ids": np.asarray(predictions.ids, dtype=np.str_),
        "targets": np.asarray(predictions.targets, dtype=np.int64),
        "logits": np.ascontiguousarray(predictions.logits, dtype=np.float32),
        "class_names": np.asarray(predictions.class_names, dtype=np.str_),
    }
    if predictions.groups is not None:
        arrays["groups"] = np.asarray(predictions.groups, dtype=np.str_)
    for name, values in predictions.metadata.items():
        arrays[f"{_METADATA}{name}"] = np.asarray(values, dtype=np.str_)
    _check_shapes(arrays, what)
    return arrays


def _check_shapes(arrays: Mapping[str, np.ndarray], what: str) -> None:
    num_images, num_classes = arrays["ids"].size, arrays["class_names"].size
    _ = arrays["targets"], arrays["logits"]
    for field, array in arrays.items():
        shape: tuple[int, ...] = (num_images,)
        if field == "class_names":
            continue
        if field == "logits":
            shape = (num_images, num_classes)
        if array.shape != shape:
            raise ValueError(
                f"{what} do not fit together: expected {field} of shape {shape} for {num_images} "
                f"ids and {num_classes} classes, got {array.shape}"
            )
