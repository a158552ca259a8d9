"""Every metric of `ltbench.metrics` under many weightings of the images at once.

A weight says how often an image is in a resample. With weights of one the numbers are those of
`ltbench.metrics.evaluate`; a test compares them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ltbench.metrics import HEAD_ABOVE, METRICS, NUM_ECE_BINS, TAIL_BELOW, softmax
from ltbench.predictions import Predictions

if TYPE_CHECKING:
    from ltbench.stats.resamples import Resamples

CLASS_METRICS: Final = ("precision", "sensitivity", "f1", "auc")
"""Metrics of each class; names as in `per_class` of `evaluate`."""

# Sorting out one class's ranks costs the images times the resamples. With hundreds of classes fewer
# resamples must do; a standard error from 200 is still known to 5 %.
_RANKED_AT_MOST: Final = 4_000_000_000
_FEWEST: Final = 200


def draws(
    predictions: Predictions,
    resamples: Resamples,
    train_counts: Sequence[int],
    names: Iterable[str],
) -> dict[str, np.ndarray]:
    """Metrics of one run on the test part itself (first) and on every resample.

    Args:
        predictions: N images in the order of `resamples.tested`.
        resamples: B of them.
        train_counts: training images of each class, (C,).
        names: of `METRICS`, and `class.<name>` for one of `CLASS_METRICS`.

    Returns:
        float64 (1 + B,) a metric, (1 + B, C) of those of classes; NaN where undefined. Metrics of
        ranks may have fewer resamples: the first of them.
    """
    wanted = set(names)
    made: dict[str, np.ndarray] = {}
    if wanted & (set(_COUNTED) | set(_COUNTED_BY_CLASS)):
        made |= _counted(predictions, resamples, train_counts)
    if wanted & set(_MEANS):
        made |= _means(predictions, resamples, wanted & set(_MEANS))
    logits = predictions.logits.astype(np.float64)
    if wanted & {"macro_auc", "class.auc"}:
        areas = _areas(softmax(logits)[0], resamples)
        made |= {"class.auc": areas, "macro_auc": _mean_of_defined(areas)}
    if "macro_auc_raw_logits" in wanted:
        made["macro_auc_raw_logits"] = _mean_of_defined(_areas(logits, resamples))
    return {name: made[name] for name in wanted}


def averaged_classes(
    name: str, support: np.ndarray, train_counts: Sequence[int]
) -> list[int] | None:
    """The classes with images that a metric is a mean of; None where it is one over images."""
    present = np.flatnonzero(support > 0)
    if name in _OVER_IMAGES:
        return None
    if name in _GROUP_MEMBERS:
        members = _GROUP_MEMBERS[name](np.asarray(train_counts))
        return [int(c) for c in present if members[c]]
    if name == "worst_class_sensitivity":  # which one it is changes; the rarest is the least known
        return [int(min(present, key=lambda c: support[c]))]
    return [int(c) for c in present]


def weighted_auc(
    scores: np.ndarray, positives: np.ndarray, blocks: Iterable[np.ndarray]
) -> np.ndarray:
    """Area under the ROC for each column of weights, ties counted one half, (1 + B,).

    sum over pairs of w_i w_j ([s_i > s_j] + [s_i = s_j] / 2) / (sum w_i  sum w_j), i positive and
    j negative. The scores are sorted once; each block of weights is then added up between the
    scores of the smaller side.

    Args:
        scores: float64 (N,).
        positives: bool (N,); both kinds must occur.
        blocks: float32 (N, b) each.
    """
    from scipy.sparse import csr_array

    count = len(scores)
    few_are_positive = 2 * positives.sum() <= count
    few = np.flatnonzero(positives if few_are_positive else ~positives)
    many = np.flatnonzero(~positives if few_are_positive else positives)
    levels, level_of = np.unique(scores[few], return_inverse=True)
    # Slots 0, 2, 4, ...: between two levels; 1, 3, 5, ...: on a level.
    below = np.searchsorted(levels, scores[many], side="left")
    tied = levels[np.minimum(below, len(levels) - 1)] == scores[many]
    slots = 2 * below + tied
    ones = np.ones(count, dtype=np.float32)
    shape = 2 * len(levels) + 1
    add_many = csr_array((ones[many], (slots, many)), shape=(shape, count))
    add_few = csr_array((ones[few], (level_of, few)), shape=(len(levels), count))
    areas = []
    for weights in blocks:
        by_slot, by_level = add_many @ weights, (add_few @ weights).astype(np.float64)
        steps, ties = by_slot[0:-1:2], by_slot[1::2]
        steps[1:] += ties[:-1]
        # Sums along rows that lie together in memory take a tenth of the time.
        reached = np.cumsum(np.ascontiguousarray(steps.T), axis=1, dtype=np.float64)
        pairs = np.einsum("kb,bk->b", by_level, reached)
        pairs += np.einsum("kb,kb->b", by_level, ties.astype(np.float64)) / 2
        total = (reached[:, -1] + ties[-1] + by_slot[-1]) * by_level.sum(axis=0)
        areas.append(pairs / total)
    area = np.concatenate(areas)
    return area if few_are_positive else 1.0 - area


def _areas(scores: np.ndarray, resamples: Resamples) -> np.ndarray:
    """Of each class against the rest, (1 + B, C); NaN without both kinds."""
    targets, num_classes = resamples.tested.targets, scores.shape[1]
    most = max(_FEWEST, _RANKED_AT_MOST // (len(targets) * num_classes))
    blocks = list(resamples.blocks()) if most > resamples.num_resamples else []
    columns: list[np.ndarray | None] = []
    for index in range(num_classes):
        positives = targets == index
        if positives.any() and not positives.all():
            taken = blocks or _first(resamples, 1 + most)
            columns.append(weighted_auc(scores[:, index], positives, taken))
        else:
            columns.append(None)
    length = next((len(c) for c in columns if c is not None), 1 + resamples.num_resamples)
    undefined = np.full(length, np.nan)
    return np.stack([undefined if c is None else c for c in columns], axis=1)


def _first(resamples: Resamples, most: int) -> Iterable[np.ndarray]:
    taken = 0
    for block in resamples.blocks():
        if taken >= most:
            return
        yield block[:, : most - taken]
        taken += block.shape[1]


def _counts_by_class(
    predictions: Predictions, resamples: Resamples
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(images of a class recognised, predicted as it, and belonging to it), (1 + B, C) each."""
    from scipy.sparse import csr_array

    targets, num_classes = resamples.tested.targets, len(resamples.tested.class_names)
    predicted = predictions.logits.astype(np.float64).argmax(axis=1)
    count, right = len(targets), np.flatnonzero(predicted == targets)
    every = np.arange(count)

    def adder(classes: np.ndarray, images: np.ndarray) -> Any:
        ones = np.ones(len(images), dtype=np.float32)
        return csr_array((ones, (classes, images)), shape=(num_classes, count))

    adders = adder(targets[right], right), adder(predicted, every), adder(targets, every)
    found = [[add @ block for add in adders] for block in resamples.blocks()]
    hits, guesses, support = (
        np.ascontiguousarray(np.concatenate(parts, axis=1).T, dtype=np.float64)
        for parts in zip(*found, strict=True)
    )
    return hits, guesses, support


def _counted(
    predictions: Predictions, resamples: Resamples, train_counts: Sequence[int]
) -> dict[str, np.ndarray]:
    """All that follows from hits, guesses and support of each class."""
    hits, guesses, support = _counts_by_class(predictions, resamples)
    rows = {
        "sensitivity": _ratio(hits, support),
        "precision": _ratio(hits, guesses),
        "f1": np.where(support > 0, _ratio(2 * hits, support + guesses), np.nan),
    }
    precision = np.where(support > 0, np.nan_to_num(rows["precision"]), np.nan)
    sensitivity = _mean_of_defined(rows["sensitivity"])
    counts = np.asarray(train_counts)
    return {
        **{f"class.{name}": values for name, values in rows.items()},
        "accuracy": hits.sum(axis=1) / support.sum(axis=1),
        "balanced_accuracy": sensitivity,
        "macro_sensitivity": sensitivity,
        "macro_precision": _mean_of_defined(precision),
        "macro_f1": _mean_of_defined(rows["f1"]),
        "worst_class_sensitivity": _smallest(rows["sensitivity"]),
        **{
            name: _mean_of_defined(rows["sensitivity"][:, members(counts)])
            for name, members in _GROUP_MEMBERS.items()
        },
        **_agreement(hits, guesses, support),
    }


def _agreement(hits: np.ndarray, guesses: np.ndarray, support: np.ndarray) -> dict[str, np.ndarray]:
    """Matthews correlation and Cohen's kappa, NaN where the truth is one class."""
    total, trace = support.sum(axis=1), hits.sum(axis=1)
    chance = (guesses * support).sum(axis=1)
    above = trace * total - chance
    truth = total**2 - np.square(support).sum(axis=1)
    guessed = total**2 - np.square(guesses).sum(axis=1)
    mcc = np.where(guessed > 0, _ratio(above, np.sqrt(truth * guessed)), 0.0)
    return {
        "mcc": np.where(truth > 0, mcc, np.nan),
        "cohen_kappa": np.where(truth > 0, _ratio(above, total**2 - chance), np.nan),
    }


def _means(
    predictions: Predictions, resamples: Resamples, names: Iterable[str]
) -> dict[str, np.ndarray]:
    """Means over images of something that each image has by itself."""
    logits, targets = predictions.logits.astype(np.float64), resamples.tested.targets
    probabilities, logs = softmax(logits)
    made: dict[str, list[np.ndarray]] = {name: [] for name in names}
    values = {name: _MEANS[name](probabilities, logs, targets) for name in made}
    for block in resamples.blocks():
        weights = block.astype(np.float64)
        for name, parts in made.items():
            sums = np.abs(values[name] @ weights)
            parts.append(sums.reshape(-1, weights.shape[1]).sum(axis=0) / weights.sum(axis=0))
    return {name: np.concatenate(parts) for name, parts in made.items()}


def _log_loss(probabilities: np.ndarray, logs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    return np.asarray(-logs[np.arange(len(targets)), targets])


def _squared_errors(probabilities: np.ndarray, logs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    errors = probabilities.copy()
    errors[np.arange(len(targets)), targets] -= 1.0
    return np.asarray(np.square(errors).sum(axis=1))


def _gaps(probabilities: np.ndarray, logs: np.ndarray, targets: np.ndarray) -> Any:
    """Correct - confidence of each image, in the row of its bin: sparse (bins, N)."""
    from scipy.sparse import csr_array

    confidence, predicted = probabilities.max(axis=1), logs.argmax(axis=1)
    inner_edges = np.linspace(0.0, 1.0, NUM_ECE_BINS + 1)[1:-1]
    bins = np.searchsorted(inner_edges, confidence, side="left")
    gaps = (predicted == targets) - confidence
    return csr_array((gaps, (bins, np.arange(len(targets)))), shape=(NUM_ECE_BINS, len(targets)))


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Quotient, NaN where the denominator is 0."""
    quotient = np.full(numerator.shape, np.nan)
    np.divide(numerator, denominator, out=quotient, where=denominator > 0)
    return quotient


def _mean_of_defined(values: np.ndarray) -> np.ndarray:
    """Mean over classes (R, C) -> (R,), of those that are defined; NaN where none is."""
    defined = ~np.isnan(values)
    if defined.all() or not defined.any():
        return values.mean(axis=1) if values.shape[1] else np.full(len(values), np.nan)
    kept = defined[0]
    if (defined == kept).all():  # the same classes in each: their plain mean, to the last bit
        return np.asarray(values[:, kept].mean(axis=1))
    return _ratio(np.nan_to_num(values).sum(axis=1), defined.sum(axis=1).astype(np.float64))


def _smallest(values: np.ndarray) -> np.ndarray:
    return np.asarray(np.fmin.reduce(values, axis=1))


_MEANS: Mapping[str, Callable[[np.ndarray, np.ndarray, np.ndarray], Any]] = MappingProxyType(
    {"nll": _log_loss, "brier": _squared_errors, "ece": _gaps}
)
_GROUP_MEMBERS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = MappingProxyType(
    {
        "head_sensitivity": partial(np.less, HEAD_ABOVE),
        "medium_sensitivity": lambda counts: (counts <= HEAD_ABOVE) & (counts >= TAIL_BELOW),
        "tail_sensitivity": partial(np.greater, TAIL_BELOW),
    }
)
_OVER_IMAGES: Final = frozenset({"accuracy", "mcc", "cohen_kappa", *_MEANS})
_COUNTED_BY_CLASS: Final = frozenset({"class.precision", "class.sensitivity", "class.f1"})
_COUNTED: Final = frozenset(METRICS) - set(_MEANS) - {"macro_auc", "macro_auc_raw_logits"}
