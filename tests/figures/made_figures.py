"""What the tests of figures share: made run folders, and what an SVG says."""

from __future__ import annotations

from xml.etree import ElementTree

import numpy as np

from ltbench.figures.canvas import drawing_style
from ltbench.figures.drawing import LeftOut
from ltbench.metrics import evaluate
from ltbench.stored_predictions import predictions_digest
from ltbench.testing.made_runs import made_predictions, made_run

NAMES = ("$NV_{1}$", 'M<b>&"c",%', "_under, score", "黑色素瘤", "ميلانوما")
SVG = "{http://www.w3.org/2000/svg}"


def targets_of(shares, num, seed):
    """Class indices, each class with a share above 0 at least once."""
    random = np.random.default_rng(seed)
    shares = np.asarray(shares, dtype=float)
    present = np.flatnonzero(shares)
    targets = random.choice(len(shares), size=num, p=shares / shares.sum())
    targets[: len(present)] = present
    return targets


def made_folder(
    root,
    label="ce",
    seed=0,
    *,
    names=NAMES,
    shares=(8, 4, 2, 1, 0),
    counts=(500, 120, 40, 9, 3),
    num=160,
    val=True,
    epochs=6,
    strength=2.0,
    test=None,
    **facts,
):
    """A run folder with predictions of test and validation, and a history.

    Class `c` is the harder, the larger c is.
    """
    test_targets = targets_of(shares, num, 1)
    harder = np.linspace(1.4, 0.6, len(names))
    number = 17 * seed + sum(map(ord, label))
    if test is None:
        test = made_predictions(
            test_targets, names, strength=strength * harder[test_targets], seed=number
        )
    parts = {"test": test, "val": None}
    if val:
        val_targets = targets_of(np.asarray(shares) + 0.5, num // 2, 2)
        parts["val"] = made_predictions(
            val_targets, names, strength=strength * harder[val_targets], seed=number + 1
        )
    given = {
        "train_counts": list(counts),
        "metrics": {
            "val": evaluate(parts["val"], counts) if val else None,
            "test": evaluate(test, counts),
        },
        "digests": {
            name: predictions_digest(part) for name, part in parts.items() if part is not None
        },
        "selected": [{"stage": "train", "epochs": epochs, "epoch": epochs - 2, "value": 0.5}],
    }
    folder = made_run(root, label, seed, test, **(given | facts))
    folder.write_predictions(parts)
    for epoch in range(epochs):
        folder.append_epoch(history_row(epoch, epochs, val=val))
    return folder


def history_row(epoch, epochs, *, stage="train", val=True, **train):
    """A line as the trainer writes it."""
    found = {"macro_f1": 0.5 + epoch / 100, "balanced_accuracy": 0.6, "accuracy": 0.7, "nll": 1.5}
    return {
        "epoch": epoch,
        "epochs": epochs,
        "stage": stage,
        "learning_rates": [0.1],
        "train": {"loss": 2.0 / (epoch + 1), **train},
        "val": found if val else None,
        "wall_time_s": 1.0,
    }


def texts(svg):
    """Every text of an SVG, in its order."""
    return [element.text for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def figure_of(sketch):
    """matplotlib's figure of a sketch."""
    with drawing_style():
        return sketch.draw()


def by_name(sketches):
    """Sketches by name; what was left out too."""
    return {sketch.name: sketch for sketch in sketches}


def left_out(sketches):
    """Reasons by name."""
    return {one.name: one.reason for one in sketches if isinstance(one, LeftOut)}
