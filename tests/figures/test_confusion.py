"""Confusion matrices say what `evaluate` says."""

from __future__ import annotations

import numpy as np
import pytest
from made_figures import NAMES, by_name, figure_of, left_out, made_folder, texts

from ltbench.errors import UsageError
from ltbench.figures.of_rows import row_sketches
from ltbench.figures.of_run import run_sketches
from ltbench.results import RunFolder


def of(run, name="confusion"):
    return by_name(run_sketches(run, [name]))[name]


def grid(sketch):
    """(share, count) by (row, column) of the written cells."""
    axes = figure_of(sketch).axes[0]
    found = {}
    for text in axes.texts:
        x, y = text.get_position()
        found.setdefault((int(y), int(x)), []).append(text.get_text())
    return found


def test_cells_are_the_record_s_confusion(run):
    folder = run()
    confusion = np.array(folder.record()["metrics"]["test"]["confusion"])
    expected = {
        (row, column): [f"{confusion[row, column] / confusion[row].sum():.2f}", str(number)]
        for (row, column), number in np.ndenumerate(confusion)
        if number > 0
    }
    assert grid(of(folder)) == expected
    shown = texts(of(folder).drawn().svg)
    for row, name in enumerate(NAMES):
        assert f"{name} ({confusion[row].sum()})" in shown
        assert name in shown
    assert {"predicted class", "true class (test images)", "share of the true class"} <= set(shown)


def test_alternative_has_the_worst_class(run):
    folder = run()
    test = folder.record()["metrics"]["test"]
    sensitivity = test["per_class"]["sensitivity"]
    worst = min((value, c) for c, value in enumerate(sensitivity) if value is not None)[1]
    alt = of(folder).alt
    assert f"mean sensitivity {100 * test['macro_sensitivity']:.2f} % over 4 classes" in alt
    hits, total = test["confusion"][worst][worst], test["per_class"]["support"][worst]
    assert f"lowest of {NAMES[worst]} with {100 * hits / total:.2f} % ({hits} of {total})" in alt


def test_classes_stand_by_size_and_absent_ones_are_hatched(run):
    folder = run(names=("rare", "none", "frequent"), shares=(1, 0, 5), counts=(5, 50, 500))
    sketch = of(folder)
    axes = figure_of(sketch).axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["frequent", "none", "rare"]
    hatched = [patch for patch in axes.patches if patch.get_hatch()]
    assert [patch.get_y() for patch in hatched] == [1]
    assert "Hatched: 1 class without a test image" in sketch.caption


@pytest.mark.parametrize(
    ("num", "with_share", "with_count"),
    [(2, True, True), (22, True, True), (30, True, False), (40, False, False), (200, False, False)],
)
def test_many_classes_stay_readable(tmp_path, num, with_share, with_count):
    counts = tuple(1000 // (1 + c) + 1 for c in range(num))
    folder = made_folder(
        tmp_path,
        names=tuple(f"class {c}" for c in range(num)),
        shares=(1,) * num,
        counts=counts,
        num=max(3 * num, 60),
    )
    sketch = of(folder)
    axes = figure_of(sketch).axes[0]
    written = [text.get_text() for text in axes.texts]
    assert any("." in text for text in written) == with_share
    assert any(text.isdigit() for text in written) == with_count
    assert ("Written" in sketch.caption) == with_share
    figure = axes.figure
    assert figure.get_size_inches()[0] <= 7.0
    inches = axes.get_position().height * figure.get_size_inches()[1]
    assert len(axes.get_yticks()) <= 9 * inches + 1, "tick labels lie on each other"
    assert len(sketch.drawn().svg) < 400_000


def test_text_is_light_on_dark_and_dark_on_light(run):
    axes = figure_of(of(run())).axes[0]
    ink = {(text.get_text(), text.get_color()) for text in axes.texts if "." in text.get_text()}
    for share, colour in ink:
        if float(share) > 0.65:
            assert colour == "#ffffff"
        if float(share) < 0.5:
            assert colour == "#000000"


def test_mean_over_seeds(root):
    runs = [RunFolder(path) for path in sorted(root.glob("*/*/ce/*/seed-*"))]
    matrices = [np.array(run.record()["metrics"]["test"]["confusion"], float) for run in runs]
    shares = np.stack([m[:4] / m[:4].sum(axis=1, keepdims=True) for m in matrices])
    mean, sd = shares.mean(axis=0), shares.std(axis=0, ddof=1)
    sketch = by_name(row_sketches(runs, ["confusion"]))["confusion"]
    assert grid(sketch) == {
        (row, column): [f"{mean[row, column]:.2f}", f"\N{PLUS-MINUS SIGN}{sd[row, column]:.2f}"]
        for row, column in np.ndindex(4, 5)
        if mean[row, column] > 0
    }
    assert "mean over 3 seeds" in sketch.caption
    assert "seeds 0, 1, 2" in sketch.caption


def test_one_seed_is_called_one(root):
    run = RunFolder(next(root.glob("*/*/ce/*/seed-0")))
    sketch = by_name(row_sketches([run], ["confusion"]))["confusion"]
    assert sketch.title == "Confusion matrix, one seed"
    assert grid(sketch) == grid(of(run))


def test_runs_of_two_configurations_are_no_row(root):
    runs = [RunFolder(path) for path in root.glob("*/*/*/*/seed-0")]
    with pytest.raises(UsageError, match="2 runs of 2"):
        list(row_sketches(runs))
    with pytest.raises(UsageError, match="0 runs of 0"):
        list(row_sketches([]))


@pytest.mark.parametrize("damage", ["missing", "ragged", "small"])
def test_a_damaged_record_is_a_reason(run, damage):
    folder = run()
    record = folder.record()
    test = record["metrics"]["test"]
    if damage == "missing":
        del test["confusion"]
    elif damage == "ragged":
        test["confusion"][0] = [1]
    else:
        test["confusion"] = [[1]]
    folder.write_record(record)
    reasons = left_out(run_sketches(folder))
    assert list(reasons) == ["confusion"]
    assert "record" in reasons["confusion"]


@pytest.mark.parametrize("count", [0, -1])
def test_a_matrix_without_images_is_a_reason(run, count):
    folder = run()
    record = folder.record()
    num = len(record["metrics"]["test"]["confusion"])
    record["metrics"]["test"]["confusion"] = [[count] * num] * num
    folder.write_record(record)
    for sketches in (run_sketches(folder, ["confusion"]), row_sketches([folder], ["confusion"])):
        assert "holds no image" in left_out(sketches)["confusion"]
