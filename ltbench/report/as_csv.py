"""Sheets as CSV: one line a value, unrounded, for machines."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from typing import Any

from ltbench.report.sheet import Sheet

# The same for every layout, so that tables of several can be read as one.
COLUMNS = (
    *("dataset", "protocol", "split_digest", "label", "key", "uses_validation"),
    *("num_seeds", "seeds", "provisional", "class", "metric", "unit", "mean", "sd", "text", "bold"),
    *("num_images", "num_groups", "published", "verified", "paper", "table", "row"),
)


def to_csv(sheets: Iterable[Sheet]) -> str:
    """All values of the sheets under one line of headings.

    Means and deviations are written so that reading them gives the same float64; what is undefined
    or does not apply is empty. Names are as they were stored, line breaks included.
    """
    buffer = io.StringIO()
    plain = csv.writer(buffer, lineterminator="\n")
    # A carriage return ends a line for readers, but is not quoted where lines end otherwise.
    quoted = csv.writer(buffer, lineterminator="\n", quoting=csv.QUOTE_ALL)
    plain.writerow(COLUMNS)
    for sheet in sheets:
        for values in sheet.values:
            texts = [_text(values.get(name)) for name in COLUMNS]
            (quoted if any("\r" in text for text in texts) else plain).writerow(texts)
    return buffer.getvalue()


def read_csv(text: str) -> list[Mapping[str, str]]:
    """What `to_csv` wrote, a mapping a line."""
    return list(csv.DictReader(io.StringIO(text, newline="")))


def _text(value: Any) -> str:
    if value is None:
        return ""
    text = repr(value) if isinstance(value, float) else str(value)
    # JSON may hold half of a surrogate pair, which UTF-8 cannot.
    return text.encode("utf-8", "replace").decode("utf-8")
