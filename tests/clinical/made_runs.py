"""Made predictions and run folders, as a lesion classifier might leave them."""

from __future__ import annotations

import numpy as np

from ltbench.metrics import evaluate
from ltbench.predictions import Predictions
from ltbench.results import RunFolder
from ltbench.stored_predictions import predictions_digest

CLASSES = ("MEL", "NV", "BCC", "DF")
COUNTS = (60, 300, 40, 8)
SHARES = (0.2, 0.6, 0.15, 0.05)


def predictions(
    num_images=200, seed=0, *, class_names=CLASSES, sharpness=2.0, images_a_lesion=2, groups=True
):
    """Lesions of one or more images, with a class, a patient's facts, and noisy logits."""
    rng = np.random.default_rng(seed)
    num_classes = len(class_names)
    shares = SHARES if num_classes == len(SHARES) else np.full(num_classes, 1 / num_classes)
    lesion = np.arange(num_images) // images_a_lesion
    num_lesions = lesion[-1] + 1
    by_lesion = rng.choice(num_classes, num_lesions, p=shares)
    by_lesion[:num_classes] = np.arange(num_classes)
    targets = by_lesion[lesion].astype(np.int64)
    logits = (
        rng.normal(size=(num_images, num_classes))
        + rng.normal(size=(num_lesions, num_classes))[lesion]
    )
    logits += sharpness * np.eye(num_classes)[targets]
    names = np.array([f"lesion-{i:04d}" for i in range(num_lesions)])
    facts = {
        "sex": rng.choice(["male", "female", ""], num_lesions, p=[0.5, 0.4, 0.1]),
        "age": rng.choice(["20", "35", "55", "85", ""], num_lesions),
        "source": rng.choice(["BCN", "HAM"], num_lesions),
    }
    return Predictions(
        ids=np.array([f"image-{i:05d}" for i in range(num_images)]),
        targets=targets,
        logits=logits.astype(np.float32),
        class_names=tuple(class_names),
        groups=names[lesion] if groups else None,
        metadata={name: values[lesion] for name, values in facts.items()} if groups else {},
    )


def shuffled(given, seed=0):
    """The same images in another order."""
    order = np.random.default_rng(seed).permutation(len(given.ids))
    return Predictions(
        ids=given.ids[order],
        targets=given.targets[order],
        logits=given.logits[order],
        class_names=given.class_names,
        groups=None if given.groups is None else given.groups[order],
        metadata={name: values[order] for name, values in given.metadata.items()},
    )


def relabelled(given, order):
    """The same with class k moved to position order.index(k)."""
    order = list(order)
    where = np.argsort(order)
    return Predictions(
        ids=given.ids,
        targets=where[given.targets].astype(np.int64),
        logits=given.logits[:, order],
        class_names=tuple(given.class_names[k] for k in order),
        groups=given.groups,
        metadata=given.metadata,
    )


def run_folder(root, *, val=None, test=None, seed=0, without_val=False, counts=COUNTS, **facts):
    """A finished run's folder with predictions and the facts of a record that `eval` reads."""
    test = predictions(seed=100 + seed) if test is None else test
    if val is None and not without_val:
        val = predictions(seed=200 + seed, class_names=test.class_names)
    folder = RunFolder.at(
        root, dataset="made", protocol="group", method="ce", key="0123456789abcdef", seed=seed
    )
    folder.create()
    folder.write_predictions({"val": val, "test": test})
    parts = {"val": val, "test": test}
    folder.write_record(
        {
            "label": "ce",
            "dataset": "made",
            "protocol": "group",
            "key": "0123456789abcdef",
            "seed": seed,
            "class_names": list(test.class_names),
            "class_groups": {"melanoma": ["MEL"], "malignant": ["MEL", "BCC"]}
            if "MEL" in test.class_names
            else {},
            "group_noun": "lesion",
            "train_counts": list(counts),
            "uses_validation": False,
            "metrics": {
                name: None if part is None else evaluate(part, counts)
                for name, part in parts.items()
            },
            "digests": {
                name: predictions_digest(part) for name, part in parts.items() if part is not None
            },
            **facts,
        }
    )
    return folder
