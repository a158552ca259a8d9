"""Boards: the tables of `ltbench.report` with what sorting, filtering and links need."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ltbench.registry import METHODS, normalise
from ltbench.report.arrange import single
from ltbench.report.command import paired_to_best
from ltbench.report.footer import leak
from ltbench.report.intervals import with_bold
from ltbench.report.layouts import LAYOUTS, ordered_by
from ltbench.report.published import Published
from ltbench.report.quantities import PAPER_METRICS, Quantity, Record, of_metrics, tail
from ltbench.report.rows import Row, Table, tables_of
from ltbench.report.sheet import Entry, Line, Sheet
from ltbench.site.naming import RunIdentity, board_names, board_titles, identity, safe

__all__ = ["Board", "boards_of", "columns_of", "method_page", "row_of", "rows_of", "run_page"]

Facts = dict[str, Any]

NUM_FACTS = 3  # columns of a sheet before its numbers: method, key, seeds
_PLUS_MINUS = " \N{PLUS-MINUS SIGN} "
KINDS: Mapping[str, str] = {
    "default": "defaults",
    "changed": "changed by preset or by hand",
    "tuned": "tuned by a study",
    "published": "published figures",
}


@dataclass(frozen=True)
class Board:
    """A table on one data set, protocol and split.

    Attributes:
        name: its id on the first page.
        title: for readers.
        sheet: of `table`, as every format prints it.
    """

    name: str
    title: str
    table: Table
    sheet: Sheet

    @property
    def leak(self) -> str:
        """What test images share with training."""
        return leak(self.table.records[0])


def boards_of(
    records: Sequence[Record],
    *,
    bold: bool,
    sort: str | None,
    published: Published | None,
    shown: Callable[[str], str] = str,
) -> list[Board]:
    """The boards of these records.

    Args:
        records: as tables read them.
        bold: whether rows that cannot be told from the best are bold.
        sort: the column that rows are ordered by, best first; None for the records' order.
        published: papers' figures to stand below.
        shown: what a line of a footer becomes.

    Raises:
        UsageError: no column to sort by.
        VerificationError: two records of the same configuration and seed.
    """
    tables = tables_of(records, lambda _: quantities())
    if sort is not None:
        tables = ordered_by(tables, sort)
    if bold:
        tables = [with_bold(table, paired_to_best) for table in tables]
    tables = [table.with_notes(LAYOUTS["tail"].notes(table)) for table in tables]
    titles = board_titles(tables)
    return [
        Board(name, title, table, _told(single(table, published), shown))
        for name, title, table in zip(board_names(titles), titles, tables, strict=True)
    ]


def quantities() -> tuple[Quantity, ...]:
    """The columns: the paper's, and sensitivity by size of class."""
    return *of_metrics(PAPER_METRICS), *tail()[1:]


def columns_of(board: Board, sort: str | None) -> list[Facts]:
    """Headings of the numbers, with what sorting needs; `sort` is the one that rows stand by."""
    by = None if sort is None else normalise(sort)
    by_size = {quantity.name for quantity in tail()[1:]}
    return [
        {
            "name": quantity.name,
            "title": column.title,
            "unit": column.unit,
            "sorted": quantity.name == by,
            "by_size": quantity.name in by_size,
            "first": "ascending" if quantity.higher_is_better is False else "descending",
        }
        for quantity, column in zip(
            board.table.quantities, board.sheet.columns[NUM_FACTS:], strict=True
        )
    ]


def rows_of(
    board: Board,
    stems: Mapping[RunIdentity, str],
    levels: Mapping[str, str],
    method: str | None = None,
) -> list[Facts]:
    """Our rows for a page, in the board's order; of one method alone where it is given."""
    lines = board.sheet.lines[: len(board.table.rows)]
    return [
        row_of(row, line, board.table.quantities, stems, levels)
        for row, line in zip(board.table.rows, lines, strict=True)
        if method in (None, row.records[0]["method"])
    ]


def row_of(
    row: Row,
    line: Line,
    columns: Sequence[Quantity],
    stems: Mapping[RunIdentity, str],
    levels: Mapping[str, str],
) -> Facts:
    """One row; its texts are those of the sheet, its values unrounded means."""
    first = row.records[0]
    label, key, seeds = (entry.text for entry in line.entries[:NUM_FACTS])
    return {
        "label": label,
        "method": method_page(first["method"]),
        "key": key,
        "seeds": seeds,
        "num_seeds": len(row.seeds),
        "cells": [
            {**_cell(entry), "value": row.cells[quantity.name].mean}
            for entry, quantity in zip(line.entries[NUM_FACTS:], columns, strict=True)
        ],
        "runs": [
            {"seed": record["seed"], "href": run_page(stems[identity(record)])}
            for record in row.records
        ],
        "level": levels.get(row.key, ""),
        "kind": _kind(row),
        "find": _find(row),
    }


def published_of(board: Board) -> list[Facts]:
    """Papers' rows, which stand apart."""
    return [
        {
            "label": line.entries[0].text,
            "cells": [{**_cell(entry), "value": None} for entry in line.entries[NUM_FACTS:]],
            "find": line.entries[0].text.lower(),
        }
        for line in board.sheet.lines
        if line.published
    ]


def method_page(method: str) -> str:
    """Where the page of a method is."""
    return f"methods/{safe(method)}.html"


def run_page(stem: str) -> str:
    """Where the page of a run is."""
    return f"runs/{stem}.html"


def _cell(entry: Entry) -> Facts:
    mean, plus_minus, sd = entry.text.partition(_PLUS_MINUS)
    return {"mean": mean, "sd": plus_minus + sd, "bold": entry.bold}


def _kind(row: Row) -> str:
    if any(record.get("tuning") for record in row.records):
        return "tuned"
    return "default" if row.label == row.records[0]["method"] else "changed"


def _find(row: Row) -> str:
    """What the text filter looks in: method, preset, settings, recipe, key, tags."""
    first = row.records[0]
    method = first["method"]
    tags = METHODS.info(method).tags if method in METHODS else ()
    words = [row.label, method, first.get("preset") or "", first.get("recipe") or "", row.key]
    return " ".join([*words, *tags]).lower()


def _told(sheet: Sheet, shown: Callable[[str], str]) -> Sheet:
    return dataclasses.replace(sheet, footer=tuple(map(shown, sheet.footer)))
