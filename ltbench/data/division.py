"""One list of images divided in two, near a fraction of every class, with groups kept whole.

Everything that decides is an integer, because floating-point sums may round otherwise on another
processor, and one rounded comparison would change the list.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product

import numpy as np

from ltbench.data import philox
from ltbench.dataset import Source
from ltbench.errors import UsageError

__all__ = ["class_counts", "divide"]

# Shares of a class are counted in units of 2**-40.
_WHOLE = 1 << 40
_MAX_SWEEPS = 20
# Pairs are tried only among few groups: many small ones even each other out without it.
_SWAP_UP_TO = 200


def class_counts(source: Source, positions: np.ndarray) -> np.ndarray:
    """Images of each class among `positions`, int64 (C,)."""
    return np.bincount(source.targets[positions], minlength=len(source.class_names))


def divide(
    source: Source, positions: np.ndarray, fraction: float, *, seed: int, stream: int
) -> tuple[np.ndarray, np.ndarray]:
    """Divide a list in two; every class of the list has at least one image on both sides.

    By group where the source has groups, by image otherwise.

    Args:
        source: what the positions point into.
        positions: int64, each once.
        fraction: of every class, wanted on the second side, in (0, 1).
        seed: of the choice, in [0, 2**64).
        stream: what the choice is for, in [0, 2**32).

    Returns:
        (rest, carved), positions, int64, ascending.

    Raises:
        UsageError: a class has a single image, or its groups cannot be laid on both sides.
    """
    if not 0 < fraction < 1:
        raise UsageError(f"Expected a fraction above 0 and below 1, got {fraction:g}.")
    positions = np.sort(positions).astype(np.int64)
    by = _by_image if source.groups is None else _by_group
    chosen = by(source, positions, fraction, seed, stream)
    return positions[~chosen], positions[chosen]


def _by_image(
    source: Source, positions: np.ndarray, fraction: float, seed: int, stream: int
) -> np.ndarray:
    """Mask of the carved images, bool, one for each position."""
    shuffled = philox.permutation(seed, len(positions), stream=stream, epoch=0)
    classes = source.targets[positions[shuffled]]
    chosen = np.zeros(len(positions), dtype=bool)
    single = []
    for c in np.unique(classes).tolist():
        found = shuffled[classes == c]
        if len(found) == 1:
            single.append(f"'{source.class_names[c]}' (images: 1)")
        chosen[found[: min(max(round(fraction * len(found)), 1), len(found) - 1)]] = True
    if single:
        raise _undividable(single)
    return chosen


def _by_group(
    source: Source, positions: np.ndarray, fraction: float, seed: int, stream: int
) -> np.ndarray:
    """Mask of the carved images, bool, one for each position."""
    assert source.groups is not None
    num_classes = len(source.class_names)
    names, group_of = np.unique(source.groups[positions], return_inverse=True)
    pairs, images = np.unique(
        group_of * num_classes + source.targets[positions], return_counts=True
    )
    contents: list[list[tuple[int, int]]] = [[] for _ in names]
    for pair, count in zip(pairs.tolist(), images.tolist(), strict=True):
        contents[pair // num_classes].append((pair % num_classes, count))
    # Large groups first: the small ones that follow even out what those left uneven.
    order = philox.permutation(seed, len(names), stream=stream, epoch=0)
    sizes = np.bincount(group_of, minlength=len(names))[order]
    order = order[np.argsort(-sizes, kind="stable")]
    sides = _Sides(contents, num_classes, fraction)
    lacking = sides.fill(order.tolist())
    if not lacking:
        return np.array(sides.side_of, dtype=bool)[group_of]
    counts = class_counts(source, positions)
    raise _undividable(
        [
            f"'{source.class_names[c]}' (images: {counts[c]}, groups: {len(sides.groups_of[c])})"
            for c in lacking
        ]
    )


def _undividable(classes: Sequence[str]) -> UsageError:
    return UsageError(
        "Expected images of every class on both sides of a division that keeps groups whole; "
        f"found no way for {', '.join(classes)}. Give these classes more images or groups (a lower "
        "imbalance leaves more), or leave them out."
    )


class _Sides:
    """Groups laid on two sides, 0 the rest and 1 the carved, near the wanted share of every class.

    Lowers sum over classes and sides of (share - wanted)**2 / wanted, where a share is a side's
    part of a class's images: rare and frequent classes weigh the same. First greedily, then by
    moving and exchanging groups; the true minimum is not looked for. Groups of one class are always
    divided where the class has two; among groups of several classes a way can be missed.

    Args:
        contents: (class, images) pairs of each group.
        num_classes: C.
        fraction: wanted on side 1.

    Attributes:
        side_of: 0 or 1 for each group, once laid.
        groups_of: the groups that hold images of each class.
    """

    def __init__(
        self, contents: list[list[tuple[int, int]]], num_classes: int, fraction: float
    ) -> None:
        totals = [0] * num_classes
        self.groups_of: list[list[int]] = [[] for _ in totals]
        for group, classes in enumerate(contents):
            for c, count in classes:
                totals[c] += count
                self.groups_of[c].append(group)
        self.shares = [[(c, n * (_WHOLE // totals[c])) for c, n in group] for group in contents]
        carved = round(fraction * _WHOLE)
        self.wanted = (_WHOLE - carved, carved)
        self.got = ([0] * num_classes, [0] * num_classes)
        self.num_groups = ([0] * num_classes, [0] * num_classes)
        self.side_of = [0] * len(contents)

    def fill(self, order: list[int]) -> list[int]:
        """Lay every group on a side; returns the classes that are missing on one of them."""
        for group in order:
            self._lay(group)
        rarest_first = sorted(range(len(self.groups_of)), key=lambda c: len(self.groups_of[c]))
        held = [c for c in rarest_first if self.groups_of[c]]
        for c in held:
            self._bring_to_both(c)
        lacking = [c for c in held if not self._on_both((c,))]
        if not lacking:
            self._improve(order)
        return lacking

    def _put(self, group: int, side: int, sign: int = 1) -> None:
        self.side_of[group] = side
        for c, share in self.shares[group]:
            self.got[side][c] += sign * share
            self.num_groups[side][c] += sign

    def _move(self, *groups: int) -> None:
        for group in groups:
            side = self.side_of[group]
            self._put(group, side, sign=-1)
            self._put(group, 1 - side)

    def _classes(self, *groups: int) -> set[int]:
        return {c for group in groups for c, _ in self.shares[group]}

    def _on_both(self, classes: Iterable[int]) -> bool:
        return all(self.num_groups[0][c] and self.num_groups[1][c] for c in classes)

    def _unevenness(self, classes: Iterable[int]) -> int:
        """The sum that is lowered, over some classes, times both wanted shares."""
        rest, carved = self.wanted
        return sum(
            carved * (self.got[0][c] - rest) ** 2 + rest * (self.got[1][c] - carved) ** 2
            for c in classes
        )

    def _lay(self, group: int) -> None:
        classes = self._classes(group)
        self._put(group, 0)
        as_rest = self._unevenness(classes)
        self._move(group)
        if as_rest <= self._unevenness(classes):
            self._move(group)

    def _bring_to_both(self, c: int) -> None:
        """Move the group of class c that costs least, if c is on one side only."""
        best: tuple[int, int] | None = None
        for group in [] if self._on_both((c,)) else self.groups_of[c]:
            classes = self._classes(group)
            side = self.side_of[group]
            if all(k == c or self.num_groups[side][k] > 1 for k in classes):
                before = self._unevenness(classes)
                self._move(group)
                added = self._unevenness(classes) - before
                if self._on_both((c,)) and (best is None or added < best[0]):
                    best = (added, group)
                self._move(group)
        if best is not None:
            self._move(best[1])

    def _improve(self, order: list[int]) -> None:
        """Move single groups, then exchange pairs, until nothing is gained."""
        for _ in range(_MAX_SWEEPS):
            gained = [self._try(group) for group in order]
            if len(order) <= _SWAP_UP_TO:
                gained += [self._try(a, b) for a, b in product(order, order) if self._apart(a, b)]
            if not any(gained):
                return

    def _apart(self, a: int, b: int) -> bool:
        return self.side_of[a] == 1 and self.side_of[b] == 0

    def _try(self, *groups: int) -> bool:
        """Move `groups` if that is more even and leaves every class on both sides."""
        classes = self._classes(*groups)
        before = self._unevenness(classes)
        self._move(*groups)
        if self._unevenness(classes) < before and self._on_both(classes):
            return True
        self._move(*groups)
        return False
