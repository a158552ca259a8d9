"""Differences between rows of a table on the same test images, corrected for how many they are."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from typing import Any, Final

from ltbench import derived
from ltbench.metrics import METRICS
from ltbench.stats.board import Board, Rows, board_of, check_metric
from ltbench.stats.crossed import Estimate
from ltbench.stats.holm import holm, holm_levels
from ltbench.stats.moderation import moderated

LEVEL: Final = 0.95


@dataclass(frozen=True)
class Paired:
    """A difference between two rows, in the metric's own unit (not percent).

    Attributes:
        difference: mean over the seeds of this row minus the other; None where undefined.
        low, high: the interval at the level that Holm's correction leaves to it; None where the
            test images cannot tell how much the difference varies.
        p_value: two-sided, of no difference, uncorrected.
        p_adjusted: Holm's; below 1 - level exactly where the interval leaves 0 out.
        standard_error: of seeds and images together; `standard_error_seeds` of drawing other seeds,
            None with one; `standard_error_sampling` of drawing other test images.
        detectable: the smallest difference that such a comparison, on its own, would find with a
            probability of 80 %.
        num_seeds: that both rows have, paired by number; where they are not paired, how many
            the row with fewer has, and `seeds_paired` is False.
        num_images, num_groups: of the test part; each image is a group where none are known.
        num_comparisons: that Holm's correction is over.
        estimator: how all this was computed, in words.
    """

    difference: float | None
    low: float | None
    high: float | None
    p_value: float | None
    p_adjusted: float | None
    num_seeds: int
    num_images: int
    num_groups: int
    estimator: str
    standard_error: float | None = None
    standard_error_seeds: float | None = None
    standard_error_sampling: float | None = None
    detectable: float | None = None
    num_comparisons: int = 0
    level: float = LEVEL
    seeds_paired: bool = True

    @property
    def separable(self) -> bool:
        """Whether the interval leaves 0 out."""
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high

    @property
    def may_be_best(self) -> bool:
        """For a difference to the best row: whether the row is not separable from it."""
        return self.difference is not None and not self.separable

    def as_dict(self) -> dict[str, Any]:
        """What JSON can hold."""
        return {**asdict(self), "separable": self.separable}


def against_best(rows: Rows, metric: str, *, level: float = LEVEL) -> dict[str, Paired]:
    """How far each row lies from the best, and whether that could be chance.

    The best row is the one with the best mean over its seeds; the first by name of several. It was
    chosen by the same numbers, so the correction is over the comparisons of all pairs of rows, any
    of which could have turned out to be the one with the best: over the pairs with the best alone,
    among ten equal rows one would be called worse far more often than 1 - level.

    What was computed before from the same predictions is read from `<results>/derived/pairs/`.

    Args:
        rows: for each row's key the runs of its seeds, all tested on the same images.
        metric: a name of `METRICS`.
        level: of all intervals together, such as 0.95.

    Returns:
        For each row `row - best`; the best row has zeros. A row whose metric is undefined for a
        seed has None.

    Raises:
        UsageError: no such metric, or a row without a run.
        VerificationError: runs were tested on different images, or predictions are damaged.
    """
    board = board_of(rows)
    name = check_metric(metric)

    def compute() -> dict[str, Any]:
        return {row: asdict(paired) for row, paired in _against_best(board, name, level).items()}

    path = derived.shared_folder(board.first_run) / "pairs" / f"{board.digest[:32]}.json"
    found = derived.kept(path, f"against_best {name} {level:g}", board.digest, compute)
    return {row: Paired(**found[row]) for row in rows}


def differences(
    board: Board,
    pairs: Iterable[tuple[str, str, str, int | None]],
    level: float = LEVEL,
    *,
    num_rows: int = 2,
) -> list[Paired]:
    """Several differences, with Holm's correction over all of them.

    Args:
        board: where the rows are.
        pairs: (row, other row, metric, class index or None).
        level: of all intervals together.
        num_rows: where the pairs are all pairs of that many rows in one metric, their seeds'
            variances are fitted together; see `moderation`.
    """
    asked = list(pairs)
    found = [board.difference(*one) for one in asked]
    if num_rows > 2:
        known = [one for one in found if one is not None]
        together = iter(moderated([one[0] for one in known], num_rows))
        found = [None if one is None else (next(together), one[1]) for one in found]
    p_values = [None if one is None else one[0].p_value() for one in found]
    tested = [index for index, p in enumerate(p_values) if p is not None]
    in_order = [p for p in p_values if p is not None]
    adjusted = dict(zip(tested, holm(in_order), strict=True))
    alphas = dict(zip(tested, holm_levels(in_order, 1 - level), strict=True))
    made = []
    for index, ((row, other, *_), one) in enumerate(zip(asked, found, strict=True)):
        if one is None:
            made.append(_undefined(board, row, other, level, len(tested)))
            continue
        words = _words(board, *one, level, len(tested), num_rows)
        counts = _counts(board, row, other, one[1])
        alpha = alphas.get(index)
        made.append(
            _paired(one[0], p_values[index], adjusted.get(index), alpha, level, words, counts)
        )
    paired = [one is None or bool(one[1]) for one in found]
    return [
        replace(_possible(one, asked_for[2]), num_comparisons=len(tested), seeds_paired=known)
        for one, asked_for, known in zip(made, asked, paired, strict=True)
    ]


def _against_best(board: Board, name: str, level: float) -> dict[str, Paired]:
    values = {row: board.values(row, name) for row in board.runs}
    sign = 1 if METRICS[name].higher_is_better else -1
    means = {row: sign * float(v.mean()) for row, v in values.items() if v is not None}
    missing = {row: _undefined(board, row, row, level, 0) for row in values if row not in means}
    if not means:
        return missing
    best = max(means, key=means.__getitem__)  # the first by name of several, as rows are sorted
    pairs = [(a, b) for a, b in combinations(means, 2)]
    asked = [(b, a, name, None) if a == best else (a, b, name, None) for a, b in pairs]
    made = differences(board, asked, level, num_rows=len(means))
    to_best = {one[0]: paired for one, paired in zip(asked, made, strict=True) if one[1] == best}
    num_pairs = made[0].num_comparisons if made else 0
    counts = _counts(board, best, best, board.seeds(best))
    zero = Paired(0.0, 0.0, 0.0, 1.0, 1.0, *counts, "the best row", num_comparisons=num_pairs)
    return missing | to_best | {best: replace(zero, level=level)}


def _paired(
    found: Estimate,
    p_value: float | None,
    p_adjusted: float | None,
    alpha: float | None,
    level: float,
    estimator: str,
    counts: tuple[int, int, int],
) -> Paired:
    width = None if alpha is None else found.half_width(alpha)
    if width is None and p_value is not None:
        width = 0.0  # equal on every image and seed
    seeds = sum(variance for variance, _ in found.seeds)
    known = found.standard_error is not None
    return Paired(
        found.value,
        None if width is None else found.value - width,
        None if width is None else found.value + width,
        p_value,
        p_adjusted,
        *counts,
        estimator,
        found.standard_error,
        seeds**0.5 if found.seeds else None,
        found.sampling**0.5 if known else None,
        found.detectable(1 - level),
        level=level,
    )


def _possible(paired: Paired, name: str) -> Paired:
    """The interval without differences that two rates cannot have."""
    if paired.low is None or paired.high is None or (name in METRICS and not METRICS[name].percent):
        return paired
    return replace(paired, low=max(paired.low, -1.0), high=min(paired.high, 1.0))


def _undefined(board: Board, row: str, other: str, level: float, num_comparisons: int) -> Paired:
    counts = _counts(board, row, other, board.seeds(row))
    words = "the metric is undefined for a seed of one of the rows"
    blank = Paired(None, None, None, None, None, *counts, words, level=level)
    return replace(blank, num_comparisons=num_comparisons)


def _counts(board: Board, row: str, other: str, common: tuple[int, ...]) -> tuple[int, int, int]:
    fewer = min(len(board.seeds(row)), len(board.seeds(other)))
    tested = board.tested
    return len(common) or fewer, len(tested.ids), tested.num_groups


def _words(
    board: Board,
    found: Estimate,
    common: tuple[int, ...],
    level: float,
    num_comparisons: int,
    num_rows: int,
) -> str:
    tested, resamples = board.tested, board.resamples
    noun = f"{tested.group_noun}s" if tested.grouped else "images"
    if not found.seeds:
        seeds = "the interval covers the sampling of test images only, not other seeds"
    elif common:
        seeds = f"crossed with {len(common)} seeds, paired by number"
        if num_rows > 2:
            seeds += ", whose variance is fitted to all pairs together"
    else:
        seeds = "crossed with the seeds of each row, unpaired as fewer than two are in both"
    over = f"Holm over {num_comparisons} comparisons"
    if num_comparisons < 2:
        over = "a single comparison"
    if num_rows > 2:
        over += f" (all pairs of {num_rows} rows)"
    if found.standard_error is None:
        return f"no interval: no resample of the {noun} differs, or too few are there to resample"
    return (
        f"paired bootstrap: {noun} resampled within class, {resamples.num_resamples} times, random "
        f"seed {resamples.seed}, {seeds}; Student's t interval from its standard errors; "
        f"{100 * level:g} %, {over}"
    )
