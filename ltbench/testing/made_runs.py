"""Run folders with made predictions, for tests and benchmarks of what reads results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ltbench.metrics import evaluate
from ltbench.predictions import Predictions
from ltbench.results import RunFolder
from ltbench.stored_predictions import predictions_digest


def made_predictions(
    targets: np.ndarray,
    class_names: Sequence[str],
    *,
    strength: float | np.ndarray = 2.0,
    seed: int = 0,
    groups: np.ndarray | None = None,
    shared: np.ndarray | None = None,
) -> Predictions:
    """Normal noise with the true class's logit raised.

    Args:
        targets: int64 (N,).
        class_names: C names.
        strength: by how much, of all images or of each, (N,).
        seed: of the noise.
        groups: str (N,), or None.
        shared: further logits (N, C), the same for several runs: what makes images hard for all.
    """
    random = np.random.default_rng(seed)
    count = len(targets)
    logits = random.normal(size=(count, len(class_names)))
    logits[np.arange(count), targets] += strength
    if shared is not None:
        logits += shared
    ids = np.array([f"image-{i:06d}" for i in range(count)])
    names = tuple(class_names)
    return Predictions(ids, targets.astype(np.int64), logits.astype(np.float32), names, groups)


def made_run(root: Path, label: str, seed: int, test: Predictions, **facts: Any) -> RunFolder:
    """Write a run's predictions and record as a finished run has them.

    Args:
        root: the results folder.
        label: of the row; its key follows from it unless `key` is among the facts.
        seed: of the run.
        test: its predictions.
        facts: entries of the record, in place of the ones made up.
    """
    record = made_record(label, seed, test) | facts
    method = str(record["method"] if record["preset"] is None else label)
    folder = RunFolder.at(
        root,
        dataset=record["dataset"],
        protocol=record["protocol"],
        method=method,
        key=record["key"],
        seed=seed,
    )
    folder.path.mkdir(parents=True)
    folder.write_predictions({"test": test})
    folder.write_record(record)
    return folder


def made_record(label: str, seed: int, test: Predictions) -> dict[str, Any]:
    """A record with its metrics, and with facts made up for the rest."""
    counts = [1000 // (1 + i) for i in range(len(test.class_names))]
    method, _, preset = label.partition("@")
    key = "".join(f"{ord(letter) % 16:x}" for letter in label.ljust(16, "-"))[:16]
    leak: Mapping[str, Any] | None = None
    if test.groups is not None:
        leak = {"noun": "lesion", "sentence": "no test image shares a lesion with training"}
    return {
        "name": f"{key}/seed-{seed}",
        "label": label,
        "method": method.partition(" ")[0],
        "preset": preset or None,
        "dataset": "made",
        "protocol": "group",
        "protocol_notes": {},
        "data_notes": {},
        "groups_note": "",
        "leak": leak,
        "overlaps": [],
        "recipe": "made",
        "key": key,
        "key_parts": {"image_digest": "0" * 64},
        "seed": seed,
        "split_digest": "1" * 64,
        "class_names": list(test.class_names),
        "train_counts": counts,
        "uses_validation": False,
        "select": "val.macro_f1",
        **{"precision": "32", "device": "cpu", "num_devices": 1, "threads": 1, "render": "host"},
        "metrics": {"val": None, "test": evaluate(test, counts)},
        "ledger": {"num_parameters": 1000, "wall_time_s": 1.0},
        "digests": {"test": predictions_digest(test)},
        **{"versions": {}, "git": None, "command": "", "tuning": None},
    }
