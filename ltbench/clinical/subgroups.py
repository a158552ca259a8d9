"""Subgroups of the test part: the same metrics by sex, age, site or source, with their counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from ltbench.clinical.operating import BinaryRates, binary_auc, rates_at
from ltbench.clinical.positives import Positive
from ltbench.clinical.probabilities import log_odds
from ltbench.clinical.proportions import LEVEL, Proportion, proportion
from ltbench.errors import UsageError
from ltbench.metrics import evaluate
from ltbench.predictions import Predictions
from ltbench.registry import suggest

__all__ = ["AGE_EDGES", "SMALL_BELOW", "Subgroup", "SubgroupPositive", "select", "subgroups"]

AGE: Final = "age"
AGE_EDGES: Final = (30, 40, 50, 60, 70)
NOT_KNOWN: Final = "not known"
SMALL_BELOW: Final = 30
"""Images below which a subgroup is marked: an interval for 30 images is some 35 points wide."""
_MOST_VALUES: Final = 60


@dataclass(frozen=True)
class SubgroupPositive:
    """Some classes against the rest within a subgroup.

    Attributes:
        auc: None without both kinds.
        rates: at the threshold of the whole validation part, the same for every subgroup; None
            where there is no such threshold.
    """

    name: str
    num_positive: int
    num_negative: int
    auc: float | None
    rates: BinaryRates | None


@dataclass(frozen=True)
class Subgroup:
    """One value of a fact, and the images that have it.

    Attributes:
        value: of the fact; "not known" for images without one.
        classes: images of each class that occurs.
        small: fewer than `SMALL_BELOW` images.
        balanced_accuracy, macro_f1: over the classes that occur.
        macro_auc: over the classes where it is defined; None where it is for none.
    """

    value: str
    num_images: int
    num_groups: int
    classes: dict[str, int]
    small: bool
    accuracy: Proportion
    balanced_accuracy: float
    macro_f1: float
    macro_auc: float | None
    positives: tuple[SubgroupPositive, ...]


def subgroups(
    test: Predictions,
    fact: str,
    train_counts: Sequence[int],
    *,
    thresholds: Sequence[tuple[Positive, float | None]] = (),
    age_edges: Sequence[float] = AGE_EDGES,
    level: float = LEVEL,
) -> tuple[Subgroup, ...]:
    """Metrics for each value of a fact, in the order of the values; images without one last.

    Ages are put into bins [edge, next edge). Thresholds are those of the whole validation part, so
    that a subgroup's rates are what its members would meet.

    Args:
        fact: a name in the metadata.
        thresholds: classes against the rest, with a threshold in log-odds or None.
        age_edges: ascending.

    Raises:
        UsageError: no such fact, or one with too many values to be a division.
    """
    labels, order = _labels(test, fact, age_edges)
    counts = list(train_counts)
    return tuple(
        _subgroup(select(test, labels == value), value, counts, thresholds, level)
        for value in order
    )


def select(predictions: Predictions, mask: np.ndarray) -> Predictions:
    """The images where `mask`, bool (N,), is true."""
    return Predictions(
        ids=predictions.ids[mask],
        targets=predictions.targets[mask],
        logits=predictions.logits[mask],
        class_names=predictions.class_names,
        groups=None if predictions.groups is None else predictions.groups[mask],
        metadata={name: values[mask] for name, values in predictions.metadata.items()},
    )


def _labels(
    test: Predictions, fact: str, age_edges: Sequence[float]
) -> tuple[np.ndarray, list[str]]:
    """(the subgroup of each image, subgroups in the order of the report)."""
    metadata: Mapping[str, np.ndarray] = test.metadata
    if fact not in metadata:
        told = suggest("fact of the images", fact, sorted(metadata))
        raise UsageError(f"--by: {told}. These are the facts stored with the predictions.")
    cells = metadata[fact].astype(np.str_)
    if fact == AGE:
        labels = np.array([_age_bin(cell, age_edges) for cell in cells.tolist()])
    else:
        labels = np.where(np.char.strip(cells) == "", NOT_KNOWN, cells)
    values = sorted(set(labels.tolist()) - {NOT_KNOWN}, key=_as_number)
    if len(values) > _MOST_VALUES:
        raise UsageError(
            f"--by {fact}: it has {len(values)} values among {len(cells)} images, more than the "
            f"{_MOST_VALUES} that a division may have. Take a fact with few values."
        )
    return labels, values + ([NOT_KNOWN] if NOT_KNOWN in labels else [])


def _age_bin(cell: str, edges: Sequence[float]) -> str:
    try:
        age = float(cell)
    except ValueError:
        return NOT_KNOWN
    if not 0 <= age < np.inf:
        return NOT_KNOWN
    number = int(np.searchsorted(edges, age, side="right"))
    if number == 0:
        return f"under {edges[0]:g}"
    if number == len(edges):
        return f"{edges[-1]:g} and over"
    return f"{edges[number - 1]:g} to under {edges[number]:g}"


def _as_number(value: str) -> tuple[int, float, str]:
    """Bins of ages and numbers by size, words by letter."""
    first = value.partition(" ")[0]
    if first == "under":
        return (0, -np.inf, value)
    try:
        return (0, float(first), value)
    except ValueError:
        return (1, 0.0, value)


def _subgroup(
    part: Predictions,
    value: str,
    train_counts: list[int],
    thresholds: Sequence[tuple[Positive, float | None]],
    level: float,
) -> Subgroup:
    metrics = evaluate(part, train_counts)
    right = part.logits.argmax(axis=1) == part.targets
    support = metrics["per_class"]["support"]
    return Subgroup(
        value=value,
        num_images=len(part.ids),
        num_groups=len(part.ids) if part.groups is None else len(np.unique(part.groups)),
        classes={n: c for n, c in zip(part.class_names, support, strict=True) if c},
        small=len(part.ids) < SMALL_BELOW,
        accuracy=proportion(right, part.groups, level=level),
        balanced_accuracy=metrics["balanced_accuracy"],
        macro_f1=metrics["macro_f1"],
        macro_auc=metrics["macro_auc"],
        positives=tuple(_positive(part, one, at, level) for one, at in thresholds),
    )


def _positive(
    part: Predictions, positive: Positive, threshold: float | None, level: float
) -> SubgroupPositive:
    odds, truth = log_odds(part, positive.indices), np.isin(part.targets, positive.indices)
    rates = None
    if threshold is not None:
        rates = rates_at(odds, truth, part.groups, threshold, level=level)
    return SubgroupPositive(
        name=positive.name,
        num_positive=int(truth.sum()),
        num_negative=int((~truth).sum()),
        auc=binary_auc(truth, odds),
        rates=rates,
    )
