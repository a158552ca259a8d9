"""Budget curves: what more trials of tuning would have brought, and what that gave on test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from ltbench.figures.canvas import (
    COLUMN,
    GREY,
    Series,
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

__all__ = ["Budget", "TestAt", "draw_budgets"]

_LEFT, _RIGHT, _TOP, _HEIGHT = 0.46, 0.08, 0.06, 2.0
_APART = 0.06  # trials, between the tests of one k


@dataclass(frozen=True)
class TestAt:
    """Test score of the settings that the first k trials would have chosen, over seeds."""

    __test__ = False

    k: int
    mean: float
    sd: float | None
    num_seeds: int


@dataclass(frozen=True)
class Budget:
    """One method's curve.

    Attributes:
        label: the method.
        expected, so_far: the expected best of k trials and the best of the first k, for k = 1..N,
            shares on validation.
        tests: at some k.
    """

    label: str
    expected: np.ndarray
    so_far: np.ndarray
    tests: Sequence[TestAt] = field(default_factory=tuple)


def draw_budgets(budgets: Sequence[Budget], score: str) -> Figure:
    """Expected best as lines, best so far as thin steps, test scores as large hollow markers."""
    from matplotlib.ticker import MaxNLocator

    tested = any(one.tests for one in budgets)
    labels = shortened([one.label for one in budgets], 1.0)
    labels += ["best of the first k", *(["on test"] if tested else [])]
    bottom = legend_height(labels, COLUMN - 0.1) + 0.39
    figure = new_figure(COLUMN, bottom + _HEIGHT + _TOP)
    axes = axes_at(figure, _LEFT, bottom, COLUMN - _LEFT - _RIGHT, _HEIGHT)
    handles = [
        _curve(axes, one, series(number), filled=number % 2 == 0)
        for number, one in enumerate(budgets)
    ]
    for number, one in enumerate(budgets):
        _tests(axes, one, series(number), _APART * (number - (len(budgets) - 1) / 2))
    handles += axes.plot([], [], color=GREY, linewidth=0.5)
    if tested:
        handles += axes.plot([], [], "o", color=GREY, markersize=7, markerfacecolor="none")
    axes.set_xlabel("budget (trials)")
    label_y(axes, f"{score} (%)", _LEFT)
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10]))
    axes.grid(visible=True)
    legend_below(figure, handles, labels, 0.05, COLUMN - 0.1)
    return figure


def _curve(axes: Axes, one: Budget, look: Series, *, filled: bool) -> Line2D:
    k = np.arange(1, len(one.expected) + 1)
    axes.step(k, 100 * one.so_far, where="post", color=look.color, linewidth=0.5, alpha=0.7)
    (line,) = axes.plot(
        *(k, 100 * one.expected),
        color=look.color,
        linestyle=look.linestyle,
        marker=look.marker,
        markevery=(0, max(1, len(k) // 8)),
        markerfacecolor=look.color if filled else "white",
        markeredgewidth=0.8,
    )
    return line


def _tests(axes: Axes, one: Budget, look: Series, shift: float) -> None:
    for at in one.tests:
        axes.errorbar(
            *([at.k + shift], [100 * at.mean]),
            yerr=None if at.sd is None else [100 * at.sd],
            color=look.color,
            marker=look.marker,
            markersize=7,
            markerfacecolor="none",
            elinewidth=0.6,
            capsize=2,
        )
