"""Test sets drawn again: groups with replacement, within class, the same for every run.

Images of one lesion or patient stand or fall together, so groups are drawn, not images. They are
drawn within strata, so that rare classes do not vanish. A stratum is made of the groups that hold
the same set of classes: where every group has one class, as lesions do, a stratum is a class. Every
class then keeps its number of groups in every draw. A group whose combination of classes no other
group has would never change; such groups form strata by the rarest class that they hold, and draws
in which a class lost its last group are made again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np

NUM_RESAMPLES: Final = 2000
RANDOM_SEED: Final = 0
_BLOCK: Final = 256  # resamples at a time: weights of some thousand images then stay in the cache
_KEPT_BYTES: Final = 128 << 20
_DRAWN_AT_ONCE: Final = 4 << 20
_MOST_ROUNDS: Final = 100


@dataclass(frozen=True, eq=False)
class GroupedImages:
    """The images of a test part, in order of their ids.

    Attributes:
        ids: str (N,), ascending.
        targets: class indices, int64 (N,).
        class_names: C names.
        groups: the group of each image, numbered from 0, int64 (N,).
        grouped: whether groups are known; each image is a group of its own where they are not.
        group_noun: what a group is, such as lesion.
    """

    ids: np.ndarray
    targets: np.ndarray
    class_names: tuple[str, ...]
    groups: np.ndarray
    grouped: bool
    group_noun: str = "group"

    @property
    def num_groups(self) -> int:
        """G."""
        return int(self.groups.max()) + 1

    @cached_property
    def holds(self) -> np.ndarray:
        """Whether a group holds a class, bool (G, C)."""
        table = np.zeros((self.num_groups, len(self.class_names)), dtype=bool)
        table[self.groups, self.targets] = True
        return table

    def said(self) -> str:
        """Such as "2005 images of 1915 lesions"."""
        images = f"{len(self.ids)} images"
        return f"{images} of {self.num_groups} {self.group_noun}s" if self.grouped else images


@dataclass(frozen=True, eq=False)
class Resamples:
    """How often each group is in each resample.

    Attributes:
        tested: what was resampled.
        strata: the stratum of each group, int64 (G,).
        counts: uint8 (G, B).
        seed: of the random numbers.
    """

    tested: GroupedImages
    strata: np.ndarray
    counts: np.ndarray
    seed: int

    @property
    def num_resamples(self) -> int:
        """B."""
        return int(self.counts.shape[1])

    def blocks(self) -> Iterator[np.ndarray]:
        """Weights of images, float32 (N, b) a block; 1 + B columns in all.

        The first column is of ones: the test part itself. Whole numbers below 2^24, and sums of
        them, are exact in float32.
        """
        if self.tested.targets.size * (1 + self.num_resamples) * 4 <= _KEPT_BYTES:
            return iter(self._kept)
        return self._made()

    @cached_property
    def _kept(self) -> list[np.ndarray]:
        return list(self._made())

    def _made(self) -> Iterator[np.ndarray]:
        groups = self.tested.groups
        for start in range(0, 1 + self.num_resamples, _BLOCK):
            columns = self.counts[:, max(start - 1, 0) : start + _BLOCK - 1].astype(np.float32)
            if start == 0:
                ones = np.ones((len(columns), 1), dtype=np.float32)
                columns = np.hstack([ones, columns])
            yield columns[groups]

    def reach(self, classes: list[int] | None) -> tuple[float, float]:
        """How well resampling can know the variance of a metric: (correction, degrees of freedom).

        A variance found by resampling n groups is (n - 1) / n of what it should be, and has n - 1
        degrees of freedom. Over strata h that contribute v_h each:

            correction = sum v_h / sum (v_h (n_h - 1) / n_h)
            degrees of freedom = (sum v_h)^2 / sum (v_h^2 / (n_h - 1))

        as Satterthwaite's. v_h is what it would be if all groups varied alike: n_h for a mean over
        images, and sum over classes of (share of the class's groups that lie in h)^2 / n_h for a
        mean over classes. Strata of one group contribute nothing.

        Args:
            classes: those that a mean over classes takes, or the one class; None over images.

        Returns:
            (1, 0) where no stratum has two groups: nothing can be known.
        """
        sizes = np.bincount(self.strata).astype(np.float64)
        if classes is None:
            parts = sizes.copy()
        else:
            held = np.zeros((len(sizes), len(classes)))
            np.add.at(held, self.strata, self.tested.holds[:, classes].astype(np.float64))
            shares = held / np.maximum(held.sum(axis=0), 1)
            parts = np.square(shares).sum(axis=1) / sizes
        used = (sizes > 1) & (parts > 0)
        if not used.any():
            return 1.0, 0.0
        parts, sizes = parts[used], sizes[used]
        correction = parts.sum() / (parts * (sizes - 1) / sizes).sum()
        freedom = parts.sum() ** 2 / (np.square(parts) / (sizes - 1)).sum()
        return float(correction), float(freedom)


def resample(
    tested: GroupedImages, *, num_resamples: int = NUM_RESAMPLES, seed: int = RANDOM_SEED
) -> Resamples:
    """Draw the groups of a test part again and again; the same for the same ids, groups and seed.

    Args:
        tested: the images.
        num_resamples: B.
        seed: of the random numbers (NumPy's PCG64).
    """
    strata, shared = _strata(tested.holds)
    random = np.random.Generator(np.random.PCG64(seed))
    counts = _drawn(strata, num_resamples, random)
    for _ in range(_MOST_ROUNDS if shared else 0):
        lost = _without_a_class(tested.holds, counts)
        if not lost.any():
            break
        counts[:, lost] = _drawn(strata, int(lost.sum()), random)
    else:
        if shared:  # a class that hardly any draw keeps: its groups stay as they are
            strata, _ = _strata(tested.holds, share=False)
            counts = _drawn(strata, num_resamples, random)
    return Resamples(tested, strata, counts, seed)


def _strata(holds: np.ndarray, *, share: bool = True) -> tuple[np.ndarray, bool]:
    """(stratum of each group (G,), whether groups of different combinations share one)."""
    packed = np.packbits(holds, axis=1)
    _, codes, sizes = np.unique(packed, axis=0, return_inverse=True, return_counts=True)
    codes = codes.reshape(-1)
    alone = sizes[codes] == 1
    if not share or alone.sum() < 2:
        return codes, False
    # The rarest class of each: absent ones are made larger than any.
    frequency = np.where(holds, holds.sum(axis=0), len(holds) + 1)
    codes = np.where(alone, len(sizes) + frequency.argmin(axis=1), codes)
    _, codes, sizes = np.unique(codes, return_inverse=True, return_counts=True)
    return codes, bool((sizes[codes[alone]] > 1).any())


def _drawn(strata: np.ndarray, num_resamples: int, random: np.random.Generator) -> np.ndarray:
    """How often each group is drawn, uint8 (G, B); as many a stratum as it has groups."""
    counts = np.ones((len(strata), num_resamples), dtype=np.uint8)
    order = np.argsort(strata, kind="stable")
    for members in np.split(order, np.flatnonzero(np.diff(strata[order])) + 1):
        size = len(members)
        step = max(1, _DRAWN_AT_ONCE // size)
        for start in range(0, num_resamples if size > 1 else 0, step):
            rows = min(step, num_resamples - start)
            drawn = random.integers(0, size, (rows, size)) + size * np.arange(rows)[:, None]
            found = np.bincount(drawn.ravel(), minlength=rows * size).reshape(rows, size)
            counts[members, start : start + rows] = found.T
    return counts


def _without_a_class(holds: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Which resamples have no group of a class that the test part has, bool (B,)."""
    lost = np.zeros(counts.shape[1], dtype=bool)
    for members in holds.T:
        if members.any():
            lost |= ~counts[members].any(axis=0)
    return lost
