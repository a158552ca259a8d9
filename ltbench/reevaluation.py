"""A run's weights loaded again, and its predictions made again where the data are here."""

from __future__ import annotations

import json
import platform
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from ltbench import provenance
from ltbench.bundles.claims import differences, shortened
from ltbench.cell import plugin_digest
from ltbench.config import rebuild
from ltbench.data.feed import Part
from ltbench.data.leaks import group_leak
from ltbench.data.lists import source_digest, stored_split
from ltbench.dataset import Source, Split
from ltbench.errors import DataMissingError, UsageError, VerificationError
from ltbench.files import canonical_json
from ltbench.inference import any_device, predict_part
from ltbench.registry import DATASETS, METHODS
from ltbench.results import RunFolder
from ltbench.run_weights import reported_weights
from ltbench.trained import Trained, load_trained
from ltbench.training.devices import settle

__all__ = ["TOLERANCES", "data_check", "data_of", "logits_check", "weights_check"]

TOLERANCES: Final[Mapping[str, float]] = {"32": 1e-4, "bf16": 5e-2}
"""How far logits made on another kind of machine may be off, by precision, relative to the largest
logit where that is above 1."""

_VERSIONS = ("torch", "torchvision", "timm")


def weights_check(folder: RunFolder) -> str:
    """The weights have the digest of the record.

    Raises:
        DataMissingError, VerificationError: they are not here, or not those of the record.
    """
    record, state = reported_weights(folder)
    return f"{len(state)} tensors with digest {record['digests']['weights'][:12]}"


def data_check(record: Mapping[str, Any], folder: RunFolder, data_root: Path | None) -> str:
    """The data here are those of the run: images, pixels, split, and what is said of them.

    Raises:
        DataMissingError: they are not here.
        VerificationError: they are others, or record and predictions tell other facts of them.
    """
    source, split, digest = data_of(folder, data_root)
    parts = record["key_parts"]
    found = {
        "split_digest": digest,
        "source_digest": source_digest(source),
        "image_digest": source.images.digest(),
    }
    differing = [name for name, value in found.items() if value != parts[name]]
    if differing:
        raise VerificationError(
            f"the {' and '.join(differing)} of the data here are not those of the run: another "
            "version of the data, or other settings. Give the run's data with --data-root."
        )
    told = [*_fact_problems(record, source, split), *_image_fact_problems(folder, source, split)]
    if told:
        raise VerificationError(" ".join(told))
    return f"{len(source.ids)} images, their pixels, facts and split are those of the run"


def _fact_problems(record: Mapping[str, Any], source: Source, split: Split) -> Iterator[str]:
    """Leak and notes in the record that do not follow from the data."""
    leak = group_leak(source, split)
    facts = {
        "leak": None if leak is None else leak.as_note(),
        "protocol_notes": dict(split.notes),
        "groups_note": source.groups_note,
    }
    for name, found in json.loads(canonical_json(facts)).items():
        came = record.get(name)
        if came != found:
            off = next(differences(came, found, 0.0, name), (name, came, found))
            yield f"{off[0]}: the record says {shortened(off[1])}, the data give " + (
                f"{shortened(off[2])}."
            )


def _image_fact_problems(folder: RunFolder, source: Source, split: Split) -> Iterator[str]:
    """Groups and metadata stored with the predictions that are not those of the data.

    No digest holds them, but intervals, subgroups and decisions a lesion rest on them.
    """
    position_of = {name: at for at, name in enumerate(source.ids.tolist())}
    for part, positions in (("val", split.val), ("test", split.test)):
        if positions is None or folder.record()["metrics"].get(part) is None:
            continue
        stored = folder.read_predictions(part)
        at = [position_of.get(name, -1) for name in stored.ids.tolist()]
        there: dict[str, Any] = {**source.metadata, "groups": source.groups}
        for name, values in {**stored.metadata, "groups": stored.groups}.items():
            expected = there.get(name)
            if values is None and expected is None:
                continue
            if values is None or expected is None:
                yield f"{part}: {name} are not known both to the data and to the predictions."
            elif (wrong := int((expected[at].astype(np.str_) != values).sum())) > 0:
                yield f"{part}: {name} of {wrong} images are not those of the data."


def logits_check(folder: RunFolder, data_root: Path | None, tolerance: float | None) -> str:
    """The weights give the stored logits.

    Raises:
        DataMissingError: weights or data are not here.
        VerificationError: other logits.
    """
    trained = load_trained(folder)
    source, split, _ = data_of(folder, data_root)
    allowed, why = _allowed(trained, tolerance)
    told = []
    with _settled(trained):
        for part, positions in (("val", split.val), ("test", split.test)):
            if positions is None or trained.record["metrics"].get(part) is None:
                continue
            made = predict_part(trained, Part.of(source, positions), any_device())
            stored = folder.read_predictions(part)
            if made.ids.tolist() != stored.ids.tolist():
                raise VerificationError(f"{part}: other images than in the stored predictions.")
            told.append(f"{part}: {_compared(part, stored.logits, made.logits, allowed, why)}")
    return "; ".join(told)


def _compared(part: str, stored: np.ndarray, made: np.ndarray, allowed: float, why: str) -> str:
    if np.array_equal(stored, made):
        return "bit for bit"
    off = float(np.abs(stored.astype(np.float64) - made).max())
    scale = max(1.0, float(np.abs(stored).max()))
    if not off <= allowed * scale:
        hint = "" if allowed else " On another model of processor, give --tolerance 1e-4."
        raise VerificationError(
            f"{part}: the weights give logits that are off by up to {off:.3g}; expected "
            f"{why}.{hint}"
        )
    return f"within {off:.2g} ({why})"


def _allowed(trained: Trained, tolerance: float | None) -> tuple[float, str]:
    """(largest difference relative to the scale, what is expected in words)."""
    if tolerance is not None:
        return tolerance, f"at most {tolerance:g}, as asked for"
    record, other = trained.record, []
    here = {
        "machine": platform.machine(),
        "device": provenance.device_name(any_device()),
        "method": plugin_digest(METHODS[trained.config.method_name]),
        **{name: provenance.versions()[name] for name in _VERSIONS},
    }
    there = {
        "machine": record["key_parts"]["machine"],
        "device": record["device"],
        "method": record["key_parts"]["method_digest"],
        **{name: record["versions"].get(name) for name in _VERSIONS},
    }
    other = [name for name, value in here.items() if there[name] != value]
    if record["num_devices"] > 1:
        other.append("number of devices")
    if not other:
        return 0.0, "the same bits, as the kind of machine and the versions are the run's"
    limit = TOLERANCES[record["precision"]]
    return limit, f"at most {limit:g}, as {', '.join(other)} are not the run's"


@contextmanager
def _settled(trained: Trained) -> Iterator[None]:
    """The run's threads and kernels: both change the order of float sums."""
    before = torch.get_num_threads()
    machine = trained.config.machine.model_copy(
        update={"threads": trained.record["threads"], "device": "auto", "devices": 1}
    )
    settle(trained.config.model_copy(update={"machine": machine}))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def data_of(folder: RunFolder, data_root: Path | None) -> tuple[Source, Split, str]:
    """(source, split, its digest) of a run's data set, read and split here.

    Raises:
        DataMissingError: the data are not here.
    """
    config = rebuild(folder.config())
    dataset = DATASETS[config.dataset_name](config.dataset, data_root)
    try:
        source = dataset.load(config.protocol)
    except UsageError as error:  # data of one's own, whose place the command did not name
        raise DataMissingError(f"the data are not here: {error}") from error
    with tempfile.TemporaryDirectory() as made:
        split, digest = stored_split(
            dataset, source, config.protocol, config.split_seed, Path(made)
        )
    return source, split, digest
