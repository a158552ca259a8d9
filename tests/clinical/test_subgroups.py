"""Subgroups with their counts."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from made_runs import COUNTS, predictions, shuffled

from ltbench.clinical.operating import rates_at, threshold_of
from ltbench.clinical.positives import parse_positive
from ltbench.clinical.probabilities import log_odds
from ltbench.clinical.subgroups import SMALL_BELOW, select, subgroups
from ltbench.errors import UsageError
from ltbench.metrics import evaluate

MEL = parse_positive("MEL", predictions().class_names, {})


def with_fact(name, values, **how):
    part = predictions(len(values), **how)
    return replace(part, metadata={name: np.array(values)})


def test_each_subgroup_is_scored_as_if_alone():
    part = predictions(200)
    threshold = threshold_of(predictions(seed=1), MEL, "specificity", 0.9)
    rows = subgroups(part, "sex", COUNTS, thresholds=[(MEL, threshold)])
    assert [one.value for one in rows] == ["female", "male", "not known"]
    assert sum(one.num_images for one in rows) == 200
    for one in rows:
        value = "" if one.value == "not known" else one.value
        alone = select(part, part.metadata["sex"] == value)
        expected = evaluate(alone, COUNTS)
        assert one.accuracy.value == expected["accuracy"]
        assert one.balanced_accuracy == expected["balanced_accuracy"]
        assert (one.macro_f1, one.macro_auc) == (expected["macro_f1"], expected["macro_auc"])
        support = expected["per_class"]["support"]
        assert one.classes == {n: c for n, c in zip(part.class_names, support, strict=True) if c}
        assert one.num_groups == len(set(alone.groups.tolist()))
        assert one.small == (len(alone.ids) < SMALL_BELOW)
        # One threshold for everybody.
        rates = rates_at(log_odds(alone, (0,)), alone.targets == 0, alone.groups, threshold)
        assert one.positives[0].rates == rates


def test_ages_are_binned():
    ages = ["29.9", "30", "39", "70", "85", "0", "", "unknown", "-1", "nan", "55.0", "29"]
    part = with_fact("age", ages, images_a_lesion=1)
    rows = {one.value: one.num_images for one in subgroups(part, "age", COUNTS)}
    assert rows == {
        "under 30": 3,
        "30 to under 40": 2,
        "50 to under 60": 1,
        "70 and over": 2,
        "not known": 4,
    }
    assert list(rows)[-1] == "not known"
    rows = subgroups(part, "age", COUNTS, age_edges=(50,))
    assert [one.value for one in rows] == ["under 50", "50 and over", "not known"]


def test_numbers_stand_in_their_order():
    part = with_fact("skin type", ["10", "2", "1", " ", "x"] * 2, images_a_lesion=1)
    rows = [one.value for one in subgroups(part, "skin type", COUNTS)]
    assert rows == ["1", "2", "10", "x", "not known"]


def test_one_image_and_one_class_leave_nothing_undefined_as_zero():
    part = with_fact("site", ["arm"] + ["leg"] * 9 + ["<i>&_, 腿"] * 10, images_a_lesion=1)
    part = replace(part, targets=np.array([0] + [1] * 9 + [0, 1, 2, 3, 1] * 2))
    arm, leg, other = sorted(
        subgroups(part, "site", COUNTS, thresholds=[(MEL, 0.0)]), key=lambda one: one.num_images
    )
    assert (arm.value, arm.num_images, arm.classes) == ("arm", 1, {"MEL": 1})
    assert (arm.macro_auc, arm.positives[0].auc) == (None, None)
    assert arm.positives[0].rates.specificity.value is None
    assert arm.positives[0].rates.sensitivity.total == 1
    assert leg.macro_auc is None
    assert leg.positives[0].rates.sensitivity.value is None
    assert (leg.positives[0].num_positive, leg.positives[0].num_negative) == (0, 9)
    assert other.value == "<i>&_, 腿"
    assert other.macro_auc is not None


def test_without_a_threshold_there_are_no_rates():
    rows = subgroups(predictions(), "sex", COUNTS, thresholds=[(MEL, None)])
    assert rows[0].positives[0].rates is None
    assert rows[0].positives[0].auc is not None


def test_order_decides_nothing():
    part = predictions(200)
    assert subgroups(shuffled(part), "age", COUNTS) == subgroups(part, "age", COUNTS)


def test_unknown_facts_are_refused():
    with pytest.raises(UsageError, match="Did you mean 'sex'"):
        subgroups(predictions(), "sexx", COUNTS)
    with pytest.raises(UsageError, match=r"Available: \(none\)"):
        subgroups(predictions(groups=False), "sex", COUNTS)


def test_a_fact_with_a_value_an_image_is_no_division():
    part = with_fact("note", [f"n{i}" for i in range(70)], images_a_lesion=1)
    with pytest.raises(UsageError, match="70 values among 70 images"):
        subgroups(part, "note", COUNTS)
