"""Referral: the model decides where it is confident, and hands the others to a person."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from ltbench.clinical.probabilities import log_softmax
from ltbench.clinical.proportions import LEVEL, Proportion, proportion
from ltbench.errors import UsageError
from ltbench.predictions import Predictions

__all__ = ["COVERAGES", "CoverageRisk", "Referral", "ReferralPoint", "coverage_risk", "referral"]

COVERAGES: Final = (0.8, 0.9, 0.95)
CONFIDENCE: Final = "largest soft-max probability"
_SLACK: Final = 1e-9


class CoverageRisk(NamedTuple):
    """The curve, one point for each k = 1 .. n of the most confident images kept.

    Attributes:
        coverage: k / n, float64 (n,).
        risk: share of wrong decisions among the kept ones, float64 (n,).
        area: mean of `risk`.
        excess: `area` minus that of the best order, which keeps every right decision first.
    """

    coverage: np.ndarray
    risk: np.ndarray
    area: float
    excess: float


@dataclass(frozen=True)
class ReferralPoint:
    """What a threshold of confidence that validation chose makes of the test part.

    Attributes:
        wanted: coverage that was to be reached on validation.
        threshold: confidence; images at or above it are decided.
        validation_coverage: what it reached there.
        coverage: share of test images that are decided.
        risk: share of wrong ones among the decided.
        referred: share of each class's test images that are handed on; classes without one not.
    """

    wanted: float
    threshold: float
    validation_coverage: float
    coverage: Proportion
    risk: Proportion
    referred: dict[str, Proportion]


@dataclass(frozen=True)
class Referral:
    """Referral on the test part.

    Attributes:
        num_images: test images (or units).
        confidence: what orders them, in words.
        area, excess: see `CoverageRisk`.
        risk_of_all: at coverage 1: 1 - accuracy.
        points: one a coverage; empty without a validation part.
    """

    num_images: int
    confidence: str
    area: float
    excess: float
    risk_of_all: float
    points: tuple[ReferralPoint, ...]


def coverage_risk(predictions: Predictions) -> CoverageRisk:
    """Risk against coverage, the least confident handed on first.

    Images of equal confidence stand in no order: within them the risk is the expectation over all
    orders, which is (errors before + errors among them * how many of them are kept / how many they
    are) / k.

    Source: Geifman and El-Yaniv, Selective Classification for Deep Neural Networks, NeurIPS 2017;
    Geifman, Uziel and El-Yaniv, Bias-Reduced Uncertainty Estimation, ICLR 2019 (area and excess).
    """
    confidence, wrong = _judged(predictions)
    _, level, sizes = np.unique(-confidence, return_inverse=True, return_counts=True)
    errors = np.bincount(level, weights=wrong)
    ends = np.cumsum(sizes)
    kept = np.arange(1, len(wrong) + 1)
    block = np.searchsorted(ends, kept, side="left")
    before = np.concatenate([[0.0], np.cumsum(errors)[:-1]])
    first = ends - sizes
    expected = before[block] + errors[block] * (kept - first[block]) / sizes[block]
    risk = expected / kept
    num_right = len(wrong) - int(wrong.sum())
    best = np.maximum(kept - num_right, 0) / kept
    area = float(risk.mean())
    return CoverageRisk(kept / len(wrong), risk, area, area - float(best.mean()))


def referral(
    validation: Predictions | None,
    test: Predictions,
    *,
    coverages: tuple[float, ...] = COVERAGES,
    level: float = LEVEL,
) -> Referral:
    """The curve's area, and the risk at coverages whose thresholds are taken on validation.

    Args:
        validation: None for no points.
        coverages: in (0, 1].

    Raises:
        UsageError: a coverage out of range.
    """
    curve = coverage_risk(test)
    wanted = coverages if validation is not None else ()
    return Referral(
        num_images=len(test.ids),
        confidence=CONFIDENCE,
        area=curve.area,
        excess=curve.excess,
        risk_of_all=float(curve.risk[-1]),
        points=tuple(_point(validation, test, one, level) for one in wanted if validation),
    )


def _point(
    validation: Predictions, test: Predictions, wanted: float, level: float
) -> ReferralPoint:
    if not 0 < wanted <= 1:
        raise UsageError(f"Expected a coverage above 0 and at most 1, such as 0.9; got {wanted}.")
    there, _ = _judged(validation)
    num_kept = max(1, math.ceil(wanted * len(there) - _SLACK))
    threshold = float(np.sort(there)[len(there) - num_kept])
    confidence, wrong = _judged(test)
    kept, groups = confidence >= threshold, test.groups

    def share(hits: np.ndarray, among: np.ndarray) -> Proportion:
        return proportion(hits[among], None if groups is None else groups[among], level=level)

    return ReferralPoint(
        wanted=wanted,
        threshold=threshold,
        validation_coverage=float((there >= threshold).mean()),
        coverage=share(kept, np.ones(len(kept), dtype=bool)),
        risk=share(wrong, kept),
        referred={
            test.class_names[c]: share(~kept, test.targets == c)
            for c in np.unique(test.targets).tolist()
        },
    )


def _judged(predictions: Predictions) -> tuple[np.ndarray, np.ndarray]:
    """(confidence, whether the decision is wrong), (n,) each."""
    probabilities, _ = log_softmax(predictions)
    decided = predictions.logits.argmax(axis=1)
    return probabilities.max(axis=1), decided != predictions.targets
