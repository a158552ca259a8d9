"""Made runs for the tests of the site: rows of every kind, and names that mean harm."""

from __future__ import annotations

import numpy as np

from ltbench.testing.made_runs import made_predictions, made_run

CLASSES = ("NV", "<b>\"MEL\"&'x'</b>", "皮膚 Ж", "x_y, z")
COUNTS = (30, 18, 9, 5)
HOSTILE = "bad x=</th><script>alert('1')</script>&amp;\"'<img src=x onerror=alert(1)>"
NOTE = "<img src=http://example.org/a.png onerror=alert(2)> Δ & \u202e"
LATER = "2026-02-03T04:05:06+00:00"


def predictions(strength, seed, classes=CLASSES, counts=COUNTS, groups=True):
    targets = np.repeat(np.arange(len(classes)), counts)
    names = np.array([f"lesion-{i // 2}" for i in range(len(targets))])
    random = np.random.default_rng(len(targets))
    return made_predictions(
        targets,
        classes,
        strength=strength,
        seed=seed,
        groups=names if groups else None,
        shared=random.normal(size=(len(targets), len(classes))),
    )


def row(root, name, strength, seeds=3, *, told=None, test=None, **facts):
    """A row of made runs, called `told`, with a history and a configuration."""
    for seed in range(seeds):
        given = predictions(strength, 100 * seed + round(10 * strength)) if test is None else test
        command = f"python bench.py run --method {name} --dataset made --seed {seed}"
        facts = {"finished_at": LATER, "command": command, **facts}
        run = made_run(root, name, seed, given, **facts)
        if told is not None:
            run.write_record({**run.record(), "label": told})
        run.write_config({"method_name": name, "dataset_name": "made", "epochs": 3})
        for epoch in range(3):
            line = {"stage": "train", "epoch": epoch, "epochs": 3, "train": {"loss": 1.5}}
            run.append_epoch(line | {"val": {"accuracy": 0.5, "macro_f1": None}})


def make_runs(root):
    """Rows of every kind, on two data sets; one with a name that means harm."""
    tuning = {"study": "s1", "trial": 3, "trials": 12, "objective": "val.macro_f1", "seeds": [90]}
    row(root, "ce", 2.0, seeds=5, groups_note=NOTE)
    row(root, "ecl", 2.2, uses_validation=True)
    row(root, "ce@strong", 1.0)
    row(root, "focal", 1.5, told="focal tuned", tuning=tuning)
    row(root, "bad", 0.6, told=HOSTILE, command=f"python bench.py run --data-root {root} '{NOTE}'")
    row(root, "mine", 1.2, seeds=1, dataset="other", protocol="paper")
