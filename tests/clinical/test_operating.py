"""Operating points: the threshold is validation's, the rates are test's."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import sklearn.metrics as reference
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
from made_runs import predictions, relabelled, shuffled

from ltbench.clinical.operating import against_rest, choose_threshold, rates_at, threshold_of
from ltbench.clinical.positives import declared_positives, parse_positive
from ltbench.clinical.probabilities import log_odds, log_softmax
from ltbench.errors import UsageError

MEL = parse_positive("MEL", predictions().class_names, {})
BOTH = parse_positive("MEL,BCC", predictions().class_names, {})


def by_hand(scores, is_positive, goal, wanted):
    """Every candidate tried, the best kept."""
    best = None
    for threshold in [*sorted(set(scores.tolist())), np.nextafter(scores.max(), np.inf)]:
        called = scores >= threshold
        sensitivity, specificity = called[is_positive].mean(), (~called)[~is_positive].mean()
        reached, other = (
            (specificity, sensitivity) if goal == "specificity" else (sensitivity, specificity)
        )
        better = best is None or other > best[0] or (other == best[0] and goal == "sensitivity")
        if reached >= wanted - 1e-12 and better:
            best = other, threshold
    return best[1]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=2, max_size=30),
    st.sampled_from(["specificity", "sensitivity"]),
    st.sampled_from([0.1, 0.5, 0.8, 0.9, 0.95, 1.0]),
)
def test_the_threshold_is_the_best_that_reaches_the_rate(pairs, goal, wanted):
    scores = np.array([float(score) for score, _ in pairs])
    is_positive = np.array([positive for _, positive in pairs])
    is_positive[:2] = [True, False]
    got = choose_threshold(scores, is_positive, goal, wanted)
    rates, other = rates_at(scores, is_positive, None, got), "sensitivity"
    assert getattr(rates, goal).value >= wanted - 1e-12
    if goal == "sensitivity":
        other = "specificity"
    expected = rates_at(scores, is_positive, None, by_hand(scores, is_positive, goal, wanted))
    assert getattr(rates, other).value == getattr(expected, other).value


@pytest.mark.parametrize("wanted", [0.8, 0.9, 0.95, 0.99])
def test_agrees_with_scikit_learns_roc_curve(wanted):
    part = predictions(300, seed=3)
    truth, odds = part.targets == 0, log_odds(part, (0,))
    false, true, _ = reference.roc_curve(truth, odds, drop_intermediate=False)
    best = true[1 - false >= wanted - 1e-12].max()
    threshold = choose_threshold(odds, truth, "specificity", wanted)
    assert rates_at(odds, truth, None, threshold).sensitivity.value == pytest.approx(best)
    found = against_rest(None, part, MEL)
    assert found.auc == pytest.approx(reference.roc_auc_score(truth, log_softmax(part)[0][:, 0]))


def test_rates_agree_with_scikit_learn():
    part = predictions(300, seed=4)
    truth, odds = np.isin(part.targets, BOTH.indices), log_odds(part, BOTH.indices)
    rates, called = rates_at(odds, truth, part.groups, 0.3), odds >= 0.3
    assert rates.sensitivity.value == pytest.approx(reference.recall_score(truth, called))
    assert rates.specificity.value == pytest.approx(reference.recall_score(~truth, ~called))
    assert rates.ppv.value == pytest.approx(reference.precision_score(truth, called))
    assert rates.npv.value == pytest.approx(reference.precision_score(~truth, ~called))


def test_log_odds_are_those_of_the_summed_probability():
    part = predictions(50)
    p = log_softmax(part)[0][:, BOTH.indices].sum(axis=1)
    assert log_odds(part, BOTH.indices) == pytest.approx(np.log(p / (1 - p)))


def test_log_odds_tell_apart_what_rounds_to_one():
    part = replace(predictions(8), logits=np.outer(np.arange(8) + 50.0, [1, 0, 0, 0]))
    assert set(log_softmax(part)[0][:, 0].tolist()) == {1.0}
    odds = log_odds(part, (0,))
    assert (np.diff(odds) > 0.9).all()
    assert np.isfinite(log_odds(replace(part, logits=1e4 * part.logits), (0,))).all()


def test_the_threshold_never_sees_test():
    """Other test labels, other test logits: the same thresholds, to the last bit."""
    val, test = predictions(seed=1), predictions(seed=2)
    other = replace(
        test, targets=np.roll(test.targets, 7), logits=test.logits[::-1] * np.float32(3.0)
    )
    asked = {"specificities": (0.8, 0.95), "sensitivities": (0.9,)}
    one, two = (against_rest(val, part, MEL, **asked) for part in (test, other))
    assert [p.log_odds for p in one.points] == [p.log_odds for p in two.points]
    assert [p.validation for p in one.points] == [p.validation for p in two.points]
    assert [p.test for p in one.points] != [p.test for p in two.points]
    # ... and it does see validation.
    moved = against_rest(replace(val, targets=np.roll(val.targets, 7)), test, MEL, **asked)
    assert [p.log_odds for p in one.points] != [p.log_odds for p in moved.points]


@pytest.mark.parametrize("positive", [MEL, BOTH], ids=lambda one: one.name)
def test_order_and_numbering_decide_nothing(positive):
    val, test = predictions(seed=1), predictions(seed=2)
    asked = {"specificities": (0.9,), "sensitivities": (0.9,)}
    one = against_rest(val, test, positive, **asked)
    assert against_rest(shuffled(val), shuffled(test), positive, **asked) == one
    moved = [relabelled(part, (3, 1, 2, 0)) for part in (val, test)]
    name = ",".join(positive.classes)
    renamed = parse_positive(name, moved[1].class_names, {})
    again = against_rest(*moved, renamed, **asked)
    assert set(again.classes) == set(one.classes)
    assert again.points == one.points
    assert again.auc == one.auc
    odds, others = log_odds(test, positive.indices), log_odds(moved[1], renamed.indices)
    assert np.array_equal(odds, others), "a last bit decides ties"


def test_without_validation_no_threshold():
    with pytest.raises(UsageError, match="no validation part"):
        against_rest(None, predictions(), MEL, specificities=(0.95,))


@pytest.mark.parametrize(("kept", "kind"), [(0, "beside"), (1, "of")])
def test_validation_without_both_kinds_is_refused(kept, kind):
    val = predictions()
    val = replace(val, targets=np.full(len(val.ids), kept))
    with pytest.raises(UsageError, match=f"no image {kind} these classes"):
        threshold_of(val, MEL, "specificity", 0.95)


@pytest.mark.parametrize("wanted", [0.0, -0.1, 1.01, float("nan")])
def test_rates_out_of_range_are_refused(wanted):
    with pytest.raises(UsageError, match="above 0 and at most 1"):
        against_rest(predictions(), predictions(), MEL, sensitivities=(wanted,))


def test_a_test_part_without_positives_has_no_sensitivity():
    test = predictions(seed=2)
    test = replace(test, targets=np.ones(len(test.ids), dtype=np.int64))
    found = against_rest(predictions(seed=1), test, MEL, specificities=(0.95,))
    assert found.auc is None
    assert found.num_positive == 0
    assert found.points[0].test.sensitivity.value is None
    assert found.points[0].test.specificity.total == len(test.ids)


NAMES = ("MEL", "Collecting Duct, Connecting Tubule", "<b>&_", "黑色素瘤 (nævus)", "NV")
DECLARED = {"melanoma": ("MEL",), "dark": ("MEL", "黑色素瘤 (nævus)")}


@pytest.mark.parametrize(
    ("text", "name", "indices"),
    [
        ("MEL", "MEL", (0,)),
        ("melanoma", "melanoma", (0,)),
        ("dark", "dark", (0, 3)),
        ("NV, MEL", "MEL, NV", (0, 4)),
        ("melanoma,NV", "MEL, NV", (0, 4)),
        ("Collecting Duct, Connecting Tubule", "Collecting Duct, Connecting Tubule", (1,)),
        (
            '"Collecting Duct, Connecting Tubule",<b>&_',
            "Collecting Duct, Connecting Tubule, <b>&_",
            (1, 2),
        ),
        ("黑色素瘤 (nævus)", "黑色素瘤 (nævus)", (3,)),
    ],
)
def test_names_of_positive_classes(text, name, indices):
    got = parse_positive(text, NAMES, DECLARED)
    assert (got.name, got.indices) == (name, indices)
    assert got.classes == tuple(NAMES[i] for i in indices)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("melnoma", "Did you mean 'melanoma'"),
        ("Mel", "Did you mean 'MEL'"),
        (" , ", "got none"),
        ("", "got none"),
        (",".join(f'"{name}"' for name in NAMES), "leave nothing"),
    ],
)
def test_wrong_names_are_refused(text, message):
    with pytest.raises(UsageError, match=message):
        parse_positive(text, NAMES, DECLARED)


def test_declared_groups_without_a_class_here_are_left_out():
    declared = {"melanoma": ("MEL",), "carcinoma": ("SCC",), "all": ("a", "MEL")}
    got = declared_positives(("a", "MEL"), declared)
    assert [one.name for one in got] == ["melanoma"]
