"""A score of each class against the size of the class in training, for several rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from ltbench.figures.canvas import (
    COLUMN,
    FONT_SIZE,
    GREY,
    PAGE,
    axes_at,
    label_y,
    legend_below,
    legend_height,
    log_ticks,
    new_figure,
    series,
    text_width,
)
from ltbench.figures.names import shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["ClassScores", "draw_by_class_size", "named_classes"]

_LEFT, _RIGHT, _HEIGHT, _LEADER = 0.44, 0.12, 1.9, 0.14
_LONGEST_LABEL: Final = 0.95  # inches
_NAME_HEIGHT: Final = 1.35 * FONT_SIZE / 72  # inches that an upright name takes beside another
_MOST_JOINED: Final = 20  # classes whose points are joined by lines
_FEW_ROWS: Final = 4
_ABSENT: Final = 0.5  # where a class without training images stands on the logarithmic axis
_APART: Final = 0.035  # inches between the rows of one class


@dataclass(frozen=True)
class ClassScores:
    """One row.

    Attributes:
        label: for the legend.
        mean: over seeds, shares, float64 (C,); NaN where undefined.
        sd: sample standard deviation over seeds, (C,); None for one seed.
    """

    label: str
    mean: np.ndarray
    sd: np.ndarray | None


def figure_width(num_classes: int, num_rows: int) -> float:
    """One column where few classes and rows share it."""
    most = (COLUMN - _LEFT - _RIGHT) / _NAME_HEIGHT
    return COLUMN if num_rows <= _FEW_ROWS and num_classes <= most else PAGE


def named_classes(num_classes: int, num_rows: int) -> int:
    """How many class names fit above the axes."""
    return int((figure_width(num_classes, num_rows) - _LEFT - _RIGHT) / _NAME_HEIGHT)


def draw_by_class_size(
    rows: Sequence[ClassScores],
    num_train: Sequence[int],
    names: Sequence[tuple[int, str]],
    score: str,
) -> Figure:
    """Scores in per cent against training images, logarithmic.

    Args:
        names: (class index, name) of the classes that are named above the axes.
        score: such as "F1".
    """
    width = figure_width(len(num_train), len(rows))
    labels = shortened([row.label for row in rows], 2.6)
    texts = shortened([name for _, name in names], _LONGEST_LABEL)
    foot = legend_height(labels, width - 0.1) + 0.03
    top = max(map(text_width, texts), default=0.0) + _LEADER + 0.08
    figure = new_figure(width, foot + 0.36 + _HEIGHT + top)
    inches = width - _LEFT - _RIGHT
    axes = axes_at(figure, _LEFT, foot + 0.36, inches, _HEIGHT)
    sizes = np.maximum(np.asarray(num_train, dtype=np.float64), _ABSENT)
    _set_sizes(axes, sizes)
    decades = float(np.diff(np.log10(axes.get_xlim()))[0]) / inches
    handles = []
    for number, row in enumerate(rows):
        shift = 10 ** ((number - (len(rows) - 1) / 2) * _APART * decades)
        handles.append(_points(axes, sizes * shift, row, number))
    _set_scores(axes, rows, score)
    _name_classes(axes, [sizes[c] for c, _ in names], texts, inches)
    legend_below(figure, handles, labels, 0.05, width - 0.1)
    return figure


def _set_sizes(axes: Axes, sizes: np.ndarray) -> None:
    low, high = float(sizes.min()) / 1.25, float(sizes.max()) * 1.25
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    log_ticks(axes.xaxis, max(low, 1.0), high)
    if sizes.min() == _ABSENT:
        ticks = [_ABSENT, *axes.get_xticks()]
        axes.set_xticks(ticks, ["0", *(f"{tick:g}" for tick in ticks[1:])])
    axes.set_xlabel("training images of the class (log)")
    axes.grid(visible=True)


def _points(axes: Axes, x: np.ndarray, row: ClassScores, number: int) -> object:
    look = series(number)
    order = np.argsort(x, kind="stable")
    joined = len(x) <= _MOST_JOINED
    values, known = 100 * row.mean[order], np.isfinite(row.mean[order])
    if row.sd is not None:
        axes.errorbar(
            x[order][known],
            values[known],
            100 * row.sd[order][known],
            fmt="none",
            ecolor=look.color,
            elinewidth=0.6,
            capsize=1.5,
        )
    (line,) = axes.plot(
        x[order][known],
        values[known],
        color=look.color,
        linestyle=look.linestyle if joined else "none",
        linewidth=0.8,
        marker=look.marker,
        markerfacecolor="white" if number % 2 else look.color,
        markeredgewidth=0.8,
    )
    return line


def _set_scores(axes: Axes, rows: Sequence[ClassScores], score: str) -> None:
    from matplotlib.ticker import MaxNLocator

    lowest = min(
        float(np.nanmin(row.mean - (0 if row.sd is None else row.sd)))
        for row in rows
        if np.isfinite(row.mean).any()
    )
    axes.set_ylim(max(0, 10 * math.floor(10 * lowest)) - 1, 101.5)
    axes.yaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]))
    label_y(axes, f"{score} of the class (%)", _LEFT)


def _name_classes(axes: Axes, sizes: Sequence[float], texts: Sequence[str], inches: float) -> None:
    """Upright names above the axes, moved apart where they would touch, with lines to their place.

    The left-most comes first; names that are moved keep their order.
    """
    low, high = np.log10(axes.get_xlim())
    places = (np.log10(sizes) - low) / (high - low) * inches
    order = np.argsort(places, kind="stable")
    apart = _spread(places[order], _NAME_HEIGHT, inches)
    above = 1 + _LEADER / _HEIGHT
    for place, index in zip(apart, order.tolist(), strict=True):
        there, text = float(places[index]) / inches, texts[index]
        axes.plot(
            [there, there, place / inches],
            [1.0, 1 + 0.02, above - 0.015],
            color=GREY,
            linewidth=0.5,
            transform=axes.transAxes,
            clip_on=False,
        )
        axes.text(
            *(place / inches, above, text),
            transform=axes.transAxes,
            rotation=90,
            rotation_mode="anchor",
            ha="left",
            va="center",
        )


def _spread(places: np.ndarray, apart: float, room: float) -> np.ndarray:
    """Ascending places moved as little as needed to be `apart` from each other within the room.

    The least-squares solution is isotonic regression of the places less what stands before them.
    """
    from sklearn.isotonic import isotonic_regression

    if len(places) == 0:
        return places
    steps = apart * np.arange(len(places))
    last = max(room - steps[-1], 0.0)
    moved = isotonic_regression(places - steps, y_min=0.0, y_max=last)
    return np.asarray(moved + steps)
