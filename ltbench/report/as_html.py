"""Sheets as HTML: accessible tables, whole in themselves, without scripts and the network."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from ltbench.report.as_markdown import PUBLISHED
from ltbench.report.sheet import Sheet, one_line

if TYPE_CHECKING:
    from jinja2 import Template


def to_html(sheets: Iterable[Sheet], title: str = "Comparison") -> str:
    """A whole page with a table a sheet."""
    template = _template("page.html.j2")
    bodies = [fragment(sheet, f"table-{n}") for n, sheet in enumerate(sheets, start=1)]
    return template.render(title=one_line(title), tables=bodies, style=stylesheet())


def fragment(sheet: Sheet, name: str = "table") -> str:
    """The table and its footer alone, for a page that has `stylesheet`.

    Args:
        name: an id that is unique on the page.

    Returns:
        HTML, every text in it escaped.
    """
    columns = [
        {"heading": one_line(c.heading), "numeric": c.numeric, "names_row": c.names_row}
        for c in sheet.columns
    ]
    return _template("table.html.j2").render(
        name=name,
        caption=one_line(sheet.caption),
        groups=_groups(sheet),
        columns=columns,
        bodies=_bodies(sheet),
        published=PUBLISHED,
        footer=[one_line(line) for line in sheet.footer],
    )


@cache
def stylesheet() -> str:
    """The CSS that `fragment` counts on."""
    return _file("table.css")


def _groups(sheet: Sheet) -> list[dict[str, Any]]:
    """The headings above headings; none where no column has one."""
    if not any(column.group for column in sheet.columns):
        return []
    return [
        {"title": one_line(group), "width": len(list(found))}
        for group, found in itertools.groupby(sheet.columns, key=lambda column: column.group)
    ]


def _bodies(sheet: Sheet) -> list[dict[str, Any]]:
    """Lines in sections, each with its cells as (text, bold, column)."""
    sections: list[dict[str, Any]] = []
    for line in sheet.lines:
        before = sections[-1] if sections else None
        begins = line.begins_section or before is None or before["published"] != line.published
        if before is None or begins:
            before = {"published": line.published, "lines": []}
            sections.append(before)
        cells = [
            {"text": one_line(entry.text), "bold": entry.bold, "column": column}
            for entry, column in zip(line.entries, sheet.columns, strict=True)
        ]
        before["lines"].append(cells)
    return sections


@cache
def _template(name: str) -> Template:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.from_string(_file(name))


def _file(name: str) -> str:
    return resources.files("ltbench.report").joinpath(name).read_text("utf-8")
