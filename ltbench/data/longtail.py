"""Long-tailed profiles, and splits that keep groups whole.

Pure functions of a `Source` and a seed. Random choices are Philox permutations and what decides
between groups is integer arithmetic, so the lists are the same on every machine and with every
version of every library.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
from pydantic import BeforeValidator, Field

from ltbench.data import philox
from ltbench.data.division import class_counts, divide
from ltbench.data.leaks import part_notes, shared_groups
from ltbench.dataset import Source, Split
from ltbench.errors import UsageError, VerificationError

__all__ = [
    "Imbalance",
    "carve",
    "exponential_counts",
    "held_out",
    "measured_imbalance",
    "published",
    "step_counts",
    "take_counts",
]

# What a random number is for: the stream of the generator. The high bytes ("SPL") keep clear of the
# streams of training, should a run use one seed for both. A number that was used never changes.
_DIVIDE_TEST = 0x53504C01
_DIVIDE_VAL = 0x53504C02
_DIVIDE_INNER = 0x53504C03
_CUT_TRAIN = 0x53504C11
_CUT_VAL = 0x53504C12
_CUT_TEST = 0x53504C13


def _refuse_factor(value: Any) -> Any:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return value
    if 0 < number < 1:
        raise ValueError(
            "expected the ratio of the largest to the smallest class, at least 1 "
            f"(for the factor {number:g} write {1 / number:g})"
        )
    return value


Imbalance = Annotated[float, Field(ge=1, le=10_000), BeforeValidator(_refuse_factor)]
"""The type of an `imbalance` setting: says at once when a factor below 1 was meant."""


def exponential_counts(
    head: int, num_classes: int, imbalance: float, *, class_names: Sequence[str] = ()
) -> list[int]:
    """The exponential long tail, in the order of the classes.

    n_c = int(head * (1 / imbalance) ** (c / (C - 1))), truncated and not rounded.

    Args:
        head: images of the first class, at least 1.
        num_classes: C, at least 1; a single class gets `head`.
        imbalance: largest over smallest class, at least 1 and finite.
        class_names: C names for the message of an error.

    Returns:
        C counts, descending.

    Raises:
        UsageError: `imbalance` is out of range, or a class would get no image.

    Source: Cao et al., "Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss",
        NeurIPS 2019; kaidic/LDAM-DRW@2536330, imbalance_cifar.py, get_img_num_per_cls.
    """
    _check_profile(head, num_classes, imbalance)
    counts = _exponential(head, num_classes, imbalance)
    _refuse_empty(counts, head, imbalance, class_names)
    return counts


def step_counts(
    head: int, num_classes: int, imbalance: float, *, class_names: Sequence[str] = ()
) -> list[int]:
    """The step profile: `head` images in the first half, int(head / imbalance) in the second.

    Args, Returns and Raises: as `exponential_counts`.

    Source: as `exponential_counts`.
    Departures: of an odd number of classes the authors' code loses the last; here the middle class
        belongs to the tail.
    """
    _check_profile(head, num_classes, imbalance)
    half = num_classes // 2 if num_classes > 1 else 1
    counts = [head] * half + [int(head * (1 / imbalance))] * (num_classes - half)
    _refuse_empty(counts, head, imbalance, class_names)
    return counts


def measured_imbalance(counts: Sequence[int] | np.ndarray) -> float:
    """Largest over smallest class: what truncation made of the nominal ratio.

    Raises:
        UsageError: there is no class, or a class without an image.
    """
    smallest = min(counts, default=0)
    if smallest < 1:
        raise UsageError(
            f"Expected at least one image of every class, got {[int(n) for n in counts]}. "
            "Leave empty classes out."
        )
    return float(max(counts) / smallest)


def take_counts(
    targets: np.ndarray,
    pool: np.ndarray,
    counts: Sequence[int],
    *,
    seed: int,
    stream: int = _CUT_TRAIN,
) -> np.ndarray:
    """Choose a given number of images of each class.

    The pool is shuffled once and each class takes its first ones, so a smaller count takes a part
    of what a larger one takes, and no class depends on another's count.

    Args:
        targets: class indices of all images, int64 (N,).
        pool: positions to choose from, int64, each once.
        counts: images wanted of each class, C numbers.
        seed: of the split, in [0, 2**64).
        stream: what the choice is for, in [0, 2**32).

    Returns:
        Positions, int64, ascending.

    Raises:
        UsageError: the pool holds fewer images of a class than wanted.
    """
    order = philox.permutation(seed, len(pool), stream=stream, epoch=0)
    shuffled = np.sort(pool)[order]
    classes = targets[shuffled]
    chosen = []
    for c, wanted in enumerate(counts):
        found = shuffled[classes == c]
        if len(found) < wanted:
            raise UsageError(
                f"Expected {wanted} images of class {c}, the pool holds {len(found)}. "
                "Ask for a smaller head class."
            )
        chosen.append(found[:wanted])
    return np.sort(np.concatenate(chosen)).astype(np.int64)


def held_out(
    source: Source,
    *,
    imbalance: float,
    seed: int,
    val_fraction: float,
    balanced_validation: bool = False,
    test_fraction: float = 0.2,
) -> Split:
    """A balanced test, a validation carved before the tail is cut, and a long-tailed training part.

    Where the source has groups, whole groups go to a part, near the wanted fraction of every class;
    then each part is trimmed: test to its smallest class, training to `exponential_counts` from the
    smallest class of its pool, so that the profile is exact, and validation to the same profile
    with at least one image a class, or to its smallest class.

    Args:
        source: its official test part, if it has one, is the test pool.
        imbalance: nominal ratio of the largest to the smallest class, at least 1.
        seed: of the split.
        val_fraction: validation's part of what is not test, in (0, 1).
        balanced_validation: validation holds the same number of images of every class.
        test_fraction: the test's part of all images where there is no official one, in (0, 1).

    Returns:
        The split; its notes hold counts, groups and imbalances of the parts.

    Raises:
        UsageError: a setting out of range, or a class with too few images or groups.
        VerificationError: the official test shares a group with the rest.
    """
    names, num_classes = source.class_names, len(source.class_names)
    _check_profile(1, num_classes, imbalance)
    everything = np.arange(len(source.targets))
    test_mask = _official_test(source)
    if test_mask is None:
        pool, test_pool = divide(source, everything, test_fraction, seed=seed, stream=_DIVIDE_TEST)
    else:
        pool, test_pool = everything[~test_mask], everything[test_mask]
    train_pool, val_pool = divide(source, pool, val_fraction, seed=seed, stream=_DIVIDE_VAL)
    head, val_head = _smallest(source, train_pool), _smallest(source, val_pool)
    train_counts = exponential_counts(head, num_classes, imbalance, class_names=names)
    val_counts = [val_head] * num_classes
    if not balanced_validation:
        val_counts = [max(1, n) for n in _exponential(val_head, num_classes, imbalance)]
    test_counts = [_smallest(source, test_pool)] * num_classes
    parts = {
        "train": take_counts(source.targets, train_pool, train_counts, seed=seed),
        "val": take_counts(source.targets, val_pool, val_counts, seed=seed, stream=_CUT_VAL),
        "test": take_counts(source.targets, test_pool, test_counts, seed=seed, stream=_CUT_TEST),
    }
    _refuse_shared_groups(source, parts)
    return Split(**parts, notes=_notes(source, parts, imbalance))


def published(source: Source, *, imbalance: float, seed: int) -> Split:
    """The literature's split: the profile cut from all training images, the official test whole.

    There is no validation: what is reported is the last epoch. Groups are counted in the notes, not
    kept apart, because the literature's lists do not keep them apart.

    Args:
        source: with an official part "test".
        imbalance: nominal ratio of the largest to the smallest class, at least 1.
        seed: of the split.

    Raises:
        UsageError: the source has no official test, or a setting is out of range.
    """
    test_mask = _official_test(source)
    if test_mask is None:
        raise UsageError(
            "The published protocol needs the publisher's own test part, and this data set has "
            "none. Use the protocol held_out."
        )
    pool = np.flatnonzero(~test_mask)
    counts = exponential_counts(
        _smallest(source, pool),
        len(source.class_names),
        imbalance,
        class_names=source.class_names,
    )
    train = take_counts(source.targets, pool, counts, seed=seed)
    parts = {"train": train, "test": np.flatnonzero(test_mask)}
    return Split(**parts, val=None, notes=_notes(source, parts, imbalance))


def carve(
    source: Source, positions: np.ndarray, fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Divide a list in two, near `fraction` of every class, keeping groups whole.

    Each class of the list has at least one image on both sides.

    Args:
        source: groups are kept whole where it has them.
        positions: int64, such as a training part.
        fraction: wanted on the second side, in (0, 1).
        seed: of the choice.

    Returns:
        (rest, carved), positions, int64, ascending.

    Raises:
        UsageError: a class of the list has a single image, or all its images in one group.
    """
    return divide(source, positions, fraction, seed=seed, stream=_DIVIDE_INNER)


def _check_profile(head: int, num_classes: int, imbalance: float) -> None:
    if not 1 <= imbalance < math.inf:
        factor = f" (a factor): write {1 / imbalance:g}" if 0 < imbalance < 1 else ""
        raise UsageError(
            "imbalance is the ratio of the largest to the smallest class, at least 1; "
            f"got {imbalance:g}{factor}"
        )
    if head < 1 or num_classes < 1:
        raise UsageError(
            f"Expected at least one class and one image in the head class, got {num_classes} "
            f"classes and {head} images. Check that every class of the data set has images."
        )


def _exponential(head: int, num_classes: int, imbalance: float) -> list[int]:
    steps = max(num_classes - 1, 1)
    return [int(head * (1 / imbalance) ** (c / steps)) for c in range(num_classes)]


def _refuse_empty(
    counts: Sequence[int], head: int, imbalance: float, class_names: Sequence[str]
) -> None:
    if min(counts) > 0:
        return
    first = next(c for c, count in enumerate(counts) if count == 0)
    name = f"'{class_names[first]}'" if class_names else str(first)
    raise UsageError(
        f"Class {name} ({first + 1} of {len(counts)}) would get no image: the head class has "
        f"{head} and imbalance is {imbalance:g}. Set dataset.imbalance below {head}, or take more "
        "images."
    )


def _official_test(source: Source) -> np.ndarray | None:
    """A mask of the publisher's test part, bool (N,), or None; the rest is the training pool."""
    if source.partition is None or not np.any(source.partition == "test"):
        return None
    return np.asarray(source.partition == "test")


def _smallest(source: Source, pool: np.ndarray) -> int:
    counts = class_counts(source, pool)
    if counts.min() == 0:
        name = source.class_names[counts.argmin()]
        anywhere = int((source.targets == counts.argmin()).sum())
        raise UsageError(
            f"Class '{name}' has no image among the {len(pool)} to be divided, and {anywhere} in "
            "the whole data set. Give the class images there, or leave it out of class_names."
        )
    return int(counts.min())


def _refuse_shared_groups(source: Source, parts: Mapping[str, np.ndarray]) -> None:
    for pair, groups in shared_groups(source, parts):
        raise VerificationError(
            f"Expected no group in two parts, but {pair} share groups: {len(groups)} (first: "
            f"'{groups[0]}'). The publisher's own parts divide them: drop these groups from the "
            "source, or drop its partition so that the split is made by group."
        )


def _notes(source: Source, parts: Mapping[str, np.ndarray], imbalance: float) -> dict[str, Any]:
    facts = part_notes(source, parts)
    measured = {
        name: measured_imbalance(counts)
        for name, counts in facts["counts"].items()
        if name != "test"
    }
    return {
        "nominal_imbalance": float(imbalance),
        "measured_imbalance": measured,
        **facts,
        "split_by": "image" if source.groups is None else "group",
    }
