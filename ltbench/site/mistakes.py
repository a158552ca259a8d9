"""Where a run was wrong and sure of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ltbench.metrics import checked_logits, softmax
from ltbench.predictions import Predictions

__all__ = ["Mistake", "confident_mistakes"]


@dataclass(frozen=True)
class Mistake:
    """A test image whose predicted class is not its own.

    Attributes:
        image: its id.
        group: lesion, patient or writer; None where groups are not known.
        probability: softmax of the stored logits for the predicted class, 0 to 1.
        of_truth: the same for the true class.
    """

    image: str
    group: str | None
    truth: str
    predicted: str
    probability: float
    of_truth: float


def confident_mistakes(predictions: Predictions, most: int) -> tuple[list[Mistake], int]:
    """(the mistakes with the largest probability of the class that was predicted, all mistakes).

    The predicted class is the first of those with the largest logit, as for every metric. Mistakes
    of equal probability stand in the order of their ids, so that the list is the same each time.

    Args:
        predictions: of the test part.
        most: how many are listed.

    Raises:
        VerificationError: a logit that is NaN or infinite, or arrays that do not fit.
    """
    logits = checked_logits(predictions)
    predicted = logits.argmax(axis=1)
    probabilities, _ = softmax(logits)
    wrong = np.flatnonzero(predicted != predictions.targets)
    sure = probabilities[wrong, predicted[wrong]]
    order = np.lexsort((predictions.ids[wrong], -sure))[:most]
    names, groups = predictions.class_names, predictions.groups
    found = []
    for position in wrong[order].tolist():
        target, answer = int(predictions.targets[position]), int(predicted[position])
        found.append(
            Mistake(
                image=str(predictions.ids[position]),
                group=None if groups is None else str(groups[position]),
                truth=names[target],
                predicted=names[answer],
                probability=float(probabilities[position, answer]),
                of_truth=float(probabilities[position, target]),
            )
        )
    return found, len(wrong)
