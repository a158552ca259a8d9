"""Coverage-risk curves: how many of the decided images are wrong when the doubtful are referred."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ltbench.figures.canvas import (
    COLUMN,
    GREY,
    axes_at,
    label_y,
    legend_below,
    legend_height,
    new_figure,
    series,
)
from ltbench.figures.names import shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

__all__ = ["RiskCurve", "draw_coverage_risk"]

_LEFT, _RIGHT, _TOP, _HEIGHT = 0.46, 0.08, 0.06, 2.1


@dataclass(frozen=True)
class RiskCurve:
    """One curve.

    Attributes:
        label, area: for the legend.
        coverage, risk: float64 (P,), in [0, 1].
        points: (coverage, risk) on test at thresholds that validation chose.
    """

    label: str
    area: float
    coverage: np.ndarray
    risk: np.ndarray
    points: Sequence[tuple[float, float]] = ()


def draw_coverage_risk(curves: Sequence[RiskCurve], best: RiskCurve | None = None) -> Figure:
    """Risk against coverage; `best` is the order that keeps every right decision first."""
    shown = [*curves, *([best] if best else [])]
    labels = [
        f"{name}: area {curve.area:.4f}"
        for name, curve in zip(shortened([c.label for c in shown], 2.0), shown, strict=True)
    ]
    bottom = legend_height(labels, COLUMN - 0.1) + 0.39
    figure = new_figure(COLUMN, bottom + _HEIGHT + _TOP)
    axes = axes_at(figure, _LEFT, bottom, COLUMN - _LEFT - _RIGHT, _HEIGHT)
    handles = [_curve(axes, curve, number) for number, curve in enumerate(curves)]
    if best is not None:
        handles += axes.plot(
            best.coverage, 100 * best.risk, color=GREY, linestyle=(0, (1, 1.5)), linewidth=0.9
        )
    axes.set_xlim(0, 1.01)
    axes.set_ylim(bottom=0)
    axes.grid(visible=True)
    axes.set_xlabel("coverage (share of the images that are decided)")
    label_y(axes, "risk (% of the decided that are wrong)", _LEFT)
    legend_below(figure, handles, labels, 0.05, COLUMN - 0.1)
    return figure


def _curve(axes: Axes, curve: RiskCurve, number: int) -> Line2D:
    look = series(number)
    (line,) = axes.plot(
        *(curve.coverage, 100 * curve.risk),
        color=look.color,
        linestyle=look.linestyle,
        marker=look.marker,
        markevery=(0.05 + 0.03 * (number % 8), 0.25),  # by length along the curve
        markerfacecolor="white" if number % 2 else look.color,
        markeredgewidth=0.8,
        clip_on=False,
    )
    for x, y in curve.points:
        style: dict[str, Any] = {"markersize": 7, "markerfacecolor": "none", "clip_on": False}
        axes.plot([x], [100 * y], "o", color=look.color, **style)
    return line
