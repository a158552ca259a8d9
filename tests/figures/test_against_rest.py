"""ROC and precision-recall curves against scikit-learn, `evaluate` and `eval`."""

from __future__ import annotations

import numpy as np
import pytest
from made_figures import NAMES, by_name, figure_of, left_out, made_folder, texts
from sklearn.metrics import auc, average_precision_score

from ltbench.clinical.operating import against_rest
from ltbench.clinical.positives import Positive
from ltbench.figures.against_rest import roc_curves
from ltbench.figures.choosing import choose
from ltbench.figures.of_run import run_sketches
from ltbench.metrics import softmax
from ltbench.predictions import Predictions
from ltbench.testing.made_runs import made_predictions

PRESENT = range(4)


def parts(folder):
    return folder.read_predictions("test"), folder.read_predictions("val")


def test_areas_are_those_of_the_record(run):
    folder = run()
    test, val = parts(folder)
    counts = folder.record()["train_counts"]
    recorded = folder.record()["metrics"]["test"]["per_class"]["auc"]
    curves, areas, _ = roc_curves(test, val, counts)
    assert areas[:4].tolist() == recorded[:4]
    assert recorded[4] is None
    assert np.isnan(areas[4])
    for curve in curves:
        assert auc(curve.x, curve.y) == pytest.approx(curve.area, abs=1e-12)
    sketch = by_name(run_sketches(folder))["roc"]
    shown = texts(sketch.drawn().svg)
    for c in PRESENT:
        support = int((test.targets == c).sum())
        assert f"{NAMES[c]}: {recorded[c]:.3f} ({support})" in shown
    assert f"Left out, without a test image: {NAMES[4]}." in sketch.caption
    mean = folder.record()["metrics"]["test"]["macro_auc"]
    assert f"mean AUC {mean:.4f} over 4 classes" in sketch.alt


@pytest.mark.parametrize("strength", [2.0, 0.1])
def test_the_area_below_the_drawn_steps_is_the_average_precision(run, strength):
    folder = run(strength=strength)
    test, _ = parts(folder)
    probabilities, _ = softmax(np.asarray(test.logits, dtype=np.float64))
    sketch = by_name(run_sketches(folder))["precision_recall"]
    axes = figure_of(sketch).axes[0]
    drawn = [line for line in axes.lines if len(line.get_xdata()) > 2]
    shown = texts(sketch.drawn().svg)
    for c, line in zip(PRESENT, drawn, strict=True):
        expected = average_precision_score(test.targets == c, probabilities[:, c])
        x, y = line.get_xydata().T
        assert line.get_drawstyle() == "steps-pre"
        assert y[0] == y[1], "no spike at recall 0"
        assert float((np.diff(x) * y[1:]).sum()) == pytest.approx(expected, abs=1e-12)
        prevalence = float((test.targets == c).mean())
        assert f"{NAMES[c]}: {expected:.3f} ({prevalence:.3f})" in shown
        assert prevalence in {float(one.get_ydata()[0]) for one in axes.lines}


def test_operating_points_are_those_of_eval(run):
    folder = run()
    test, val = parts(folder)
    curves, _, _ = roc_curves(test, val, folder.record()["train_counts"])
    for c, curve in zip(PRESENT, curves, strict=True):
        positive = Positive(NAMES[c], (NAMES[c],), (c,))
        (point,) = against_rest(val, test, positive, specificities=(0.95,)).points
        expected = 1 - point.test.specificity.value, point.test.sensitivity.value
        assert curve.point == pytest.approx(expected, abs=1e-12)
    assert "95 % specificity" in by_name(run_sketches(folder))["roc"].caption


def test_scores_at_the_threshold_are_called_positive(run):
    test, _ = parts(run())
    curves, _, _ = roc_curves(test, test, (500, 120, 40, 9, 3))
    for c, curve in zip(PRESENT, curves, strict=True):
        positive = Positive(NAMES[c], (NAMES[c],), (c,))
        (point,) = against_rest(test, test, positive, specificities=(0.95,)).points
        assert 1 - curve.point[0] == pytest.approx(point.test.specificity.value, abs=1e-12)
        assert curve.point[1] == point.test.sensitivity.value


def test_without_validation_there_is_no_point(run):
    folder = run(val=False)
    sketch = by_name(run_sketches(folder))["roc"]
    assert "Circles" not in sketch.caption
    assert all(line.get_markersize() < 7 for line in figure_of(sketch).axes[0].lines)


def test_the_corner_is_enlarged_for_good_models_alone(run):
    good = by_name(run_sketches(run(strength=9.0)))["roc"]
    poor = by_name(run_sketches(run(seed=1, strength=0.5)))["roc"]
    assert len(figure_of(good).axes[0].child_axes) == 1
    assert "Inset" in good.caption
    assert figure_of(poor).axes[0].child_axes == []
    assert "Inset" not in poor.caption


def test_one_class_of_images_has_no_rest(tmp_path):
    test = made_predictions(np.zeros(30, dtype=np.int64), ("a", "b"), seed=1)
    folder = made_folder(
        tmp_path, names=("a", "b"), shares=(1, 0), counts=(9, 3), test=test, val=False
    )
    reasons = left_out(run_sketches(folder))
    assert set(reasons) == {"roc", "precision_recall"}
    assert "one class" in reasons["roc"]


def test_predictions_that_are_nan_are_a_reason(run):
    folder = run()
    test, val = parts(folder)
    logits = test.logits.copy()
    logits[3, 1] = np.nan
    broken = Predictions(test.ids, test.targets, logits, test.class_names)
    folder.write_predictions({"test": broken, "val": val})
    record = folder.record()
    folder.write_record(record | {"digests": {}})
    reasons = left_out(run_sketches(folder))
    assert set(reasons) == {"reliability", "roc", "precision_recall", "coverage_risk"}
    assert all("NaN" in reason for reason in reasons.values())
    folder.write_record(record)
    assert "are not those its record was made from" in left_out(run_sketches(folder))["roc"]


def test_predictions_that_are_gone_leave_what_needs_none(run):
    folder = run()
    (folder.path / "predictions.npz").unlink()
    found = by_name(run_sketches(folder))
    assert {"confusion", "training"} == set(found) - set(left_out(found.values()))


def test_of_many_classes_the_rarest_and_the_worst_are_drawn():
    num_train = list(range(1000, 970, -1))
    scores = np.linspace(0.9, 0.6, 30)
    scores[3] = 0.1
    scores[29] = np.nan  # the rarest has no score
    chosen = choose(num_train, scores, "AUC")
    assert chosen.indices == (3, 20, 21, 22, 23, 24, 25, 26, 27, 28)
    assert "Of 29 classes the 5 rarest" in chosen.sentence
    assert "the 5 others with the smallest AUC" in chosen.sentence
    assert choose(num_train[:10], scores[:10], "AUC").indices == tuple(range(10))
    assert choose(num_train[:10], scores[:10], "AUC").sentence == ""
