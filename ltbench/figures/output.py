"""A matplotlib figure to bytes that are the same each time, as SVG, PDF or PNG."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Final, Literal
from xml.sax.saxutils import escape, quoteattr

from ltbench.files import sha256_hex

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["bytes_of", "svg_of"]

PIXELS_AN_INCH: Final = 300
FONTS: Final = "'DejaVu Sans', Verdana, Arial, Helvetica, sans-serif"

_HEAD = re.compile(r"^<\?xml.*?<svg [^>]*?width=\"([^\"]*)\" height=\"([^\"]*)\" [^>]*>", re.S)
_STYLE = re.compile(r"\s*<defs>\s*<style type=\"text/css\">[^<]*</style>\s*</defs>")
_FAMILY = re.compile(r" ?font-family: [^;\"]*;?")
_NO_TURN = re.compile(r" transform=\"rotate\(-0 [^\"]*\)\"")
_GROUP_ID = re.compile(r"<g id=\"[^\"]*\"")


def svg_of(figure: Figure, *, title: str, alt: str) -> str:
    """The figure as an SVG document whose text is text.

    What it refers to within itself has names of its own, so that several documents can stand in one
    HTML page; it refers to nothing outside, and its style is of no other element.
    """
    import matplotlib as mpl

    salt = sha256_hex(f"{title}\n{alt}".encode())
    plain = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": salt}):
        figure.savefig(buffer, format="svg", metadata=plain)
    return _tidied(buffer.getvalue(), title, alt)


def bytes_of(figure: Figure, figure_format: Literal["pdf", "png"], *, title: str) -> bytes:
    """The figure as a PDF or PNG file."""
    buffer = io.BytesIO()
    metadata: dict[str, str | None] = {"Title": title, "Software": None}
    if figure_format == "pdf":
        metadata = {"Title": title, "CreationDate": None, "Creator": None, "Producer": None}
    figure.savefig(buffer, format=figure_format, dpi=PIXELS_AN_INCH, metadata=metadata)
    return buffer.getvalue()


def _tidied(svg: str, title: str, alt: str) -> str:
    match = _HEAD.match(svg)
    assert match is not None, svg[:400]
    width, height = match.groups()
    box = f"0 0 {width.removesuffix('pt')} {height.removesuffix('pt')}"
    head = (
        '<?xml version="1.0" encoding="utf-8"?>\n'
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'width="{width}" height="{height}" viewBox="{box}" version="1.1" role="img" '
        f'aria-label={quoteattr(alt)} font-family="{FONTS}" '
        'stroke-linejoin="round" stroke-linecap="butt">\n'
        f" <title>{escape(title)}</title>"
    )
    body = _STYLE.sub("", svg[match.end() :], count=1)
    for pattern in (_FAMILY, _NO_TURN):
        body = pattern.sub("", body)
    return head + _GROUP_ID.sub("<g", body)
