"""Published figures: every one has a source, and stands apart from our rows."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parent))
import expected
from table_records import made

from ltbench.errors import VerificationError
from ltbench.metrics import METRICS
from ltbench.registry import DATASETS, METHODS
from ltbench.report.published import OTHER, Published, figures_of, published_figures
from ltbench.report.tables import comparison, sheets

FOLDER = Path(__file__).parents[2] / "results" / "published"
FIGURES = published_figures()
MADE = figures_of(expected.FIGURES, "made")


def test_every_file_is_read():
    papers = {yaml.safe_load(file.read_text("utf-8"))["paper"] for file in FOLDER.glob("*.yaml")}
    assert {figure.paper for figure in FIGURES} == papers
    assert len(FIGURES) > 350


def test_every_figure_has_source_table_and_row():
    for figure in FIGURES:
        assert all((figure.paper, figure.source, figure.table, figure.row.row)), figure


def test_figures_are_of_known_data_sets_protocols_metrics_and_methods():
    for figure in FIGURES:
        dataset = DATASETS[figure.column.dataset]
        assert figure.about.protocol in (OTHER, *dataset.protocols), figure
        assert set(figure.column.conditions) <= set(dataset.Config.model_fields), figure
        assert figure.column.metric in METRICS
        for method in (figure.row.method, figure.about.method):
            assert method is None or method in METHODS.names(), figure


def test_rates_are_sane():
    """No method is at chance or beyond what is possible; the tail of ImageNet-LT is hard."""
    for figure in FIGURES:
        low = 0.05 if figure.column.metric == "tail_sensitivity" else 0.3
        assert low < figure.value < 0.99, figure


def test_no_figure_is_there_twice():
    keys = [
        (f.paper, f.table, f.row.row, f.column.dataset, f.column.metric, str(f.column.conditions))
        for f in FIGURES
    ]
    assert len(set(keys)) == len(keys)


def test_the_tables_of_ecl_are_whole_and_say_what_its_text_says():
    of_ecl = [figure for figure in FIGURES if figure.paper.startswith("Zhang, Chen, Wang, Xie")]
    tables = {name: [f for f in of_ecl if f.table == name] for name in ("Table 1", "Table 2")}
    assert {name: len(found) for name, found in tables.items()} == {"Table 1": 110, "Table 2": 40}
    assert all(figure.about.verified and figure.about.num_runs == 3 for figure in of_ecl)

    def value(row, dataset, metric, table="Table 1"):
        (found,) = (
            f.value
            for f in tables[table]
            if (f.row.row, f.column.dataset, f.column.metric) == (row, dataset, metric)
        )
        return found

    # Differences that the paper's own text states.
    gain = value("Ours", "isic2018", "macro_precision") - value(
        "SCL", "isic2018", "macro_precision"
    )
    assert gain == pytest.approx(0.0256)
    gain = value("Ours", "isic2019", "macro_f1") - value("TSC", "isic2019", "macro_f1")
    assert gain == pytest.approx(0.0433)
    whole, half = "Dual branch-BWCE+BHP, HPM", "Dual branch-CE+BHP, HPM"
    gain = value(whole, "isic2019", "macro_f1", "Table 2") - value(
        half, "isic2019", "macro_f1", "Table 2"
    )
    assert gain == pytest.approx(0.027)
    for metric in ("accuracy", "macro_f1", "macro_auc"):
        assert value("Ours", "isic2019", metric) == value(whole, "isic2019", metric, "Table 2")
        plain = value("Classifier branch-CE", "isic2019", metric, "Table 2")
        assert value("CE", "isic2019", metric) == plain


def test_values_are_the_float64_of_their_digits():
    assert {figure.text: figure.value for figure in MADE}["83.90"] == 0.839
    assert {figure.text: figure.value for figure in MADE}["0.850"] == 0.85


def isic(dataset="isic2018", protocol="paper", label="ce", **more):
    return made(label, f"{dataset}{protocol}{label}", dataset=dataset, protocol=protocol, **more)


def shown(records, published, layout="paper"):
    found = sheets(records, layout, published=published)
    return [
        (line.entries[0].text, [entry.text for entry in line.entries], line)
        for sheet in found
        for line in sheet.lines
    ], found[0]


def test_published_rows_stand_below_and_apart():
    rows, sheet = shown([isic(), isic("isic2019")], Published(MADE))
    assert [label for label, _, _ in rows] == ["ce", "CE [1]", "Ours [1]"]
    assert [line.published for _, _, line in rows] == [False, True, True]
    assert rows[1][1][1:3] == ["", "83.90"]  # with the digits of the paper
    assert not any(entry.bold for _, _, line in rows for entry in line.entries)
    assert any("Table 1" in line and "mean of 3 runs" in line for line in sheet.footer)
    assert not any(line.startswith("Not of our rows' protocol") for line in sheet.footer)
    assert sheet.lines[0] == sheets([isic(), isic("isic2019")], "paper")[0].lines[0]


def test_that_there_are_none_is_said():
    (sheet,) = sheets([made(dataset="digits_lt")], published=Published(MADE))
    assert "Published figures: none of these data sets, settings and columns." in sheet.footer
    (sheet,) = sheets([made(dataset="digits_lt")])
    assert not any(line.startswith("Published") for line in sheet.footer)


def test_another_protocol_is_said():
    _, sheet = shown([isic(protocol="group")], Published(MADE))
    line = next(line for line in sheet.footer if line.startswith("Not of our rows' protocol"))
    assert "[1] on isic2018 is of protocol paper" in line


def test_ablations_stand_beside_their_own_method_alone():
    figures = Published(MADE)
    ecl = [isic("isic2019", label="ecl"), isic("isic2019", label="ecl@no_cycle")]
    rows, sheet = shown(ecl, figures)
    assert [texts[2] for label, texts, _ in rows if label.startswith("no cycle")] == ["85.0"]
    assert any("unverified" in line for line in sheet.footer)
    rows, _ = shown([*ecl, isic("isic2019")], figures)
    assert not [label for label, _, _ in rows if label.startswith("no cycle")]


def test_chosen_methods_choose_figures():
    rows, _ = shown([isic(label="ecl")], Published(MADE, methods=["ecl@authors"]))
    assert [label for label, _, _ in rows] == ["ecl †", "Ours [1]"]


def test_conditions_are_settings_of_the_data_set():
    def cifar(imbalance):
        config = {"dataset": {"imbalance": imbalance, "profile": "exponential"}}
        facts = {"dataset": "cifar100_lt", "protocol": "published", "key_parts": {"config": config}}
        return comparison([made(**facts)], metrics=["accuracy"])

    at_100 = Published().beside(cifar(100.0))
    at_10 = Published().beside(cifar(10.0))
    assert "39.87" in {text for row in at_100.rows for text in row.texts}
    assert "39.87" not in {text for row in at_10.rows for text in row.texts}
    assert Published().beside(cifar(37.0)) is None
    assert Published().beside(comparison([made()])) is None


def test_the_nearest_sources_come_first():
    found = Published().beside(comparison([isic()], metrics=["accuracy", "macro_f1"]))
    assert [row.label for row in found.rows][:2] == ["CE [1]", "Focal Loss [1]"]
    assert "ECL" in found.notes[1]
    assert found.rows[-1].label == "CL + resampling [2]"


def test_csv_has_the_source_of_every_figure():
    (sheet,) = sheets([isic()], published=Published(MADE))
    figures = [value for value in sheet.values if value["published"]]
    assert [(f["mean"], f["table"], f["row"]) for f in figures] == [
        *((0.839, "Table 1", "CE"), (0.872, "Table 1", "Ours")),
    ]


def changed(**changes):
    file = yaml.safe_load(expected.FIGURES)
    table = {**file["tables"][0], **changes}
    return yaml.safe_dump({**file, "tables": [table]})


@pytest.mark.parametrize(("text", "words"), [
    ("paper: [", "cannot be read"),
    ("paper: a", "source"),
    (changed(table=""), "at least 1 character"),
    (changed(unit="fraction"), "is no rate in fraction"),
    (changed(rows=[{"row": "a", "values": "1"}]), "1 values for 2 columns"),
    (changed(rows=[{"row": "a", "values": "1 x"}]), "'x' is not a number"),
    (changed(rows=[{"row": "", "values": "1 2"}]), "row"),
    (changed(columns=[{"dataset": "a", "metric": "acc"}]), "unknown metric 'acc'"),
    (changed(verdict=1), "Extra inputs"),
])  # fmt: skip
def test_a_file_that_does_not_say_what_it_should_is_refused(text, words):
    with pytest.raises(VerificationError, match=words):
        figures_of(text, "made.yaml")
