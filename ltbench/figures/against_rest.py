"""Each class against the rest, from stored predictions: ROC, precision-recall, operating points."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from ltbench.clinical.operating import threshold_of
from ltbench.clinical.positives import Positive
from ltbench.clinical.probabilities import log_odds, log_softmax
from ltbench.figures.choosing import Chosen, choose
from ltbench.figures.curves import ClassCurve
from ltbench.predictions import Predictions

__all__ = ["SPECIFICITY", "precision_recall_curves", "roc_curves"]

SPECIFICITY: Final = 0.95
"""Of operating points, reached on validation."""


def roc_curves(
    test: Predictions, validation: Predictions | None, num_train: Sequence[int]
) -> tuple[list[ClassCurve], np.ndarray, Chosen]:
    """ROC curves of soft-max probabilities, drawn where there are both kinds of images.

    Returns:
        The curves of the chosen classes, the AUC of every class (NaN where undefined), the choice.
    """
    from sklearn.metrics import roc_auc_score, roc_curve

    probabilities, _ = log_softmax(test)
    areas = _each(test, lambda truth, p: roc_auc_score(truth, p), probabilities)
    chosen = choose(num_train, areas, "AUC")
    curves = []
    for c in chosen.indices:
        truth = test.targets == c
        false_positives, sensitivity, _ = roc_curve(truth, probabilities[:, c])
        point = _operating_point(test, validation, c)
        curves.append(_curve(test, c, false_positives, sensitivity, float(areas[c]), point))
    return curves, areas, chosen


def precision_recall_curves(
    test: Predictions, num_train: Sequence[int]
) -> tuple[list[ClassCurve], np.ndarray, Chosen]:
    """The same of precision against recall; the area is the average precision.

    AP = sum over thresholds of (R_n - R_{n-1}) P_n, without interpolation.
    """
    from sklearn.metrics import average_precision_score, precision_recall_curve

    probabilities, _ = log_softmax(test)
    areas = _each(test, lambda truth, p: average_precision_score(truth, p), probabilities)
    chosen = choose(num_train, areas, "average precision")
    curves = []
    for c in chosen.indices:
        precision, recall, _ = precision_recall_curve(
            test.targets == c, probabilities[:, c], drop_intermediate=True
        )
        # P_n holds from R_{n-1} to R_n; the point (0, 1) of scikit-learn stands for no threshold.
        x, y = recall[::-1], precision[::-1].copy()
        y[0] = y[1]
        curves.append(_curve(test, c, x, y, float(areas[c])))
    return curves, areas, chosen


def _each(
    test: Predictions, area: Callable[[np.ndarray, np.ndarray], float], probabilities: np.ndarray
) -> np.ndarray:
    """The area of each class, float64 (C,); NaN where all images or none are of the class."""
    areas = np.full(probabilities.shape[1], np.nan)
    for c in np.unique(test.targets).tolist():
        truth = test.targets == c
        if not truth.all():
            areas[c] = area(truth, probabilities[:, c])
    return areas


def _curve(
    test: Predictions,
    c: int,
    x: np.ndarray,
    y: np.ndarray,
    area: float,
    point: tuple[float, float] | None = None,
) -> ClassCurve:
    num = int((test.targets == c).sum())
    return ClassCurve(test.class_names[c], x, y, area, num, num / len(test.targets), point)


def _operating_point(
    test: Predictions, validation: Predictions | None, c: int
) -> tuple[float, float] | None:
    """(1 - specificity, sensitivity) on test; None where validation cannot give a threshold."""
    if validation is None:
        return None
    there = validation.targets == c
    if there.all() or not there.any():
        return None
    positive = Positive(test.class_names[c], (test.class_names[c],), (c,))
    threshold = threshold_of(validation, positive, "specificity", SPECIFICITY)
    called, truth = log_odds(test, (c,)) >= threshold, test.targets == c
    return float(called[~truth].mean()), float(called[truth].mean())
