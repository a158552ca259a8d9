"""Metrics against scikit-learn, torchmetrics and numbers worked out by hand."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import warnings

import numpy as np
import pytest
import sklearn.metrics as reference
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ltbench.errors import UsageError, VerificationError
from ltbench.metrics import (
    METRICS,
    SELECTION_RULES,
    class_report,
    confusion_matrix,
    evaluate,
    selection_value,
    validation_summary,
)
from ltbench.predictions import Predictions

COUNTS = (500, 101, 100, 20, 19)


def made(logits, targets) -> Predictions:
    logits = np.asarray(logits)
    return Predictions(
        ids=np.array([f"image_{i}" for i in range(len(logits))], dtype=str),
        targets=np.asarray(targets, dtype=np.int64),
        logits=logits,
        class_names=tuple(f"class_{k}" for k in range(logits.shape[1])),
    )


def random_predictions(case: str) -> Predictions:
    rng = np.random.default_rng(7)
    num_images = {"one image": 1}.get(case, 80)
    targets = rng.integers(0, 5, num_images)
    logits = rng.normal(size=(num_images, 5)) + 1.5 * np.eye(5)[targets]
    if case == "absent class":
        targets[targets == 3] = 1
    elif case == "absent and never predicted class":
        targets[targets == 3] = 1
        logits[:, 3] = -20
    elif case == "never predicted class":
        logits[:, 2] = -20
    elif case == "one class in the truth":
        targets[:] = 4
    elif case == "one class predicted":
        logits[:, 0] = 20
    elif case == "ties":
        logits = np.round(logits)
    elif case == "huge logits":
        logits = np.where(logits > 0, 1e4, -1e4)
    dtype = {"float16": np.float16, "float64": np.float64}.get(case, np.float32)
    return made(logits.astype(dtype), targets)


CASES = (
    "plain",
    "absent class",
    "absent and never predicted class",
    "never predicted class",
    "one class in the truth",
    "one class predicted",
    "ties",
    "huge logits",
    "one image",
    "float16",
    "float64",
)


def softmax(predictions: Predictions) -> np.ndarray:
    """Exact sums (fsum), so that rows with the same logits in another order stay tied."""
    logits = predictions.logits.astype(np.float64)
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / np.array([[math.fsum(row)] for row in exponentials])


def equal(got: float | None, expected: float | None) -> bool:
    if got is None or expected is None:
        return got is expected
    return got == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_label_metrics_agree_with_scikit_learn(case):
    predictions = random_predictions(case)
    targets, predicted = predictions.targets, predictions.logits.argmax(axis=1)
    got = evaluate(predictions, COUNTS)
    present = np.unique(targets)
    precision, recall, f1, _ = reference.precision_recall_fscore_support(
        targets, predicted, labels=present, average="macro", zero_division=0
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of predicted classes that the truth lacks
        balanced = reference.balanced_accuracy_score(targets, predicted)
    assert got["accuracy"] == reference.accuracy_score(targets, predicted)
    assert equal(got["balanced_accuracy"], balanced)
    assert equal(got["macro_sensitivity"], recall)
    assert equal(got["macro_precision"], precision)
    assert equal(got["macro_f1"], f1)
    assert (
        got["confusion"] == reference.confusion_matrix(targets, predicted, labels=range(5)).tolist()
    )
    if len(present) > 1:
        assert equal(got["mcc"], reference.matthews_corrcoef(targets, predicted))
        assert equal(got["cohen_kappa"], reference.cohen_kappa_score(targets, predicted))
    else:
        assert got["mcc"] is None
        assert got["cohen_kappa"] is None


@pytest.mark.parametrize("case", CASES)
def test_per_class_rows_agree_with_scikit_learn(case):
    predictions = random_predictions(case)
    targets, predicted = predictions.targets, predictions.logits.argmax(axis=1)
    rows = evaluate(predictions, COUNTS)["per_class"]
    for k in range(5):
        truth, guess = targets == k, predicted == k
        has, lacks, guessed = truth.any(), (~truth).any(), guess.any()
        precision = reference.precision_score(truth, guess) if guessed else None
        sensitivity = reference.recall_score(truth, guess) if has else None
        specificity = reference.recall_score(~truth, ~guess) if lacks else None
        f1 = reference.f1_score(truth, guess) if has else None
        auc = reference.roc_auc_score(truth, softmax(predictions)[:, k]) if has and lacks else None
        assert equal(rows["precision"][k], precision)
        assert equal(rows["sensitivity"][k], sensitivity)
        assert equal(rows["specificity"][k], specificity)
        assert equal(rows["f1"][k], f1)
        assert equal(rows["auc"][k], auc)
        assert rows["support"][k] == truth.sum()
    assert rows["train_count"] == list(COUNTS)
    assert rows["class_names"] == list(predictions.class_names)


@pytest.mark.parametrize("case", CASES)
def test_probability_metrics_agree_with_scikit_learn(case):
    predictions = random_predictions(case)
    got = evaluate(predictions, COUNTS)
    probabilities = softmax(predictions)
    truth = np.eye(5)[predictions.targets]
    assert equal(got["brier"], float(((probabilities - truth) ** 2).sum(axis=1).mean()))
    assert equal(
        got["brier"],
        reference.brier_score_loss(predictions.targets, probabilities, labels=range(5)),
    )
    if case != "huge logits":  # scikit-learn clips probabilities of 0, and so its loss
        loss = reference.log_loss(predictions.targets, probabilities, labels=range(5))
        assert got["nll"] == pytest.approx(loss, rel=1e-9)


def test_macro_auc_is_scikit_learns_where_all_classes_are_present():
    predictions = random_predictions("plain")
    got = evaluate(predictions, COUNTS)
    expected = reference.roc_auc_score(
        predictions.targets, softmax(predictions), multi_class="ovr", average="macro"
    )
    assert equal(got["macro_auc"], expected)
    assert got["macro_auc_raw_logits"] != got["macro_auc"]


@pytest.mark.parametrize("case", ["plain", "ties", "float16", "huge logits"])
def test_torchmetrics_agrees_where_all_classes_are_present(case):
    torch = pytest.importorskip("torch")
    second = pytest.importorskip("torchmetrics.functional.classification")
    predictions = random_predictions(case)
    got = evaluate(predictions, COUNTS)
    targets = torch.from_numpy(predictions.targets)
    predicted = torch.from_numpy(predictions.logits.argmax(axis=1))
    probabilities = torch.from_numpy(softmax(predictions))
    macro = {"num_classes": 5, "average": "macro"}
    expected = {
        "macro_precision": second.multiclass_precision(predicted, targets, **macro),
        "macro_sensitivity": second.multiclass_recall(predicted, targets, **macro),
        "macro_f1": second.multiclass_f1_score(predicted, targets, **macro),
        "mcc": second.multiclass_matthews_corrcoef(predicted, targets, 5),
        "cohen_kappa": second.multiclass_cohen_kappa(predicted, targets, 5),
        "macro_auc": second.multiclass_auroc(probabilities, targets, **macro),
    }
    if case != "huge logits":  # its bins are closed below: confidence 1/2 and 1/3 fall elsewhere
        expected["ece"] = second.multiclass_calibration_error(probabilities, targets, 5, n_bins=15)
    for name, value in expected.items():
        assert got[name] == pytest.approx(float(value), abs=2e-6), name


def test_calibration_error_and_brier_by_hand():
    p = np.array([[0.9, 0.1], [0.9, 0.1], [0.3, 0.7], [0.45, 0.55]])
    got = evaluate(made(np.log(p), [0, 1, 1, 1]), (30, 30))
    # Bins of width 1/15: {0.9, 0.9}, one of two right; {0.7}, right; {0.55}, right.
    assert got["ece"] == pytest.approx((2 * abs(0.5 - 0.9) + abs(1 - 0.7) + abs(1 - 0.55)) / 4)
    assert got["brier"] == pytest.approx(2 * (0.1**2 + 0.9**2 + 0.3**2 + 0.45**2) / 4)
    assert got["nll"] == pytest.approx(-np.log([0.9, 0.1, 0.7, 0.55]).mean())


def test_errors_of_opposite_sign_cancel_within_a_bin_only():
    p = np.array([[0.75, 0.25]] * 4)
    assert evaluate(made(np.log(p), [0, 0, 0, 1]), (5, 5))["ece"] == pytest.approx(0, abs=1e-12)


def test_a_confidence_on_an_edge_belongs_to_the_bin_below():
    # Confidence 1/3 ends bin 5, (4/15, 5/15]. With 0.35, of bin 6, the errors must not cancel.
    p = np.array([[1 / 3, 1 / 3, 1 / 3], [0.35, 0.33, 0.32]])
    got = evaluate(made(np.log(p), [0, 1]), (5, 5, 5))
    assert got["ece"] == pytest.approx(((1 - 1 / 3) + 0.35) / 2)


def test_a_class_given_up_counts_as_precision_zero_but_shows_a_dash():
    got = evaluate(made(np.eye(3)[[0, 1, 1]], [0, 1, 2]), (200, 50, 5))
    assert got["per_class"]["precision"] == [1.0, 0.5, None]
    assert got["per_class"]["f1"] == [1.0, pytest.approx(2 / 3), 0.0]
    assert got["macro_precision"] == 0.5
    assert got["macro_f1"] == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert got["worst_class_sensitivity"] == 0.0


def test_an_absent_class_is_left_out_but_predicting_it_is_an_error():
    got = evaluate(made(np.eye(3)[[0, 0, 2, 1]], [0, 0, 0, 1]), (200, 50, 5))
    rows = got["per_class"]
    assert rows["sensitivity"] == [pytest.approx(2 / 3), 1.0, None]
    assert rows["precision"] == [1.0, 1.0, 0.0]
    assert rows["f1"] == [pytest.approx(0.8), 1.0, None]
    assert rows["specificity"] == [1.0, 1.0, 0.75]
    assert rows["auc"][2] is None
    assert got["macro_precision"] == 1.0
    assert got["balanced_accuracy"] == pytest.approx((2 / 3 + 1) / 2)
    assert set(got["classes_averaged"].values()) == {2}


def test_balanced_accuracy_is_not_macro_recall_with_zeros():
    predictions = random_predictions("absent class")
    predicted = predictions.logits.argmax(axis=1)
    zeros = reference.recall_score(predictions.targets, predicted, average="macro", zero_division=0)
    assert evaluate(predictions, COUNTS)["balanced_accuracy"] == pytest.approx(zeros * 5 / 4)


def test_the_first_of_tied_classes_is_predicted_and_ties_are_counted():
    got = evaluate(made([[1, 1, 0], [0, 2, 2], [3, 0, 0]], [1, 1, 0]), (1, 1, 1))
    assert got["num_tied"] == 2
    assert got["confusion"] == [[1, 0, 0], [1, 1, 0], [0, 0, 0]]


def test_confusion_counts_images_by_true_row_and_predicted_column():
    targets, predicted = np.array([0, 0, 1]), np.array([2, 2, 1])
    assert confusion_matrix(targets, predicted, 3).tolist() == [[0, 0, 2], [0, 1, 0], [0, 0, 0]]
    small = confusion_matrix(np.array([199], np.uint8), np.array([198], np.uint8), 200)
    assert small[199, 198] == small.sum() == 1


def test_logits_of_ten_thousand_stay_finite_and_exact():
    got = evaluate(made(np.array([[1e4, -1e4], [1e4, -1e4]], np.float32), [0, 1]), (5, 5))
    assert got["nll"] == 1e4  # (0 + 2e4) / 2
    assert got["brier"] == 1.0
    assert got["ece"] == 0.5


def test_float16_logits_are_scored_in_float64():
    logits = np.random.default_rng(0).normal(size=(50, 5)).astype(np.float16)
    targets = np.arange(50) % 5
    wide = evaluate(made(logits.astype(np.float64), targets), COUNTS)
    assert evaluate(made(logits, targets), COUNTS) == wide


def test_a_data_set_of_one_class():
    got = evaluate(made([[0.3], [2.0]], [0, 0]), (12,))
    assert got["accuracy"] == got["macro_f1"] == got["macro_precision"] == 1.0
    assert got["macro_auc"] is None
    assert got["mcc"] is None
    assert got["nll"] == got["ece"] == got["brier"] == 0.0
    assert str(got["nll"]) == "0.0"
    assert got["per_class"]["specificity"] == [None]
    assert got["classes_averaged"]["macro_auc"] == 0


def test_groups_follow_the_training_counts():
    got = evaluate(random_predictions("plain"), COUNTS)
    groups, sensitivity = got["groups"], got["per_class"]["sensitivity"]
    assert groups["head"]["classes"] == ["class_0", "class_1"]
    assert groups["medium"]["classes"] == ["class_2", "class_3"]
    assert groups["tail"]["classes"] == ["class_4"]
    assert groups["head"]["sensitivity"] == pytest.approx((sensitivity[0] + sensitivity[1]) / 2)
    assert groups["tail"]["sensitivity"] == sensitivity[4]


def test_an_empty_group_and_a_group_without_test_images_have_no_sensitivity():
    got = evaluate(random_predictions("absent class"), (500, 500, 500, 50, 500))
    assert got["groups"]["tail"] == {"classes": [], "sensitivity": None}
    assert got["groups"]["medium"] == {"classes": ["class_3"], "sensitivity": None}


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("score", [lambda p: evaluate(p, (1, 1)), validation_summary])
def test_logits_that_are_not_finite_are_refused_by_name(bad, score):
    logits = np.zeros((5, 2), np.float32)
    logits[2, 0] = logits[4, 1] = bad
    with pytest.raises(VerificationError, match=r"2 of 5 images .* 'image_2'"):
        score(made(logits, [0, 1, 0, 1, 0]))


@pytest.mark.parametrize("score", [lambda p: evaluate(p, (1, 1)), validation_summary])
def test_no_predictions_are_refused(score):
    with pytest.raises(VerificationError, match="No predictions"):
        score(made(np.zeros((0, 2)), []))


def test_arrays_that_do_not_fit_are_refused():
    with pytest.raises(VerificationError, match="do not fit"):
        evaluate(made(np.zeros((3, 2)), [0, 1]), (1, 1))
    with pytest.raises(VerificationError, match="from 0 to 2"):
        evaluate(made(np.zeros((2, 2)), [0, 2]), (1, 1))
    with pytest.raises(VerificationError, match="each of 2 classes"):
        evaluate(made(np.zeros((2, 2)), [0, 1]), (1, 1, 1))


@st.composite
def any_predictions(draw):
    num_images, num_classes = draw(st.integers(1, 12)), draw(st.integers(1, 5))
    # Quarters make ties common, between classes and between images.
    quarters = arrays.arrays(np.int8, (num_images, num_classes), elements=st.integers(-12, 12))
    targets = arrays.arrays(np.int64, num_images, elements=st.integers(0, num_classes - 1))
    return made((draw(quarters) / 4).astype(np.float32), draw(targets))


def numbers_of(metrics):
    return {name: metric.read(metrics) for name, metric in METRICS.items()}


@settings(max_examples=60, deadline=None)
@given(any_predictions(), st.randoms(use_true_random=False))
def test_the_order_of_images_does_not_matter(predictions, random):
    order = list(range(len(predictions.targets)))
    random.shuffle(order)
    counts = COUNTS[: predictions.logits.shape[1]]
    shuffled = made(predictions.logits[order], predictions.targets[order])
    before, after = evaluate(predictions, counts), evaluate(shuffled, counts)
    assert after["confusion"] == before["confusion"]
    assert all(equal(numbers_of(after)[k], v) for k, v in numbers_of(before).items())


@settings(max_examples=60, deadline=None)
@given(any_predictions(), st.randoms(use_true_random=False))
def test_the_numbering_of_classes_does_not_matter(predictions, random):
    # Without ties between classes: which class comes first is what settles those.
    step = np.arange(predictions.logits.shape[1]) / 64
    predictions = made(predictions.logits + step, predictions.targets)
    num_classes = predictions.logits.shape[1]
    order = list(range(num_classes))
    random.shuffle(order)
    counts = COUNTS[:num_classes]
    renumbered = made(predictions.logits[:, order], np.argsort(order)[predictions.targets])
    before = evaluate(predictions, counts)
    after = evaluate(renumbered, [counts[k] for k in order])
    assert all(equal(numbers_of(after)[k], v) for k, v in numbers_of(before).items())
    for name in ("precision", "sensitivity", "specificity", "f1", "auc", "support"):
        assert after["per_class"][name] == [before["per_class"][name][k] for k in order]


def test_a_new_numbering_keeps_ties_between_probabilities():
    # Rows that are permutations of each other: the sums of their exponentials must be the same.
    rng = np.random.default_rng(3)
    row = rng.normal(size=8)
    logits = np.array([[row[0], *rng.permutation(row[1:])] for _ in range(40)])
    targets = np.arange(40) % 8
    assert evaluate(made(logits, targets), [5] * 8)["per_class"]["auc"][0] == 0.5


@settings(max_examples=60, deadline=None)
@given(any_predictions())
def test_results_are_json_and_within_their_bounds(predictions):
    got = evaluate(predictions, COUNTS[: predictions.logits.shape[1]])
    assert json.loads(json.dumps(got, allow_nan=False)) == got
    for name, metric in METRICS.items():
        value = metric.read(got)
        assert value is None or not metric.percent or 0 <= value <= 1, name
    assert -1 - 1e-12 <= (got["mcc"] or 0) <= 1 + 1e-12
    assert 0 <= got["brier"] <= 2
    assert got["nll"] >= 0


@settings(max_examples=60, deadline=None)
@given(any_predictions())
def test_the_validation_summary_is_a_part_of_the_evaluation(predictions):
    summary = validation_summary(predictions)
    whole = evaluate(predictions, COUNTS[: predictions.logits.shape[1]])
    rows = summary.pop("per_class")
    assert summary == {name: whole[name] for name in summary}
    assert rows == {name: whole["per_class"][name] for name in ("sensitivity", "f1")}


def test_class_report_is_exact_and_zero_where_undefined():
    targets, predicted = np.array([0, 0, 0, 1, 3]), np.array([0, 0, 2, 1, 1])
    report = class_report(targets, predicted, 5)
    precision, recall, f1, support = reference.precision_recall_fscore_support(
        targets, predicted, labels=range(5), zero_division=0
    )
    np.testing.assert_allclose(report.precision, precision, rtol=1e-15)
    np.testing.assert_allclose(report.recall, recall, rtol=1e-15)
    np.testing.assert_allclose(report.f1, f1, rtol=1e-15)
    np.testing.assert_array_equal(report.support, support)
    assert all(column.dtype == np.float64 and column.shape == (5,) for column in report)


def test_class_report_has_the_fields_of_the_contract():
    from dataclasses import fields

    from ltbench.method import ClassReport

    report = class_report(np.array([0]), np.array([0]), 2)
    assert report._fields == tuple(field.name for field in fields(ClassReport))


def test_selection_values_come_from_the_summary():
    summary = validation_summary(random_predictions("plain"))
    for rule, name in SELECTION_RULES.items():
        assert selection_value(summary, rule) == summary[name]
    assert selection_value(summary, "val.macro-f1") == summary["macro_f1"]


def test_an_unknown_selection_rule_suggests_the_nearest():
    with pytest.raises(UsageError, match=r"Did you mean 'val\.accuracy'\?"):
        selection_value({}, "val.acuracy")


def test_the_catalogue_covers_what_is_evaluated():
    metrics = evaluate(random_predictions("plain"), COUNTS)
    assert all(metric.read(metrics) is not None for metric in METRICS.values())
    assert all("\n" not in metric.definition for metric in METRICS.values())
    columns = [metric.paper_column for metric in METRICS.values() if metric.paper_column]
    assert columns == ["Acc", "Sen", "Pre", "F1", "AUC"]
    numbers = {name for name, value in metrics.items() if isinstance(value, float)}
    assert numbers <= set(METRICS)


def test_importing_the_module_loads_no_heavy_library():
    code = (
        "import sys, ltbench.metrics as m; import numpy as np; "
        "from ltbench.predictions import Predictions as P; "
        "m.validation_summary(P(np.array(['a']), np.array([0]), np.zeros((1, 2)), ('x', 'y'))); "
        "print(sorted({'sklearn', 'torch', 'scipy', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
