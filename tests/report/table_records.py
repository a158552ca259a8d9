"""Made records, and made run folders with predictions, for the tests of tables."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np

from ltbench.metrics import evaluate
from ltbench.predictions import Predictions
from ltbench.results import RunFolder
from ltbench.stored_predictions import predictions_digest

CE, ECL, OTHER = "1a2b3c4d5e6f7081", "9f8e7d6c5b4a3921", "9f8e7d6c00000000"
CLASSES = ("NV", "MEL", "BCC", "DF")
TRAIN_COUNTS = (4023, 667, 90, 12)
TEST_COUNTS = (60, 24, 12, 6)
# Everything that one of the formats could take for markup.
AWKWARD = (
    "a,b; <i>&amp; my_net *x* ~~y~~ `z` [q](u) {r} $5$ 10% #1 ^2 \\alpha | \"w\" 'v' --- ,, Δλ Ж 皮"
)


def made_metrics(accuracy, **more):
    values = {
        "accuracy": accuracy,
        "macro_sensitivity": accuracy - 0.1,
        "macro_precision": accuracy - 0.05,
        "macro_f1": accuracy - 0.125,
        "macro_auc": None,
        "balanced_accuracy": accuracy - 0.1,
        "nll": 1.25,
    }
    return {**values, **more}


def made(label="ce", key=CE, seed=0, accuracy=0.8, metrics=None, **more):
    """A record as it is stored, with made numbers."""
    record = {
        "schema_version": 1,
        "label": label,
        "method": label.partition("@")[0].partition(" ")[0],
        "preset": label.partition(" ")[0].partition("@")[2] or None,
        "dataset": "digits_lt",
        "protocol": "held_out",
        "protocol_notes": {"measured_imbalance": {"train": 50.0}, "split_by": "image"},
        "groups_note": "writers are unknown.",
        "key": key,
        "seed": seed,
        "split_digest": "0123456789abcdef" * 4,
        "select": "val.accuracy",
        "selected": [{"stage": "train", "epochs": 60, "epoch": 50, "value": 0.9}],
        "recipe": "digits",
        "uses_validation": label.startswith("ecl"),
        "precision": "32",
        "device": "cpu",
        "num_devices": 1,
        "threads": 2,
        "versions": {"torch": "2.14.1", "ltbench": "0.1.0"},
        "git": {"commit": "0123abcd" * 5, "dirty": False},
        "metrics": {"test": metrics or made_metrics(accuracy), "val": None},
        "ledger": {"num_parameters": 1234, "wall_time_s": 1.5},
    }
    return {**record, **more}


def made_predictions(skill, seed, classes=CLASSES, counts=TEST_COUNTS, images=0):
    """Predictions whose logits favour the truth by `skill`; two photographs a lesion."""
    noise = np.random.default_rng([seed, images, int(1000 * skill)])
    targets = np.repeat(np.arange(len(classes)), counts)
    hard = np.random.default_rng(images).normal(size=(len(targets), len(classes)))
    logits = hard + 0.3 * noise.normal(size=hard.shape)
    logits[np.arange(len(targets)), targets] += skill
    return Predictions(
        ids=np.array([f"img-{i:04d}" for i in range(len(targets))]),
        targets=targets,
        logits=logits.astype(np.float32),
        class_names=tuple(classes),
        groups=np.array([f"lesion-{i // 2}" for i in range(len(targets))]),
    )


def made_run(
    root,
    label="ce",
    seed=0,
    skill=1.5,
    classes=CLASSES,
    dataset="isic2018",
    protocol="group",
    **more,
):
    """Write a run with predictions and the record they give; returns its folder."""
    images = 1 if dataset == "isic2019" else 0
    predictions = made_predictions(skill, seed, classes, images=images)
    split = hashlib.sha256(f"{dataset} {protocol}".encode()).hexdigest()
    key = hashlib.sha256(f"{label} {split}".encode()).hexdigest()[:16]
    leak = None
    if protocol == "paper":
        leak = {"sentence": "32 of 102 test images (31.4 %) show a lesion that is in training"}
    groups = {"train": 2400, "val": 50, "test": 51}
    record = made(
        label,
        key,
        seed,
        metrics=json.loads(json.dumps(evaluate(predictions, TRAIN_COUNTS))),
        **{
            "dataset": dataset,
            "protocol": protocol,
            "protocol_notes": {"split_by": protocol, "groups": groups},
            "groups_note": "lesions are kept whole; patients are not recorded.",
            "leak": {
                **(leak or {"sentence": "0 of 102 test images share a lesion"}),
                "noun": "lesion",
            },
            "split_digest": split,
            "class_names": list(classes),
            "train_counts": list(TRAIN_COUNTS),
            "recipe": "ecl_paper",
            "key_parts": {
                "image_digest": "cafe" * 16,
                "config": {"epochs": 100, "dataset": {}},
            },
            "weights": {"name": "resnet50.tv_in1k", "digest": None},
            "digests": {"test": predictions_digest(predictions)},
            "digest": predictions_digest(predictions),
            **made_ledger(seed),
            **more,
        },
    )
    method = f"{record['method']}@{record['preset']}" if record["preset"] else record["method"]
    folder = RunFolder(Path(root) / dataset / protocol / method / record["key"] / f"seed-{seed}")
    folder.create()
    folder.write_predictions({"val": None, "test": predictions})
    folder.write_record(record)
    return folder


def made_ledger(seed):
    return {
        "ledger": {
            "num_parameters": 23_522_375,
            "steps": 9400,
            "images_seen": 600_500,
            "forward_passes_per_step": {"train": 1},
            "train_time_s": 5400.0 + 60 * seed,
            "wall_time_s": 6000.0 + 60 * seed,
            "images_per_s": 111.2 - seed,
            "peak_memory_mb": 15_300.0,
            "pretraining": "resnet50.tv_in1k",
        }
    }


def made_board(root, seeds=3, protocol="group"):
    """CE and ECL on two data sets, focal on one of them."""
    for seed in range(seeds):
        for dataset in ("isic2018", "isic2019"):
            made_run(root, "ce", seed, 1.5, dataset=dataset, protocol=protocol)
            made_run(root, "ecl@authors", seed, 1.9, dataset=dataset, protocol=protocol)
        made_run(root, "focal", seed, 1.55, dataset="isic2018", protocol=protocol)
    return root
