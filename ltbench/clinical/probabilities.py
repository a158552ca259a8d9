"""Stored logits to probabilities, and what changes them before a decision: temperature, prior."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ltbench.metrics import checked_logits, softmax
from ltbench.predictions import Predictions

__all__ = ["from_probabilities", "log_odds", "log_softmax", "shifted", "soften"]

_SMALLEST = float(np.finfo(np.float64).tiny)


def log_softmax(predictions: Predictions) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and their logarithms, float64 (N, C).

    Raises:
        VerificationError: no image, a logit that is NaN or infinite, or arrays that do not fit.
    """
    return softmax(checked_logits(predictions))


def soften(predictions: Predictions, temperature: float) -> Predictions:
    """The same with logits divided by a temperature above 0; 1 changes nothing."""
    return replace(predictions, logits=checked_logits(predictions) / temperature)


def shifted(predictions: Predictions, log_ratio: np.ndarray) -> Predictions:
    """The same with a number added to each class's logits: float64 (C,), finite."""
    return replace(predictions, logits=checked_logits(predictions) + log_ratio)


def from_probabilities(predictions: Predictions, probabilities: np.ndarray) -> Predictions:
    """The same with logits whose soft-max are these probabilities, float64 (N, C)."""
    return replace(predictions, logits=np.log(np.maximum(probabilities, _SMALLEST)))


def log_odds(predictions: Predictions, positive: Sequence[int]) -> np.ndarray:
    """log(p / (1 - p)) for p the probability of the positive classes together, float64 (N,).

    It orders images as p does, but tells apart what p rounds to 1. Both sums are taken over
    sorted numbers, so that a renumbering of the classes changes no bit.

    Args:
        positive: class indices, at least one, not all.
    """
    probabilities, _ = log_softmax(predictions)
    chosen = np.zeros(probabilities.shape[1], dtype=bool)
    chosen[list(positive)] = True
    inside, outside = (
        np.sort(probabilities[:, which], axis=1).sum(axis=1) for which in (chosen, ~chosen)
    )
    odds: np.ndarray = np.log(np.maximum(inside, _SMALLEST)) - np.log(
        np.maximum(outside, _SMALLEST)
    )
    return odds
