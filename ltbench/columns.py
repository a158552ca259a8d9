"""Text in columns, wrapped or cut to a width."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

_GAP = "  "
_NARROWEST = 14
_LONGEST_WORD = 40


def terminal_width() -> int | None:
    """Characters a line of the terminal that stdout is; None where it is none."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def columns(
    rows: Sequence[Mapping[str, Any]], *, width: int | None = None, cut: bool = False
) -> str:
    """Rows under their keys, aligned; columns that are empty in every row are left out.

    Args:
        width: characters a line; the widest columns give way. None for as wide as it gets.
        cut: cells that are too long end in an ellipsis; without it they are wrapped.
    """
    names = [name for name in rows[0] if any(row[name] not in ("", None, []) for row in rows)]
    cells = [[_text(row[name]) for name in names] for row in rows]
    natural = [max(len(cell) for cell in column) for column in zip(names, *cells, strict=True)]
    floors = [_NARROWEST] * len(names)
    if not cut:  # A word that is wrapped can be neither searched nor copied.
        floors = [
            _longest_word([n, *c]) for n, c in zip(names, zip(*cells, strict=True), strict=True)
        ]
    widths = _narrowed(natural, floors, width)
    lines = [names, ["-" * one for one in widths]]
    for row in cells:
        fitted = [_fit(cell, one, cut) for cell, one in zip(row, widths, strict=True)]
        height = max(len(cell) for cell in fitted)
        lines += [[(*cell, *[""] * height)[i] for cell in fitted] for i in range(height)]
    return "\n".join(
        _GAP.join(cell.ljust(one) for cell, one in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def paragraph(text: str, width: int, indent: str = "", hanging: str = "") -> str:
    """`text` wrapped; lines after the first begin with `hanging`."""
    return textwrap.fill(
        text,
        width,
        initial_indent=indent,
        subsequent_indent=hanging,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _longest_word(cells: Sequence[str]) -> int:
    words = (word for cell in cells for word in cell.split())
    return max(_NARROWEST, *(min(len(word), _LONGEST_WORD) for word in words))


def _narrowed(natural: Sequence[int], floors: Sequence[int], width: int | None) -> list[int]:
    widths = list(natural)
    while width is not None and sum(widths) + len(_GAP) * (len(widths) - 1) > width:
        wide = [i for i in range(len(widths)) if widths[i] > floors[i]]
        if not wide:
            break
        widths[max(wide, key=widths.__getitem__)] -= 1
    return widths


def _fit(cell: str, width: int, cut: bool) -> list[str]:
    if len(cell) <= width:
        return [cell]
    if cut:
        return [cell[: width - 1].rstrip() + "…"]
    return textwrap.wrap(cell, width, break_on_hyphens=False) or [""]


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return "" if value is None else str(value)
