"""Costs, priors and the files they come from."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import sklearn.metrics as reference

sys.path.insert(0, str(Path(__file__).parent))
from made_runs import CLASSES, COUNTS, predictions, relabelled, shuffled

from ltbench.clinical.class_files import read_cost_matrix, read_prior
from ltbench.clinical.cost import expected_cost, least_cost_decisions
from ltbench.clinical.priors import (
    class_prior,
    exponential_prior,
    prior_report,
    weighted_metrics,
)
from ltbench.clinical.probabilities import log_softmax
from ltbench.errors import DataMissingError, UsageError, VerificationError
from ltbench.metrics import evaluate

COSTS = np.array([[0, 10, 2, 10], [1, 0, 1, 1], [1, 4, 0, 4], [1, 0.5, 1, 0]], dtype=np.float64)


def write(folder, text, name="file.csv"):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_costs_by_hand():
    part = predictions(80)
    got, probabilities = expected_cost(part, COSTS, COUNTS), log_softmax(part)[0]
    argmax, least = [], []
    for i, target in enumerate(part.targets):
        argmax.append(COSTS[target, probabilities[i].argmax()])
        expected = [sum(probabilities[i, k] * COSTS[k, j] for k in range(4)) for j in range(4)]
        least.append(COSTS[target, int(np.argmin(expected))])
    assert got.most_probable.mean_cost == pytest.approx(np.mean(argmax))
    assert got.least_cost.mean_cost == pytest.approx(np.mean(least))
    melanomas = part.targets == 0
    assert got.least_cost.by_class["MEL"] == pytest.approx(np.mean(np.array(least)[melanomas]))
    assert np.sum(got.least_cost.confusion) == 80
    training = [sum(COUNTS[k] * COSTS[k, j] for k in range(4)) for j in range(4)]
    constant = int(np.argmin(training))
    assert got.constant == CLASSES[constant]
    assert got.constant_cost == pytest.approx(COSTS[part.targets, constant].mean())


def test_equal_costs_are_the_error_rate_and_the_usual_decision():
    part = predictions(80)
    costs = 1 - np.eye(4)
    assert (least_cost_decisions(part, costs) == part.logits.argmax(axis=1)).all()
    got = expected_cost(part, costs, COUNTS)
    assert got.least_cost == got.most_probable
    assert got.least_cost.mean_cost == pytest.approx(1 - evaluate(part, COUNTS)["accuracy"])


def test_decisions_follow_numbering_and_order():
    part, order = predictions(80), (3, 1, 0, 2)
    moved = least_cost_decisions(relabelled(part, order), COSTS[np.ix_(order, order)])
    assert (np.array(order)[moved] == least_cost_decisions(part, COSTS)).all()
    one, two = (expected_cost(p, COSTS, COUNTS) for p in (part, shuffled(part)))
    assert one.least_cost.confusion == two.least_cost.confusion


def test_a_class_without_an_image_has_no_cost():
    part = predictions(80)
    part = replace(part, targets=np.where(part.targets == 3, 1, part.targets))
    assert expected_cost(part, COSTS, COUNTS).least_cost.by_class["DF"] is None


def test_a_cost_matrix_is_read_by_names_in_any_order(tmp_path):
    text = "truth,DF,MEL,NV,BCC\nNV,1,1,0,1\nMEL,10,0,10,2\nDF,0,1,0.5,1\nBCC,4,1,4,0\n"
    assert np.array_equal(read_cost_matrix(write(tmp_path, text), CLASSES), COSTS)
    excel = "\ufeff" + text.replace(",", ";").replace("\n", "\r\n")
    assert np.array_equal(read_cost_matrix(write(tmp_path, excel), CLASSES), COSTS)


def test_class_names_with_commas_and_other_letters(tmp_path):
    names = ("Collecting Duct, Connecting Tubule", "<b>&_", "黑色素瘤")
    text = (
        'truth,<b>&_,黑色素瘤,"Collecting Duct, Connecting Tubule"\n'
        "<b>&_,0,1,2\n黑色素瘤,3,0,4\n"
        '"Collecting Duct, Connecting Tubule",5,6,0\n'
    )
    got = read_cost_matrix(write(tmp_path, text), names)
    assert got.tolist() == [[0, 5, 6], [2, 0, 1], [4, 3, 0]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("truth,a\na,0\n", "no 'b'"),
        ("truth,a,b\na,0,1\n", "Expected every class in column 'truth'.*no 'b'"),
        ("truth,a,b,B\na,0,1,1\nb,1,0,1\n", "'B'; did you mean 'b'"),
        ("truth,a,b\na,0,1\nb,1,0\na,0,1\n", "once in column 'truth'"),
        ("truth,a,b\na,0,-1\nb,1,0\n", r"0 or more in column 'b'.*row 2 \(-1\)"),
        ("truth,a,b\na,0,nan\nb,1,0\n", r"row 2 \(nan\)"),
        ("truth,a,b\na,0,inf\nb,1,0\n", r"row 2 \(inf\)"),
        ("truth,a,b\na,0,\nb,1,0\n", r"row 2 \(empty\)"),
        ("truth,a,b\na,0,much\nb,1,0\n", r"row 2 \(much\)"),
        ("truth,a,b\na,0,0\nb,0,0\n", "a cost above 0"),
        (",a,b\na,0,1\nb,1,0\n", "Expected 'truth'"),
        ("a,b\n0,1\n1,0\n", "Expected 'truth'"),
        ("truth,a,b\na,0,1,3\nb,1,0\n", "3 fields a row"),
    ],
)
def test_wrong_cost_files_are_refused(tmp_path, text, message):
    with pytest.raises(VerificationError, match=f"(?s){message}"):
        read_cost_matrix(write(tmp_path, text), ("a", "b"))


def test_a_file_that_is_not_there():
    with pytest.raises(DataMissingError):
        read_cost_matrix(Path("nowhere.csv"), ("a", "b"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("class,share\na,1\nb,0\n", r"shares above 0.*\(b\)"),
        ("class,share\na,1\n", "no 'b'"),
        ("class,share\na,1\nb,x\n", r"\(x\)"),
        ("class,share\na,1\nb,1\nc,1\n", "'c'"),
        ("name,share\na,1\nb,1\n", "class,share"),
    ],
)
def test_wrong_prior_files_are_refused(tmp_path, text, message):
    with pytest.raises(VerificationError, match=f"(?s){message}"):
        read_prior(write(tmp_path, text), ("a", "b"))


def test_priors_by_name(tmp_path):
    file = write(tmp_path, "class,share\nb,30\na,10\n")
    assert class_prior(str(file), ("a", "b"), (1, 2)).tolist() == [0.25, 0.75]
    assert class_prior("uniform", ("a", "b"), (1, 2)).tolist() == [0.5, 0.5]
    assert class_prior("train", ("a", "b"), (1, 3)).tolist() == [0.25, 0.75]


@pytest.mark.parametrize("text", ["even", "forward", "forward:", "sideways:3", ""])
def test_unknown_priors_are_refused(text):
    with pytest.raises(UsageError, match="uniform, train, forward:R"):
        class_prior(text, ("a", "b"), (1, 2))


@pytest.mark.parametrize("text", ["forward:0.5", "backward:0", "forward:1e999", "forward:1.2.3"])
def test_wrong_ratios_are_refused(text):
    with pytest.raises(UsageError, match="ratio of at least 1"):
        class_prior(text, ("a", "b"), (1, 2))


@pytest.mark.parametrize(("num_classes", "ratio"), [(10, 50), (100, 50), (8, 2), (2, 25)])
def test_exponential_priors_are_those_of_sade(num_classes, ratio):
    """get_img_num_per_cls of its code, before numbers are truncated: classes by falling size."""
    counts = np.geomspace(1000, 5, num_classes)
    forward = np.array([(1 / ratio) ** (k / (num_classes - 1.0)) for k in range(num_classes)])
    backward = np.array(
        [(1 / ratio) ** ((num_classes - 1 - k) / (num_classes - 1.0)) for k in range(num_classes)]
    )
    assert exponential_prior(counts, ratio) == pytest.approx(forward / forward.sum())
    assert exponential_prior(counts, ratio, backward=True) == pytest.approx(
        backward / backward.sum()
    )
    got = exponential_prior(counts, ratio)
    assert got.max() / got.min() == pytest.approx(ratio)
    order = np.random.default_rng(0).permutation(num_classes)
    assert exponential_prior(counts[order], ratio) == pytest.approx(got[order])


def test_classes_of_one_size_share_their_ranks():
    assert exponential_prior((5, 5, 5), 50) == pytest.approx(np.full(3, 1 / 3))
    got = exponential_prior((9, 5, 5, 1), 8)
    assert got[1] == got[2] == pytest.approx(math.sqrt(got[0] * got[3]))


def test_a_ratio_of_one_is_uniform():
    assert exponential_prior((9, 5, 1), 1) == pytest.approx(np.full(3, 1 / 3))


def test_weights_of_one_give_the_metrics():
    part = predictions(150)
    got, expected = weighted_metrics(part, np.ones(150)), evaluate(part, COUNTS)
    assert got == pytest.approx({name: expected[name] for name in got}, abs=1e-14)


def test_weighted_metrics_agree_with_scikit_learn():
    part = predictions(150)
    weights = np.random.default_rng(5).uniform(0.1, 3, 150)
    got, decided = weighted_metrics(part, weights), part.logits.argmax(axis=1)
    probabilities, by = log_softmax(part)[0], {"sample_weight": weights}
    precision, recall, f1, _ = reference.precision_recall_fscore_support(
        part.targets, decided, average="macro", zero_division=0, **by
    )
    assert got["accuracy"] == pytest.approx(reference.accuracy_score(part.targets, decided, **by))
    assert got["balanced_accuracy"] == pytest.approx(recall)
    assert got["macro_precision"] == pytest.approx(precision)
    assert got["macro_f1"] == pytest.approx(f1)
    assert got["nll"] == pytest.approx(reference.log_loss(part.targets, probabilities, **by))
    auc = reference.roc_auc_score(
        np.eye(4)[part.targets], probabilities, average="macro", sample_weight=weights
    )
    assert got["macro_auc"] == pytest.approx(auc)
    brier = np.average(
        ((probabilities - np.eye(4)[part.targets]) ** 2).sum(axis=1), weights=weights
    )
    assert got["brier"] == pytest.approx(brier)


def test_whole_weights_are_copies_of_images():
    part = predictions(60)
    times = np.random.default_rng(5).integers(1, 4, 60)
    copies = replace(
        part,
        ids=np.array([f"i{i}" for i in range(times.sum())]),
        targets=np.repeat(part.targets, times),
        logits=np.repeat(part.logits, times, axis=0),
        groups=None,
        metadata={},
    )
    expected = evaluate(copies, COUNTS)
    got = weighted_metrics(part, times.astype(np.float64))
    assert got == pytest.approx({name: expected[name] for name in got}, abs=1e-12)


def test_the_priors_it_has_change_nothing():
    """The test prior: weights of 1. The training prior: no shift of logits."""
    part = predictions(150)
    shares = np.bincount(part.targets, minlength=4) / 150
    got = prior_report(part, shares, COUNTS)
    assert got.reweighted == pytest.approx(got.as_measured)
    assert got.effective_images == pytest.approx(150)
    trained = prior_report(part, np.array(COUNTS) / sum(COUNTS), COUNTS)
    assert trained.adjusted == pytest.approx(trained.reweighted)


def test_sensitivities_do_not_depend_on_the_prior():
    part = predictions(150)
    got = prior_report(part, exponential_prior(COUNTS, 50, backward=True), COUNTS)
    assert got.reweighted["balanced_accuracy"] == pytest.approx(
        got.as_measured["balanced_accuracy"]
    )
    recalls = np.array(evaluate(part, COUNTS)["per_class"]["sensitivity"])
    prior = np.array(list(got.prior.values()))
    assert got.reweighted["accuracy"] == pytest.approx(prior @ recalls)
    uniform = prior_report(part, np.full(4, 0.25), COUNTS)
    assert uniform.reweighted["accuracy"] == pytest.approx(uniform.as_measured["balanced_accuracy"])


def test_adjusted_probabilities_are_saerens():
    """p'(c) proportional to p(c) prior(c) / train_prior(c), equation 2.4."""
    part = predictions(60)
    prior, trained = np.array([0.1, 0.2, 0.3, 0.4]), np.array(COUNTS) / sum(COUNTS)
    ours = log_softmax(part)[0] * prior / trained
    ours /= ours.sum(axis=1, keepdims=True)
    weights = (prior * 60 / np.bincount(part.targets, minlength=4))[part.targets]
    got = prior_report(part, prior, COUNTS)
    expected = np.average(-np.log(ours[np.arange(60), part.targets]), weights=weights)
    assert got.adjusted["nll"] == pytest.approx(expected)
    right = np.average(ours.argmax(axis=1) == part.targets, weights=weights)
    assert got.adjusted["accuracy"] == pytest.approx(right)
    assert got.effective_images == pytest.approx(weights.sum() ** 2 / (weights**2).sum())


def test_classes_without_a_test_image_are_told():
    part = predictions(80)
    part = replace(part, targets=np.where(part.targets == 3, 1, part.targets))
    got = prior_report(part, np.full(4, 0.25), COUNTS)
    assert got.absent == ("DF",)
    assert got.absent_share == 0.25
    assert got.reweighted["accuracy"] == pytest.approx(got.reweighted["balanced_accuracy"])


def test_one_class_alone_has_no_auc():
    part = replace(predictions(10), targets=np.zeros(10, dtype=np.int64))
    assert weighted_metrics(part, np.ones(10))["macro_auc"] is None


def test_a_class_that_was_never_trained_has_no_prior():
    with pytest.raises(UsageError, match="training has no image of DF"):
        prior_report(predictions(), np.full(4, 0.25), (1, 1, 1, 0))


def test_nan_is_refused():
    part = predictions(10)
    part.logits[3, 1] = np.nan
    for compute in (
        lambda: prior_report(part, np.full(4, 0.25), COUNTS),
        lambda: expected_cost(part, COSTS, COUNTS),
    ):
        with pytest.raises(VerificationError, match="image-00003"):
            compute()
