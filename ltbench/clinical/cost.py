"""Expected cost: what decisions are worth where errors do not weigh the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ltbench.clinical.probabilities import log_softmax
from ltbench.metrics import confusion_matrix
from ltbench.predictions import Predictions

__all__ = ["CostReport", "Decisions", "expected_cost", "least_cost_decisions"]


@dataclass(frozen=True)
class Decisions:
    """One way to decide, and what it costs on the test part.

    Attributes:
        mean_cost: per image (or unit), in the unit of the matrix.
        by_class: mean cost of each true class; None for a class without an image.
        confusion: images by true class (rows) and decision (columns).
    """

    mean_cost: float
    by_class: dict[str, float | None]
    confusion: list[list[int]]


@dataclass(frozen=True)
class CostReport:
    """Costs of the test part.

    Attributes:
        num_images: test images (or units).
        support: of each class.
        most_probable: the class with the largest probability is decided, as in all other metrics.
        least_cost: the class with the smallest expected cost is decided.
        constant: the one class that would cost least if decided for everyone, by the class sizes of
            training; what it costs on test is `constant_cost`. A model should be below it.
    """

    num_images: int
    support: dict[str, int]
    matrix: list[list[float]]
    most_probable: Decisions
    least_cost: Decisions
    constant: str
    constant_cost: float


def expected_cost(test: Predictions, costs: np.ndarray, train_counts: Sequence[int]) -> CostReport:
    """Mean cost of two ways to decide from the same probabilities.

    `least_cost` decides argmin_j sum_i p(i | x) C[i, j], and needs probabilities that can be taken
    at their word (see `calibration`); of equal costs the most probable class of them, then the
    first, is decided.

    Args:
        costs: float64 (C, C), row the true class, column the decision.
        train_counts: training images of each class.

    Source: Elkan, The Foundations of Cost-Sensitive Learning, IJCAI 2001, equation 1 (with rows
    and columns exchanged).
    """
    names, targets = test.class_names, test.targets
    support = np.bincount(targets, minlength=len(names)).tolist()
    by_training = np.asarray(train_counts, dtype=np.float64) @ costs
    constant = int(by_training.argmin())
    return CostReport(
        num_images=len(targets),
        support=dict(zip(names, support, strict=True)),
        matrix=costs.tolist(),
        most_probable=_decided(test, test.logits.argmax(axis=1), costs),
        least_cost=_decided(test, least_cost_decisions(test, costs), costs),
        constant=names[constant],
        constant_cost=float(costs[targets, constant].mean()),
    )


def least_cost_decisions(predictions: Predictions, costs: np.ndarray) -> np.ndarray:
    """The class with the smallest expected cost, int (N,); see `expected_cost`."""
    probabilities, _ = log_softmax(predictions)
    expected = probabilities @ costs
    # Sums of products differ in their last bits where they are equal on paper.
    close = expected <= expected.min(axis=1, keepdims=True) + 1e-12 * costs.max()
    decided: np.ndarray = np.where(close, probabilities, -1.0).argmax(axis=1)
    return decided


def _decided(test: Predictions, decided: np.ndarray, costs: np.ndarray) -> Decisions:
    paid = costs[test.targets, decided]
    by_class = {
        name: float(paid[test.targets == c].mean()) if (test.targets == c).any() else None
        for c, name in enumerate(test.class_names)
    }
    confusion = confusion_matrix(test.targets, decided, len(test.class_names))
    return Decisions(float(paid.mean()), by_class, confusion.tolist())
