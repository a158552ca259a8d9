"""Calibration: how far probabilities can be taken at their word."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np

from ltbench.clinical.probabilities import log_softmax, soften
from ltbench.clinical.proportions import LEVEL, Proportion, proportion
from ltbench.errors import UsageError
from ltbench.metrics import NUM_ECE_BINS
from ltbench.predictions import Predictions

__all__ = [
    "Bin",
    "Calibration",
    "CalibrationErrors",
    "Temperature",
    "binned_error",
    "calibration",
    "calibration_errors",
    "equal_mass_bins",
    "equal_width_bins",
    "fit_temperature",
    "reliability",
]

_LOG_TEMPERATURE_BOUND: Final = math.log(50.0)
_AT_BOUND: Final = 1e-3


@dataclass(frozen=True)
class Bin:
    """One bar of a reliability diagram.

    Attributes:
        low, high: top-1 confidence in (low, high].
        num_images: in it; a bin without any is left out.
        confidence: their mean confidence.
        accuracy: their share of right decisions.
    """

    low: float
    high: float
    num_images: int
    confidence: float
    accuracy: Proportion


@dataclass(frozen=True)
class CalibrationErrors:
    """All in [0, 1] but `nll` (nats) and `brier` (0 to 2); smaller is better.

    Attributes:
        ece: as in `ltbench.metrics`, bins of equal width.
        adaptive_ece: bins of as equal numbers of images as ties allow.
        classwise_ece: mean over the classes that occur of the error of p(c) against "is c", bins
            of equal width.
        overconfidence: mean confidence - accuracy; below 0 for an underconfident model.
    """

    ece: float
    adaptive_ece: float
    classwise_ece: float
    classes_averaged: int
    overconfidence: float
    brier: float
    nll: float


@dataclass(frozen=True)
class Temperature:
    """What logits are divided by so that validation finds them likeliest.

    Attributes:
        value: in [1/50, 50]; above 1 where a model is too sure of itself.
        undetermined: no finite temperature is best. Where validation has no wrong image, smaller
            ones are ever better, and 1 is kept; a model worse than chance ends at 50.
        num_images: of the validation part, one by one, whatever is decided together later.
    """

    value: float
    undetermined: bool
    num_images: int


@dataclass(frozen=True)
class Calibration:
    """Calibration of the test part, before and after a temperature that validation chose.

    Attributes:
        num_images: of the test part (or units).
        num_bins: of all binned errors.
        as_given: errors of the stored logits.
        bins: of the stored logits.
        temperature: None without a validation part, and so are the others.
        scaled, scaled_bins: the same of logits / temperature.
    """

    num_images: int
    num_bins: int
    as_given: CalibrationErrors
    bins: tuple[Bin, ...]
    temperature: Temperature | None
    scaled: CalibrationErrors | None
    scaled_bins: tuple[Bin, ...]


def calibration(
    as_given: Predictions,
    scaled: Predictions | None = None,
    temperature: Temperature | None = None,
    *,
    num_bins: int = NUM_ECE_BINS,
    level: float = LEVEL,
) -> Calibration:
    """Errors and reliability of the test part.

    Args:
        as_given: by the stored logits.
        scaled: the same part by logits / temperature.
        temperature: that was used.
    """
    return Calibration(
        num_images=len(as_given.ids),
        num_bins=num_bins,
        as_given=calibration_errors(as_given, num_bins),
        bins=reliability(as_given, num_bins, level=level),
        temperature=temperature,
        scaled=None if scaled is None else calibration_errors(scaled, num_bins),
        scaled_bins=() if scaled is None else reliability(scaled, num_bins, level=level),
    )


def fit_temperature(validation: Predictions | None) -> Temperature:
    """The T in [1/50, 50] with the smallest mean of -log softmax(logits / T)[target].

    The loss is convex in 1 / T, so that a search within bounds finds its minimum.

    Raises:
        UsageError: no validation part.

    Source: Guo et al., On Calibration of Modern Neural Networks, ICML 2017, section 4.2.
    """
    from scipy.optimize import minimize_scalar

    if validation is None:
        raise UsageError(
            "A temperature is fitted on validation, and this run's protocol has no validation "
            "part. Leave --temperature out, or train under a protocol with validation."
        )
    rows = np.arange(len(validation.targets))
    if (validation.logits.argmax(axis=1) == validation.targets).all():
        return Temperature(1.0, True, len(rows))

    def loss(log_temperature: float) -> float:
        _, logs = log_softmax(soften(validation, math.exp(log_temperature)))
        return -float(logs[rows, validation.targets].mean())

    bound = _LOG_TEMPERATURE_BOUND
    found = minimize_scalar(loss, bounds=(-bound, bound), method="bounded", options={"xatol": 1e-9})
    undetermined = abs(float(found.x)) > bound - _AT_BOUND
    return Temperature(math.exp(float(found.x)), undetermined, len(rows))


def calibration_errors(predictions: Predictions, num_bins: int = NUM_ECE_BINS) -> CalibrationErrors:
    """All errors of one part; see `CalibrationErrors`.

    ECE = sum over bins b of n_b / n * |accuracy_b - confidence_b|. Class-wise: 1 / K times the sum
    over the K classes that occur of sum over bins of n_b / n * |share of c in b - mean p(c) in b|.

    Source: Guo et al. 2017, equation 3; Nguyen and O'Connor, EMNLP 2015 (equal mass); Kull et al.,
    Beyond temperature scaling, NeurIPS 2019, equation 3 (class-wise).
    Departures: classes without a test image are left out of the class-wise mean, to which they
    would add their probabilities alone.
    """
    probabilities, logs = log_softmax(predictions)
    targets, num = predictions.targets, len(predictions.targets)
    confidence, correct = _top(predictions, probabilities)
    classes = np.unique(targets)
    by_class = [
        binned_error(
            probabilities[:, c],
            targets == c,
            equal_width_bins(probabilities[:, c], num_bins),
        )
        for c in classes.tolist()
    ]
    truth = np.zeros_like(probabilities)
    truth[np.arange(num), targets] = 1.0
    return CalibrationErrors(
        ece=binned_error(confidence, correct, equal_width_bins(confidence, num_bins)),
        adaptive_ece=binned_error(confidence, correct, equal_mass_bins(confidence, num_bins)),
        classwise_ece=float(np.mean(by_class)),
        classes_averaged=len(classes),
        overconfidence=float(confidence.mean() - correct.mean()),
        brier=float(np.square(probabilities - truth).sum(axis=1).mean()),
        nll=0.0 - float(logs[np.arange(num), targets].mean()),
    )


def reliability(
    predictions: Predictions, num_bins: int = NUM_ECE_BINS, *, level: float = LEVEL
) -> tuple[Bin, ...]:
    """The bins of a reliability diagram that hold images, in ascending order."""
    probabilities, _ = log_softmax(predictions)
    confidence, correct = _top(predictions, probabilities)
    bins = equal_width_bins(confidence, num_bins)
    groups = predictions.groups
    return tuple(
        Bin(
            low=number / num_bins,
            high=(number + 1) / num_bins,
            num_images=int(within.sum()),
            confidence=float(confidence[within].mean()),
            accuracy=proportion(
                correct[within], None if groups is None else groups[within], level=level
            ),
        )
        for number in np.unique(bins).tolist()
        for within in (bins == number,)
    )


def equal_width_bins(values: np.ndarray, num_bins: int) -> np.ndarray:
    """The bin of each value in [0, 1], int (n,): bin b is (b / B, (b + 1) / B], 0 in the first."""
    inner_edges = np.linspace(0.0, 1.0, num_bins + 1)[1:-1]
    bins: np.ndarray = np.searchsorted(inner_edges, values, side="left")
    return bins


def equal_mass_bins(values: np.ndarray, num_bins: int) -> np.ndarray:
    """The bin of each value, int (n,); edges are the values at ranks n b / B, equals together.

    Equal values share a bin, so that no order of the images matters; with many of them bins are
    fewer and uneven.
    """
    ordered = np.sort(values)
    ranks = (np.arange(1, num_bins) * len(values)) // num_bins
    edges = np.unique(ordered[np.maximum(ranks - 1, 0)])
    bins: np.ndarray = np.searchsorted(edges, values, side="left")
    return bins


def binned_error(values: np.ndarray, outcomes: np.ndarray, bins: np.ndarray) -> float:
    """Sum over bins of n_b / n * |mean outcome - mean value|."""
    gaps = np.bincount(bins, weights=outcomes - values)
    return float(np.abs(gaps).sum() / len(values))


def _top(predictions: Predictions, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(top-1 confidence, whether the decision is right), (n,) each."""
    decided = predictions.logits.argmax(axis=1)
    return probabilities.max(axis=1), decided == predictions.targets
