"""Critical-difference diagrams: average ranks on a line, bars over what cannot be told apart."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from ltbench.figures.canvas import COLUMN, PAGE, axes_at, new_figure, text_width
from ltbench.figures.names import shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ltbench.stats.ranks import CriticalDifference

__all__ = ["draw_critical_difference"]

_LINE, _BAR = 0.16, 0.075  # inches between labels, and between bars
_LONGEST_LABEL: Final = 1.1
_TOP: Final = 0.62
_SHORTEST_SCALE: Final = 1.6  # inches


def draw_critical_difference(found: CriticalDifference) -> Figure:
    """Best ranks left, as in Demsar 2006; labels with their rank on both sides of the line."""
    ranks = list(found.average_ranks.values())
    num = len(ranks)
    labels = [
        f"{name} ({rank:.2f})"
        for name, rank in zip(
            shortened(list(found.average_ranks), _LONGEST_LABEL), ranks, strict=True
        )
    ]
    margin = max(map(text_width, labels)) + 0.12
    width = COLUMN if COLUMN - 2 * margin >= _SHORTEST_SCALE else PAGE
    bars = 0.1 + _BAR * max(1, len(found.cliques))
    num_left = math.ceil(num / 2)
    height = _TOP + bars + _LINE * num_left + 0.1
    figure = new_figure(width, height)
    axes = axes_at(figure, margin, 0, width - 2 * margin, height)
    axes.set_xlim(1, num)
    axes.set_ylim(-height, 0)  # inches from the upper edge
    axes.axis("off")
    _draw_scale(axes, num, found.critical_difference)
    _draw_labels(axes, ranks, labels, bars, num_left)
    at = {name: rank for name, rank in found.average_ranks.items()}
    for place, clique in enumerate(found.cliques):
        y = -_TOP - 0.09 - _BAR * place
        ends = [at[clique[0]] - 0.03, at[clique[-1]] + 0.03]
        axes.plot(ends, [y, y], color="#000000", linewidth=2.6, solid_capstyle="butt")
    return figure


def _draw_scale(axes: Axes, num: int, critical: float) -> None:
    axes.plot([1, num], [-_TOP, -_TOP], color="#000000", linewidth=0.8, clip_on=False)
    for rank in range(1, num + 1):
        axes.plot(
            [rank, rank], [-_TOP, -_TOP + 0.05], color="#000000", linewidth=0.8, clip_on=False
        )
        axes.text(rank, -_TOP + 0.07, str(rank), ha="center", va="bottom")
    end = min(1 + critical, num)
    axes.plot([1, end], [-0.24, -0.24], color="#000000", linewidth=0.8, clip_on=False)
    for x in (1, end):
        axes.plot([x, x], [-0.21, -0.27], color="#000000", linewidth=0.8, clip_on=False)
    shown = f"critical difference {critical:.2f}"
    axes.text((1 + end) / 2, -0.18, shown, ha="center", va="bottom")
    axes.text((1 + num) / 2, -0.37, "average rank (1 is best)", ha="center", va="center")


def _draw_labels(
    axes: Axes, ranks: list[float], labels: list[str], bars: float, num_left: int
) -> None:
    """The better half on the left, from the top; the others on the right, from the bottom."""
    num = len(ranks)
    for place, (rank, label) in enumerate(zip(ranks, labels, strict=True)):
        left = place < num_left
        row = place if left else num - 1 - place
        y = -_TOP - bars - _LINE * (row + 0.5)
        edge = 1.0 if left else float(num)
        axes.plot([rank, rank, edge], [-_TOP, y, y], color="#000000", linewidth=0.6, clip_on=False)
        axes.annotate(
            label,
            (edge, y),
            xytext=(-3 if left else 3, 0),
            textcoords="offset points",
            ha="right" if left else "left",
            va="center",
            annotation_clip=False,
        )
