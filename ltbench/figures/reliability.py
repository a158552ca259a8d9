"""Reliability diagrams: how often decisions of one confidence are right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from ltbench.clinical.calibration import Bin
from ltbench.figures.canvas import (
    COLUMN,
    GREY,
    axes_at,
    label_y,
    legend_below,
    legend_height,
    log_ticks,
    new_figure,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Calibrated", "draw_reliability", "ece_of"]

_LEFT, _RIGHT, _TOP = 0.44, 0.08, 0.06
_BINS_HEIGHT, _COUNTS_HEIGHT, _GAP = 2.0, 0.62, 0.1
_FEWEST: Final = 0.7  # where the logarithmic axis begins: a bar of one image is seen


@dataclass(frozen=True)
class Calibrated:
    """One series.

    Attributes:
        label: for the legend, with its ECE.
        bins: those that hold images.
    """

    label: str
    bins: Sequence[Bin]


def ece_of(bins: Sequence[Bin]) -> float:
    """Sum over bins b of n_b / n * |accuracy_b - confidence_b|, as in `ltbench.metrics`."""
    total = sum(one.num_images for one in bins)
    gaps = (one.num_images * abs((one.accuracy.value or 0.0) - one.confidence) for one in bins)
    return sum(gaps) / total


def draw_reliability(as_given: Calibrated, scaled: Calibrated | None) -> Figure:
    """Accuracy against mean confidence by bin, above the number of images in each bin."""
    labels = [as_given.label, *([scaled.label] if scaled else []), "perfect calibration"]
    foot = legend_height(labels, COLUMN - 0.1) + 0.03
    bottom = foot + 0.36
    figure = new_figure(COLUMN, bottom + _COUNTS_HEIGHT + _GAP + _BINS_HEIGHT + _TOP)
    width = COLUMN - _LEFT - _RIGHT
    counts = axes_at(figure, _LEFT, bottom, width, _COUNTS_HEIGHT)
    rates = axes_at(figure, _LEFT, bottom + _COUNTS_HEIGHT + _GAP, width, _BINS_HEIGHT)
    (perfect,) = rates.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=(0, (1, 1.5)))
    handles = [_rates(rates, as_given.bins, "#000000", "o", "-", filled=True)]
    if scaled is not None:
        handles.append(_rates(rates, scaled.bins, "#0072b2", "s", (0, (4, 1.5)), filled=False))
    _counts(counts, as_given, scaled)
    for axes in (rates, counts):
        axes.set_xlim(-0.01, 1.01)
        axes.grid(visible=True)
    rates.set_ylim(-0.01, 1.01)
    rates.tick_params(labelbottom=False)
    label_y(rates, "accuracy (share of the bin)", _LEFT)
    counts.set_xlabel("confidence (largest soft-max probability)")
    legend_below(figure, [*handles, perfect], labels, 0.05, COLUMN - 0.1)
    return figure


def _rates(
    axes: Axes, bins: Sequence[Bin], colour: str, marker: str, dashes: Any, *, filled: bool
) -> Any:
    x = [one.confidence for one in bins]
    y = [one.accuracy.value or 0.0 for one in bins]
    if filled:
        low = [value - (one.accuracy.low or 0.0) for value, one in zip(y, bins, strict=True)]
        high = [(one.accuracy.high or 0.0) - value for value, one in zip(y, bins, strict=True)]
        axes.errorbar(x, y, [low, high], fmt="none", ecolor=colour, elinewidth=0.6, capsize=1.6)
    (line,) = axes.plot(
        *(x, y),
        color=colour,
        marker=marker,
        linestyle=dashes,
        linewidth=0.8,
        markerfacecolor=colour if filled else "white",
        markeredgewidth=0.8,
        clip_on=False,
    )
    return line


def _counts(axes: Axes, as_given: Calibrated, scaled: Calibrated | None) -> None:
    """Bars of the logits as given, outlines of the others; logarithmic."""
    for bins, style in (
        (as_given.bins, {"facecolor": "#b8b8b8", "edgecolor": "#000000", "linewidth": 0.4}),
        (
            scaled.bins if scaled else (),
            {"facecolor": "none", "edgecolor": "#0072b2", "linewidth": 0.9, "linestyle": "--"},
        ),
    ):
        axes.bar(
            [(one.low + one.high) / 2 for one in bins],
            [one.num_images for one in bins],
            [one.high - one.low for one in bins],
            **style,  # type: ignore[arg-type]
        )
    largest = max(one.num_images for one in (*as_given.bins, *(scaled.bins if scaled else ())))
    axes.set_yscale("log")
    axes.set_ylim(_FEWEST, 1.6 * largest)
    log_ticks(axes.yaxis, _FEWEST, 1.6 * largest)
    label_y(axes, "images (log)", _LEFT)
