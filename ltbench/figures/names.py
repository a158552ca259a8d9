"""Names as they are drawn: on one line, legible, cut where they are too long, never confused."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import Final

from ltbench.figures.canvas import FONT_SIZE, text_width

__all__ = ["fitted", "literal", "plural", "shortened"]

_ELLIPSIS: Final = "\N{HORIZONTAL ELLIPSIS}"
_NARROWEST: Final = 0.2  # inches
_LONGEST: Final = 80  # letters
# With them two names could look alike, or turn round what stands beside them.
_TURNING: Final = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f")


def literal(name: str) -> str:
    """A name on one line, without what no XML document may hold."""
    spaced = " ".join(name.split())
    letters = []
    for letter in spaced:
        unprintable = unicodedata.category(letter) in ("Cc", "Cs") or letter in "\ufffe\uffff"
        if letter not in _TURNING:
            letters.append("\N{REPLACEMENT CHARACTER}" if unprintable else letter)
    return "".join(letters) or "(no name)"


def shortened(names: Sequence[str], width: float, size: float = FONT_SIZE) -> list[str]:
    """The names, cut in the middle where they are wider than `width` inches.

    Names that look the same after it get their position in brackets, from 1.
    """
    short = [_cut(literal(name), width, size) for name in names]
    alike = Counter(short)
    return [f"{name} [{place}]" if alike[name] > 1 else name for place, name in enumerate(short, 1)]


def fitted(names: Sequence[str], room: float, size: float = FONT_SIZE) -> list[str]:
    """The names, the longest cut until all of them together are at most `room` inches wide."""
    widths = [text_width(literal(name)[:_LONGEST], size) for name in names]
    allowed = max(widths, default=0.0)
    while allowed > _NARROWEST and sum(min(width, allowed) for width in widths) > room:
        allowed -= 0.02
    return shortened(names, allowed + 1e-6, size)


def plural(number: int, noun: str) -> str:
    """Such as "1 image" or "1 040 images"."""
    ending = "" if number == 1 else "es" if noun.endswith("ss") else "s"
    return f"{number:,}".replace(",", "\N{NO-BREAK SPACE}") + f" {noun}{ending}"


def _cut(name: str, width: float, size: float) -> str:
    if len(name) <= _LONGEST and text_width(name, size) <= width:
        return name
    if len(name) > _LONGEST:
        name = name[: _LONGEST // 2] + name[-_LONGEST // 2 :]
    for kept in range(len(name) - 1, 1, -1):
        head = kept - kept // 3
        cut = name[:head].rstrip() + _ELLIPSIS + name[len(name) - kept // 3 :].lstrip()
        if text_width(cut, size) <= width:
            return cut
    return name[0] + _ELLIPSIS
