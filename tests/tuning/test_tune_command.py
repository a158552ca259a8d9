"""`bench.py tune` as a user types it: what it prints, writes, refuses; what runs make of it."""

from __future__ import annotations

import csv
import json
import re
import shlex
import sys
from dataclasses import replace

import pytest
import yaml

import ltbench
from ltbench.registry import DATASETS
from ltbench.results import read_records
from ltbench.testing.tiny import TOY_BLOBS, tiny_request
from ltbench.tuning import trial

# Free to be searched, unlike in `tiny_request`: the learning rate.
SMALL = (
    *("--epochs", "3", "--batch-size", "8", "--backbone", "resnet8_cifar"),
    *("--plugin", TOY_BLOBS),
)


@pytest.fixture
def tune(bench, tmp_path):
    """tune("--trials", 3) -> the answer; everything goes below tmp_path."""

    def call(*more, methods="ce"):
        where = ("--results", tmp_path / "runs", "--out", tmp_path / "tuned")
        return bench(
            *("tune", "--methods", methods, "--dataset", "toy_blobs", *SMALL, *where, *more)
        )

    return call


def tuned_file(folder, name="ce"):
    return folder / "tuned" / "toy_blobs" / "held_out" / f"{name}.yaml"


def test_from_tuning_to_the_table(tune, bench, tmp_path, monkeypatch):
    answer = tune("--trials", 4, methods="ecl,ce")
    assert answer.code == 0, answer.err
    lines = answer.out.splitlines()
    for method in ("ecl", "ce"):
        ended = [line for line in lines if line.startswith(f"{method} trial ")]
        assert len(ended) == 4
        assert re.fullmatch(rf"{method} trial 0: 0\.\d{{4}} \(untuned\), 3 epochs, .* s", ended[0])
        row = next(line.split() for line in lines if line.startswith(f"{method}  "))
        assert row[1:6] == ["4", "0", "0", "0", "12"]
        assert row[-1] == str(tuned_file(tmp_path, method))
    assert "searched: optimizer.lr 0.01 .. 1 (log), optimizer.weight_decay" in answer.out
    base = ("run", "--method", "ecl,ce", "--dataset", "toy_blobs", *SMALL, "--seeds", "0,1")
    assert bench(*base, "--results", tmp_path / "runs").code == 0
    (command,) = [line for line in lines if " run --method " in line]
    words = shlex.split(command.replace("--seeds 0-4", "--seeds 0,1").partition("bench.py ")[2])
    assert bench(*words).code == 0
    records, notes = read_records(tmp_path / "runs")
    assert notes == []
    tuned = [record for record in records if record["tuning"] is not None]
    assert sorted({record["label"] for record in tuned}) == ["ce tuned", "ecl tuned"]
    assert all(record["select"] == "val.accuracy" for record in records)
    table = bench("table", "--results", tmp_path / "runs").out
    for method in ("ecl", "ce"):
        assert f"| {method} tuned" in table
        line = f"Tuned: {method} tuned by val.macro_f1 of 24 images on seeds 1000000, study "
        assert line in table.replace("\\_", "_")

    monkeypatch.setattr(trial, "fit", None)  # nothing may train any more
    again = tune("--trials", 4, methods="ecl,ce")
    assert again.code == 0
    assert "4 of 4 trials are done" in again.out
    assert " trial 0:" not in again.out


def test_the_file_holds_what_the_study_fixed_and_found(tune, tmp_path):
    assert tune("--trials", 2, "--set", "optimizer.momentum=0.5", "--tune-seeds", "7,8").code == 0
    stored = yaml.safe_load(tuned_file(tmp_path).read_text())
    block = stored.pop("tuning")
    found = stored["optimizer"]
    assert set(found) == {"momentum", "lr", "weight_decay"}
    assert (stored["epochs"], stored["batch_size"], found["momentum"]) == (3, 8, 0.5)
    assert (stored["recipe"], stored["protocol"]) == ("digits", "held_out")
    assert "machine" not in stored
    assert "seed" not in stored
    assert (block["seeds"], block["trials"], block["complete"]) == ([7, 8], 2, 2)
    assert block["epochs_trained"] == 2 * 2 * 3
    assert block["value"] >= block["default_value"]
    assert block["device_hours"] > 0
    assert block["space"] == [
        "optimizer.lr: 0.01 .. 1 (log)",
        "optimizer.weight_decay: 5e-05 .. 0.005 (log)",
    ]
    curve = list(csv.DictReader(tuned_file(tmp_path, "ce.curve").with_suffix(".csv").open()))
    assert [row["k"] for row in curve] == ["1", "2"]
    assert float(curve[-1]["expected_best"]) == block["value"]


def test_reported_seeds_are_not_those_of_the_study(tune, bench, tmp_path):
    assert tune("--trials", 1, "--tune-seeds", "3").code == 0
    run = (
        "run",
        "--method",
        "ce",
        "--dataset",
        "toy_blobs",
        *SMALL,
        "--results",
        tmp_path / "runs",
    )
    answer = bench(*run, "--tuned", tuned_file(tmp_path), "--seeds", "0-4")
    assert answer.code == 2
    assert "seed 3 is one of those the settings were tuned with" in answer.err
    assert not (tmp_path / "runs" / "toy_blobs").exists(), "nothing was trained"


def test_files_that_are_gone_or_edited_are_written_again(tune, tmp_path, monkeypatch):
    assert tune("--trials", 2).code == 0
    settings = tuned_file(tmp_path)
    curve = settings.with_suffix(".curve.csv")
    whole = {file: file.read_text() for file in (settings, curve)}
    monkeypatch.setattr(trial, "fit", None)  # nothing may train any more
    for file in whole:
        file.unlink()
        assert tune("--trials", 2).code == 0
        assert {one: one.read_text() for one in whole} == whole
    settings.write_text(whole[settings].replace("batch_size: 8", "batch_size: 4"))
    answer = tune("--trials", 2)
    assert "was edited since tune wrote it" in answer.out
    assert {one: one.read_text() for one in whole} == whole


def test_the_folder_of_a_database_is_not_made(tune, tmp_path):
    answer = tune("--trials", 2, "--storage", f"sqlite:///{tmp_path}/nosuchdir/x.db")
    assert answer.code == 2
    assert f"the folder {tmp_path}/nosuchdir is missing" in answer.err
    assert not (tmp_path / "nosuchdir").exists()
    assert not (tmp_path / "runs").exists()


def test_reported_seeds_that_are_suggested_are_not_refused(tune):
    flags = ("--trials", 2, "--tune-seeds", "0-4", "--test-at", "1,2")
    answer = tune(*flags, "--seeds", "0-4")
    assert answer.code == 2
    assert "such as --seeds 5-9" in answer.err


def test_as_json(tune, tmp_path):
    answer = tune("--trials", 2, "--json")
    assert answer.code == 0
    (study,) = json.loads(answer.out)["studies"]
    assert (study["method"], study["complete"], study["epochs_trained"]) == ("ce", 2, 6)
    assert [one["k"] for one in study["curve"]] == [1, 2]
    assert study["file"] == str(tuned_file(tmp_path))
    assert "ce trial 0: " in answer.err


def test_a_larger_budget_is_another_study_that_finds_the_trials(tune, tmp_path, monkeypatch):
    assert tune("--trials", 2).code == 0
    whole, trained = trial.fit, []
    monkeypatch.setattr(trial, "fit", lambda *a: trained.append(1) or whole(*a))
    answer = tune("--trials", 3)
    assert answer.code == 0
    assert "trials was 2, is 3" in answer.out
    assert len(trained) == 1
    assert "they are replaced" in answer.out


def test_tests_along_the_budget(tune, bench, tmp_path):
    answer = tune("--trials", 3, "--test-at", "1,3", "--seeds", "0,1")
    assert answer.code == 0, answer.err
    assert "Test results of what the first k trials would have chosen" in answer.out
    rows = list(csv.DictReader(tuned_file(tmp_path, "ce.tests").with_suffix(".csv").open()))
    assert [(row["k"], row["seed"]) for row in rows] == [
        ("1", "0"),
        ("1", "1"),
        ("3", "0"),
        ("3", "1"),
    ]
    records, _ = read_records(tmp_path / "runs")
    by_run = {record["name"]: record for record in records}
    for row in rows:
        record = by_run[row["run"]]
        assert float(row["macro_f1"]) == record["metrics"]["test"]["macro_f1"]
        assert (record["tuning"] is None) == (row["trial"] == "0")
    assert "ce.trial-" not in " ".join(file.name for file in (tmp_path / "tuned").rglob("*"))


def test_what_was_best_for_a_while_has_a_file_of_its_own(tune, tmp_path, monkeypatch):
    """Validation is made to say that trials get better and better."""
    from ltbench.tuning import worker

    whole, calls = worker.try_settings, []

    def better(*arguments, **more):
        outcome = whole(*arguments, **more)
        calls.append(1)
        return type(outcome)(
            *("complete", {**outcome.summary, "macro_f1": 0.1 * len(calls)}),
            *(outcome.epochs, outcome.wall_time_s, outcome.folder),
        )

    monkeypatch.setattr(worker, "try_settings", better)
    assert tune("--trials", 3, "--test-at", "1,2,3", "--seeds", "0").code == 0
    names = {file.name for file in (tmp_path / "tuned").rglob("*.yaml")}
    assert names == {"ce.yaml", "ce.trial-1.yaml"}
    records, _ = read_records(tmp_path / "runs")
    labels = {record["label"] for record in records}
    assert labels == {"ce batch_size=8 epochs=3", "ce tuned", "ce tuned (trial 1)"}


@pytest.mark.parametrize(("words", "told"), [
    (["--test-at", "1"], "--test-at and --seeds go together"),
    (["--seeds", "0-4"], "--test-at and --seeds go together"),
    (["--test-at", "9", "--seeds", "0"], "from 1 to 3"),
    (["--test-at", "x", "--seeds", "0"], "takes numbers of trials"),
    (["--test-at", "1", "--seeds", "1000000"], "is one of those that trials train with"),
    (["--search", "optimizer.lr"], "--search takes KEY=LOW:HIGH"),
    (["--search", "optimizer.lrr=1:2"], "Did you mean 'optimizer.lr'"),
    (["--set", "optimizer.lr=0.1", "--set", "optimizer.weight_decay=0"], "Nothing of ce is left"),
    (["--space", "method"], "offers nothing for this method"),
    (["--devices", "2"], "a trial trains on one device"),
    (["--trials", "0"], "one trial or more"),
    (["--storage", "studies"], "expected a database URL"),
    (["--storage", "nodb://u:secret@h/d"], "no kind of database"),
    (["--epochs", "no"], "'no' is not a valid integer"),
])  # fmt: skip
def test_mistakes_are_refused_before_anything_trains(tune, tmp_path, words, told):
    answer = tune("--trials", "3", *words)
    assert answer.code == 2
    assert told in answer.err
    assert "secret" not in answer.err + answer.out
    assert not (tmp_path / "runs" / "tuning" / "toy_blobs").exists()


def test_a_protocol_without_validation_is_refused(tune, monkeypatch):
    tiny_request("ce")  # makes the plugin known
    blobs = DATASETS["toy_blobs"]
    split = blobs.split
    monkeypatch.setattr(blobs, "split", lambda *given: replace(split(*given), val=None))
    answer = tune()
    assert answer.code == 2
    assert "Protocol 'held_out' of toy_blobs has no validation part" in answer.err


@pytest.mark.services
def test_a_server_that_does_not_answer(tune, tmp_path):
    answer = tune("--storage", "postgresql://somebody:secret@127.0.0.1:9/studies")
    assert answer.code == 1
    assert "The storage postgresql://somebody:***@127.0.0.1:9/studies does not answer" in answer.err
    assert "secret" not in answer.err + answer.out
    assert not (tmp_path / "runs" / "tuning").exists()


def test_a_missing_driver_is_named(tune, monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    answer = tune("--storage", "postgresql://somebody:secret@127.0.0.1:9/studies")
    assert answer.code == 3
    assert "needs the package 'psycopg'" in answer.err
    assert "pip install -e '.[postgres]'" in answer.err
    assert "secret" not in answer.err + answer.out


def test_studies_that_do_not_end_well_are_told(tune, monkeypatch):
    from ltbench.tuning import study

    monkeypatch.setattr(study, "_MOST_REFUSED", 3)
    answer = tune(
        *("--trials", 3, "--search", "method.stage_two_start=0.0:0.99"),
        *("--search", "method.stage_three_start=0.0:0.001", "--set", "method.stage_two_start=0.5"),
        *("--set", "method.stage_three_start=0.5"),
        methods="ecl",
    )
    assert answer.code == 1
    assert "its last 3 draws were all refused" in answer.err
    assert "ecl trial 0: " in answer.out


def test_the_twin_in_python(tmp_path):
    told = []
    tuned = ltbench.tune(
        ["ce"],
        "toy_blobs",
        trials=2,
        settings={"epochs": 2, "batch_size": 8},
        search={"optimizer.momentum": "0.5:0.9"},
        results=tmp_path / "runs",
        out=tmp_path / "tuned",
        plugins=[TOY_BLOBS],
        say=told.append,
    )
    (report,) = tuned.reports
    assert report.file == tuned_file(tmp_path)
    assert len(report.trials) == 2
    assert tuned.troubles == {}
    assert any("ce trial 1: " in line for line in told)
