"""Values kept beside a run's predictions."""

import json
import os

import numpy as np
import pytest

from ltbench.derived import DERIVED, code_digest, derived, inputs_digest, kept, shared_folder
from ltbench.errors import DataMissingError
from ltbench.results import RunFolder, run_folders
from ltbench.testing.made_runs import made_predictions, made_run

TARGETS = np.array([0, 1, 0, 1])


@pytest.fixture
def run(tmp_path):
    return made_run(tmp_path / "runs", "ce", 0, made_predictions(TARGETS, ("a", "b")))


def counted(value):
    calls = []

    def compute():
        calls.append(1)
        return value

    return compute, calls


def test_computed_once(run):
    compute, calls = counted({"sensitivity": 0.1 + 0.2, "pairs": (1, 2)})
    values = [derived(run, "clinical", inputs_digest(run, "v1"), compute) for _ in range(3)]
    assert len(calls) == 1
    assert values == [{"sensitivity": 0.1 + 0.2, "pairs": [1, 2]}] * 3, "also the first as JSON"


def test_other_inputs_other_code_other_name(run):
    compute, calls = counted(1)
    derived(run, "one", inputs_digest(run, "v1"), compute)
    derived(run, "one", inputs_digest(run, "v2"), compute)
    derived(run, "two", inputs_digest(run, "v2"), compute)
    assert len(calls) == 3
    run.write_predictions({"test": made_predictions(TARGETS, ("a", "b"), seed=1)})
    derived(run, "two", inputs_digest(run, "v2"), compute)
    assert len(calls) == 4
    assert set(json.loads((run.path / DERIVED).read_text())) == {"one", "two"}


def test_code_that_changed(tmp_path):
    file = tmp_path / "code.py"
    file.write_text("one")
    before = code_digest([file])
    file.write_text("two")
    assert code_digest([file]) != before


@pytest.mark.parametrize("content", ["", "{", "[]", '{"one": 3}', '{"one": {"inputs": 1}}'])
def test_damaged_files_are_made_again(run, content):
    (run.path / DERIVED).write_text(content)
    compute, calls = counted(5)
    assert derived(run, "one", "digest", compute) == 5
    assert derived(run, "one", "digest", compute) == 5
    assert len(calls) == 1


def test_folders_that_cannot_be_written_to(run, monkeypatch):
    def refuse(*names):
        raise PermissionError(13, "Permission denied", str(names[-1]))

    monkeypatch.setattr(os, "replace", refuse)
    compute, calls = counted(5)
    assert derived(run, "one", "digest", compute) == 5
    assert derived(run, "one", "digest", compute) == 5
    assert len(calls) == 2
    assert sorted(p.name for p in run.path.iterdir()) == ["predictions.npz", "record.json"]


def test_what_json_cannot_hold(run):
    with pytest.raises(ValueError, match="finite"):
        derived(run, "one", "digest", lambda: float("nan"))


def test_no_predictions(run):
    (run.path / "predictions.npz").unlink()
    with pytest.raises(DataMissingError, match="Expected predictions at"):
        inputs_digest(run)


def test_another_process_may_have_added_a_value(tmp_path):
    file = tmp_path / "kept.json"

    def compute():
        kept(file, "theirs", "digest", lambda: 2)
        return 1

    assert kept(file, "mine", "digest", compute) == 1
    assert set(json.loads(file.read_text())) == {"mine", "theirs"}


def test_what_several_runs_share_is_no_run(run, tmp_path):
    folder = shared_folder(run)
    assert folder == tmp_path / "runs" / "derived"
    kept(folder / "pairs" / "x.json", "one", "digest", lambda: 1)
    assert list(run_folders(tmp_path / "runs")) == [run]
    assert shared_folder(RunFolder(run.path.parent / "seed-1")) == folder
