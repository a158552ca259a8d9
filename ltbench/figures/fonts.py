"""Fonts for PDF and PNG, which hold the shapes of letters: others where ours lacks some."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final

from ltbench.figures.canvas import FAMILIES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["find_fonts"]

_REGULAR: Final = 400


def find_fonts(figure: Figure) -> str:
    """Give each text of a figure the fonts that have its letters.

    Returns:
        The letters that no font has, sorted; they are drawn as boxes.
    """
    from matplotlib.font_manager import FontProperties, findfont
    from matplotlib.text import Text

    texts: list[Text] = figure.findobj(Text)
    used = {letter for text in texts for letter in text.get_text() if not letter.isspace()}
    lacking = used - _letters_of(findfont(FontProperties(family=FAMILIES[:1])))
    if not lacking:
        return ""
    families, missing = _families_with("".join(sorted(lacking)))
    for text in texts:
        text.set_fontfamily([FAMILIES[0], *families, *FAMILIES[1:]])
    return missing


@lru_cache(maxsize=32)
def _families_with(letters: str) -> tuple[tuple[str, ...], str]:
    """(families that have some of the letters, the letters that none has), upright regular ones."""
    from matplotlib.font_manager import fontManager

    wanted = set(letters)
    files = {
        entry.name: str(entry.fname)
        for entry in fontManager.ttflist
        if (entry.style, entry.weight, entry.stretch) == ("normal", _REGULAR, "normal")
    }
    found = []
    for name in sorted(set(files) - set(FAMILIES)):
        if has := wanted & _letters_of(files[name]):
            found.append(name)
            wanted -= has
    return tuple(found), "".join(sorted(wanted))


@lru_cache(maxsize=512)
def _letters_of(file: str) -> frozenset[str]:
    from matplotlib.font_manager import get_font

    return frozenset(map(chr, get_font(file).get_charmap()))
