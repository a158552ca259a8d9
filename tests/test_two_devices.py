"""Two devices train as one process does: every method, step by step, without batch statistics."""

from __future__ import annotations

from pathlib import Path

import pytest

from ltbench.composition import COMPOSITIONS, compositions_of
from ltbench.registry import METHODS
from ltbench.testing import STILL, Case, disagreements

TOYS = sorted((Path(__file__).parent / "contract").glob("toy_*.py"))

# Settings under which a composition acts in every epoch and every batch.
AT_ONCE = {"reweight.start": 0.0, "mix.probability": 1.0, "mix.start": 0.0, "mix.stop": 1.0}


def of_each(settings):
    return [Case(name, settings) for name in METHODS.own_names()]


def told(found):
    return "\n".join(f"{case}: {'; '.join(problems)}" for case, problems in found.items())


def test_two_devices_train_as_one(tmp_path):
    """Equal gradients at equal weights; after three steps and the end of an epoch, equal states."""
    half_a_batch_more = {"drop_last": False, "dataset.train_counts": (15, 6, 3, 4)}
    composed = [
        Case("mwnl@isic2017+remix", {**STILL, **AT_ONCE, "reweight.name": "inverse"}),
        Case("ce@mixup", {**STILL, "channels_last": True}),
        Case("ce@cmo", {**STILL, **AT_ONCE, **half_a_batch_more}),
        # Seven images feed back, which two devices cannot share evenly.
        Case("ecl", {**STILL, "feedback_split": "inner", "feedback_fraction": 0.25}),
    ]
    cases = [*of_each(STILL), *of_each({"epochs": 1}), *composed]
    assert told(disagreements(cases, tmp_path)) == ""


def rows_of(name):
    """Presets, ablations and compositions of a method, but for those with views of 224 pixels."""
    method = METHODS[name]
    declared = {**method.presets, **method.ablations}
    small = [n for n, row in declared.items() if not any("views." in key for key in row.settings)]
    return [f"{name}@{row}" for row in (*small, *compositions_of(method))]


@pytest.mark.slow
def test_every_row_of_every_method_trains_as_one(tmp_path):
    rows = [row for name in METHODS.own_names() for row in rows_of(name)]
    # SAM's gradient is that of weights it has moved by another one.
    settings = {row: {"epochs": 3} if row.endswith("@sam") else STILL for row in rows}
    cases = [Case(row, {**settings[row], **AT_ONCE}) for row in rows]
    assert told(disagreements(cases, tmp_path)) == ""


@pytest.mark.slow
def test_settings_of_the_step_and_of_a_queue(tmp_path):
    cases = [
        Case("ce", {**STILL, "optimizer.accumulate": 2}),
        Case("ce", {"epochs": 1, "optimizer.clip_norm": 0.1}),
        Case("ce@sam", {"epochs": 1}),
        *(Case(f"ce@{name}", {"epochs": 1, **AT_ONCE}) for name in COMPOSITIONS),
        Case("tsc", {**STILL, "method.matching": "epoch"}),
        Case("tsc", {**STILL, "method.separate_targets": False}),
        Case("tsc", {**STILL, "method.num_positives": 0}),
    ]
    assert told(disagreements(cases, tmp_path)) == ""


@pytest.mark.slow
def test_the_toys_of_the_contract_train_as_one(tmp_path):
    """Methods of files that a user names, as anybody's tests may run them."""
    names = [file.stem for file in TOYS]
    still = [Case(name, STILL) for name in names if name != "toy_sam"]
    moving = [Case(name, {"epochs": 2}) for name in names]
    assert told(disagreements([*still, *moving], tmp_path, plugins=TOYS)) == ""
