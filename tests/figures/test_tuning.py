"""Budget curves from what `tune` writes."""

from __future__ import annotations

import numpy as np
import pytest
import yaml
from made_figures import figure_of, texts

from ltbench.figures.drawing import LeftOut
from ltbench.figures.of_tuning import budget_figures, budget_sketch, tuned_places
from ltbench.tuning.curve import best_so_far, expected_best
from ltbench.tuning.output import write_rows

VALUES = {"ce": [0.5, 0.4, 0.7, 0.6], "ecl@paper": [0.3, 0.8, 0.75, 0.2]}


@pytest.fixture
def tuned(tmp_path):
    folder = tmp_path / "made" / "group"
    folder.mkdir(parents=True)
    for label, values in VALUES.items():
        curves = zip(expected_best(values), best_so_far(values), strict=True)
        rows = [
            {"k": k, "expected_best": expected, "best_so_far": best}
            for k, (expected, best) in enumerate(curves, start=1)
        ]
        write_rows(folder / f"{label}.curve.csv", rows)
    tests = [
        {"method": "ce", "k": k, "seed": seed, "macro_f1": 0.4 + seed / 10 + k / 100}
        for k in (1, 4)
        for seed in range(3)
    ]
    write_rows(folder / "ce.tests.csv", tests)
    block = {
        "objective": "val.macro_f1",
        "validation_images": 55,
        "seeds": [1000000],
        "sampler": {"name": "tpe"},
    }
    (folder / "ce.yaml").write_text(yaml.safe_dump({"tuning": block}), encoding="utf-8")
    return tmp_path


def test_lines_are_the_stored_curves(tuned):
    assert tuned_places(tuned) == [("made", "group")]
    sketch = budget_sketch(tuned, "made", "group")
    axes = figure_of(sketch).axes[0]
    lines = {line.get_marker(): line for line in axes.lines if len(line.get_xdata()) == 4}
    assert lines["o"].get_ydata() == pytest.approx(100 * np.array(expected_best(VALUES["ce"])))
    assert lines["s"].get_ydata() == pytest.approx(
        100 * np.array(expected_best(VALUES["ecl@paper"]))
    )
    steps = [line for line in axes.lines if line.get_drawstyle() == "steps-post"]
    assert steps[0].get_ydata() == pytest.approx(100 * np.array(best_so_far(VALUES["ce"])))
    large = [line.get_xydata() for line in axes.lines if line.get_markersize() == 7]
    found = np.concatenate(large)
    assert found[:, 0] == pytest.approx([1, 4], abs=0.1)
    assert found[:, 1] == pytest.approx([51, 54])


def test_words(tuned):
    (figure,) = budget_figures(tuned, "made", "group")
    shown = texts(figure.svg)
    assert {"ce", "ecl@paper", "budget (trials)", "validation macro F1, test macro F1 (%)"} <= set(
        shown
    )
    assert "over 3 seeds" in figure.caption
    assert "55 validation images, 1 tuning seed, sampler tpe" in figure.caption
    assert "ce 55.00 % with 1 trial, 70.00 % with 4, on test 54.00 %" in figure.alt


def test_one_method_and_none(tuned):
    sketch = budget_sketch(tuned, "made", "group", ["ecl@paper"])
    assert "ce" not in texts(sketch.drawn().svg)
    assert isinstance(budget_sketch(tuned, "made", "other"), LeftOut)
    assert isinstance(budget_sketch(tuned, "made", "group", ["scl"]), LeftOut)
    assert tuned_places(tuned / "nothing") == []


@pytest.mark.parametrize(
    "text",
    ["", "k,expected_best\n1,0.5\n", "k,expected_best,best_so_far\n1,nan,0.5\n",
     "k,expected_best,best_so_far\n1,0.5\n", "k,expected_best,best_so_far\n2,0.5,0.5\n",
     "\udcff\udcfe", f"k\n{'1' * 200_000}"],
)  # fmt: skip
def test_a_damaged_curve_is_named_and_the_others_are_drawn(tuned, text):
    file = tuned / "made" / "group" / "ce.curve.csv"
    file.write_text(text, encoding="utf-8", errors="surrogateescape")
    sketch = budget_sketch(tuned, "made", "group")
    assert f"{file} is damaged" in sketch.caption
    assert "ecl@paper" in texts(sketch.drawn().svg)
    assert "is damaged" in budget_sketch(tuned, "made", "group", ["ce"]).reason
