"""Confusion matrices, each row divided by its class's images: Fig. 3 of the ECL paper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ltbench.errors import VerificationError
from ltbench.figures.canvas import (
    COLUMN,
    FONT_SIZE,
    GREY,
    PAGE,
    SMALL,
    axes_at,
    label_y,
    new_figure,
    text_width,
)
from ltbench.figures.names import plural, shortened
from ltbench.figures.shades import colormap, text_on

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Matrix", "cell_words", "draw_confusion", "is_written_out", "matrix_of"]

_MOST_WITH_COUNTS: Final = 22
_MOST_WITH_SHARES: Final = 36
SMALLEST_WRITTEN: Final = 0.01  # share, in cells without a count
_LONGEST_LABEL: Final = 0.95  # inches
_SMALLEST_CELL, _LARGEST_CELL = 0.22, 0.5  # inches; below the first, two columns are taken
_TOP, _BAR = 0.08, 0.52
_BAR_LABEL: Final = "share of the true class"
_LABELS_AN_INCH: Final = 8.5


@dataclass(frozen=True)
class Matrix:
    """What a confusion matrix shows.

    Attributes:
        class_names: C names, in the order of rows and columns.
        counts: of images by true class (rows) and predicted class, (C, C); means over runs too.
        shares: counts divided by their row's sum, of one run, or the mean over runs; NaN in rows
            of classes without an image.
        spread: standard deviation of shares over runs; None for one run.
        num_train: training images of each class, for the order.
    """

    class_names: tuple[str, ...]
    counts: np.ndarray
    shares: np.ndarray
    num_train: tuple[int, ...]
    spread: np.ndarray | None = None

    @cached_property
    def order(self) -> np.ndarray:
        """Class indices, largest in training first, equals in the order of the data set."""
        return np.argsort(-np.asarray(self.num_train), kind="stable")

    @property
    def num_images(self) -> np.ndarray:
        """Of each true class, (C,)."""
        return np.asarray(self.counts.sum(axis=1))


def matrix_of(records: Sequence[Mapping[str, Any]]) -> Matrix:
    """The confusion of one run's test part, or the mean over runs on the same test part.

    Raises:
        VerificationError: a record without a whole matrix, or runs of several lists of classes.
    """
    try:
        found = [record["metrics"]["test"] for record in records]
        names = {tuple(one["per_class"]["class_names"]) for one in found}
        counts = np.array([one["confusion"] for one in found], dtype=np.float64)
        num_train = tuple(int(count) for count in found[0]["per_class"]["train_count"])
    except (KeyError, TypeError, ValueError) as error:
        raise VerificationError(
            "A record is not whole: expected the confusion matrix and the numbers of each class, "
            f"got {type(error).__name__}: {error}. Restore it from a copy, or run the cell again."
        ) from error
    shape = (len(found), len(num_train), len(num_train))
    if len(names) > 1 or counts.shape != shape or len(next(iter(names))) != shape[1]:
        raise VerificationError(
            f"The records do not fit each other: {len(names)} lists of classes, confusion matrices "
            f"of shape {counts.shape[1:]}, training images of {len(num_train)} classes."
        )
    totals = counts.sum(axis=2, keepdims=True)
    if (counts < 0).any() or not totals.any(axis=1).all():
        raise VerificationError(
            "A record's confusion matrix holds no image, or fewer than none in a cell. Restore the "
            "record from a copy, or run the cell again."
        )
    shares = np.divide(counts, totals, out=np.full_like(counts, np.nan), where=totals > 0)
    return Matrix(
        names.pop(),
        counts.mean(axis=0),
        shares.mean(axis=0),
        num_train,
        shares.std(axis=0, ddof=1) if len(found) > 1 else None,
    )


def cell_words(matrix: Matrix) -> str:
    """What cells, axes and their order mean, for a caption."""
    with_share, with_below = is_written_out(len(matrix.class_names))
    below = "the number of images" if matrix.spread is None else "its standard deviation over seeds"
    empty_cells = "empty cells hold no image"
    if not with_below:
        empty_cells = f"in empty cells it is below {SMALLEST_WRITTEN:g}"
    told = "Shade: share of the true class's images"
    if with_share:
        written = f"share{f', below it {below}' if with_below else ''}; {empty_cells}"
        told += f". Written: {written}"
    empty = [i for i, number in enumerate(matrix.num_images) if number == 0]
    absent = f" Hatched: {plural(len(empty), 'class')} without a test image." if empty else ""
    return (
        f"{told}. Classes from the largest in training to the smallest; in brackets their test "
        f"images.{absent}"
    )


def is_written_out(num_classes: int) -> tuple[bool, bool]:
    """Whether cells show their share, and whether they show the count."""
    return num_classes <= _MOST_WITH_SHARES, num_classes <= _MOST_WITH_COUNTS


def draw_confusion(matrix: Matrix) -> Figure:
    """True classes are rows, predicted ones columns, the largest class first."""
    order = matrix.order
    num = len(order)
    labels = shortened([matrix.class_names[c] for c in order], _LONGEST_LABEL)
    with_n = _with_numbers(labels, matrix.num_images[order])
    left = 0.22 + max(map(text_width, with_n)) + 0.06
    cell = next(
        found
        for width in (COLUMN, PAGE)
        if (found := (width - left - _BAR) / num) > _SMALLEST_CELL or width == PAGE
    )
    cell = min(cell, _LARGEST_CELL)
    upright = max(map(text_width, labels)) < 0.9 * cell
    bottom = 0.32 if upright else 0.28 + max(map(text_width, labels))
    side = cell * num
    figure = new_figure(left + side + _BAR, bottom + side + _TOP)
    axes = axes_at(figure, left, bottom, side, side)
    shares = matrix.shares[np.ix_(order, order)]
    _draw_cells(axes, shares)
    _label(axes, with_n, labels, left, side, upright=upright)
    _draw_bar(figure, left + side + 0.08, bottom, side)
    if is_written_out(num)[0]:
        _write_cells(axes, shares, matrix, cell)
    return figure


def _with_numbers(labels: Sequence[str], num_images: np.ndarray) -> list[str]:
    return [f"{label} ({number:.0f})" for label, number in zip(labels, num_images, strict=True)]


def _draw_cells(axes: Axes, shares: np.ndarray) -> None:
    num = len(shares)
    if is_written_out(num)[0]:
        _draw_squares(axes, shares)
    else:  # a path for each cell would make megabytes
        axes.imshow(
            np.ma.masked_invalid(shares),
            cmap=colormap(),
            vmin=0,
            vmax=1,
            origin="lower",
            extent=(0, num, 0, num),
            interpolation="none",
        )
    for row in np.flatnonzero(np.isnan(shares).all(axis=1)).tolist():
        axes.axhspan(row, row + 1, facecolor="none", edgecolor=GREY, hatch="/////", linewidth=0)
    axes.set_xlim(0, num)
    axes.set_ylim(num, 0)
    axes.set_aspect("auto")
    for side in ("top", "right"):
        axes.spines[side].set_visible(True)


def _draw_squares(axes: Axes, shares: np.ndarray) -> None:
    """A path for each cell that is not white, and lines between all of them."""
    from matplotlib.collections import PolyCollection

    num = len(shares)
    rows, columns = np.nonzero(np.nan_to_num(shares) > 0)
    corners = np.array([(0, 0), (1, 0), (1, 1), (0, 1)])
    squares = np.stack([columns, rows], axis=1)[:, None, :] + corners
    colours = colormap()(shares[rows, columns])
    axes.add_collection(PolyCollection(list(squares), facecolors=colours, edgecolors="none"))
    lines: dict[str, Any] = {"colors": "#e6e6e6", "linewidth": 0.3}
    axes.hlines(range(1, num), 0, num, **lines)
    axes.vlines(range(1, num), 0, num, **lines)


def _label(
    axes: Axes,
    rows: Sequence[str],
    columns: Sequence[str],
    left: float,
    side: float,
    *,
    upright: bool,
) -> None:
    every = int(np.ceil(len(rows) / (side * _LABELS_AN_INCH)))
    at = [place + 0.5 for place in range(0, len(rows), every)]
    axes.set_yticks(at, rows[::every])
    axes.set_xticks(at, columns[::every])
    if not upright:  # anchored where they touch the axes, however wide a browser draws them
        for label in axes.get_xticklabels():
            label.set(rotation=90, rotation_mode="anchor", ha="right", va="center")
    axes.tick_params(length=0 if every == 1 else 2)
    axes.set_xlabel("predicted class")
    label_y(axes, "true class (test images)", left)


def _draw_bar(figure: Figure, left: float, bottom: float, side: float) -> None:
    height = min(side, 1.6)
    axes = axes_at(figure, left, bottom + side - height, 0.09, height)
    steps = np.linspace(0, 1, 26)
    axes.pcolormesh(
        [0, 1],
        steps,
        ((steps[1:] + steps[:-1]) / 2)[:, None],
        cmap=colormap(),
        edgecolors="face",
        linewidth=0.2,
    )
    axes.set_xticks([])
    axes.yaxis.tick_right()
    axes.yaxis.set_label_position("right")
    axes.set_yticks([0, 0.5, 1], ["0", "0.5", "1"])
    axes.set_ylabel(_BAR_LABEL if height > text_width(_BAR_LABEL) else "share")
    for name in ("top", "right"):
        axes.spines[name].set_visible(True)


def _write_cells(axes: Axes, shares: np.ndarray, matrix: Matrix, cell: float) -> None:
    order = matrix.order
    counts = matrix.counts[np.ix_(order, order)]
    spread = None if matrix.spread is None else matrix.spread[np.ix_(order, order)]
    with_counts = is_written_out(len(shares))[1]
    size = min(FONT_SIZE, FONT_SIZE * 0.9 * cell / text_width("0.00"))
    below = min(SMALL, SMALL * 0.9 * cell / text_width("0000", SMALL))
    shift = 0.0 if not with_counts else 0.17
    colours = colormap()(np.nan_to_num(shares))
    shown = counts > 0 if with_counts else np.nan_to_num(shares) >= SMALLEST_WRITTEN
    for row, column in zip(*np.nonzero(shown), strict=True):
        share = shares[row, column]
        ink = text_on(colours[row, column])
        style: dict[str, Any] = {"ha": "center", "va": "center", "color": ink}
        x, y = column + 0.5, row + 0.5
        axes.text(x, y - shift, f"{share:.2f}", fontsize=size, **style)
        if with_counts:
            under = f"{counts[row, column]:.0f}"
            if spread is not None:
                under = f"\N{PLUS-MINUS SIGN}{spread[row, column]:.2f}"
            axes.text(x, y + 0.24, under, fontsize=below, **style)
