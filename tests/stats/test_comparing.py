"""The command `compare` and its Python twin."""

import csv
import io
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

import ltbench
from ltbench.errors import DataMissingError, UsageError
from ltbench.stats import comparing
from ltbench.stats.paired import Paired
from ltbench.stats.rendering import render
from ltbench.stats.sentences import measured, smallest_gain, verdict
from ltbench.testing.made_runs import made_predictions, made_run

NAMES = ("melanoma", "a, b & <c>", "Grün_|")
SIZES = (60, 100, 12)
TARGETS = np.repeat([0, 1, 2], SIZES)
GROUPS = np.array([f"{c}-{i // 2}" for c, n in enumerate(SIZES) for i in range(n)])


def make(root, label, strength, key, seeds=(0, 1, 2), **facts):
    for s in seeds:
        seed = [s, *label.encode(), *key.encode()]
        made = made_predictions(TARGETS, NAMES, strength=strength, seed=seed, groups=GROUPS)
        made_run(root, label, s, made, key=key * 16, **facts)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    make(root, "ce", 1.0, "a")
    make(root, "ecl", 3.0, "b")
    make(root, "ecl@authors", 1.1, "c", seeds=(0, 1))
    make(root, "ecl method.temperature=0.2", 1.2, "d")
    return root


@pytest.fixture
def runs(stored, tmp_path):
    return shutil.copytree(stored, tmp_path / "runs")


def test_overall_and_by_class(runs):
    found = ltbench.compare("ecl", "ce", "made", results=runs)
    assert (found.first, found.second) == ("ecl", "ce")
    assert [line.metric for line in found.lines[:5]] == [
        *("accuracy", "macro_sensitivity", "macro_precision", "macro_f1", "macro_auc")
    ]
    assert [(line.metric, line.of_class) for line in found.lines[5:]] == [
        (metric, name) for metric in ("sensitivity", "f1") for name in NAMES
    ]
    assert [line.num_images for line in found.lines[5:8]] == list(SIZES)
    assert [line.num_groups for line in found.lines[5:8]] == [30, 50, 6]
    assert {line.paired.num_comparisons for line in found.lines[:5]} == {5}
    assert {line.paired.num_comparisons for line in found.lines[5:]} == {3}
    for line in found.lines[:5]:
        assert line.paired.difference == pytest.approx(line.first.value - line.second.value)
        assert line.first.low < line.first.value < line.first.high
    assert found.lines[0].sentences[0].startswith("ecl is better than ce in accuracy by ")


def test_names_that_are_numbers_and_rows_that_are_equal(tmp_path):
    names = ("0", "~1 $x$\x0b`", "c")
    for label, key in (("ecl", "a"), ("ce", "b")):
        made = made_predictions(TARGETS, names, strength=1.0, seed=[5], groups=GROUPS)
        made_run(tmp_path, label, 0, made, key=key * 16)
    found = ltbench.compare("ecl", "ce", "made", metric="sensitivity", results=tmp_path)
    said = found.lines[0].sentences[0]
    assert "in sensitivity of class 0 with 60 test images of class 0 of 30 lesions" in said
    text = render(found, "md")
    (line,) = (line for line in text.splitlines() if line.startswith("| 0"))
    assert "0.0 to 0.0" not in line, "that no image tells them apart does not make 0 certain"
    assert "| \\~1 \\$x\\$ \\`" in text


def test_records_that_are_not_whole_are_left_out(runs, bench):
    (one, *_) = runs.glob("made/*/ecl@authors/*/seed-0/record.json")
    one.write_text('{"schema_version": 1}')
    assert bench("compare", "ecl", "ce", "--dataset", "made", "--results", runs).code == 0
    shutil.rmtree(one.parents[1] / "seed-1")
    answer = bench("compare", "ecl@authors", "ce", "--dataset", "made", "--results", runs)
    assert answer.code == 2
    assert "it is not a whole record: expected 'label'" in answer.err


def test_sentences_say_n_and_how(runs):
    found = ltbench.compare("dddd", "ce", "made", metric="sensitivity", results=runs)
    rare = found.lines[2].sentences
    assert rare[0].startswith(
        "ecl method.temperature=0.2 is not separable from ce in sensitivity of Grün_| with 12 "
        "Grün_| test images of 6 lesions (difference "
    )
    assert "95 % interval" in rare[0]
    assert rare[0].endswith("Holm-adjusted over 3 comparisons; 3 paired seeds).")
    assert rare[1].startswith("The smallest difference in sensitivity of Grün_| that 12 Grün_| ")
    assert rare[1].endswith("(3 paired seeds; 80 % power at 95 %, uncorrected).")


def test_one_metric(runs):
    found = ltbench.compare("ecl", "ce", "made", metric="macro-f1", results=runs)
    assert [(x.metric, x.of_class) for x in found.lines] == [
        ("macro_f1", None), *(("f1", name) for name in NAMES)
    ]  # fmt: skip
    found = ltbench.compare("ecl", "ce", "made", metric="nll", results=runs)
    assert [line.metric for line in found.lines] == ["nll"]
    assert "better than ce in NLL by" in found.lines[0].sentences[0]
    with pytest.raises(UsageError, match="Unknown metric 'f2'"):
        ltbench.compare("ecl", "ce", "made", metric="f2", results=runs)


def test_rows_are_found_by_label_or_key(runs):
    assert ltbench.compare("bbbb", "aaaaaa", "made", results=runs).first == "ecl"
    assert ltbench.compare("ecl@authors", "ce", "made", results=runs).first == "ecl@authors"
    found = ltbench.compare("dddd", "ce", "made", results=runs)
    assert found.first == "ecl method.temperature=0.2"


@pytest.mark.parametrize(
    ("labels", "names", "note"),
    [
        (("ecl a=1 b=[1, 2]", "ce b=[1, 2] c=3"), ("ecl a=1", "ce c=3"), ("Both rows: b=[1, 2].",)),
        (("ecl b=[1, 2]", "ecl b=[1, 3]"), ("ecl b=[1, 2]", "ecl b=[1, 3]"), ()),
        (("ecl a=1", "ce"), ("ecl a=1", "ce"), ()),
        (("ecl a=1", "ce a=1"), ("ecl", "ce"), ("Both rows: a=1.",)),
        (("ecl a=1 b=2", "ecl a=1"), ("ecl b=2", "ecl"), ("Both rows: a=1.",)),
        (("ecl a=1", "ecl a=1"), ("ecl a=1 aaaaaaaa", "ecl a=1 bbbbbbbb"), ()),
    ],
)
def test_settings_that_both_have_are_said_once(labels, names, note):
    assert comparing._told_apart(labels, ("aaaaaaaaaa", "bbbbbbbbbb")) == (names, note)


def test_rows_that_cannot_be_told(runs):
    make(runs, "ce", 1.4, "e", seeds=(4,))
    with pytest.raises(UsageError) as error:
        ltbench.compare("ecl", "ce", "made", results=runs)
    assert "'ce' means 2 rows" in str(error.value)
    assert "aaaaaaaa  ce, group, seeds 0, 1, 2" in str(error.value)
    assert "eeeeeeee  ce, group, seeds 4" in str(error.value)
    both = ltbench.compare("aaaa", "eeee", "made", results=runs)
    assert (both.first, both.second) == ("ce aaaaaaaa", "ce eeeeeeee")
    with pytest.raises(UsageError, match="Did you mean 'ecl'"):
        ltbench.compare("elc", "ecl", "made", results=runs)
    with pytest.raises(UsageError, match="are the same row"):
        ltbench.compare("ecl", "bbbb", "made", results=runs)
    with pytest.raises(DataMissingError, match="No finished run on other"):
        ltbench.compare("ecl", "ce", "other", results=runs)


def test_protocols_are_not_mixed(runs):
    make(runs, "ecl", 2.0, "f", protocol="random")
    assert ltbench.compare("ecl", "ce", "made", results=runs).protocol == "group"
    make(runs, "ce", 2.0, "0", protocol="random")
    with pytest.raises(UsageError, match=r"in 2 protocols: group, random.*--protocol"):
        ltbench.compare("ecl", "ce", "made", results=runs)
    assert ltbench.compare("ecl", "ce", "made", protocol="random", results=runs).keys[0][0] == "f"
    with pytest.raises(UsageError, match="No protocol has both rows"):
        ltbench.compare("ecl@authors", "f" * 16, "made", results=runs)


def test_another_level_is_another_interval(runs):
    wide, narrow = (
        ltbench.compare("ecl", "ce", "made", metric="accuracy", level=level, results=runs)
        for level in (0.99, 0.8)
    )
    widths = [f.lines[0].paired.high - f.lines[0].paired.low for f in (wide, narrow)]
    assert widths[0] > widths[1]
    with pytest.raises(UsageError, match=r"Expected a level from 0\.5"):
        ltbench.compare("ecl", "ce", "made", level=95, results=runs)


def test_splits_that_differ_in_training_are_noted(runs):
    make(runs, "ldam", 1.0, "9", split_digest="2" * 64)
    found = ltbench.compare("ldam", "ce", "made", results=runs)
    assert any("trained on different splits" in note for note in found.notes)


def test_markdown(bench, runs):
    answer = bench("compare", "ecl", "ce", "--dataset", "made", "--results", runs)
    assert answer.code == 0, answer.err
    assert "| a, b &amp; &lt;c&gt; |" in answer.out
    assert "Grün\\_\\|" in answer.out
    rows = [line for line in answer.out.splitlines() if line.startswith("|")]
    pipes = {line.replace("\\|", "").count("|") for line in rows}
    assert len(pipes) == 2, "each table's lines have as many cells"
    for needed in ("SE seeds", "SE test images", "smallest shown", "p (Holm)", "Estimator: paired"):
        assert needed in answer.out
    assert "Seeds: ecl 0, 1, 2; ce 0, 1, 2." in answer.out


def test_csv_html_json(bench, runs, tmp_path):
    common = ("compare", "ecl", "ce", "--dataset", "made", "--results", runs)
    lines = list(csv.DictReader(io.StringIO(bench(*common, "--format", "csv").out)))
    assert len(lines) == 5 + 6
    assert lines[6]["of_class"] == NAMES[1]
    assert float(lines[0]["paired_low"]) < float(lines[0]["paired_difference"])
    page = bench(*common, "--format", "html").out
    assert page.startswith("<!DOCTYPE html>"), "a file by itself needs its encoding said"
    assert '<meta charset="utf-8">' in page
    assert "a, b &amp; &lt;c&gt;" in page
    assert "<c>" not in page
    facts = json.loads(bench(*common, "--json").out)
    assert facts["lines"][0]["paired"]["separable"] is True
    assert float(lines[0]["paired_low"]) == facts["lines"][0]["paired"]["low"]
    out = tmp_path / "made" / "c.md"
    assert bench(*common, "--out", out).out == f"Wrote {out}\n"
    assert out.read_text("utf-8") == bench(*common).out


def test_faults_have_their_exit_codes(bench, runs):
    assert bench("compare", "ecl", "ce", "--dataset", "none", "--results", runs).code == 3
    assert bench("compare", "ec", "ce", "--dataset", "made", "--results", runs).code == 2
    assert bench("compare", "ecl", "--dataset", "made", "--results", runs).code == 2


def test_it_needs_no_torch(runs):
    code = (
        "import sys; from ltbench.cli import main\n"
        f"try: main(['compare', 'ecl', 'ce', '--dataset', 'made', '--results', {str(runs)!r}])\n"
        "except SystemExit: pass\n"
        "print('torch' in sys.modules, 'matplotlib' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False False"


def paired(**changes):
    facts = {
        "difference": 0.019, "low": 0.004, "high": 0.033, "p_value": 0.001, "p_adjusted": 0.01,
        "num_seeds": 5, "num_images": 2005, "num_groups": 1915, "estimator": "",
        "standard_error": 0.005, "standard_error_seeds": 0.003, "standard_error_sampling": 0.004,
        "detectable": 0.014, "num_comparisons": 10,
    }  # fmt: skip
    return Paired(**facts | changes)


def test_sentences():
    what = measured("macro_f1", "2005 images of 1915 lesions")
    assert verdict("ecl", "ce", what, paired()) == (
        "ecl is better than ce in macro F1 by 1.9 points (95 % interval 0.4 to 3.3, Holm-adjusted "
        "over 10 comparisons; 5 paired seeds, 2005 images of 1915 lesions)."
    )
    worse = paired(difference=-0.019, low=-0.033, high=-0.004)
    assert "ecl is worse than ce in macro F1 by 1.9 points (95 % interval 0.4 to 3.3" in verdict(
        "ecl", "ce", what, worse
    )
    lower = measured("nll", "9 images")
    assert "ecl is better than ce in NLL by 0.0190 (" in verdict("ecl", "ce", lower, worse)
    rare = measured("class.sensitivity", "23 DF test images", "DF")
    even = paired(low=-0.01, num_comparisons=1, standard_error_seeds=None, num_seeds=1)
    assert verdict("ecl", "ce", rare, even) == (
        "ecl is not separable from ce in sensitivity of DF with 23 DF test images (difference +1.9 "
        "points, 95 % interval -1.0 to 3.3; one seed, other seeds not covered)."
    )
    assert smallest_gain(rare, paired()) == (
        "The smallest difference in sensitivity of DF that 23 DF test images could show is "
        "1.4 points (5 paired seeds; 80 % power at 95 %, uncorrected)."
    )
    assert smallest_gain(rare, paired(detectable=1.2)).startswith("No difference in sensitivity of")
    nothing = paired(low=None, high=None, detectable=None, standard_error=None)
    assert "too few" in verdict("ecl", "ce", rare, nothing)
    assert "cannot be told" in smallest_gain(rare, nothing)
    fine = paired(difference=-0.0007, low=-0.0024, high=0.001, standard_error=0.0005)
    assert "-0.07 points, 95 % interval -0.24 to 0.10" in verdict("ecl", "ce", what, fine)
    assert "+0.0 points" in verdict("ecl", "ce", what, paired(difference=-1e-17, low=-0.1))
    assert "no sensitivity of DF that is defined" in verdict(
        "a", "b", rare, paired(difference=None)
    )
