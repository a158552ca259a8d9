"""Methods beside each other: F1 by class size, ranks."""

from __future__ import annotations

import numpy as np
import pytest
from made_figures import NAMES, by_name, figure_of, left_out, made_folder, texts

from ltbench.errors import UsageError
from ltbench.figures import of_rows
from ltbench.figures.class_size import _spread
from ltbench.figures.of_rows import board_sketches, rank_sketch
from ltbench.report.reading import read
from ltbench.stats.ranks import CriticalDifference


def board(root, name="f1_by_class_size"):
    records, notes = read([root], per_class=True)
    assert notes == []
    return by_name(board_sketches(records))[name]


def test_points_are_means_over_seeds_at_the_classes_sizes(root):
    records, _ = read([root], per_class=True)
    sketch = board(root)
    axes = figure_of(sketch).axes[0]
    lines = [line for line in axes.lines if line.get_marker() in ("o", "s")]
    for label, line in zip(("ce", "focal"), lines, strict=True):
        per_class = [r["metrics"]["test"]["per_class"] for r in records if r["label"] == label]
        f1 = np.array([one["f1"][:4] for one in per_class])
        assert line.get_ydata()[::-1] == pytest.approx(100 * f1.mean(axis=0))
        sizes = np.array(per_class[0]["train_count"][:4])
        assert line.get_xdata()[::-1] == pytest.approx(sizes, rel=0.15), "moved apart a little"
    whiskers = axes.containers
    assert len(whiskers) == 2
    top = whiskers[0].lines[2][0].get_segments()[0]
    expected = 200 * np.array(
        [r["metrics"]["test"]["per_class"]["f1"][3] for r in records if r["label"] == "ce"]
    ).std(ddof=1)
    assert abs(top[1][1] - top[0][1]) == pytest.approx(expected)
    shown = texts(sketch.drawn().svg)
    assert {"ce", "focal", "F1 of the class (%)", "training images of the class (log)"} <= set(
        shown
    )
    assert axes.get_xscale() == "log"


def test_the_smallest_class_is_in_the_words(root):
    alt = board(root).alt
    assert f"on {NAMES[3]}, the smallest with 9 training images, ce " in alt


def test_a_class_without_training_images_has_its_place(tmp_path):
    made_folder(tmp_path, names=("a", "b"), shares=(2, 1), counts=(40, 0))
    axes = figure_of(board(tmp_path)).axes[0]
    assert "0" in [label.get_text() for label in axes.get_xticklabels()]
    assert axes.get_xlim()[0] > 0


def test_of_many_rows_the_best_are_drawn(tmp_path):
    for number in range(8):
        made_folder(tmp_path, f"m{number}", strength=0.5 + number, key=f"{number:016x}")
    sketch = board(tmp_path)
    assert "Drawn are the 6 of 8 rows with the largest mean macro F1." in sketch.caption
    shown = texts(sketch.drawn().svg)
    assert {"m2", "m7"} <= set(shown)
    assert not {"m0", "m1"} & set(shown)


def test_many_classes_are_all_drawn_and_some_are_named(tmp_path):
    names = tuple(f"class {c}" for c in range(200))
    counts = tuple(2000 // (c + 1) for c in range(200))
    made_folder(tmp_path, names=names, shares=(1,) * 200, counts=counts, num=500)
    sketch = board(tmp_path)
    axes = figure_of(sketch).axes[0]
    assert len(next(line for line in axes.lines if line.get_marker() == "o").get_xdata()) == 200
    named = [text for text in texts(sketch.drawn().svg) if text.startswith("class ")]
    assert len(named) == 10
    assert {f"class {c}" for c in range(195, 200)} <= set(named)
    assert "are named" in sketch.caption


def test_names_that_would_touch_are_moved_apart():
    moved = _spread(np.array([0.0, 0.01, 0.02, 2.0]), 0.1, 2.0)
    assert np.diff(moved).min() >= 0.1 - 1e-12
    assert moved[0] >= 0
    assert moved[-1] == pytest.approx(2.0)
    apart = np.array([0.2, 0.9, 1.5])
    assert _spread(apart, 0.1, 2.0) == pytest.approx(apart)


def test_records_of_two_splits_are_refused(tmp_path):
    made_folder(tmp_path, "ce")
    made_folder(tmp_path, "focal", split_digest="2" * 64)
    records, _ = read([tmp_path], per_class=True)
    with pytest.raises(UsageError, match="got 2"):
        list(board_sketches(records))
    with pytest.raises(UsageError, match="got 0"):
        list(board_sketches([]))


def test_rows_of_other_classes_are_a_reason(tmp_path):
    made_folder(tmp_path, "ce", names=("a", "b"), shares=(1, 1), counts=(5, 4))
    made_folder(tmp_path, "focal", names=("a", "c"), shares=(1, 1), counts=(5, 4))
    records, _ = read([tmp_path], per_class=True)
    assert "do not fit each other" in left_out(board_sketches(records))["f1_by_class_size"]


RANKS = {"b_$x$": 1.4, "a<&>": 1.9, "ce": 2.8, "focal": 3.9}


def test_a_critical_difference_diagram(monkeypatch):
    found = CriticalDifference(
        metric="macro_f1",
        average_ranks=RANKS,
        critical_difference=1.77,
        cliques=(("b_$x$", "a<&>", "ce"), ("ce", "focal")),
        p_friedman=0.0123,
        p_nemenyi={},
        data_sets=tuple((f"set{i}", "group") for i in range(7)),
        left_out={("isic2018", "group"): "shares ISIC with isic2019"},
        level=0.95,
        estimator="Friedman's test and Nemenyi's at 95 % over 7 independent data sets",
    )
    monkeypatch.setattr(of_rows, "critical_difference", lambda records, metric: found)
    sketch = rank_sketch([])
    shown = texts(sketch.drawn().svg)
    assert {"b_$x$ (1.40)", "a<&> (1.90)", "ce (2.80)", "focal (3.90)"} <= set(shown)
    assert "critical difference 1.77" in shown
    assert "7 independent data sets" in sketch.caption
    assert "shares ISIC with isic2019" in sketch.caption
    axes = figure_of(sketch).axes[0]
    bars = [line.get_xdata() for line in axes.lines if line.get_linewidth() > 2]
    assert [tuple(bar) for bar in bars] == [
        pytest.approx((1.4, 2.8), abs=0.05),
        pytest.approx((2.8, 3.9), abs=0.05),
    ]


def test_too_few_data_sets_are_a_reason(root):
    for label in ("mwnl", "scl"):
        made_folder(root, label)
    records, _ = read([root], per_class=True)
    found = rank_sketch(records)
    assert "6 or more independent data sets" in found.reason
