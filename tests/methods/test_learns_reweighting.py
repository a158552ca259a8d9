"""Each re-weighting, margin and adjustment method learns long-tailed digits: `-m slow`."""

import pytest

import ltbench

METHODS = [
    "focal",
    "focal@paper",
    "focal@class_balanced",
    "ldam_drw",
    "ldam_drw@no_drw",
    "logit_adjust",
    "logit_adjust@posthoc",
    "mwnl",
    "mwnl@isic2017",
    "balanced_softmax",
]


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_beats_the_majority_class_by_far(method, tmp_path):
    settings = {"epochs": 15, "machine.threads": 1}
    if method == "mwnl":
        settings["optimizer.lr"] = 0.03  # its loss is 30 / C = 3 times as steep as the others'
    outcome = ltbench.run(method, "digits_lt", settings=settings, results=tmp_path)[0]
    # Ten classes: one class for all images has a balanced accuracy of 0.1.
    assert outcome.record["metrics"]["test"]["balanced_accuracy"] > 0.5
