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
    source: Source,
    positions: np.ndarray,
    fraction: float,
    *,
    seed: int,
    stream: int,
    rest_parts: int = 1,
) -> tuple[np.ndarray, np.ndarray]:
    """Divide a list in two; every class of the list has at least one image on both sides.

    By group where the source has groups, by image otherwise.

    Args:
        source: what the positions point into.
        positions: int64, each once.
        fraction: of every class, wanted on the second side, in (0, 1).
        seed: of the choice, in [0, 2**64).
        stream: what the choice is for, in [0, 2**32).
        rest_parts: parts that the first side is itself to be divided into later: it keeps at least
            as many groups (images) of every class.

    Returns:
        (rest, carved), positions, int64, ascending.

    Raises:
        UsageError: a class has too few images, or its groups cannot be laid on both sides.
    """
    if not 0 < fraction < 1:
        raise UsageError(f"Expected a fraction above 0 and below 1, got {fraction:g}.")
    positions = np.sort(positions).astype(np.int64)
    by = _by_image if source.groups is None else _by_group
    chosen = by(source, positions, fraction, seed, stream, rest_parts)
    return positions[~chosen], positions[chosen]


def _by_image(
    source: Source,
    positions: np.ndarray,
    fraction: float,
    seed: int,
    stream: int,
    rest_parts: int,
) -> np.ndarray:
    """Mask of the carved images, bool, one for each position."""
    shuffled = philox.permutation(seed, len(positions), stream=stream, epoch=0)
    classes = source.targets[positions[shuffled]]
    chosen = np.zeros(len(positions), dtype=bool)
    few = []
    for c in np.unique(classes).tolist():
        found = shuffled[classes == c]
        if len(found) <= rest_parts:
            few.append(f"'{source.class_names[c]}' (images: {len(found)})")
        wanted = max(round(fraction * len(found)), 1)
        chosen[found[: max(min(wanted, len(found) - rest_parts), 0)]] = True
    if few:
        raise _undividable(few, rest_parts)
    return chosen


def _by_group(
    source: Source,
    positions: np.ndarray,
    fraction: float,
    seed: int,
    stream: int,
    rest_parts: int,
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
    sides = _Sides(contents, num_classes, fraction, rest_parts)
    lacking = sides.fill(order.tolist())
    if not lacking:
        return np.array(sides.side_of, dtype=bool)[group_of]
    counts = class_counts(source, positions)
    raise _undividable(
        [
            f"'{source.class_names[c]}' (images: {counts[c]}, groups: {len(sides.groups_of[c])})"
            for c in lacking
        ],
        rest_parts,
    )


def _undividable(classes: Sequence[str], rest_parts: int) -> UsageError:
    later = f" (of {rest_parts + 1} parts in all)" if rest_parts > 1 else ""
    return UsageError(
        f"Expected images of every class on both sides of a division{later} that keeps groups "
        f"whole; found no way for {', '.join(classes)}. Give these classes more images or groups "
        "(a lower imbalance leaves more), or leave them out."
    )


class _Sides:
    """Groups laid on two sides, 0 the rest and 1 the carved, near the wanted share of every class.

    Lowers sum over classes and sides of (share - wanted)**2 / wanted, where a share is a side's
    part of a class's images: rare and frequent classes weigh the same. First greedily, then by
    moving and exchanging groups; the true minimum is not looked for. Groups of one class are always
    divided where the class has enough; among groups of several classes a way can be missed.

    Args:
        contents: (class, images) pairs of each group.
        num_classes: C.
        fraction: wanted on side 1.
        rest_parts: groups of each class that side 0 keeps at least; side 1 has at least one.

    Attributes:
        side_of: 0 or 1 for each group, once laid.
        groups_of: the groups that hold images of each class.
    """

    def __init__(
        self,
        contents: list[list[tuple[int, int]]],
        num_classes: int,
        fraction: float,
        rest_parts: int,
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
        self.fewest = (rest_parts, 1)
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
        lacking = [c for c in held if not self._enough((c,))]
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

    def _enough(self, classes: Iterable[int]) -> bool:
        return not any(self._short(c, side) for c in classes for side in (0, 1))

    def _short(self, c: int, side: int) -> int:
        """Groups of class c that a side lacks."""
        return max(self.fewest[side] - self.num_groups[side][c], 0)

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
        """Move groups of class c, each time the one that costs least, to a side with too few."""
        for side in (0, 1):
            for _ in range(self._short(c, side)):
                costs = [(self._cost(group), group) for group in self._movable(c, 1 - side)]
                if costs:
                    self._move(min(costs)[1])

    def _movable(self, c: int, side: int) -> list[int]:
        """Groups with class c on a side that can spare them, whatever else they hold."""
        return [
            group
            for group in self.groups_of[c]
            if self.side_of[group] == side
            and all(self.num_groups[side][k] > self.fewest[side] for k in self._classes(group))
        ]

    def _cost(self, *groups: int) -> int:
        """What moving the groups adds to the unevenness."""
        classes = self._classes(*groups)
        before = self._unevenness(classes)
        self._move(*groups)
        after = self._unevenness(classes)
        self._move(*groups)
        return after - before

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
        if self._cost(*groups) >= 0:
            return False
        self._move(*groups)
        if self._enough(self._classes(*groups)):
            return True
        self._move(*groups)
        return False
