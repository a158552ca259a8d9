"""First stages that another run has trained are taken over, and only where that is right."""

import shutil

import pytest

from ltbench import provenance, runner
from ltbench.runner import Place
from ltbench.stage_reuse import STAGES, TAKEN_OVER
from ltbench.testing.tiny import TOY_BLOBS, interrupted_run, stages_kept, tiny_request, tiny_run

LATER = {"method.classifier_epochs": 0.5}


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A run that keeps the end of its first stage."""
    return tiny_run("crt", tmp_path_factory.mktemp("first"))


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Another that trained all of its stages itself."""
    return tiny_run("crt", tmp_path_factory.mktemp("alone"), LATER)


@pytest.fixture
def results(first, tmp_path):
    """A copy of the first run's results."""
    shutil.copytree(first.folder.path.parents[4], tmp_path, dirs_exist_ok=True)
    return tmp_path


def place(results, **changed):
    return Place(results, plugins=(TOY_BLOBS,), **changed)


def stages_trained(results, settings=LATER, method="crt", **changed):
    """Names of the stages whose epochs were trained now, and the run."""
    seen = []
    watch = place(results, on_epoch=lambda row: seen.append(row["stage"]), **changed)
    outcome = runner.run(tiny_request(method, settings), watch)
    return list(dict.fromkeys(seen)), outcome


def test_only_the_later_stage_is_trained(first, alone, results):
    trained, outcome = stages_trained(results)
    assert trained == ["classifier"]
    assert outcome.record["digest"] == alone.record["digest"]
    assert outcome.record["taken_over"]["run"] == first.folder.name
    assert outcome.record["taken_over"]["before"] == "classifier"
    assert alone.record["taken_over"] is None


def test_the_history_is_whole_and_the_ledger_counts_what_was_spent(alone, results):
    _, outcome = stages_trained(results)
    names = [(row["stage"], row["epoch"]) for row in outcome.folder.epochs()]
    assert names == [(row["stage"], row["epoch"]) for row in alone.folder.epochs()]
    for entry in ("steps", "images_seen", "forward_passes_per_step"):
        assert outcome.record["ledger"][entry] == alone.record["ledger"][entry]
    assert [s["stage"] for s in outcome.record["selected"]] == ["features", "classifier"]


def test_a_preset_that_changes_later_settings_only_shares_them(results, tmp_path):
    """The preset's name is none of the key: what it sets is."""
    settings = {"method.carry": "last", "method.frozen_batchnorm": False}
    trained, _ = stages_trained(results, settings, "crt@authors")
    assert trained == ["classifier"]


@pytest.mark.parametrize(
    "changed",
    [{"seed": 1}, {"optimizer.lr": 0.04}, {"method.carry": "best"}, {"sampler": "sqrt"}],
    ids=str,
)
def test_what_the_first_stage_knows_is_never_shared(results, changed):
    trained, outcome = stages_trained(results, {**LATER, **changed})
    assert trained == ["features", "classifier"]
    assert outcome.record["taken_over"] is None


def test_resume_never_trains_all(alone, results):
    trained, outcome = stages_trained(results, resume="never")
    assert trained == ["features", "classifier"]
    assert outcome.record["taken_over"] is None
    assert outcome.record["digest"] == alone.record["digest"]


def test_stopped_after_it_took_over(alone, results):
    """The run goes on from its own checkpoint, and the record still says what it took over."""
    outcome = interrupted_run("crt", results, (2,), LATER)
    assert outcome.record["digest"] == alone.record["digest"]
    assert outcome.record["taken_over"] is not None


def test_said_before_training(first, results):
    told = []
    stages_trained(results, on_start=lambda cell, folder, text: told.append(text))
    assert "classifier" in told[0]
    assert first.folder.name in told[0]


def test_kept_with_its_origin_and_not_where_it_is_not_wanted(first, tmp_path):
    assert set(stages_kept(first)) == {"classifier"}
    tiny_run("crt", tmp_path, {"machine.keep_stages": False})
    assert not (tmp_path / STAGES).exists()


def test_methods_that_declare_nothing_keep_nothing(tmp_path):
    outcome = tiny_run("ce", tmp_path, {"epochs": 1})
    assert not (tmp_path / STAGES).exists()
    assert not (outcome.folder.path / TAKEN_OVER).exists()


def test_unfinished_copies_are_not_taken(results):
    """`origin.json` is written last: without it the rest counts as not there."""
    for origin in (results / STAGES).rglob("origin.json"):
        origin.unlink()
    assert stages_trained(results)[0] == ["features", "classifier"]


@pytest.mark.parametrize("name", ["state.pt", "epochs.jsonl", "origin.json"])
def test_what_is_damaged_is_trained_again_and_kept_anew(results, alone, name):
    (file,) = (results / STAGES).rglob(name)
    file.write_bytes(file.read_bytes()[:-10])
    trained, outcome = stages_trained(results)
    assert trained == ["features", "classifier"]
    assert outcome.record["digest"] == alone.record["digest"]
    assert stages_trained(results, {"method.classifier_epochs": 0.7})[0] == ["classifier"]


@pytest.mark.parametrize(
    ("name", "other"), [("code_digest", "0" * 64), ("versions", {"torch": "0.0.0"})]
)
def test_other_code_or_libraries_share_nothing(results, monkeypatch, name, other):
    """Otherwise a number would come from two of them."""
    monkeypatch.setattr(f"ltbench.stage_reuse.provenance.{name}", lambda: other)
    trained, outcome = stages_trained(results)
    assert trained == ["features", "classifier"]
    assert outcome.record["taken_over"] is None


def test_the_code_is_the_harness_without_its_plugins():
    assert len(provenance.code_digest()) == 64
    counted = {file.relative_to(provenance.FOLDER).as_posix() for file in provenance.code_files()}
    assert {"trainer.py", "functional.py", "training/schedules.py"} <= counted
    assert not any(name.startswith(("methods/", "datasets/")) for name in counted)
