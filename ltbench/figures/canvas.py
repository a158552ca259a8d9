"""The paper figures are drawn on: sizes in inches, one font, series that grey keeps apart.

matplotlib is imported where it is used, so that what describes figures can be imported without it.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ltbench.errors import DataMissingError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

__all__ = [
    "COLUMN",
    "FONT_SIZE",
    "GREY",
    "PAGE",
    "SMALL",
    "Series",
    "axes_at",
    "drawing_style",
    "label_y",
    "legend_above",
    "legend_below",
    "legend_height",
    "log_ticks",
    "new_figure",
    "require_matplotlib",
    "series",
    "text_width",
]

COLUMN: Final = 3.4
"""Width of a figure in one column, inches."""
PAGE: Final = 7.0
"""Width of a figure over two columns, inches."""
FONT_SIZE: Final = 7.0
"""Of every text but counts within cells, points."""
SMALL: Final = 5.5
GREY: Final = "#707070"

# The first comes with matplotlib, and is as wide as what replaces it in a browser or wider. The
# second has a box for every letter there is, so that matplotlib can measure any name.
FAMILIES: Final = ("DejaVu Sans", "Last Resort High-Efficiency")

_LOCK = threading.RLock()  # matplotlib's settings are one for the whole process
_SETTINGS: Final[dict[Any, Any]] = {
    "font.family": list(FAMILIES),
    "font.size": FONT_SIZE,
    "text.parse_math": False,
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
    "axes.titlesize": FONT_SIZE,
    "axes.labelsize": FONT_SIZE,
    "axes.labelpad": 2.5,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.labelsize": FONT_SIZE,
    "ytick.labelsize": FONT_SIZE,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "xtick.major.pad": 2.0,
    "ytick.major.pad": 2.0,
    "legend.fontsize": FONT_SIZE,
    "legend.frameon": False,
    "lines.linewidth": 1.0,
    "lines.markersize": 3.6,
    "hatch.linewidth": 0.5,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.4,
}
_COLOURS: Final = ("#000000", "#0072b2", "#b34e00", "#00785a", "#7a3b8f", "#8c6d00", "#5a5a5a")
_DASHES: Final[tuple[Any, ...]] = (
    "solid",
    (0, (5.0, 1.6)),
    (0, (1.2, 1.2)),
    (0, (5.0, 1.4, 1.2, 1.4)),
    (0, (2.6, 1.0)),
)
_MARKERS: Final = ("o", "s", "^", "D", "v", "P", "X", "<")
_EDGE: Final = 0.09  # inches
_FEW_TICKS: Final = 3
_LEGEND_LINE: Final = 0.135  # inches
_HANDLE: Final = 0.42  # inches, with what separates it from its label and the next column


class Series(NamedTuple):
    """How one of several lines is drawn: told from the others without its colour."""

    color: str
    linestyle: Any
    marker: str


def require_matplotlib() -> None:
    """Refuse to go on without the library that draws.

    Raises:
        DataMissingError: matplotlib is not installed.
    """
    if find_spec("matplotlib") is None:
        raise DataMissingError(
            "Figures need the package matplotlib, which is not installed. Install it: "
            "pip install 'ltbench[plots]'"
        )


@contextmanager
def drawing_style() -> Iterator[None]:
    """Our settings within the block, whatever the user's matplotlibrc says; theirs after it.

    One thread at a time: matplotlib has one set of settings for the process.
    """
    import matplotlib as mpl

    with _LOCK, mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_SETTINGS)
        yield


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches, that pyplot knows nothing of."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height))


def axes_at(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """Axes at a place in inches from the lower left corner."""
    total_width, total_height = figure.get_size_inches()
    return figure.add_axes(
        (
            left / total_width,
            bottom / total_height,
            width / total_width,
            height / total_height,
        )
    )


def label_y(axes: Axes, label: str, left: float) -> None:
    """A label of the y axis at the figure's edge, wherever the tick labels end.

    Args:
        left: where the axes begin, inches.
    """
    width = axes.bbox.width / axes.figure.dpi
    axes.set_ylabel(label, verticalalignment="center")
    axes.yaxis.set_label_coords((_EDGE - left) / width, 0.5)


def series(number: int) -> Series:
    """The `number`th of several lines; forty differ in dashes or marker."""
    return Series(
        _COLOURS[number % len(_COLOURS)],
        _DASHES[number % len(_DASHES)],
        _MARKERS[number % len(_MARKERS)],
    )


def log_ticks(axis: Axis, low: float, high: float) -> None:
    """Plain numbers on a logarithmic axis: powers of ten, with 2 and 5 where these are few."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    powers = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    ticks = [10.0**power for power in powers if low <= 10.0**power <= high]
    if len(ticks) < _FEW_TICKS:
        ticks = [m * 10.0**power for power in powers for m in (1, 2, 5)]
    axis.set_major_locator(FixedLocator([tick for tick in ticks if low <= tick <= high]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


@lru_cache(maxsize=8192)
def text_width(text: str, size: float = FONT_SIZE) -> float:
    """How wide a text is drawn, in inches."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(family=list(FAMILIES), size=size)
    width, _, _ = text_to_path.get_text_width_height_descent(text, font, False)
    return float(width) / 72


def legend_height(labels: Sequence[str], width: float) -> float:
    """What `legend_below` takes of a figure's height, inches."""
    return _LEGEND_LINE * math.ceil(len(labels) / _legend_columns(labels, width))


def legend_below(
    figure: Figure, handles: Sequence[Any], labels: Sequence[str], left: float, width: float
) -> None:
    """A legend at the foot of the figure, in as many columns as fit into `width` inches.

    Labels are drawn as they are; matplotlib leaves out those that begin with an underscore.
    """
    total_width, total_height = figure.get_size_inches()
    legend = figure.legend(
        list(handles),
        ["."] * len(labels),
        loc="lower left",
        bbox_to_anchor=(left / total_width, 0.02 / total_height),
        ncols=_legend_columns(labels, width),
        borderpad=0,
        borderaxespad=0,
        labelspacing=0.25,
        handlelength=2.6,
        handletextpad=0.5,
        columnspacing=1.0,
    )
    for text, label in zip(legend.get_texts(), labels, strict=True):
        text.set_text(label)


def legend_above(axes: Axes, handles: Sequence[Any], labels: Sequence[str]) -> None:
    """A legend on top of axes, in one row."""
    legend = axes.legend(
        list(handles),
        ["."] * len(labels),
        loc="lower right",
        bbox_to_anchor=(1.0, 1.0),
        ncols=len(labels),
        borderpad=0,
        borderaxespad=0.2,
        handlelength=2.4,
        handletextpad=0.4,
        columnspacing=0.9,
    )
    for text, label in zip(legend.get_texts(), labels, strict=True):
        text.set_text(label)


def _legend_columns(labels: Sequence[str], width: float) -> int:
    """The most columns that fit, then as few of them as the same number of lines needs."""
    num = len(labels)
    widths = [text_width(label) + _HANDLE for label in labels]
    for columns in range(num, 1, -1):
        if sum(max(part) for part in _split(widths, columns)) <= width:
            return math.ceil(num / math.ceil(num / columns))
    return 1


def _split(widths: Sequence[float], columns: int) -> Iterator[Sequence[float]]:
    """As matplotlib fills the columns of a legend: the first ones have one more."""
    least, larger = divmod(len(widths), columns)
    start = 0
    for column in range(columns):
        end = start + least + (column < larger)
        yield widths[start:end]
        start = end
