"""Training curves: every epoch in its place, stages, the reported epoch, what is missing."""

from __future__ import annotations

import numpy as np
import pytest
from made_figures import by_name, figure_of, history_row, left_out, texts

from ltbench.figures.history import LOSS, history_of
from ltbench.figures.of_rows import row_sketches
from ltbench.figures.of_run import run_sketches
from ltbench.results import RunFolder


def of(run):
    return by_name(run_sketches(run, ["training"]))["training"]


def rewrite(run, rows, selected=None):
    run.epochs_file.unlink(missing_ok=True)
    for row in rows:
        run.append_epoch(row)
    if selected is not None:
        run.write_record(run.record() | {"selected": selected})


def lines_of(axes, color="#000000"):
    return [line for line in axes.lines if len(line.get_xdata()) > 2]


def test_losses_and_validation_are_the_history_s(run):
    folder = run()
    losses, validation = figure_of(of(folder)).axes
    first = lines_of(losses)[0]
    assert first.get_xdata().tolist() == [1, 2, 3, 4, 5, 6]
    assert first.get_ydata() == pytest.approx([2.0, 1.0, 2 / 3, 0.5, 0.4, 1 / 3])
    macro_f1, balanced, accuracy = lines_of(validation)
    assert macro_f1.get_ydata() == pytest.approx([50, 51, 52, 53, 54, 55])
    assert balanced.get_ydata() == pytest.approx([60] * 6)
    assert accuracy.get_ydata() == pytest.approx([70] * 6)
    shown = texts(of(folder).drawn().svg)
    assert {"training loss", "validation NLL", "reported epoch", "macro F1", "epoch"} <= set(shown)
    assert {"loss (nats)", "validation (%)"} <= set(shown)


def test_the_reported_epoch_is_marked_in_every_panel(run):
    folder = run()
    sketch = of(folder)
    for axes in figure_of(sketch).axes:
        upright = {line.get_xdata()[0] for line in axes.lines if len(line.get_xdata()) == 2}
        assert upright == {5}, "epoch 4 counted from 0"
    assert "epoch 5, whose weights are reported, chosen by val.macro_f1" in sketch.caption
    assert "at most 55.00 %, at epoch 6, and 54.00 % at the reported epoch 5" in sketch.alt


def test_further_values_have_a_panel_of_their_own(run):
    folder = run()
    rows = [
        history_row(e, 4, _a=float(e), **{"b$": 0.5, "c": 1.0, "d": 2, "e": 9}) for e in range(4)
    ]
    rewrite(folder, rows, [])
    sketch = of(folder)
    figure = figure_of(sketch)
    assert len(figure.axes) == 3
    assert len(lines_of(figure.axes[1])) == 4
    assert {"_a", "b$", "c", "d"} <= set(texts(sketch.drawn().svg))
    assert "_a, b$, c, d (1 more are not drawn)" in sketch.caption


def test_stages_follow_each_other(run):
    folder = run()
    rows = [history_row(e, 3, stage="contrast", val=False) for e in range(3)]
    rows += [history_row(e, 2, stage="linear") for e in range(2)]
    selected = [
        {"stage": "contrast", "epochs": 3, "epoch": 2, "value": None},
        {"stage": "linear", "epochs": 2, "epoch": 1, "value": 0.5},
    ]
    rewrite(folder, rows, selected)
    sketch = of(folder)
    losses, validation = figure_of(sketch).axes
    assert lines_of(losses)[0].get_ydata() == pytest.approx([2, 1, 2 / 3, 2, 1])
    found = lines_of(validation)[0].get_ydata()
    assert np.isnan(found[:3]).all()
    assert found[3:] == pytest.approx([50, 51])
    upright = {line.get_xdata()[0] for line in losses.lines if len(line.get_xdata()) == 2}
    assert upright == {3.5, 5}
    assert {"contrast", "linear", "epoch (over all stages)"} <= set(texts(sketch.drawn().svg))
    assert "contrast, epochs 1 to 3; linear, epochs 4 to 5" in sketch.caption


def test_a_gap_stays_a_gap(run):
    folder = run()
    rewrite(folder, [history_row(e, 6) for e in (0, 1, 4, 5)])
    history = history_of(folder.epochs(), folder.record())
    assert np.isnan(history.terms[LOSS]).tolist() == [False, False, True, True, False, False]
    of(folder).drawn()


def test_wide_losses_are_logarithmic_and_say_so(run):
    folder = run()
    rows = [history_row(e, 4) for e in range(4)]
    rows[3]["train"]["loss"] = 0.001
    rewrite(folder, rows)
    figure = figure_of(of(folder))
    assert figure.axes[0].get_yscale() == "log"
    shown = texts(of(folder).drawn().svg)
    assert "loss (nats, log)" in shown
    assert not any("$" in text or "mathdefault" in text for text in shown)
    assert "0.001" in shown


def test_no_validation(run):
    folder = run(val=False)
    sketch = of(folder)
    assert len(figure_of(sketch).axes) == 1
    assert "No epoch was validated." in sketch.caption


def test_no_history_and_a_damaged_one_are_reasons(run):
    folder = run()
    folder.epochs_file.write_text('{"epoch": 0}\n', encoding="utf-8")
    assert "damaged" in left_out(run_sketches(folder))["training"]
    folder.epochs_file.write_text("not JSON\n", encoding="utf-8")
    assert "damaged" in left_out(run_sketches(folder))["training"]
    folder.epochs_file.unlink()
    assert "no history" in left_out(run_sketches(folder))["training"]
    assert "no run has a history" in left_out(row_sketches([folder]))["training"]


@pytest.mark.parametrize(("epoch", "epochs"), [(-2, 3), (3, 3), (0, 0), (0, 10**12)])
def test_an_epoch_that_cannot_be_is_a_reason(run, epoch, epochs):
    folder = run()
    rewrite(folder, [history_row(epoch, epochs)], selected=[])
    assert "history is damaged" in left_out(run_sketches(folder, ["training"]))["training"]


def test_a_number_of_images_that_is_none_is_not_told(run):
    folder = run()
    record = folder.record()
    record["metrics"]["val"]["num_images"] = "x"
    folder.write_record(record)
    assert "Validation part: macro F1" in of(folder).caption


def test_one_epoch(run):
    of(run(epochs=1, selected=[])).drawn()


def test_all_seeds_and_their_mean(run):
    runs = [run(seed=seed) for seed in range(3)]
    for number, one in enumerate(runs):
        rows = [history_row(e, 4) for e in range(4)]
        for row in rows:
            row["val"]["macro_f1"] += number / 10
        rewrite(one, rows, [{"stage": "train", "epochs": 4, "epoch": number, "value": 0.5}])
    sketch = by_name(row_sketches(runs, ["training"]))["training"]
    _, validation = figure_of(sketch).axes
    *seeds, mean = lines_of(validation)
    assert len(seeds) == 3
    assert mean.get_ydata() == pytest.approx([60, 61, 62, 63])
    dots = [line.get_xydata()[0].tolist() for line in validation.lines if line.get_marker() == "o"]
    assert np.array(dots) == pytest.approx(np.array([[1, 50], [2, 61], [3, 72]]))
    assert "61.00 % on average (standard deviation 11.00 %)" in sketch.alt


def test_a_seed_without_history_is_not_in_the_mean(run):
    runs = [run(seed=seed) for seed in range(2)]
    runs[0].epochs_file.unlink()
    sketch = by_name(row_sketches([RunFolder(one.path) for one in runs], ["training"]))["training"]
    assert sketch.title == "Training curves of 1 seed"
    assert "seed 1, trained on" in sketch.caption
    assert "not drawn: seed 0." in sketch.caption
