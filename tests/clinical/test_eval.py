"""The command `eval` and its Python twin, on made run folders."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
from made_runs import COUNTS, predictions, run_folder

import ltbench
from ltbench import stored_predictions
from ltbench.clinical import columns
from ltbench.clinical.calibration import fit_temperature
from ltbench.clinical.columns import CLINICAL, clinical_numbers
from ltbench.clinical.evaluation import EvalOptions, evaluation
from ltbench.clinical.probabilities import soften
from ltbench.clinical.rendering import render
from ltbench.clinical.seeds import over_seeds
from ltbench.clinical.units import one_a_unit
from ltbench.errors import DataMissingError, UsageError, VerificationError
from ltbench.files import canonical_json, write_json
from ltbench.metrics import evaluate
from ltbench.predictions import Predictions

COSTS = "truth,MEL,NV,BCC,DF\nMEL,0,10,2,10\nNV,1,0,1,1\nBCC,1,4,0,4\nDF,1,0.5,1,0\n"


@pytest.fixture
def run(tmp_path):
    return run_folder(tmp_path)


@pytest.fixture
def cost_file(tmp_path):
    (tmp_path / "costs.csv").write_text(COSTS, encoding="utf-8")
    return tmp_path / "costs.csv"


def test_the_metrics_are_those_of_the_record(run):
    found, metrics = evaluation(run), run.record()["metrics"]["test"]
    assert found["metrics"] == pytest.approx({n: metrics[n] for n in found["metrics"]}, abs=1e-14)
    assert found["accuracy"]["value"] == metrics["accuracy"]
    assert found["accuracy"]["num_groups"] == found["num_groups"] == 100


def test_everything_at_once_is_json(run, cost_file):
    options = EvalOptions(
        by=("sex", "age", "lesion"),
        prior=("uniform", "forward:50"),
        cost=cost_file,
        temperature=True,
    )
    found = evaluation(run, options)
    assert json.loads(canonical_json(found)) == json.loads(json.dumps(found))
    assert found["unit"] == "lesion"
    assert (found["num_images"], found["num_units"]) == (200, 100)
    assert set(found["subgroups"]) == {"sex", "age"}
    assert [one["name"] for one in found["against_rest"]] == ["melanoma", "malignant"]
    assert found["temperature"] == found["calibration"]["temperature"]["value"]
    assert any("descriptive" in note for note in found["notes"])


def test_one_decision_a_lesion_is_that_of_units(run):
    found = evaluation(run, EvalOptions(per_lesion="mean"))
    one, _ = one_a_unit(run.read_predictions("test"))
    assert found["metrics"]["balanced_accuracy"] == pytest.approx(
        evaluate(one, COUNTS)["balanced_accuracy"]
    )


def test_temperature_moves_probabilities_and_no_decision(run):
    plain, scaled = (evaluation(run, EvalOptions(temperature=t)) for t in (False, True))
    assert plain["metrics"]["accuracy"] == scaled["metrics"]["accuracy"]
    assert scaled["metrics"]["ece"] == pytest.approx(plain["calibration"]["scaled"]["ece"])
    assert plain["calibration"] == scaled["calibration"]
    fitted = fit_temperature(run.read_predictions("val")).value
    by_hand = evaluate(soften(run.read_predictions("test"), fitted), COUNTS)
    assert scaled["metrics"]["ece"] == pytest.approx(by_hand["ece"], abs=1e-12)
    assert scaled["metrics"]["ece"] != pytest.approx(plain["metrics"]["ece"], abs=1e-4)


def test_thresholds_are_those_of_scaled_validation(tmp_path):
    """Of two classes the log-odds are divided by the temperature, and no rate moves."""
    val, test = (predictions(120, seed=s, class_names=("MEL", "NV")) for s in (1, 2))
    run = run_folder(tmp_path, val=val, test=test, counts=(20, 80))
    plain, scaled = (evaluation(run, EvalOptions(temperature=t)) for t in (False, True))
    one, two = (found["against_rest"][0]["points"] for found in (plain, scaled))
    for before, after in zip(one, two, strict=True):
        assert after["log_odds"] == pytest.approx(before["log_odds"] / scaled["temperature"])
        assert after["test"] == before["test"]


def test_max_asks_for_one_group_of_classes(run):
    with pytest.raises(UsageError, match=r"melanoma \(MEL\), malignant"):
        evaluation(run, EvalOptions(per_lesion="max"))
    found = evaluation(run, EvalOptions(per_lesion="max", positive=("melanoma",)))
    assert "most" in found["units"]["rule"]


def test_without_validation_what_was_asked_for_is_refused(tmp_path):
    run = run_folder(tmp_path, without_val=True)
    found = evaluation(run, EvalOptions(by=("sex",)))
    assert "no validation part" in found["against_rest"]["refused"]
    assert found["calibration"]["temperature"] is None
    assert found["referral"]["points"] == ()
    assert found["subgroups"]["sex"][0]["positives"][0]["rates"] is None
    for options in (EvalOptions(positive=("MEL",)), EvalOptions(temperature=True)):
        with pytest.raises(UsageError, match="no validation part"):
            evaluation(run, options)
    only_auc = EvalOptions(positive=("MEL",), specificity=(), sensitivity=())
    assert evaluation(run, only_auc)["against_rest"][0]["auc"] > 0.5


def test_where_no_classes_are_declared_the_reason_is_told(tmp_path):
    names = ("a, b", "<c>&_", "腿")
    val, test = (predictions(90, seed=s, class_names=names) for s in (1, 2))
    run = run_folder(tmp_path, val=val, test=test, counts=(30, 20, 10))
    assert "--positive" in evaluation(run)["against_rest"]["refused"]
    found = evaluation(run, EvalOptions(positive=("a, b", "<c>&_,腿")))
    assert [one["classes"] for one in found["against_rest"]] == [("a, b",), ("<c>&_", "腿")]


def test_groups_that_are_not_known_are_told(tmp_path):
    run = run_folder(tmp_path, test=predictions(groups=False), val=predictions(groups=False))
    assert any("every image for independent" in note for note in evaluation(run)["notes"])
    with pytest.raises(UsageError, match="know no groups"):
        evaluation(run, EvalOptions(per_lesion="mean"))


def test_what_weakens_a_threshold_is_told(tmp_path):
    val = predictions(40, seed=5)
    val = replace(val, targets=np.where(np.arange(40) < 3, 0, 1))
    run = run_folder(tmp_path, val=val, uses_validation=True)
    notes = " ".join(evaluation(run)["notes"])
    assert "rest on 3 such images" in notes
    assert "Training itself used" in notes
    assert "other shares of the classes" in notes


def test_altered_predictions_are_refused(run):
    """One label changed: the record was not made from these."""
    parts = {part: run.read_predictions(part) for part in ("val", "test")}
    parts["test"].targets[0] = 3 - parts["test"].targets[0]
    stored_predictions.write(run.path / "predictions.npz", parts)
    with pytest.raises(VerificationError, match="not those its record was made from"):
        evaluation(run)


def test_nan_is_refused(tmp_path):
    run = run_folder(tmp_path)
    parts = {part: run.read_predictions(part) for part in ("val", "test")}
    parts["test"].logits[7, 2] = np.nan
    stored_predictions.write(run.path / "predictions.npz", parts)
    record = run.record()
    del record["digests"]
    run.write_record(record)
    with pytest.raises(VerificationError, match="image-00007"):
        evaluation(run)


def test_a_run_that_is_not_done(run):
    (run.path / "record.json").unlink()
    with pytest.raises(DataMissingError):
        evaluation(run)


def test_an_external_test_takes_the_runs_thresholds(run):
    folder = run.path / "external" / "other-0123"
    folder.mkdir(parents=True)
    test = predictions(80, seed=77)
    stored_predictions.write(folder / "predictions.npz", {"test": test})
    record = {
        "schema_version": 1,
        "run": run.name,
        "label": "ce",
        "seed": 0,
        "trained_on": {"dataset": "made"},
        "dataset": "other",
        "protocol": "all images",
        "metrics": {"test": evaluate(test, COUNTS)},
    }
    write_json(folder / "record.json", record)
    found, own = ltbench.evaluate_run(folder), ltbench.evaluate_run(run.path)
    assert found["external"]
    assert (found["dataset"], found["num_images"]) == ("other", 80)
    assert found["run"] == f"{run.name}/external/other-0123"
    points = [one["against_rest"][0]["points"][0] for one in (found, own)]
    assert points[0]["log_odds"] == points[1]["log_odds"]
    assert points[0]["validation"] == points[1]["validation"]
    assert "run's own data" in found["notes"][0]


def test_seeds_of_one_row(tmp_path):
    runs = [run_folder(tmp_path, seed=seed) for seed in range(3)]
    found = ltbench.evaluate_seeds([run.path for run in runs])
    values = [one["metrics"]["accuracy"] for one in found["runs"]]
    accuracy = found["over_seeds"]["accuracy"]
    assert accuracy["mean"] == pytest.approx(np.mean(values))
    assert accuracy["sd"] == pytest.approx(np.std(values, ddof=1))
    assert accuracy["num_seeds"] == 3
    assert "melanoma: at 0.95 specificity, sensitivity" in found["over_seeds"]


def test_what_is_undefined_for_a_seed_is_undefined_for_the_row(tmp_path):
    runs = [evaluation(run_folder(tmp_path, seed=seed)) for seed in range(3)]
    runs[1]["metrics"]["macro_auc"] = None
    runs[1]["against_rest"] = {"refused": "no reason"}
    summary = over_seeds(runs)
    assert summary["macro_auc"] == {"mean": None, "sd": None, "num_seeds": 3}
    assert summary["melanoma: AUC"]["mean"] is None
    assert over_seeds(runs[:1])["accuracy"]["sd"] is None


def test_runs_that_are_no_seeds_of_one_row_are_refused(run):
    one = evaluation(run)
    with pytest.raises(UsageError, match="given one run twice"):
        over_seeds([one, one])
    with pytest.raises(UsageError, match="of one configuration"):
        over_seeds([one, {**one, "key": "another"}])


def test_columns_of_the_table(run, tmp_path):
    numbers = clinical_numbers(run)
    assert set(numbers) == set(CLINICAL)
    found = evaluation(run)
    point = found["against_rest"][0]["points"][0]["test"]
    assert CLINICAL["sensitivity_at_95_specificity"].value(run) == point["sensitivity"]["value"]
    assert CLINICAL["specificity_at_that_threshold"].value(run) == point["specificity"]["value"]
    assert CLINICAL["aurc"].value(run) == found["referral"]["area"]
    assert all(value is not None for value in numbers.values())
    bare = run_folder(tmp_path / "bare", without_val=True, class_groups={})
    numbers = clinical_numbers(bare)
    missing = {name for name, value in numbers.items() if value is None}
    assert {"positive_auc", "temperature", "risk_at_90_coverage"} <= missing
    assert {"aurc", "adaptive_ece", "lesion_balanced_accuracy"} <= set(numbers) - missing


def test_records_of_other_versions_are_refused(run):
    record = {**run.record(), "schema_version": 99}
    write_json(run.path / "record.json", record)
    with pytest.raises(VerificationError, match="schema version 99"):
        evaluation(run)


@st.composite
def small_parts(draw):
    """Validation and test of very few images: ties, absent classes, one image."""
    num_classes = draw(st.integers(2, 4))
    parts = []
    for _ in range(2):
        num = draw(st.integers(1, 7))
        ints = st.integers(-3, 3)
        logits = draw(st.lists(ints, min_size=num * num_classes, max_size=num * num_classes))
        targets = draw(st.lists(st.integers(0, num_classes - 1), min_size=num, max_size=num))
        sexes = draw(st.lists(st.sampled_from(["m", "f", ""]), min_size=num, max_size=num))
        part = Predictions(
            ids=np.array([f"i{i}" for i in range(num)]),
            targets=np.array(targets, dtype=np.int64),
            logits=np.array(logits, dtype=np.float32).reshape(num, num_classes),
            class_names=tuple("abcd"[:num_classes]),
            groups=np.array([f"g{t}" for t in targets]),  # one class a group
            metadata={"sex": np.array(sexes)},
        )
        parts.append(part)
    return parts


@settings(max_examples=40, deadline=None)
@given(small_parts(), st.sampled_from([None, "mean"]), st.booleans())
def test_few_images_never_break_it(tmp_path_factory, parts, rule, temperature):
    val, test = parts
    counts = (9, 5, 5, 1)[: len(test.class_names)]
    declared = {"class_groups": {"first": ["a"]}}
    folder = tmp_path_factory.mktemp("few")
    run = run_folder(folder, val=val, test=test, counts=counts, **declared)
    options = EvalOptions(
        by=("sex",), prior=("forward:50",), per_lesion=rule, temperature=temperature
    )
    found = evaluation(run, options)
    canonical_json(found)  # refuses NaN and infinities
    assert render(found)
    assert sum(one["num_images"] for one in found["subgroups"]["sex"]) == found["num_units"]
    assert set(clinical_numbers(run)) == set(CLINICAL)


def test_columns_are_computed_once_for_what_they_were_computed_from(tmp_path, monkeypatch):
    run, column = run_folder(tmp_path), CLINICAL["positive_auc"]
    calls = []
    monkeypatch.setattr(
        columns, "clinical_numbers", lambda folder: calls.append(1) or clinical_numbers(folder)
    )
    value = column.value(run)
    columns._once.cache_clear()  # as in another process
    assert column.value(run) == value
    assert len(calls) == 1
    record = run.record() | {"class_groups": {}}
    write_json(run.path / "record.json", record)
    assert column.value(run) is None
    assert len(calls) == 2


def test_the_command_prints_a_report(bench, run, cost_file, tmp_path):
    asked = ["--by", "sex", "--by", "lesion", "--cost", cost_file, "--prior", "backward:50"]
    answer = bench("eval", run.path, *asked, "--temperature")
    assert answer.code == 0, answer.err
    for text in (
        "100 lesions, 100 with several images (up to 2)",
        "melanoma (MEL) against the rest",
        "specificity 95.0",
        "By sex",
        "not known",
        "least expected cost",
        "Under the prior backward:50",
        "Clopper-Pearson",
    ):
        assert text in answer.out, text


def test_the_command_prints_json(bench, tmp_path):
    runs = [run_folder(tmp_path, seed=seed) for seed in range(2)]
    one = bench("eval", runs[0].name, "--results", tmp_path, "--json")
    assert json.loads(one.out) == json.loads(json.dumps(ltbench.evaluate_run(runs[0].path)))
    two = bench("eval", *(run.path for run in runs), "--json")
    assert set(json.loads(two.out)) == {"runs", "over_seeds"}
    key = bench("eval", runs[0].name.partition("/")[0], "--results", tmp_path, "--json")
    assert json.loads(key.out) == json.loads(two.out)
    text = bench("eval", *(run.path for run in runs))
    assert "seeds 0, 1" in text.out


@pytest.mark.parametrize(
    ("asked", "code", "message"),
    [
        (["--positive", "MLE"], 2, "Did you mean 'MEL'"),
        (["--by", "colour"], 2, "Available: age, sex, source"),
        (["--prior", "forward:-2"], 2, "expected uniform"),
        (["--prior", "nowhere.csv"], 3, "nowhere.csv"),
        (["--cost", "nowhere.csv"], 3, "nowhere.csv"),
        (["--specificity", "1.5"], 2, "1.5"),
        (["--lesion-rule", "max"], 2, "Name one with --positive"),
    ],
)
def test_the_command_refuses(bench, run, asked, code, message):
    answer = bench("eval", run.path, *asked)
    assert answer.code == code
    assert message in answer.err


def test_the_command_needs_no_torch(run):
    program = (
        "import sys; from ltbench.clinical.columns import clinical_numbers; "
        "from ltbench.clinical.evaluation import evaluation; "
        "from ltbench.clinical.rendering import render; from pathlib import Path; "
        "from ltbench.results import RunFolder; run = RunFolder(Path(sys.argv[1])); "
        "render(evaluation(run)); clinical_numbers(run); "
        "print({'torch', 'matplotlib'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(run.path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"
