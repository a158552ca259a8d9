"""Curves over the unit square: ROC and precision-recall, a line a class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

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

__all__ = ["ClassCurve", "draw_precision_recall", "draw_roc", "is_crowded"]

_LEFT, _RIGHT, _TOP, _SIDE = 0.44, 0.08, 0.06, 2.55
_CORNER: Final = 0.2  # that is enlarged where the median AUC is above the next
_CROWDED: Final = 0.95
_INSET: Final = (0.4, 0.12, 0.57, 0.57)  # left, bottom, width, height; shares of the axes
_LONGEST_LABEL: Final = 0.75  # inches


@dataclass(frozen=True)
class ClassCurve:
    """One class against the rest.

    Attributes:
        x, y: of the curve, float64 (P,), in [0, 1].
        area: under it (AUC), or the average precision.
        num_positive: test images of the class.
        prevalence: their share.
        point: (x, y) of an operating point; None without one.
    """

    name: str
    x: np.ndarray
    y: np.ndarray
    area: float
    num_positive: int
    prevalence: float
    point: tuple[float, float] | None = None


def is_crowded(curves: Sequence[ClassCurve]) -> bool:
    """Whether the corner of ROC curves is drawn once more, enlarged, where it hides no curve."""
    above = min(float(np.interp(_INSET[0] - 0.05, curve.x, curve.y)) for curve in curves)
    crowded = float(np.median([curve.area for curve in curves])) > _CROWDED
    return crowded and above > _INSET[1] + _INSET[3] + 0.05


def draw_roc(curves: Sequence[ClassCurve]) -> Figure:
    """False positive rate against sensitivity, the corner enlarged for good models."""
    labels = [
        f"{name}: {curve.area:.3f} ({curve.num_positive})"
        for name, curve in zip(_names(curves), curves, strict=True)
    ]
    figure, axes = _square(labels, "class: AUC (test images)")
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.6, linestyle=(0, (1, 2)))
    handles = [_line(axes, curve, number) for number, curve in enumerate(curves)]
    if is_crowded(curves):
        _enlarge(axes, curves)
    axes.set_xlabel("1 \N{MINUS SIGN} specificity (share of the other classes)")
    label_y(axes, "sensitivity (share of the class)", _LEFT)
    legend_below(figure, handles, labels, 0.05, COLUMN - 0.1)
    return figure


def draw_precision_recall(curves: Sequence[ClassCurve]) -> Figure:
    """Sensitivity (recall) against precision."""
    labels = [
        f"{name}: {curve.area:.3f} ({curve.prevalence:.3f})"
        for name, curve in zip(_names(curves), curves, strict=True)
    ]
    figure, axes = _square(labels, "class: AP (prevalence, dotted)")
    for level in sorted({curve.prevalence for curve in curves}):
        axes.axhline(level, color=GREY, linewidth=0.6, linestyle=(0, (1, 2)))
    handles = [_line(axes, curve, number, steps=True) for number, curve in enumerate(curves)]
    axes.set_xlabel("sensitivity, or recall (share of the class)")
    label_y(axes, "precision (share of the images called so)", _LEFT)
    legend_below(figure, handles, labels, 0.05, COLUMN - 0.1)
    return figure


def _names(curves: Sequence[ClassCurve]) -> list[str]:
    return shortened([curve.name for curve in curves], _LONGEST_LABEL)


def _square(labels: Sequence[str], heading: str) -> tuple[Figure, Axes]:
    """Axes from 0 to 1 above a legend and its heading."""
    foot = legend_height(labels, COLUMN - 0.1) + 0.17
    bottom = foot + 0.36
    figure = new_figure(COLUMN, bottom + _SIDE + _TOP)
    figure.text(0.05 / COLUMN, (foot - 0.12) / (bottom + _SIDE + _TOP), heading)
    axes = axes_at(figure, _LEFT, bottom, COLUMN - _LEFT - _RIGHT, _SIDE)
    axes.set_xlim(-0.01, 1.01)
    axes.set_ylim(-0.01, 1.01)
    axes.grid(visible=True)
    return figure, axes


def _enlarge(axes: Axes, curves: Sequence[ClassCurve]) -> None:
    """The upper left corner once more, where the curves of good models crowd."""
    inset = axes.inset_axes(_INSET)
    for number, curve in enumerate(curves):
        last = int(np.searchsorted(curve.x, _CORNER, side="right")) + 1
        shown = replace(curve, x=curve.x[:last], y=curve.y[:last])
        _line(inset, shown, number, clip=True)
    inset.set_xlim(-0.004, _CORNER)
    inset.set_ylim(1 - _CORNER, 1.004)
    inset.set_xticks([0, _CORNER / 2, _CORNER])
    inset.set_yticks([1 - _CORNER, 1 - _CORNER / 2, 1])
    inset.grid(visible=True)
    for side in ("top", "right"):
        inset.spines[side].set_visible(True)


def _line(
    axes: Axes, curve: ClassCurve, number: int, *, steps: bool = False, clip: bool = False
) -> Any:
    look = series(number)
    (line,) = axes.plot(
        curve.x,
        curve.y,
        drawstyle="steps-pre" if steps else "default",
        color=look.color,
        linestyle=look.linestyle,
        marker=look.marker,
        markevery=(0.03 + 0.021 * (number % 8), 0.17),  # by length along the curve
        markerfacecolor="white" if number % 2 else look.color,
        markeredgewidth=0.8,
        clip_on=clip,
    )
    if curve.point is not None:
        axes.plot(
            *([curve.point[0]], [curve.point[1]]),
            linestyle="none",
            marker=look.marker,
            color=look.color,
            clip_on=clip,
        )
        axes.plot(
            *([curve.point[0]], [curve.point[1]]),
            linestyle="none",
            marker="o",
            markersize=7.5,
            markerfacecolor="none",
            markeredgecolor=look.color,
            markeredgewidth=0.9,
            clip_on=clip,
        )
    return line
