"""Calibration, temperature and referral against brute force and libraries."""

from __future__ import annotations

import sys
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import sklearn.metrics as reference
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
from made_runs import COUNTS, predictions, relabelled, shuffled

from ltbench.clinical.calibration import (
    calibration,
    calibration_errors,
    equal_mass_bins,
    fit_temperature,
    reliability,
)
from ltbench.clinical.probabilities import log_softmax, soften
from ltbench.clinical.referral import coverage_risk, referral
from ltbench.errors import UsageError
from ltbench.metrics import evaluate


def test_what_the_metrics_have_is_the_same_number():
    part = predictions(300)
    got, metrics = calibration_errors(part), evaluate(part, COUNTS)
    assert got.ece == pytest.approx(metrics["ece"], abs=1e-15)
    assert got.brier == pytest.approx(metrics["brier"], abs=1e-15)
    assert got.nll == pytest.approx(metrics["nll"], abs=1e-15)


def test_brier_and_nll_agree_with_scikit_learn():
    part = predictions(300)
    probabilities, got = log_softmax(part)[0], calibration_errors(part)
    truth = np.eye(4)[part.targets]
    brier = sum(reference.brier_score_loss(truth[:, c], probabilities[:, c]) for c in range(4))
    assert got.brier == pytest.approx(brier)
    assert got.nll == pytest.approx(reference.log_loss(part.targets, probabilities))


def test_classwise_error_by_hand():
    part, errors = predictions(150), []
    probabilities = log_softmax(part)[0]
    for c in range(4):
        gap = 0.0
        for low in np.arange(10) / 10:
            within = (probabilities[:, c] > low) & (probabilities[:, c] <= low + 0.1)
            if within.any():
                share = (part.targets[within] == c).mean()
                gap += within.mean() * abs(share - probabilities[within, c].mean())
        errors.append(gap)
    got = calibration_errors(part, num_bins=10)
    assert got.classwise_ece == pytest.approx(np.mean(errors))
    assert got.classes_averaged == 4


def test_adaptive_error_by_hand():
    part = predictions(150)
    probabilities = log_softmax(part)[0]
    order = np.argsort(probabilities.max(axis=1))
    right = part.logits.argmax(axis=1) == part.targets
    gap = sum(
        len(some) / 150 * abs(right[some].mean() - probabilities.max(axis=1)[some].mean())
        for some in np.array_split(order, 15)
    )
    assert calibration_errors(part).adaptive_ece == pytest.approx(gap)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.sampled_from([0.1, 0.25, 0.5, 0.9, 1.0]), min_size=1, max_size=40),
    st.integers(1, 15),
)
def test_equal_values_share_a_bin(values, num_bins):
    values = np.array(values)
    bins = equal_mass_bins(values, num_bins)
    assert bins.max() < num_bins
    assert all(len(set(bins[values == v].tolist())) == 1 for v in values)
    order = np.argsort(values, kind="stable")
    assert (np.diff(bins[order]) >= 0).all()


def test_bins_add_up():
    part = predictions(300)
    bins = reliability(part)
    assert sum(one.num_images for one in bins) == 300
    assert all(one.low < one.confidence <= one.high for one in bins)
    gap = sum(one.num_images / 300 * abs(one.accuracy.value - one.confidence) for one in bins)
    assert calibration_errors(part).ece == pytest.approx(gap)


def test_the_temperature_undoes_a_scaling():
    """Labels drawn from the model's own probabilities; then its logits are made too large."""
    part = predictions(4000, images_a_lesion=1)
    rng = np.random.default_rng(99)
    drawn = (log_softmax(part)[0].cumsum(axis=1) < rng.random((4000, 1))).sum(axis=1)
    part = replace(part, targets=np.minimum(drawn, 3), logits=part.logits.astype(np.float64))
    assert fit_temperature(part).value == pytest.approx(1, abs=0.06)
    scaled = fit_temperature(replace(part, logits=part.logits * 3)).value
    assert scaled == pytest.approx(3 * fit_temperature(part).value, rel=1e-5)


def test_the_temperature_is_the_best_of_many():
    part = predictions(200)
    losses = {
        temperature: calibration_errors(soften(part, temperature)).nll
        for temperature in np.geomspace(0.1, 10, 200)
    }
    found = fit_temperature(part)
    assert not found.undetermined
    assert calibration_errors(soften(part, found.value)).nll <= min(losses.values()) + 1e-12


def test_a_perfect_validation_part_has_no_temperature_of_its_own():
    part = predictions(50)
    for scale in (0.1, 5.0, 1000.0):
        found = fit_temperature(replace(part, logits=scale * np.eye(4)[part.targets]))
        assert (found.value, found.undetermined) == (1.0, True)
    worst = fit_temperature(replace(part, logits=-5.0 * np.eye(4)[part.targets]))
    assert worst.undetermined
    assert worst.value > 49


def test_the_temperature_never_sees_test_and_needs_validation():
    with pytest.raises(UsageError, match="no validation part"):
        fit_temperature(None)


def test_without_temperature_only_the_given_logits_are_told():
    got = calibration(predictions())
    assert (got.temperature, got.scaled, got.scaled_bins) == (None, None, ())


def test_order_and_numbering_decide_nothing():
    part = predictions(200)
    for other in (shuffled(part), relabelled(part, (2, 0, 3, 1))):
        one, two = calibration_errors(part), calibration_errors(other)
        assert list(vars(one).values()) == pytest.approx(list(vars(two).values()), abs=1e-12)
        assert fit_temperature(other).value == pytest.approx(fit_temperature(part).value, rel=1e-6)
        curve, again = coverage_risk(part), coverage_risk(other)
        assert np.allclose(curve.risk, again.risk, atol=1e-12)
        assert curve.area == pytest.approx(again.area)


def test_coverage_and_risk_by_hand():
    part = predictions(60)
    confidence = log_softmax(part)[0].max(axis=1)
    wrong = part.logits.argmax(axis=1) != part.targets
    order = np.argsort(-confidence)
    expected = [wrong[order][:k].mean() for k in range(1, 61)]
    got = coverage_risk(part)
    assert got.risk == pytest.approx(expected)
    assert got.area == pytest.approx(np.mean(expected))
    assert got.coverage[-1] == 1
    assert got.risk[-1] == pytest.approx(1 - evaluate(part, COUNTS)["accuracy"])
    perfect = [np.sort(wrong)[:k].mean() for k in range(1, 61)]
    assert got.excess == pytest.approx(np.mean(expected) - np.mean(perfect))


def test_ties_are_the_mean_over_all_orders():
    part = predictions(8)
    logits = np.round(part.logits[:6].astype(np.float64))
    logits[:4] = logits[0]  # four of one confidence
    part = replace(
        part,
        ids=part.ids[:6],
        targets=np.array([logits[0].argmax(), 0, 1, 2, 0, 1]),
        logits=logits,
        groups=None,
        metadata={},
    )
    confidence = log_softmax(part)[0].max(axis=1)
    wrong = part.logits.argmax(axis=1) != part.targets
    risks = [
        [wrong[list(order)][:k].mean() for k in range(1, 7)]
        for order in permutations(range(6))
        if (np.diff(confidence[list(order)]) <= 0).all()
    ]
    assert len(risks) >= 24
    assert coverage_risk(part).risk == pytest.approx(np.mean(risks, axis=0))


def test_referral_thresholds_are_validations():
    val, test = predictions(seed=1), predictions(seed=2)
    got = referral(val, test, coverages=(0.8, 1.0))
    confidence = log_softmax(val)[0].max(axis=1)
    assert got.points[0].threshold == np.sort(confidence)[len(confidence) // 5]
    assert got.points[0].validation_coverage >= 0.8
    assert got.points[1].validation_coverage == 1.0
    kept = log_softmax(test)[0].max(axis=1) >= got.points[0].threshold
    wrong = test.logits.argmax(axis=1) != test.targets
    assert got.points[0].coverage.value == kept.mean()
    assert got.points[0].risk.value == wrong[kept].mean()
    assert got.points[0].referred["DF"].value == (~kept)[test.targets == 3].mean()
    other = referral(val, replace(test, targets=np.roll(test.targets, 3)), coverages=(0.8,))
    assert other.points[0].threshold == got.points[0].threshold


def test_referral_without_validation_has_no_points():
    assert referral(None, predictions()).points == ()


def test_a_coverage_out_of_range_is_refused():
    with pytest.raises(UsageError, match="coverage above 0"):
        referral(predictions(), predictions(), coverages=(0.0,))
