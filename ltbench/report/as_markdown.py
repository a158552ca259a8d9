"""Sheets in GitHub's Markdown."""

from __future__ import annotations

import re

from tabulate import tabulate

from ltbench.report.sheet import Column, Line, Sheet, one_line

_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
_ESCAPES = str.maketrans({mark: f"\\{mark}" for mark in "\\|*`[~$"} | _ENTITIES)
_UNDERSCORE = re.compile(r"(?<![^\W_])_|_(?![^\W_])")  # within a word it starts no emphasis
PUBLISHED = "published figures, not ranked:"


def to_markdown(sheet: Sheet) -> str:
    """The table and its footer as a list."""
    body = []
    for number, line in enumerate(sheet.lines):
        if line.published and (number == 0 or not sheet.lines[number - 1].published):
            body.append([f"*{PUBLISHED}*", *[""] * (len(sheet.columns) - 1)])
        body.append(_cells(line))
    table = tabulate(
        body,
        headers=[_heading(column) for column in sheet.columns],
        tablefmt="pipe",
        colalign=["right" if column.numeric else "left" for column in sheet.columns],
        disable_numparse=True,
    )
    footer = "\n".join(f"- {escaped(line)}" for line in sheet.footer)
    return f"**{escaped(sheet.caption)}**\n\n{table}\n\n{footer}\n"


def escaped(text: str) -> str:
    """`text` so that Markdown shows it as it is, also inside a table; line breaks are spaces."""
    return _UNDERSCORE.sub(r"\\_", one_line(text).translate(_ESCAPES))


def _heading(column: Column) -> str:
    return escaped(f"{column.group}: {column.heading}" if column.group else column.heading)


def _cells(line: Line) -> list[str]:
    texts = []
    for entry in line.entries:
        text = escaped(entry.text)
        mark = "**" if entry.bold else "*" if line.published else ""
        texts.append(f"{mark}{text}{mark}" if text else "")
    return texts
