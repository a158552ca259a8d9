"""Weighted metrics against `ltbench.metrics`, on the data and on every resample."""

import numpy as np
import pytest

from ltbench.metrics import METRICS, evaluate
from ltbench.predictions import Predictions
from ltbench.stats import resamples as drawing
from ltbench.stats import scores
from ltbench.stats.resamples import GroupedImages, resample
from ltbench.stats.scores import CLASS_METRICS, averaged_classes, draws, weighted_auc

EVERYTHING = [*METRICS, *(f"class.{name}" for name in CLASS_METRICS)]
COUNTED = [n for n in METRICS if n not in ("macro_auc", "macro_auc_raw_logits", *scores._MEANS)]


def made(counts, seed=0, *, num_values=None, per_group=2, absent=0):
    """Predictions and what was tested; `num_values` rounds logits, so that many are tied."""
    random = np.random.default_rng(seed)
    num_classes = len(counts) + absent
    targets = np.repeat(np.arange(len(counts)), counts)
    logits = random.normal(size=(len(targets), num_classes))
    logits[np.arange(len(targets)), targets] += 1
    if num_values:
        logits = np.round(logits * num_values) / num_values
    ids = np.array([f"i{i:04d}" for i in range(len(targets))])
    names = tuple(f"class {i}" for i in range(num_classes))
    predictions = Predictions(ids, targets, logits.astype(np.float32), names)
    starts = np.concatenate([np.arange(n) % per_group == 0 for n in counts])
    return predictions, GroupedImages(ids, targets, names, np.cumsum(starts) - 1, True)


CASES = {
    "plain": made([40, 25, 9, 5]),
    "many ties": made([30, 12, 6], num_values=2),
    "one image a class": made([30, 1, 2]),
    "a class that the truth lacks": made([20, 10], absent=2),
    "one class alone": made([12], absent=1),
    "two classes, the larger first": made([50, 4]),
}


@pytest.mark.parametrize("case", CASES)
def test_without_resampling_it_is_evaluate(case):
    predictions, tested = CASES[case]
    counts = [200, 60, 15, 5][: len(tested.class_names)]
    expected = evaluate(predictions, counts)
    found = draws(predictions, resample(tested, num_resamples=3), counts, EVERYTHING)
    for name in METRICS:
        wanted = METRICS[name].read(expected)
        if wanted is None:
            assert np.isnan(found[name][0]), name
        elif name in COUNTED and name not in ("mcc", "cohen_kappa"):
            assert found[name][0] == wanted, name
        else:
            assert found[name][0] == pytest.approx(wanted, abs=1e-12), name
    for name in CLASS_METRICS:
        wanted = np.array([np.nan if v is None else v for v in expected["per_class"][name]])
        assert found[f"class.{name}"][0] == pytest.approx(wanted, abs=1e-12, nan_ok=True), name


@pytest.mark.parametrize("case", CASES)
def test_a_resample_is_evaluate_on_its_images(case):
    """Brute force: each image as often as its group was drawn."""
    predictions, tested = CASES[case]
    counts = [200, 60, 15, 5][: len(tested.class_names)]
    again = resample(tested, num_resamples=5, seed=3)
    found = draws(predictions, again, counts, EVERYTHING)
    for b in range(5):
        times = again.counts[tested.groups, b]
        drawn = Predictions(
            *(np.repeat(a, times, axis=0) for a in (predictions.ids, predictions.targets)),
            np.repeat(predictions.logits, times, axis=0),
            predictions.class_names,
        )
        expected = evaluate(drawn, counts)
        for name in METRICS:
            wanted = METRICS[name].read(expected)
            wanted = np.nan if wanted is None else wanted
            assert found[name][1 + b] == pytest.approx(wanted, abs=1e-12, nan_ok=True), name
        for name in CLASS_METRICS:
            wanted = [np.nan if v is None else v for v in expected["per_class"][name]]
            value = found[f"class.{name}"][1 + b]
            assert value == pytest.approx(np.array(wanted), abs=1e-12, nan_ok=True), name


def test_blocks_made_again_are_the_same(monkeypatch):
    predictions, tested = CASES["plain"]
    whole = draws(predictions, resample(tested, num_resamples=600), [9, 9, 9, 9], EVERYTHING)
    monkeypatch.setattr(drawing, "_KEPT_BYTES", 0)
    monkeypatch.setattr(drawing, "_BLOCK", 70)
    parts = draws(predictions, resample(tested, num_resamples=600), [9, 9, 9, 9], EVERYTHING)
    for name in EVERYTHING:
        assert np.allclose(whole[name], parts[name], rtol=1e-12, atol=0, equal_nan=True), name


def test_ranks_of_many_classes_take_fewer_resamples(monkeypatch):
    predictions, tested = CASES["plain"]
    again = resample(tested, num_resamples=700)
    whole = draws(predictions, again, [9, 9, 9, 9], ["macro_auc", "accuracy"])
    monkeypatch.setattr(scores, "_RANKED_AT_MOST", 0)
    fewer = draws(predictions, again, [9, 9, 9, 9], ["macro_auc", "accuracy"])
    assert len(fewer["macro_auc"]) == 1 + scores._FEWEST
    assert len(fewer["accuracy"]) == 701
    assert (fewer["macro_auc"] == whole["macro_auc"][: 1 + scores._FEWEST]).all()


def test_auc_by_a_double_loop():
    random = np.random.default_rng(4)
    values, positives = random.integers(0, 5, 30).astype(float), random.random(30) < 0.4
    weights = random.integers(0, 4, (30, 3)).astype(np.float32)
    (found,) = (weighted_auc(values, positives, [weights]),)
    for column, area in zip(weights.T, found, strict=True):
        pairs = [
            (column[i] * column[j], (values[i] > values[j]) + 0.5 * (values[i] == values[j]))
            for i in np.flatnonzero(positives)
            for j in np.flatnonzero(~positives)
        ]
        total = sum(weight for weight, _ in pairs)
        assert area == pytest.approx(sum(w * won for w, won in pairs) / total, abs=1e-12)


def test_what_a_mean_is_over():
    support, counts = np.array([9, 4, 0, 2]), [200, 50, 30, 5]
    assert averaged_classes("accuracy", support, counts) is None
    assert averaged_classes("macro_f1", support, counts) == [0, 1, 3]
    assert averaged_classes("head_sensitivity", support, counts) == [0]
    assert averaged_classes("medium_sensitivity", support, counts) == [1]
    assert averaged_classes("tail_sensitivity", support, counts) == [3]
    assert averaged_classes("worst_class_sensitivity", support, counts) == [3]
