"""Fonts for PDF and PNG, which hold the shapes of letters: others where ours lacks some."""

from __future__ import annotations

import unicodedata
from functools import lru_cache
from typing import TYPE_CHECKING

from ltbench.figures.canvas import FAMILIES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["find_fonts"]


def find_fonts(figure: Figure) -> str:
    """Give each text of a figure the fonts that have its letters.

    Returns:
        The letters that no font has, sorted; they are drawn as boxes.
    """
    from matplotlib.text import Text

    texts: list[Text] = figure.findobj(Text)
    used = {letter for text in texts for letter in text.get_text() if not letter.isspace()}
    lacking = used - _letters_of(FAMILIES[0])
    if not lacking:
        return ""
    families, missing = _families_with("".join(sorted(lacking)))
    for text in texts:
        text.set_fontfamily([FAMILIES[0], *families, *FAMILIES[1:]])
    return missing


@lru_cache(maxsize=32)
def _families_with(letters: str) -> tuple[tuple[str, ...], str]:
    """(families that have some of the letters, the letters that none has), regular styles only."""
    from matplotlib.font_manager import fontManager

    wanted = {letter for letter in letters if unicodedata.category(letter)[0] != "C"}
    found = []
    entries = {entry.name: entry for entry in fontManager.ttflist if entry.style == "normal"}
    for name in sorted(set(entries) - set(FAMILIES)):
        if not wanted:
            break
        has = wanted & _letters_of(name)
        if has:
            found.append(name)
            wanted -= has
    return tuple(found), "".join(sorted(wanted))


@lru_cache(maxsize=256)
def _letters_of(family: str) -> frozenset[str]:
    from matplotlib.font_manager import FontProperties, findfont, get_font

    font = get_font(findfont(FontProperties(family=[family])))
    return frozenset(map(chr, font.get_charmap()))
