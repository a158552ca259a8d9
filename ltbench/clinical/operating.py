"""Operating points: some classes against the rest at a threshold that validation chose."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from ltbench.clinical.positives import Positive
from ltbench.clinical.probabilities import log_odds
from ltbench.clinical.proportions import LEVEL, Proportion, proportion
from ltbench.errors import UsageError
from ltbench.predictions import Predictions

__all__ = [
    "Against",
    "BinaryRates",
    "OperatingPoint",
    "against_rest",
    "binary_auc",
    "choose_threshold",
    "rates_at",
    "threshold_of",
]

Goal = Literal["specificity", "sensitivity"]
# A wanted rate such as 0.95 of 20 is 19, whatever the last bit of the product says.
_SLACK: Final = 1e-9


@dataclass(frozen=True)
class BinaryRates:
    """What a threshold makes of one part: at or above it an image counts as positive.

    `sensitivity` is TP / (TP + FN), `specificity` TN / (TN + FP), `ppv` TP / (TP + FP), `npv`
    TN / (TN + FN). `ppv` and `npv` hold for a share of positives as in this part, and for no other.
    """

    sensitivity: Proportion
    specificity: Proportion
    ppv: Proportion
    npv: Proportion


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold, where it comes from, and what came out.

    Attributes:
        goal: the rate that was to be reached on validation.
        wanted: at least this.
        threshold: probability of the positive classes together, rounded by float64 near 0 and 1.
        log_odds: the same as log(p / (1 - p)), which is what is compared.
        validation: rates there, by which it was chosen.
        test: rates at that threshold; their intervals hold for it, and do not contain that another
            validation part would have given another one.
    """

    goal: Goal
    wanted: float
    threshold: float
    log_odds: float
    validation: BinaryRates
    test: BinaryRates


@dataclass(frozen=True)
class Against:
    """Some classes against the rest, on the test part.

    Attributes:
        num_positive, num_negative: test images (or units) of either kind.
        auc: area under the ROC curve, ties counted half; None without both kinds.
        points: one an asked goal.
    """

    name: str
    classes: tuple[str, ...]
    num_positive: int
    num_negative: int
    auc: float | None
    points: tuple[OperatingPoint, ...]


def against_rest(
    validation: Predictions | None,
    test: Predictions,
    positive: Positive,
    *,
    specificities: tuple[float, ...] = (),
    sensitivities: tuple[float, ...] = (),
    level: float = LEVEL,
) -> Against:
    """Operating points of `positive` against the rest.

    Args:
        validation: chooses the thresholds; needed where any rate is wanted.
        specificities: sensitivity is reported at each of these, in (0, 1].
        sensitivities: specificity is reported at each of these, in (0, 1].

    Raises:
        UsageError: no validation part, or it lacks positives or negatives; a rate out of range.
        VerificationError: predictions that cannot be scored.
    """
    odds, truth = log_odds(test, positive.indices), np.isin(test.targets, positive.indices)
    wanted: list[tuple[Goal, float]] = [("specificity", rate) for rate in specificities]
    wanted += [("sensitivity", rate) for rate in sensitivities]
    points = []
    for goal, rate in wanted:
        threshold = threshold_of(validation, positive, goal, rate)
        assert validation is not None
        there = log_odds(validation, positive.indices)
        is_positive = np.isin(validation.targets, positive.indices)
        points.append(
            OperatingPoint(
                goal=goal,
                wanted=rate,
                threshold=1 / (1 + math.exp(-threshold)) if threshold > -700 else 0.0,
                log_odds=threshold,
                validation=rates_at(there, is_positive, validation.groups, threshold, level=level),
                test=rates_at(odds, truth, test.groups, threshold, level=level),
            )
        )
    return Against(
        name=positive.name,
        classes=positive.classes,
        num_positive=int(truth.sum()),
        num_negative=int((~truth).sum()),
        auc=binary_auc(truth, odds),
        points=tuple(points),
    )


def threshold_of(
    validation: Predictions | None, positive: Positive, goal: Goal, wanted: float
) -> float:
    """The threshold, in log-odds, that reaches a rate on validation.

    Raises:
        UsageError: no validation part, or it lacks positives or negatives; a rate out of range.
    """
    if validation is None:
        raise UsageError(
            "A threshold is taken on validation, and this run's protocol has no validation part. "
            "One taken on test would promise more than it holds: train under a protocol with "
            "validation."
        )
    is_positive = np.isin(validation.targets, positive.indices)
    for kind, count in (("of", is_positive.sum()), ("beside", (~is_positive).sum())):
        if count == 0:
            raise UsageError(
                f"A threshold for {positive.title} is taken on validation, which has no image "
                f"{kind} these classes. Take other classes with --positive, or another protocol."
            )
    return choose_threshold(log_odds(validation, positive.indices), is_positive, goal, wanted)


def choose_threshold(
    scores: np.ndarray, is_positive: np.ndarray, goal: Goal, wanted: float
) -> float:
    """The threshold that reaches a rate and gives up as little as possible of the other one.

    Candidates are the scores themselves, and one just above the largest. For a specificity it is
    the smallest with TN / (TN + FP) >= wanted, for a sensitivity the largest with TP / (TP + FN)
    >= wanted.

    Args:
        scores: float64 (n,), finite; larger is more positive.
        is_positive: bool (n,), with both kinds.
        wanted: in (0, 1].

    Raises:
        UsageError: a rate out of range.
    """
    if not 0 < wanted <= 1:
        raise UsageError(f"Expected a {goal} above 0 and at most 1, such as 0.95; got {wanted}.")
    candidates = np.unique(scores)
    candidates = np.append(candidates, np.nextafter(candidates[-1], np.inf))
    negatives, positives = np.sort(scores[~is_positive]), np.sort(scores[is_positive])
    if goal == "specificity":
        below = np.searchsorted(negatives, candidates, side="left")
        reached = below >= wanted * len(negatives) - _SLACK
        return float(candidates[np.argmax(reached)])
    at_or_above = len(positives) - np.searchsorted(positives, candidates, side="left")
    reached = at_or_above >= wanted * len(positives) - _SLACK
    return float(candidates[np.flatnonzero(reached)[-1]])


def rates_at(
    scores: np.ndarray,
    is_positive: np.ndarray,
    groups: np.ndarray | None,
    threshold: float,
    *,
    level: float = LEVEL,
) -> BinaryRates:
    """Rates where scores at or above a threshold count as positive; see `BinaryRates`.

    Args:
        groups: of each image, for intervals; None where each stands alone.
    """
    called = scores >= threshold

    def rate(hits: np.ndarray, among: np.ndarray) -> Proportion:
        of = None if groups is None else groups[among]
        return proportion(hits[among], of, level=level)

    return BinaryRates(
        sensitivity=rate(called, is_positive),
        specificity=rate(~called, ~is_positive),
        ppv=rate(is_positive, called),
        npv=rate(~is_positive, ~called),
    )


def binary_auc(truth: np.ndarray, scores: np.ndarray) -> float | None:
    """Area under the ROC curve, ties counted half; None without both kinds."""
    from sklearn.metrics import roc_auc_score

    if truth.all() or not truth.any():
        return None
    return float(roc_auc_score(truth, scores))
