"""Bold: every row that cannot be told from the best, and no other."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from table_records import made, made_run

from ltbench.errors import UsageError, VerificationError
from ltbench.report.intervals import with_bold
from ltbench.report.reading import read
from ltbench.report.tables import comparison, sheets
from ltbench.results import PREDICTIONS
from ltbench.stats.paired import against_best


class StandIn:
    """Intervals by label of the row; (0, 0) for the best."""

    def __init__(self, best, **intervals):
        self.best, self.intervals, self.asked = best, intervals, []

    def __call__(self, rows, metric):
        self.asked.append((sorted(rows), metric))
        for runs in rows.values():
            for run in runs:
                if not np.isfinite(run.read_predictions("test").logits).all():
                    raise VerificationError("a logit that is NaN")
        methods = {key: runs[0].path.parents[1].name for key, runs in rows.items()}
        return {key: self.pair(method) for key, method in methods.items()}

    def pair(self, method):
        low, high = (0.0, 0.0) if method == self.best else self.intervals[method]
        facts = {"num_seeds": 3, "num_images": 102, "num_groups": 51, "estimator": "made up"}
        return SimpleNamespace(low=low, high=high, **facts)


@pytest.fixture(scope="module")
def made_once(tmp_path_factory):
    """Three seeds of ce, of focal, which equals it, and of ecl."""
    root = tmp_path_factory.mktemp("runs")
    for seed in range(3):
        for label, skill in (("ce", 1.5), ("focal", 1.5), ("ecl", 1.9)):
            made_run(root, label, seed, skill)
    return root


@pytest.fixture
def board(made_once, tmp_path):
    """A copy of those runs."""
    return shutil.copytree(made_once, tmp_path / "runs")


def table_of(root, *metrics):
    return comparison(read([root])[0], metrics=metrics or ("accuracy",))[0]


def bold_rows(table, metric="accuracy"):
    return [row.label for row in table.rows if row.cells[metric].bold]


def test_bold_is_every_row_whose_interval_holds_0(board):
    against = StandIn("ecl", ce=(-0.05, 0.01), focal=(-0.05, -0.01))
    table = with_bold(table_of(board), against)
    assert bold_rows(table) == ["ce", "ecl"]
    assert against.asked == [(sorted(row.key for row in table.rows), "accuracy")]
    (note,) = table.notes
    assert note == (
        "Bold: not separable from the best of its column, on unrounded values: the Holm-adjusted "
        "95 % interval of the paired difference contains 0 (3 seeds, 102 test images in 51 groups; "
        "made up)."
    )


def test_bold_is_decided_on_unrounded_values(board):
    """ce and focal print the same number; one interval ends a hair below 0."""
    against = StandIn("ecl", ce=(-0.05, 1e-12), focal=(-0.05, -1e-12))
    table = with_bold(table_of(board), against)
    by_label = {row.label: row.cells["accuracy"] for row in table.rows}
    assert by_label["ce"].mean == by_label["focal"].mean
    assert bold_rows(table) == ["ce", "ecl"]


def test_a_row_without_an_interval_is_not_bold(board):
    against = StandIn("ecl", ce=(None, None), focal=(0.0, 0.0))
    assert bold_rows(with_bold(table_of(board), against)) == ["ecl", "focal"]


def test_a_metric_that_is_better_when_lower(board):
    """The best row is ce where that has the smallest nll, and must be among the compared."""
    table = table_of(board, "nll", "accuracy")
    best = min(table.rows, key=lambda row: row.cells["nll"].mean)
    shutil.rmtree(best.records[0]["folder"])  # one seed fewer: still two
    for record in best.records[1:]:
        (Path(record["folder"]) / PREDICTIONS).unlink()
    table = with_bold(table_of(board, "nll"), StandIn("ecl", ce=(0, 0), focal=(0, 0)))
    assert bold_rows(table, "nll") == []
    assert f"No bold in NLL (nats): the best row, {best.label}, has no interval." in table.notes


def test_one_seed_is_never_bold(board):
    made_run(board, "bcl", 0, 1.0)
    table = with_bold(table_of(board), StandIn("ecl", ce=(0, 0), focal=(0, 0), bcl=(0, 0)))
    assert bold_rows(table) == ["ce", "ecl", "focal"]
    assert "Never bold, one seed: bcl." in table.notes


def test_where_the_best_has_one_seed_nothing_is_bold(board):
    made_run(board, "bcl", 0, 9.0)
    table = with_bold(table_of(board), StandIn("ecl", ce=(0, 0), focal=(0, 0)))
    assert bold_rows(table) == []
    assert "No bold in Acc (%): the best row, bcl, has no interval." in table.notes


def test_of_tied_best_rows_one_with_an_interval_is_taken(board):
    tied = [*read([board])[0], {**made("bcl", "0" * 16), "folder": str(board)}]
    tied = [{**r, "metrics": {"test": {"accuracy": 0.5}}, "split_digest": "a"} for r in tied]
    facts = ("dataset", "protocol", "protocol_notes", "key_parts")
    tied = [{**r, **{fact: tied[0][fact] for fact in facts}} for r in tied]
    (table,) = comparison(tied, metrics=["accuracy"])
    table = with_bold(table, StandIn("ecl", ce=(0, 0), focal=(0, 0)))
    assert bold_rows(table) == ["ce", "ecl", "focal"]
    assert "Never bold, one seed: bcl." in table.notes


def test_side_by_side_notes_name_their_data_set(board):
    for seed in range(2):
        made_run(board, "ce", seed, dataset="isic2019")
    (sheet,) = sheets(
        read([board])[0], "paper", against_best=StandIn("ecl", ce=(0, 0), focal=(0, 0))
    )
    assert "On isic2019: no bold: there is one row only." in sheet.footer
    assert any(line.startswith("On isic2018: bold: not separable") for line in sheet.footer)


def test_a_changed_record_sets_its_row_aside(board):
    """The number that is printed is the record's, the interval of the predictions."""
    table = table_of(board)
    (row,) = (row for row in table.rows if row.label == "ce")
    file = Path(row.records[0]["folder"]) / "record.json"
    record = json.loads(file.read_text())
    record["metrics"]["test"]["accuracy"] -= 0.01
    file.write_text(json.dumps(record))
    table = with_bold(table_of(board), against_best)
    assert "ce" not in bold_rows(table)
    assert "ecl" in bold_rows(table)
    assert any("the record says accuracy" in note and ": ce." in note for note in table.notes)


def test_columns_that_were_decided_otherwise_are_named(board):
    def otherwise(rows, metric):
        pairs = StandIn("ecl", ce=(-0.1, 0.1), focal=(-0.1, 0.1))(rows, metric)
        for pair in pairs.values():
            pair.estimator = f"made up for {metric}"
        return pairs

    notes = with_bold(table_of(board, "accuracy", "macro_f1"), otherwise).notes
    assert [note.partition(":")[0] for note in notes] == [
        "Bold in Acc (%)",
        "Bold in F1 (%)",
        "No row can be told from the best in Acc (%), F1 (%)",
    ]


def test_no_order_is_said_to_be_chance_where_one_row_is_worse(board):
    table = with_bold(table_of(board), StandIn("ecl", ce=(-0.2, -0.1), focal=(-0.1, 0.1)))
    assert not any("No row can be told" in note for note in table.notes)


def test_predictions_with_nan_set_their_row_aside(board):
    run = made_run(board, "ce", 1, 1.5)
    predictions = run.read_predictions("test")
    predictions.logits[3, 1] = np.nan
    run.write_predictions({"val": None, "test": predictions})
    table = with_bold(table_of(board), StandIn("ecl", ce=(0, 0), focal=(-1, 1)))
    assert bold_rows(table) == ["ecl", "focal"]
    assert any("hold NaN or infinite logits: ce." in note for note in table.notes)


def test_damaged_predictions_set_their_row_aside(board):
    run = made_run(board, "ce", 1, 1.5)
    (run.path / PREDICTIONS).write_bytes(b"PK nothing")
    table = with_bold(table_of(board), StandIn("ecl", ce=(0, 0), focal=(-1, 1)))
    assert bold_rows(table) == ["ecl", "focal"]
    assert any("is damaged" in note and note.endswith(": ce.") for note in table.notes)


def test_missing_predictions_are_said(board):
    for seed in range(3):
        (made_run(board, "ecl", seed, 1.9).path / PREDICTIONS).unlink()
    table = with_bold(table_of(board), StandIn("ecl", ce=(0, 0), focal=(0, 0)))
    assert bold_rows(table) == []
    assert "Never bold, without stored predictions: ecl." in table.notes


def test_a_comparison_that_is_refused_is_no_end(board):
    def refused(rows, metric):
        raise UsageError(f"'{metric}' has no intervals.")

    table = with_bold(table_of(board, "accuracy", "macro_f1"), refused)
    assert bold_rows(table) == []
    assert "No bold in Acc (%): 'accuracy' has no intervals." in table.notes


def test_records_without_folders_and_lonely_rows():
    never = StandIn("ce")
    records = [made(seed=seed) for seed in range(2)]
    lonely = with_bold(comparison(records)[0], never)
    assert lonely.notes == ("No bold: there is one row only.",)
    records += [made("focal", "f" * 16, seed) for seed in range(2)]
    assert any(
        "its folders are not known: ce, focal" in note
        for note in with_bold(comparison(records)[0], never).notes
    )
    assert never.asked == []


def test_an_undefined_metric_is_not_compared(board):
    records = [{**r, "metrics": {"test": {"accuracy": None}}} for r in read([board])[0]]
    table = with_bold(comparison(records, metrics=["accuracy"])[0], StandIn("ecl"))
    assert "No bold in Acc (%): no row is defined." in table.notes


def test_costs_are_never_bold(board):
    against = StandIn("ecl")
    (sheet,) = sheets(read([board])[0], "compute", against_best=against)
    assert against.asked == []
    assert not any(entry.bold for line in sheet.lines for entry in line.entries)
