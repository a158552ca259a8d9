"""A row's mean over its seeds, with an interval of its own."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ltbench import derived
from ltbench.metrics import METRICS
from ltbench.stats.board import Board, Rows, board_of, check_metric

LEVEL = 0.95


@dataclass(frozen=True)
class Mean:
    """In the metric's own unit; None where undefined, or where the images cannot tell.

    Attributes:
        value: mean over seeds.
        low, high: its interval, not corrected for other rows; of a rate within 0 and 1.
        standard_error_seeds: if other seeds had been drawn; None with one, where the interval
            covers the sampling of test images only.
        standard_error_sampling: if other test images had been drawn.
    """

    value: float | None
    low: float | None
    high: float | None
    standard_error_seeds: float | None
    standard_error_sampling: float | None


def intervals(rows: Rows, metric: str, *, level: float = LEVEL) -> dict[str, Mean]:
    """Every row's mean with its interval; what was computed before is read.

    Overlapping intervals of two rows say little about their difference, which `against_best` and
    `compare` measure on the same images.

    Args:
        rows: for each row's key the runs of its seeds, all tested on the same images.
        metric: a name of `METRICS`.
        level: of each interval, such as 0.95.

    Raises:
        UsageError, VerificationError: as `against_best`.
    """
    board, name = board_of(rows), check_metric(metric)

    def compute() -> dict[str, Any]:
        return {row: asdict(mean_of(board, row, name, None, level)) for row in board.runs}

    path = derived.shared_folder(board.first_run) / "pairs" / f"{board.digest[:32]}.json"
    found = derived.kept(path, f"intervals {name} {level:g}", board.digest, compute)
    return {row: Mean(**found[row]) for row in rows}


def mean_of(board: Board, row: str, name: str, class_index: int | None, level: float) -> Mean:
    """Of a metric of `METRICS`, or of one class's (`class.f1`)."""
    found = board.estimate(row, name, class_index)
    if found is None:
        return Mean(None, None, None, None, None)
    seeds = sum(variance for variance, _ in found.seeds) ** 0.5 if found.seeds else None
    width = found.half_width(1 - level)
    if width is None:
        return Mean(found.value, None, None, seeds, None)
    low, high = found.value - width, found.value + width
    if name not in METRICS or METRICS[name].percent:
        low, high = max(low, 0.0), min(high, 1.0)
    return Mean(found.value, low, high, seeds, found.sampling**0.5)
