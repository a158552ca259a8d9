"""Reliability and coverage-risk against `evaluate` and `eval`."""

from __future__ import annotations

import numpy as np
import pytest
from made_figures import by_name, figure_of, made_folder, texts

from ltbench.clinical.calibration import calibration_errors, fit_temperature, reliability
from ltbench.clinical.evaluation import evaluation
from ltbench.clinical.probabilities import soften
from ltbench.clinical.referral import coverage_risk
from ltbench.figures.of_rows import board_sketches
from ltbench.figures.of_run import run_sketches
from ltbench.figures.reliability import ece_of
from ltbench.report.reading import read
from ltbench.testing.made_runs import made_predictions


def test_errors_before_and_after_the_temperature(run):
    folder = run()
    test, val = (folder.read_predictions(part) for part in ("test", "val"))
    fitted = fit_temperature(val)
    before = folder.record()["metrics"]["test"]["ece"]
    after = calibration_errors(soften(test, fitted.value)).ece
    sketch = by_name(run_sketches(folder))["reliability"]
    shown = texts(sketch.drawn().svg)
    assert f"logits as stored: ECE {100 * before:.2f} %" in shown
    assert f"at temperature {fitted.value:.2f}: ECE {100 * after:.2f} %" in shown
    assert ece_of(reliability(test)) == pytest.approx(before, abs=1e-12)
    assert f"{len(val.ids)} validation images" in sketch.caption


def test_points_and_bars_are_the_bins(run):
    folder = run()
    bins = reliability(folder.read_predictions("test"))
    counts, rates = figure_of(by_name(run_sketches(folder))["reliability"]).axes
    line = next(line for line in rates.lines if line.get_marker() == "o")
    expected = [(one.confidence, one.accuracy.value) for one in bins]
    assert line.get_xydata() == pytest.approx(np.array(expected))
    bars = counts.patches[: len(bins)]
    assert [bar.get_height() for bar in bars] == [one.num_images for one in bins]
    assert sum(bar.get_height() for bar in bars) == 160
    ticks = [label.get_text() for label in counts.get_yticklabels()]
    assert ticks[:2] in (["1", "2"], ["1", "10"])


def test_without_validation_there_is_no_temperature(run):
    sketch = by_name(run_sketches(run(val=False)))["reliability"]
    assert "no validation part" in sketch.caption
    assert not any("temperature" in text for text in texts(sketch.drawn().svg))


def test_a_perfect_model_is_drawn_and_its_temperature_said_to_be_undetermined(tmp_path):
    targets = np.arange(40) % 2
    test = made_predictions(targets, ("a", "b"), strength=40.0)
    folder = made_folder(
        tmp_path, names=("a", "b"), shares=(1, 1), counts=(9, 3), test=test, strength=60.0
    )
    sketch = by_name(run_sketches(folder))["reliability"]
    assert "does not determine it" in sketch.caption
    sketch.drawn()


def test_coverage_risk_is_that_of_eval(run):
    folder = run()
    found = evaluation(folder)["referral"]
    sketch = by_name(run_sketches(folder))["coverage_risk"]
    shown = texts(sketch.drawn().svg)
    assert f"least confident referred first: area {found['area']:.4f}" in shown
    assert f"best possible order: area {found['area'] - found['excess']:.4f}" in shown
    points = {
        (line.get_xdata()[0], line.get_ydata()[0])
        for line in figure_of(sketch).axes[0].lines
        if line.get_markersize() == 7
    }
    expected = {(p["coverage"]["value"], 100 * p["risk"]["value"]) for p in found["points"]}
    assert points == expected
    best = next(line for line in figure_of(sketch).axes[0].lines if line.get_color() == "#707070")
    assert np.mean(best.get_ydata()) / 100 == pytest.approx(found["area"] - found["excess"])


def test_rows_show_their_mean_over_seeds(root):
    records, _ = read([root], per_class=True)
    sketch = by_name(board_sketches(records))["coverage_risk"]
    folders = {label: [] for label in ("ce", "focal")}
    for path in sorted(root.glob("*/*/*/*/seed-*")):
        folders[path.parents[1].name].append(path)
    lines = figure_of(sketch).axes[0].lines
    from ltbench.results import RunFolder

    for line, (label, paths) in zip(lines, folders.items(), strict=True):
        curves = [coverage_risk(RunFolder(path).read_predictions("test")) for path in paths]
        mean = np.mean([curve.risk for curve in curves], axis=0)
        assert line.get_ydata() == pytest.approx(100 * mean)
        area = np.mean([curve.area for curve in curves])
        assert f"{label}: area {area:.4f}" in texts(sketch.drawn().svg)
