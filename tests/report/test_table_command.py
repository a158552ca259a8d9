"""`bench.py table`: flags, formats, notes, and what it answers to bad input."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from table_records import AWKWARD, made_board, made_run

import ltbench
from ltbench.report.as_csv import read_csv


@pytest.fixture(scope="module")
def made_once(tmp_path_factory):
    return made_board(tmp_path_factory.mktemp("runs"))


@pytest.fixture
def root(made_once, tmp_path):
    return shutil.copytree(made_once, tmp_path / "runs")


def test_a_table_a_data_set(root, bench):
    answer = bench("table", "--results", root)
    assert answer.code == 0
    assert answer.err == ""
    assert (
        "**Test results on isic2018, protocol group: 102 test images in 51 lesions**" in answer.out
    )
    assert "**Test results on isic2019" in answer.out


@pytest.mark.parametrize("preset", ["paper", "tail", "clinical", "compute"])
@pytest.mark.parametrize(
    ("form", "begins"),
    [("md", "**"), ("csv", "dataset,"), ("latex", "% Needs"), ("html", "<!doctype html>")],
)
def test_every_preset_in_every_format(root, bench, preset, form, begins):
    flags = ["--no-bold", "--with-published", "--per-class"]
    answer = bench("table", "--results", root, "--preset", preset, "--format", form, *flags)
    assert answer.code == 0, answer.err
    assert answer.out.startswith(begins)


def test_selection_and_order(root, bench):
    flags = ["--methods", "focal,ce", "--datasets", "isic2018", "--protocol", "group"]
    lines = read_csv(bench("table", "--results", root, "--format", "csv", *flags).out)
    assert list(dict.fromkeys(line["label"] for line in lines)) == ["focal", "ce"]
    assert {line["dataset"] for line in lines} == {"isic2018"}
    flags = ["--dataset", "isic2018", "--sort", "accuracy"]
    lines = read_csv(bench("table", "--results", root, "--format", "csv", *flags).out)
    means = [float(line["mean"]) for line in lines if line["metric"] == "accuracy"]
    assert means == sorted(means, reverse=True)


def test_a_table_goes_to_a_file(root, bench, tmp_path):
    out = tmp_path / "new" / "t.tex"
    answer = bench("table", "--results", root, "--format", "latex", "--out", out)
    assert answer.out == f"Wrote {out}\n"
    assert out.read_text("utf-8").count(r"\begin{table}") == 2


def test_mixed_protocols_are_refused_unless_asked(root, bench):
    made_board(root, protocol="paper")
    refused = bench("table", "--results", root, "--preset", "paper", "--no-bold")
    assert refused.code == 2
    assert "--mixed" in refused.err
    assert "Traceback" not in refused.err
    assert bench("table", "--results", root, "--preset", "paper", "--no-bold", "--mixed").code == 0
    chosen = ["--preset", "paper", "--no-bold", "--protocol", "paper"]
    assert "31.4 %" in bench("table", "--results", root, *chosen).out


def test_two_folders_and_awkward_names(root, bench, tmp_path):
    classes = ("a,b", "<&_|$%", "Меланома", 'q"u\no')
    made_run(tmp_path / "mine", AWKWARD, 0, classes=classes, method="mine")
    flags = ["--results", root, "--results", tmp_path / "mine", "--per-class"]
    for form in ("md", "csv", "latex", "html"):
        answer = bench("table", *flags, "--format", form)
        assert answer.code == 0, answer.err
        assert "Меланома" in answer.out


def test_damage_is_noted_on_the_error_stream(root, bench):
    file = next(root.rglob("record.json"))
    file.write_text("{")
    answer = bench("table", "--results", root)
    assert answer.code == 0
    assert answer.err.startswith("note: Left out: ")
    assert str(file) in answer.err


def test_nothing_that_fits_says_what_there_is(root, bench, tmp_path):
    answer = bench("table", "--results", root, "--dataset", "isic2108", "--methods", "foca")
    assert answer.code == 3
    assert "There are no runs of data set 'isic2108'. Did you mean 'isic2018'?" in answer.err
    assert "There are no runs of method 'foca'. Did you mean 'focal'?" in answer.err
    empty = bench("table", "--results", tmp_path / "nowhere")
    assert empty.code == 3
    assert "Run one first" in empty.err


def test_presets_that_bold_read_predictions(root, bench):
    out = bench("table", "--results", root, "--preset", "tail", "--dataset", "isic2018").out
    assert "bold in" in out.lower() or "**" in out
    assert "old in" not in bench("table", "--results", root).out


def test_the_python_twin(root):
    text, notes = ltbench.table(results=[root], dataset="isic2018", preset="paper", bold=False)
    assert notes == []
    assert text.startswith("**Test results on isic2018")
    assert ltbench.table(results=str(root))[0].count("**Test results") == 2


def test_a_plain_table_imports_neither_torch_nor_pandas(root):
    program = (
        f"import sys, ltbench; ltbench.table(results={str(root)!r}); "
        "print(sorted({'torch', 'pandas', 'matplotlib', 'sklearn', 'jinja2'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
