"""Samplers: how often each class is seen, as a function of (class counts, epoch, epochs).

A sampler gives class probabilities; an epoch then draws a class for each of its N places and a
uniform image of that class, with replacement. A class without images always has probability 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from ltbench.data import philox
from ltbench.errors import UsageError
from ltbench.registry import normalise, suggest

if TYPE_CHECKING:
    from ltbench.method import SamplerFn

__all__ = [
    "SAMPLERS",
    "balanced",
    "choose_classes",
    "class_probabilities",
    "epoch_indices",
    "instance",
    "progressive",
    "reversed_frequency",
    "sqrt",
]


def instance(class_counts: np.ndarray, epoch: int, epochs: int) -> np.ndarray:
    """Sample as the data are: P(c) = n_c / N."""
    return _power(class_counts, 1.0)


def balanced(class_counts: np.ndarray, epoch: int, epochs: int) -> np.ndarray:
    """Sample all classes alike: P(c) = 1 / C, over the classes that have images."""
    return _power(class_counts, 0.0)


def sqrt(class_counts: np.ndarray, epoch: int, epochs: int) -> np.ndarray:
    """Sample by the square root of the counts: P(c) ~ n_c ** 0.5.

    Source: Kang et al., ICLR 2020, equation 1 with q = 1/2.
    """
    return _power(class_counts, 0.5)


def progressive(class_counts: np.ndarray, epoch: int, epochs: int) -> np.ndarray:
    """Go from instance to balanced sampling: (1 - r) instance + r balanced, r = epoch / (T - 1).

    The first epoch is `instance`, the last one `balanced`.

    Source: Kang et al., ICLR 2020, equation 2, as in facebookresearch/classifier-balancing@22370c6
    (data/MixedPrioritizedSampler.py), which takes r from linspace(0, 1, T).

    Departures: for T = 1 the authors' linspace gives r = 0. Here r = 1: a run ends balanced
    whatever its length, and a one-epoch trial exercises the sampler instead of plain shuffling.
    """
    share = min(epoch / (epochs - 1), 1.0) if epochs > 1 else 1.0
    start, end = _power(class_counts, 1.0), _power(class_counts, 0.0)
    mixed: np.ndarray = (1.0 - share) * start + share * end
    return mixed


def reversed_frequency(class_counts: np.ndarray, epoch: int, epochs: int) -> np.ndarray:
    """Favour rare classes: P(c) = w_c / sum_j w_j with w_c = n_max / n_c.

    Source: BBN (Zhou et al., CVPR 2020), section 4.2; Megvii-Nanjing/BBN@7992e90,
    lib/dataset/imbalance_cifar.py, get_weight.
    """
    return _power(class_counts, -1.0)


SAMPLERS: Mapping[str, SamplerFn] = {
    "instance": instance,
    "balanced": balanced,
    "sqrt": sqrt,
    "progressive": progressive,
    "reversed": reversed_frequency,
}


def class_probabilities(
    sampler: str | SamplerFn | None, class_counts: np.ndarray, *, epoch: int, epochs: int
) -> np.ndarray:
    """Ask a sampler for its class probabilities and check the answer.

    Args:
        sampler: a name from `SAMPLERS`, a function, or None for "instance".
        class_counts: images of each class, int64 (C,).
        epoch: 0-based.
        epochs: length of the schedule.

    Returns:
        float64 (C,), each in [0, 1], summing to 1.

    Raises:
        UsageError: an unknown name, or a function whose answer is not a distribution over the
            classes that have images.
    """
    class_counts = np.asarray(class_counts, dtype=np.int64)
    if class_counts.sum() == 0:
        raise UsageError("There are no images to sample from: every class count is 0.")
    function = _resolve(sampler)
    answer = np.asarray(function(class_counts, epoch, epochs), dtype=np.float64)
    problem = _problem(answer, class_counts)
    if problem:
        name = getattr(function, "__name__", repr(function))
        raise UsageError(
            f"The sampler '{name}' gave {problem} in epoch {epoch}. Expected one probability a "
            f"class ({len(class_counts)}), none negative, summing to 1, and 0 for empty classes."
        )
    normalised: np.ndarray = answer / answer.sum()
    return normalised


def choose_classes(probabilities: np.ndarray, u: np.ndarray) -> np.ndarray:
    """Turn uniform numbers into classes: the first whose cumulative probability reaches u.

    Args:
        probabilities: float64 (C,), summing to 1.
        u: float64 (n,) in [0, 1).

    Returns:
        Class indices, int64 (n,); never a class of probability 0.
    """
    possible = np.flatnonzero(probabilities > 0)  # else u = 0 would find an empty first class
    cumulative = np.cumsum(probabilities[possible])
    cumulative[-1] = 1.0  # round-off may leave it below the largest u
    return possible[np.searchsorted(cumulative, u, side="left")].astype(np.int64)


def epoch_indices(
    targets: np.ndarray,
    num_classes: int,
    sampler: str | SamplerFn | None,
    *,
    seed: int,
    stream: int,
    epoch: int,
    epochs: int,
) -> np.ndarray:
    """Choose the images of one epoch, in order.

    None and the name "instance" shuffle: each image once. Everything else draws N times with
    replacement, also a function that happens to return instance probabilities.

    Args:
        targets: class indices, int64 (N,), in [0, num_classes).
        num_classes: C.
        sampler: see `class_probabilities`.
        seed: in [0, 2**64).
        stream: in [0, 2**32), a number of its own among all uses of the seed.
        epoch: 0-based.
        epochs: length of the schedule.

    Returns:
        Positions in `targets`, int64 (N,), the same on every machine.
    """
    num_images = len(targets)
    if sampler is None or (isinstance(sampler, str) and normalise(sampler) == "instance"):
        return philox.permutation(seed, num_images, stream=stream, epoch=epoch)
    class_counts = np.bincount(targets, minlength=num_classes)
    probabilities = class_probabilities(sampler, class_counts, epoch=epoch, epochs=epochs)
    u = philox.uniform(seed, stream=stream, epoch=epoch, index=np.arange(num_images), num_words=2)
    classes = choose_classes(probabilities, u[:, 0])
    by_class = np.argsort(targets, kind="stable")
    first = np.cumsum(class_counts) - class_counts
    within = np.floor(u[:, 1] * class_counts[classes]).astype(np.int64)
    chosen: np.ndarray = by_class[first[classes] + within].astype(np.int64)
    return chosen


def _power(class_counts: np.ndarray, q: float) -> np.ndarray:
    """P(c) ~ n_c ** q, and 0 where n_c is 0."""
    counts = np.asarray(class_counts, dtype=np.float64)
    weights = np.where(counts > 0, np.maximum(counts, 1.0) ** q, 0.0)
    probabilities: np.ndarray = weights / weights.sum()
    return probabilities


def _resolve(sampler: str | SamplerFn | None) -> SamplerFn:
    if sampler is None:
        return instance
    if not isinstance(sampler, str):
        return sampler
    name = normalise(sampler)
    if name not in SAMPLERS:
        raise UsageError(suggest("sampler", sampler, list(SAMPLERS)))
    return SAMPLERS[name]


def _problem(answer: np.ndarray, class_counts: np.ndarray) -> str:
    if answer.shape != class_counts.shape:
        return f"an array of shape {answer.shape}"
    if not np.isfinite(answer).all() or (answer < 0).any():
        return "negative or non-finite numbers"
    if abs(answer.sum() - 1.0) > 1e-6:
        return f"numbers that sum to {answer.sum():.6g}"
    if (answer[class_counts == 0] > 0).any():
        return "a class without images a positive probability"
    return ""
