"""What a figure is: drawn as SVG with its caption, left out with a reason, or still to be drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple

from ltbench.figures.canvas import drawing_style, require_matplotlib
from ltbench.figures.fonts import find_fonts
from ltbench.figures.output import bytes_of, svg_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Drawn", "FigureFormat", "LeftOut", "Rendered", "Sketch", "drawn"]

FigureFormat = Literal["svg", "pdf", "png"]


@dataclass(frozen=True)
class Drawn:
    """A figure as SVG.

    Attributes:
        name: such as "confusion": the stem of a file's name.
        title: short, for a heading.
        caption: what is shown, number of images, estimator, units and split; plain text.
        alt: a sentence with the important numbers, for those who do not see the figure.
        svg: a whole SVG document, the same bytes each time.
    """

    name: str
    title: str
    caption: str
    alt: str
    svg: str


@dataclass(frozen=True)
class LeftOut:
    """A figure that cannot be drawn from what is stored, and why."""

    name: str
    title: str
    reason: str


class Rendered(NamedTuple):
    """A figure as a file.

    Attributes:
        data: its bytes.
        missing: letters that no font of this machine has, drawn as boxes; "" for SVG, which leaves
            fonts to whoever shows it.
    """

    data: bytes
    missing: str


@dataclass(frozen=True)
class Sketch:
    """A figure whose numbers are known and which is not drawn yet.

    Attributes:
        name, title, caption, alt: as of `Drawn`.
        draw: makes matplotlib's figure; called within `drawing_style`.
    """

    name: str
    title: str
    caption: str
    alt: str
    draw: Callable[[], Figure] = field(repr=False, compare=False)

    def drawn(self) -> Drawn:
        """The figure as SVG."""
        require_matplotlib()
        with drawing_style():
            svg = svg_of(self.draw(), title=self.title, alt=self.alt)
        return Drawn(self.name, self.title, self.caption, self.alt, svg)

    def rendered(self, figure_format: FigureFormat) -> Rendered:
        """The figure as a file: "svg" (UTF-8), "pdf" or "png" (300 pixels an inch)."""
        if figure_format == "svg":
            return Rendered(self.drawn().svg.encode("utf-8"), "")
        require_matplotlib()
        with drawing_style():
            figure = self.draw()
            missing = find_fonts(figure)
            return Rendered(bytes_of(figure, figure_format, title=self.title), missing)


def drawn(sketches: Iterable[Sketch | LeftOut]) -> Iterator[Drawn]:
    """Those that can be drawn, one after the other."""
    return (sketch.drawn() for sketch in sketches if isinstance(sketch, Sketch))
