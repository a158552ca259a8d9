"""External tests: a trained run on other data than it was trained and selected on.

Nothing is trained or chosen here. What came of it is kept below the run's own folder, apart from
its record.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ltbench import provenance
from ltbench.data.feed import Part
from ltbench.data.lists import source_digest
from ltbench.dataset import Dataset, Source
from ltbench.errors import UsageError
from ltbench.files import canonical_json, sha256_hex, storage_errors, write_json
from ltbench.inference import any_device, predict_part
from ltbench.intake.label_maps import label_map
from ltbench.metrics import evaluate
from ltbench.predictions import Predictions
from ltbench.report.tables import per_class
from ltbench.results import PREDICTIONS, find_run
from ltbench.seen import FILE as SEEN
from ltbench.seen import read_seen, seen_in
from ltbench.store.dataset import StoredDataset
from ltbench.stored_predictions import predictions_digest, write
from ltbench.trained import Trained, load_trained

__all__ = ["External", "external_test", "render"]

FOLDER = "external"
_KEY_LENGTH = 16
# What makes two tests of one run different ones.
_IDENTITY = (
    *("dataset", "protocol", "settings", "split_seed", "source_digest", "image_digest"),
    "label_map",
)


@dataclass(frozen=True)
class External:
    """An external test that was made.

    Attributes:
        record: its facts and metrics; `metrics.test` is of the external images.
    """

    folder: Path
    record: dict[str, Any]


def external_test(
    run: str,
    dataset: Dataset,
    *,
    results: Path,
    protocol: str | None = None,
    map_file: Path | None = None,
    device: torch.device | None = None,
    split_seed: int = 0,
) -> External:
    """Test a finished run on every image of another data set, or on one protocol's test part.

    Args:
        run: folder, `<key>/seed-<n>`, or the beginning of a key.
        protocol: None for all images of the data set.
        map_file: a label map, where its classes are not called as the run's.

    Raises:
        UsageError: the classes do not fit, or images are among those the run was trained on.
        DataMissingError, VerificationError: the run or the data are not here or not whole.
    """
    trained = load_trained(find_run(results, run))
    device = device or any_device()
    dataset.for_training = False
    name = dataset.choose_protocol(protocol or dataset.default_protocol)
    # Before any picture is decoded, where tables say it.
    if isinstance(dataset, StoredDataset):
        _mapped(dataset.table(name).class_names, trained, map_file)
    source = dataset.load(name)
    names = _mapped(source.class_names, trained, map_file)
    everyone = np.arange(len(source.ids))
    positions = everyone if protocol is None else dataset.split(source, name, split_seed).test
    kept, targets, left_out = _known(source, positions, names, trained.class_names)
    part = replace(Part.of(source, kept), targets=targets, class_names=trained.class_names)
    shared = _shared(trained, source, kept)
    predictions = _predict(trained, source, part, device)
    record = _record(
        trained, dataset, source, protocol, split_seed, predictions, left_out, shared, names
    )
    return _stored(trained, record, predictions)


def _mapped(
    theirs: Sequence[str], trained: Trained, map_file: Path | None
) -> dict[str, str | None]:
    """The run's class for each of the data set's; None for classes left out."""
    ours = trained.class_names
    if map_file is not None:
        return dict(label_map(map_file, theirs, ours))
    unknown = [name for name in theirs if name not in ours]
    if unknown:
        raise UsageError(
            f"The data have classes that {trained.folder.name} was not trained on: "
            f"{', '.join(unknown)}. Its classes are {', '.join(ours)}. Give --label-map FILE, a "
            "CSV with the columns theirs,ours; an empty 'ours' leaves a class out."
        )
    return {name: name for name in theirs}


def _known(
    source: Source,
    positions: np.ndarray,
    names: Mapping[str, str | None],
    ours: Sequence[str],
) -> tuple[np.ndarray, np.ndarray, dict[str, int]]:
    """(positions kept, their classes as the run counts them, images left out by class)."""
    index = [-1 if names[n] is None else ours.index(str(names[n])) for n in source.class_names]
    targets = np.array(index, dtype=np.int64)[source.targets[positions]]
    left = source.targets[positions[targets < 0]]
    counts = np.bincount(left, minlength=len(source.class_names)).tolist()
    left_out = {n: c for n, c in zip(source.class_names, counts, strict=True) if c}
    if not (targets >= 0).any():
        raise UsageError("No image is left to test on: every class is left out by the label map.")
    return positions[targets >= 0], targets[targets >= 0], left_out


def _shared(trained: Trained, source: Source, positions: np.ndarray) -> dict[str, int]:
    """How much of the images the run was trained or selected on: names, groups, pixels.

    Raises:
        UsageError: pixels; names alone can be alike by chance, and are only said.
    """
    seen = read_seen(trained.folder.path / SEEN)
    shared = seen.shared_with(seen_in(source, positions))
    if shared["pixels"]:
        raise UsageError(
            f"{shared['pixels']} of {len(positions)} images have pixels that {trained.folder.name} "
            "was trained or selected on. An external test needs images that the run has never "
            "seen: leave these out."
        )
    return shared


def _predict(trained: Trained, source: Source, part: Part, device: torch.device) -> Predictions:
    channels = trained.record["input"]["shape"][0]
    if source.images.channels != channels:
        raise UsageError(
            f"{trained.folder.name} takes pictures of {channels} channels, the data have "
            f"{source.images.channels}."
        )
    return predict_part(trained, part, device)


def _record(
    trained: Trained,
    dataset: Dataset,
    source: Source,
    protocol: str | None,
    split_seed: int,
    predictions: Predictions,
    left_out: Mapping[str, int],
    shared: Mapping[str, int],
    names: Mapping[str, str | None],
) -> dict[str, Any]:
    counts = trained.record["train_counts"]
    return {
        "schema_version": 1,
        "run": trained.folder.name,
        "label": trained.record["label"],
        "seed": trained.record["seed"],
        "trained_on": {k: trained.record[k] for k in ("dataset", "protocol", "split_digest")},
        "dataset": dataset.info.name,
        "protocol": protocol or "all images",
        "split_seed": split_seed,
        "settings": dataset.config.identity(),
        "source_digest": source_digest(source),
        "image_digest": source.images.digest(),
        "groups_note": source.groups_note,
        "group_noun": source.group_noun,
        "data_notes": dict(source.notes),
        "label_map": dict(names),
        "left_out": dict(left_out),
        "shared_with_training": dict(shared),
        "num_images": len(predictions.ids),
        "metrics": {"test": evaluate(predictions, counts)},
        "digests": {
            "test": predictions_digest(predictions),
            "weights": trained.record["digests"]["weights"],
        },
        "versions": provenance.versions(),
        "git": provenance.git_state(),
    }


def _stored(trained: Trained, record: dict[str, Any], predictions: Predictions) -> External:
    """Written beside the run, predictions first; the same test again replaces itself."""
    key = sha256_hex(canonical_json({fact: record[fact] for fact in _IDENTITY}).encode())
    folder = trained.folder.path / FOLDER / f"{record['dataset']}-{key[:_KEY_LENGTH]}"
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write(folder / PREDICTIONS, {"test": predictions})
    write_json(folder / "record.json", record)
    return External(folder, record)


def render(found: External) -> str:
    """An external test for a terminal."""
    record = found.record
    lines = [per_class(record).rstrip(), ""]
    lines.append(f"run:     {record['run']}, trained on {record['trained_on']['dataset']}")
    if record["left_out"]:
        counts = ", ".join(f"{name} {count}" for name, count in record["left_out"].items())
        lines.append(f"left out by the label map: {counts}")
    for kind, what in (("ids", "images"), ("groups", "groups")):
        if record["shared_with_training"][kind]:
            lines.append(
                f"WARNING: {record['shared_with_training'][kind]} {what} have names that occur in "
                "the run's training or validation too."
            )
    return "\n".join([*lines, f"folder:  {found.folder}"])
