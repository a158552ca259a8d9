"""One decision a lesion from several photographs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from ltbench.clinical.probabilities import from_probabilities, log_odds, log_softmax
from ltbench.data.leaks import UNKNOWN_GROUP
from ltbench.errors import UsageError
from ltbench.predictions import Predictions

__all__ = ["LESION", "RULES", "Rule", "Units", "one_a_unit", "unit_names"]

Rule = Literal["mean", "max"]
RULES: Final[dict[Rule, str]] = {
    "mean": "the mean of the probabilities of its images",
    "max": "the probabilities of the image that gives the positive classes most",
}
LESION: Final = "lesion"
_NUM_NAMED = 3


@dataclass(frozen=True)
class Units:
    """How images make units.

    Attributes:
        noun: what a unit is: lesion, patient, ...
        rule: how images become one decision, in words.
        num_images: in all.
        num_units: in all.
        num_several: units with several images.
        largest: images of the unit that has most.
    """

    noun: str
    rule: str
    num_images: int
    num_units: int
    num_several: int
    largest: int


def unit_names(predictions: Predictions, noun: str = "group") -> tuple[np.ndarray, str]:
    """(the unit of each image, str (N,); what a unit is).

    Units are lesions where the metadata say them, an image without one standing alone; else the
    groups.

    Args:
        noun: what a group is.

    Raises:
        UsageError: neither is known.
    """
    lesions = predictions.metadata.get(LESION)
    if lesions is not None and (lesions != "").any():
        alone = np.char.add(UNKNOWN_GROUP, predictions.ids.astype(np.str_))
        return np.where(lesions == "", alone, lesions), LESION
    if predictions.groups is None:
        raise UsageError(
            "One decision a lesion needs to know which images show the same lesion; these "
            "predictions know no groups and no lesions. Leave --per-lesion out, or train on data "
            "whose groups are known."
        )
    return predictions.groups, noun


def one_a_unit(
    predictions: Predictions,
    noun: str = "group",
    *,
    rule: Rule = "mean",
    positive: Sequence[int] = (),
) -> tuple[Predictions, Units]:
    """One row a unit, in the order of units' names.

    `mean`: p(c | unit) = mean over its images of p(c | image). `max`: the row of the image whose
    probability of the positive classes is largest, the first by name of equals.

    A fact that differs among the images of a unit becomes "", not known.

    Args:
        noun: what a group is, where units are groups.
        positive: class indices, for `max`.

    Raises:
        UsageError: no groups are known, or a unit has images of several classes.
    """
    names, noun = unit_names(predictions, noun)
    units, first, members, sizes = np.unique(
        names, return_index=True, return_inverse=True, return_counts=True
    )
    _refuse_mixed(predictions, units, members, first, noun)
    probabilities, _ = log_softmax(predictions)
    if rule == "mean":
        # Added in an order that no shuffling of the images changes.
        order = np.lexsort((predictions.ids, members))
        joined = np.zeros((len(units), probabilities.shape[1]))
        np.add.at(joined, members[order], probabilities[order])
        joined /= sizes[:, None]
    else:
        joined = probabilities[_most_suspect(predictions, members, positive)]
    groups = predictions.groups
    one = Predictions(
        ids=units,
        targets=predictions.targets[first],
        logits=np.zeros(joined.shape),
        class_names=predictions.class_names,
        groups=units if groups is None else _shared(groups, members, first, units),
        metadata={
            name: _shared(values, members, first, np.full(len(units), "", dtype=np.str_))
            for name, values in predictions.metadata.items()
        },
    )
    several = int(np.count_nonzero(sizes > 1))
    told = Units(noun, RULES[rule], len(names), len(units), several, int(sizes.max()))
    return from_probabilities(one, joined), told


def _most_suspect(
    predictions: Predictions, members: np.ndarray, positive: Sequence[int]
) -> np.ndarray:
    """The position of each unit's image with the largest odds of the positive classes."""
    if not positive:
        raise UsageError(
            "The rule 'max' takes the image that gives the positive classes most: say which they "
            "are with --positive, or take the rule 'mean'."
        )
    odds = log_odds(predictions, positive)
    order = np.lexsort((predictions.ids, -odds, members))
    _, starts = np.unique(members[order], return_index=True)
    chosen: np.ndarray = order[starts]
    return chosen


def _shared(
    values: np.ndarray, members: np.ndarray, first: np.ndarray, otherwise: np.ndarray
) -> np.ndarray:
    """The value of each unit that all its images have; `otherwise` where they differ."""
    differs = np.bincount(members, weights=values != values[first][members]) > 0
    return np.where(differs, otherwise, values[first])


def _refuse_mixed(
    predictions: Predictions,
    units: np.ndarray,
    members: np.ndarray,
    first: np.ndarray,
    noun: str,
) -> None:
    targets = predictions.targets
    mixed = np.unique(members[targets != targets[first][members]])
    if mixed.size:
        some = ", ".join(units[mixed[:_NUM_NAMED]].tolist())
        raise UsageError(
            f"{mixed.size} of {len(units)} {noun}s have images of several classes (as {some}), "
            f"so that one decision a {noun} has no single truth. Leave --per-lesion out, or store "
            "the lesion of each image in its metadata."
        )
