"""A table as it is printed, before any format: headings with units, texts, rules, footer."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MISSING = "\N{EN DASH}"  # no run
UNDEFINED = "n/a"  # runs, but no such number


@dataclass(frozen=True)
class Column:
    """A heading.

    Attributes:
        unit: of its numbers, "" for none.
        group: the heading above it, which neighbours share; "" for none.
        numeric: whether its cells are numbers, which stand at the right.
        names_row: whether its cells name their rows.
    """

    title: str
    unit: str = ""
    group: str = ""
    numeric: bool = True
    names_row: bool = False

    @property
    def heading(self) -> str:
        """Title and unit."""
        return f"{self.title} ({self.unit})" if self.unit else self.title


@dataclass(frozen=True)
class Entry:
    """A cell: plain text that each format escapes."""

    text: str
    bold: bool = False


@dataclass(frozen=True)
class Line:
    """A row: an entry a column.

    Attributes:
        published: whether it is a paper's: in italics, below a rule.
        begins_section: whether a rule stands above it.
    """

    entries: tuple[Entry, ...]
    published: bool = False
    begins_section: bool = False


@dataclass(frozen=True)
class Sheet:
    """A table ready for a format.

    Attributes:
        name: lower-case letters, digits and hyphens, for references to it.
        footer: one statement a line.
        values: what the cells hold, unrounded and in the units of records, for CSV.
    """

    name: str
    caption: str
    columns: tuple[Column, ...]
    lines: tuple[Line, ...]
    footer: tuple[str, ...]
    values: tuple[Mapping[str, Any], ...] = ()


def slug(*words: str) -> str:
    """Words as a name of lower-case letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", " ".join(words).lower()).strip("-") or "table"


def one_line(text: str) -> str:
    """Text on one line that can be encoded: breaks and control characters become spaces.

    Half of a surrogate pair, which JSON may hold and UTF-8 may not, becomes U+FFFD.
    """
    plain = "".join(
        " "
        if unicodedata.category(letter) in ("Cc", "Zl", "Zp")
        else "\N{REPLACEMENT CHARACTER}"
        if "\ud800" <= letter <= "\udfff"
        else letter
        for letter in text
    )
    return re.sub(r"\s+", " ", plain).strip()
