"""`verify`: a run as it was written, and with each of its files changed."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import ltbench
from ltbench import reevaluation
from ltbench.errors import DataMissingError, VerificationError
from ltbench.files import canonical_json, sha256_hex
from ltbench.labels import label_problem
from ltbench.metrics import evaluate
from ltbench.models import state_digest
from ltbench.results import RunFolder
from ltbench.stored_predictions import predictions_digest
from ltbench.testing import tiny_run
from ltbench.testing.tiny import TOY_BLOBS

CHECKS = [
    *("record", "configuration", "selection", "predictions", "metrics", "split lists", "weights"),
    *("data", "logits"),
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The results of one run, never changed."""
    results = tmp_path_factory.mktemp("whole")
    tiny_run("ce", results, {"epochs": 3})
    return results


@pytest.fixture
def run(whole, tmp_path):
    """A copy to be changed."""
    results = Path(shutil.copytree(whole, tmp_path / "results"))
    (record,) = results.glob("toy_blobs/*/*/*/*/record.json")
    return RunFolder(record.parent)


def states(found):
    return {check.check: check.state for check in found.checks}


def failed(run, **options):
    return {check.check: check.finding for check in ltbench.verify(run.path, **options).failed}


def change(run, edit, name="record.json"):
    told = json.loads((run.path / name).read_text())
    edit(told)
    (run.path / name).write_text(json.dumps(told))


def record_fits(run):
    """Make the record's digests and metrics those of the stored predictions, as a forger would."""
    parts = {part: run.read_predictions(part) for part in ("val", "test")}

    def fit(record):
        counts = record["metrics"]["test"]["per_class"]["train_count"]
        for part, predictions in parts.items():
            record["digests"][part] = predictions_digest(predictions)
            record["metrics"][part] = evaluate(predictions, counts)
        digests = record["digests"]
        record["digest"] = sha256_hex("".join(digests[k] for k in sorted(digests)).encode())

    change(run, fit)


def store(run, **fields):
    parts = {part: run.read_predictions(part) for part in ("val", "test")}
    run.write_predictions({**parts, "test": replace(parts["test"], **fields)})


def test_an_unchanged_run(run):
    found = ltbench.verify(run.path)
    assert states(found) == dict.fromkeys(CHECKS, "ok")
    findings = {check.check: check.finding for check in found.checks}
    assert findings["logits"] == "val: bit for bit; test: bit for bit"
    assert findings["predictions"] == "val: 24 images; test: 24 images"


def test_commands(run, bench):
    words = ("verify", run.path, "--plugin", TOY_BLOBS)
    answer = bench(*words)
    assert (answer.code, answer.err) == (0, "")
    assert "bit for bit" in answer.out
    told = json.loads(bench(*words, "--json").out)
    assert told["ok"]
    assert [check["check"] for check in told["checks"]] == CHECKS
    change(run, lambda record: record["metrics"]["test"].update(macro_f1=0.99))
    answer = bench(*words, "--json", "--no-weights")
    assert answer.code == 4
    assert "metrics: test: macro_f1: claimed 0.99, its predictions give" in answer.err
    assert [c["check"] for c in json.loads(answer.out)["checks"] if c["state"] == "failed"] == [
        "metrics"
    ]
    assert bench("verify", "no-such-run", "--results", run.path).code == 2


@pytest.mark.parametrize(
    ("edit", "check", "message"),
    [
        (lambda r: r.update(name="x/seed-0"), "record", "the record says x/seed-0"),
        (lambda r: r.update(seed=3), "record", "the record says 3"),
        (lambda r: r.update(seed=3), "configuration", "seed: the record says 3"),
        (lambda r: r["key_parts"].update(threads=9), "record", "but its key parts give"),
        (lambda r: r.update(threads=9), "record", "threads: the record says 9, its key 1"),
        (lambda r: r.update(select="last"), "configuration", "select: the record says 'last'"),
        (lambda r: r["selected"][0].update(epoch=0, value=0.1), "selection", "the history chooses"),
        (lambda r: r["digests"].update(test="0" * 64), "predictions", "says digest '0000"),
        (lambda r: r.update(digest="0" * 64), "predictions", "not that of its digests joined"),
        (lambda r: r["metrics"]["val"]["per_class"]["f1"].__setitem__(0, 2.0), "metrics", "f1[0]"),
        (
            lambda r: r["metrics"]["test"]["per_class"]["train_count"].__setitem__(0, 99),
            "split lists",
            "training counts: expected",
        ),
        (lambda r: r["digests"].update(weights="0" * 64), "weights", "do not have the digest"),
        (lambda r: r.pop("selected"), "selection", "the record lacks 'selected'"),
        (lambda r: r.update(selected=[]), "selection", "has the stages train, the record reports"),
        (lambda r: r["selected"][0].update(epoch=0, value=None), "selection", "ends with epoch 2"),
        (lambda r: r["train_counts"].__setitem__(0, 99), "split lists", "training counts:"),
        (lambda r: r["class_names"].reverse(), "split lists", "stand in another order"),
        (lambda r: r["metrics"].update(test=None), "predictions", "test: the record says digest"),
        (lambda r: r.update(label="ce epochs=9"), "configuration", "has no setting 'epochs=9'"),
        (lambda r: r.update(uses_validation=True), "configuration", "its method declares False"),
        (lambda r: r.update(leak={"sentence": "none"}), "data", "leak: the record says"),
        (lambda r: r.update(groups_note="by patient"), "data", "groups_note: the record says"),
        (lambda r: r["protocol_notes"].update(clean=1), "data", "protocol_notes.clean: the record"),
    ],
)
def test_a_changed_record(edit, check, message, run):
    change(run, edit)
    assert message in failed(run, weights=check in ("weights", "data"))[check]


@pytest.mark.parametrize("name", ["predictions.npz", "config.json", "epochs.jsonl"])
def test_a_run_without_one_of_its_files(name, run):
    """Nothing of it could be checked: that is no good answer."""
    (run.path / name).unlink()
    assert failed(run, weights=False)


@pytest.mark.parametrize("name", ["metrics", "digests", "key_parts", "class_names"])
@pytest.mark.parametrize("value", [None, 7])
def test_a_record_of_another_shape(name, value, run):
    change(run, lambda record: record.update({name: value}))
    with pytest.raises(VerificationError, match=f"{name} is {value}; expected"):
        ltbench.verify(run.path)


def test_facts_of_images_that_are_not_those_of_the_data(run):
    """No digest holds groups and metadata."""
    found = run.read_predictions("test")
    store(run, groups=np.array(["g"] * len(found.ids)))
    assert "test: groups are not known both to" in failed(run)["data"]
    store(run, groups=None, metadata={"sex": np.array(["f"] * len(found.ids))})
    assert "test: sex are not known both to" in failed(run)["data"]


def test_inner_feedback(tmp_path):
    """Its training images are fewer than the lists', by those that fed back."""
    settings = {"epochs": 1, "feedback_split": "inner", "dataset.train_counts": [24, 12, 8, 4]}
    folder = tiny_run("ecl", tmp_path, settings).folder
    assert folder.record()["feedback_counts"] is not None
    assert failed(folder, weights=False) == {}


def test_a_changed_configuration(run):
    change(run, lambda config: config["optimizer"].update(lr=1.0), "config.json")
    assert "optimizer: the key says" in failed(run, weights=False)["configuration"]


def test_an_altered_target_in_a_record_that_fits(run):
    targets = run.read_predictions("test").targets.copy()
    targets[0] = (targets[0] + 1) % 4
    store(run, targets=targets)
    assert set(failed(run, weights=False)) == {"predictions", "metrics", "split lists"}
    record_fits(run)
    found = failed(run)
    assert set(found) == {"split lists"}
    assert "1 targets are not the data set's: toy-" in found["split lists"]


def test_altered_logits_in_a_record_that_fits(run):
    """Only the weights know: one logit of one image, moved by a millionth."""
    logits = run.read_predictions("test").logits.copy()
    logits[5, 2] += 1e-6
    store(run, logits=logits)
    record_fits(run)
    found = failed(run)
    assert set(found) == {"logits"}
    assert "test: the weights give logits that are off by up to" in found["logits"]
    assert "expected the same bits" in found["logits"]
    assert failed(run, tolerance=1e-4) == {}


def test_another_kind_of_machine_is_held_to_a_tolerance(run, monkeypatch):
    logits = run.read_predictions("test").logits
    store(run, logits=logits + np.float32(2e-6))
    record_fits(run)
    monkeypatch.setattr(reevaluation.platform, "machine", lambda: "arm64")
    (check,) = (c for c in ltbench.verify(run.path).checks if c.check == "logits")
    assert check.state == "ok"
    assert "at most 0.0001, as machine are not the run's" in check.finding
    store(run, logits=logits + np.float32(1e-2))
    record_fits(run)
    assert set(failed(run)) == {"logits"}


def test_other_weights(run):
    state = torch.load(run.path / "best.pt", weights_only=True)
    state["head.bias"][0] += 1
    torch.save(state, run.path / "best.pt")
    assert set(failed(run)) == {"weights", "logits"}

    def fit(record):
        record["digests"]["weights"] = state_digest(state)
        digests = record["digests"]
        record["digest"] = sha256_hex("".join(digests[k] for k in sorted(digests)).encode())

    change(run, fit)
    assert set(failed(run)) == {"logits"}


def test_what_is_not_here_is_no_failure(run):
    (run.path / "best.pt").unlink()
    shutil.rmtree(run.path.parents[4] / "splits")
    found = states(ltbench.verify(run.path))
    assert found["weights"] == found["split lists"] == found["logits"] == "not here"
    assert {found[name] for name in CHECKS[:5]} == {"ok"}


def test_data_that_are_not_here(run, monkeypatch):
    def gone(folder, data_root):
        raise DataMissingError("the data are not here")

    monkeypatch.setattr(reevaluation, "data_of", gone)
    found = states(ltbench.verify(run.path))
    assert [name for name, state in found.items() if state == "not here"] == ["data", "logits"]


def test_other_data(run):
    """Settings that make other pictures of the same images."""

    def other(told):
        told["dataset"]["noise"] = 0.3

    change(run, other, "config.json")
    found = failed(run)
    assert "the image_digest of the data here are not those of the run" in found["data"]


def test_damaged_files(run):
    (run.path / "predictions.npz").write_bytes(b"rubbish")
    assert {"predictions", "metrics", "split lists"} <= set(failed(run, weights=False))
    (run.path / "record.json").write_text("{")
    with pytest.raises(VerificationError, match="is damaged"):
        ltbench.verify(run.path)


def test_another_schema(run):
    change(run, lambda record: record.update(schema_version=0))
    with pytest.raises(VerificationError, match="schema version 0, expected 1"):
        ltbench.verify(run.path)


def test_the_key_of_the_record_is_what_the_test_takes_it_for(run):
    record = run.record()
    assert sha256_hex(canonical_json(record["key_parts"]).encode())[:16] == record["key"]


@pytest.mark.parametrize(
    ("label", "config", "fits"),
    [
        ("ecl", {}, True),
        ("ecl@authors", {}, False),
        ("ecl epochs=3 optimizer.lr=0.1", {"epochs": 3, "optimizer": {"lr": 0.1}}, True),
        ("ecl tuned", {}, True),
        ("ecl tuned (trial 3) epochs=3", {"epochs": 3}, True),
        ("ecl tuned well", {}, False),
        ("ecl epochs=4", {"epochs": 3}, False),
        ("ecl epochs=3 best", {"epochs": 3}, False),
        ("ecl name=a b c=1", {"name": "a b", "c": 1}, True),
        ("ecl epochs=3 weights=my file.pt", {"epochs": 3, "weights": "file"}, True),
        ("ecl weights=my file.pt epochs=4", {"epochs": 3, "weights": "file"}, False),
        ("ecl weights=my file.pt", {"weights": "none"}, False),
        ("ecl init_from=9f/seed-0", {"init_from": {"key": "9f"}}, True),
    ],
)
def test_labels_are_those_of_the_configuration(label, config, fits):
    assert (label_problem(label, "ecl", config) == "") == fits
