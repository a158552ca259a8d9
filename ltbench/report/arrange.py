"""Tables as sheets: one alone, or several side by side that share their rows."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ltbench.report.footer import DAGGER, block_titles, counts, footer, keys_line
from ltbench.report.published import Beside, Published
from ltbench.report.quantities import Quantity
from ltbench.report.rows import Cell, Row, Table, row_names, shown_keys
from ltbench.report.sheet import MISSING, UNDEFINED, Column, Entry, Line, Sheet, slug


def single(table: Table, published: Published | None = None, title: str = "Test results") -> Sheet:
    """The sheet of one table: a line a row, or a line a class and row."""
    names = row_names(table.rows)
    facts = _fact_columns(table)
    lines = _lines(table)
    found = None if published is None else published.beside([table])
    if found is not None:
        lines += _published_lines(found, len(facts))
    size = counts(table)
    return Sheet(
        name=slug(title, table.dataset, table.protocol),
        caption=f"{title} on {table.dataset}, protocol {table.protocol}"
        + (f": {size}" if size else ""),
        columns=(*facts, *(_column(quantity) for quantity in table.quantities)),
        lines=tuple(lines),
        footer=(*footer([table], names), *table.notes, *_published_notes(published, found)),
        values=(*_values(table), *(found.values if found else ())),
    )


def side_by_side(
    tables: Sequence[Table], published: Published | None = None, title: str = "Test results"
) -> Sheet:
    """The sheet of several tables that share their rows: data sets beside each other."""
    titles = block_titles(tables)
    joints = _joined(tables)
    names = {row.key: name for name, rows in joints for row in rows if row is not None}
    columns = [Column("method", numeric=False, names_row=True), Column("seeds")]
    for table, block in zip(tables, titles, strict=True):
        columns += [dataclasses.replace(_column(q), group=block) for q in table.quantities]
    lines = [_joint_line(tables, name, rows) for name, rows in joints]
    found = None if published is None else published.beside(tables)
    if found is not None:
        lines += _published_lines(found, 2)
    notes = _shared_notes(tables, titles)
    missing = _missing(joints, titles)
    return Sheet(
        name=slug(title, *titles, tables[0].protocol),
        caption=_caption(tables, titles, title),
        columns=tuple(columns),
        lines=tuple(lines),
        footer=(
            *footer(tables, names),
            keys_line(tables, titles, names),
            *missing,
            *notes,
            *_published_notes(published, found),
        ),
        values=(
            *(value for table in tables for value in _values(table)),
            *(found.values if found else ()),
        ),
    )


def _fact_columns(table: Table) -> list[Column]:
    """The columns that say which row it is."""
    method = [Column("method", numeric=False, names_row=True), Column("key", numeric=False)]
    if any(row.of_class for row in table.rows):
        about = [Column("class", numeric=False, names_row=True)]
        about += [Column("training", "images"), Column("test", "images")]
        return [*about, *method, Column("seeds")]
    return [*method, Column("seeds")]


def _lines(table: Table) -> list[Line]:
    """Our rows; those of one class between rules."""
    shown = shown_keys(table.rows)
    lines: list[Line] = []
    before = None
    for row in table.rows:
        own = [
            *_class_entries(row),
            Entry(_label(row)),
            Entry(shown[row.key]),
            Entry(_seeds([row])),
        ]
        cells = [_entry(row.cells[quantity.name], quantity) for quantity in table.quantities]
        begins = before is not None and row.of_class != before
        lines.append(Line((*own, *cells), begins_section=begins))
        before = row.of_class
    return lines


def _shared_notes(tables: Sequence[Table], titles: Sequence[str]) -> list[str]:
    """Notes of all tables once, those of some with the names of the data sets."""
    of_note: dict[str, list[str]] = {}
    for table, title in zip(tables, titles, strict=True):
        for note in table.notes:
            of_note.setdefault(note, []).append(title)
    return [
        note if len(where) == len(tables) else f"On {_and(where)}: {note[:1].lower()}{note[1:]}"
        for note, where in of_note.items()
    ]


def _joint_line(tables: Sequence[Table], name: str, rows: Sequence[Row | None]) -> Line:
    """One method's row over all tables."""
    there = [row for row in rows if row is not None]
    mark = f" {DAGGER}" if any(row.uses_validation for row in there) else ""
    entries = [Entry(f"{name}{mark}"), Entry(_seeds(there))]
    for table, row in zip(tables, rows, strict=True):
        entries += [
            Entry(MISSING) if row is None else _entry(row.cells[quantity.name], quantity)
            for quantity in table.quantities
        ]
    return Line(tuple(entries))


def _published_lines(found: Beside, num_facts: int) -> list[Line]:
    blanks = [Entry("")] * (num_facts - 1)
    return [
        Line((Entry(row.label), *blanks, *map(Entry, row.texts)), published=True)
        for row in found.rows
    ]


def _published_notes(published: Published | None, found: Beside | None) -> tuple[str, ...]:
    """Where the figures are from, or that there are none though they were asked for."""
    if published is None:
        return ()
    if found is None:
        return ("Published figures: none of these data sets, settings and columns.",)
    return found.notes


def _column(quantity: Quantity) -> Column:
    return Column(quantity.title, unit=quantity.unit, numeric=not quantity.words)


def _entry(cell: Cell, quantity: Quantity) -> Entry:
    if cell.text:
        return Entry(cell.text)
    if cell.mean is None:
        return Entry(UNDEFINED)
    text = quantity.shown(cell.mean)
    # Parameters are the same for every seed; that of rates is worth saying.
    if cell.sd is not None and (cell.sd > 0 or quantity.higher_is_better is not None):
        text += f" \N{PLUS-MINUS SIGN} {quantity.shown(cell.sd)}"
    return Entry(text, bold=cell.bold)


def _class_entries(row: Row) -> list[Entry]:
    about = row.of_class
    if about is None:
        return []
    numbers = (UNDEFINED if n is None else str(n) for n in (about.num_train, about.num_test))
    return [Entry(about.name), *map(Entry, numbers)]


def _label(row: Row) -> str:
    return row.label + (f" {DAGGER}" if row.uses_validation else "")


def _seeds(rows: Sequence[Row]) -> str:
    numbers = list(dict.fromkeys(len(row.seeds) for row in rows))
    mark = " (provisional)" if any(row.provisional for row in rows) else ""
    return f"{' / '.join(map(str, numbers))}{mark}"


def _joined(tables: Sequence[Table]) -> list[tuple[str, list[Row | None]]]:
    """Rows that are one method, as (name, the row of each table); in the order of the tables.

    Keys hold the split, so rows of two data sets never share one: they are one method where their
    labels are the same. Where a table has several rows of one label, recipe, precision and machine
    tell them apart; where these do not, rows stay alone.
    """
    together: dict[tuple[Any, ...], list[Row | None]] = {}
    several = {
        label
        for table in tables
        for label, number in Counter(row.label for row in table.rows).items()
        if number > 1
    }
    facts_of = [Counter(_facts(row) for row in table.rows) for table in tables]
    for place, table in enumerate(tables):
        for row in table.rows:
            identity: tuple[Any, ...] = (row.label,)
            if row.label in several:
                identity = _facts(row)
                if any(count[identity] > 1 for count in facts_of):
                    identity = (*identity, row.key)
            slots = together.setdefault(identity, [None] * len(tables))
            slots[place] = row
    labels = Counter(identity[0] for identity in together)
    shown = shown_keys(row for table in tables for row in table.rows)
    return [
        (label if labels[label] == 1 else f"{label} {_first_key(rows, shown)}", rows)
        for (label, *_), rows in together.items()
    ]


def _facts(row: Row) -> tuple[Any, ...]:
    first = row.records[0]
    names = ("recipe", "precision", "device", "num_devices", "threads", "render", "select")
    return row.label, *(first.get(name) for name in names)


def _first_key(rows: Sequence[Row | None], shown: Mapping[str, str]) -> str:
    return next(shown[row.key] for row in rows if row is not None)


def _missing(joints: Sequence[tuple[str, list[Row | None]]], titles: Sequence[str]) -> list[str]:
    told = []
    for place, title in enumerate(titles):
        names = [name for name, rows in joints if rows[place] is None]
        if names:
            told.append(f"{', '.join(names)} on {title}")
    return [f"{MISSING}: no finished run: {'; '.join(told)}."] if told else []


def _caption(tables: Sequence[Table], titles: Sequence[str], title: str) -> str:
    sizes = [counts(table) for table in tables]
    blocks = [f"{t} ({size})" if size else t for t, size in zip(titles, sizes, strict=True)]
    protocols = list(dict.fromkeys(table.protocol for table in tables))
    protocol = f", protocol {protocols[0]}" if len(protocols) == 1 else ""
    return f"{title} on {_and(blocks)}{protocol}"


def _and(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _values(table: Table) -> list[dict[str, Any]]:
    """One mapping a number, as CSV has them."""
    num_images, num_groups = table.num_images, table.num_groups
    lines = []
    for row in table.rows:
        facts = {
            "dataset": table.dataset,
            "protocol": table.protocol,
            "split_digest": table.split_digest,
            "label": row.label,
            "key": row.key,
            "uses_validation": row.uses_validation,
            "num_seeds": len(row.seeds),
            "seeds": " ".join(map(str, row.seeds)),
            "provisional": row.provisional,
            "class": None if row.of_class is None else row.of_class.name,
            "num_images": num_images if row.of_class is None else row.of_class.num_test,
            "num_groups": num_groups if row.of_class is None else None,
            "published": False,
        }
        for quantity in table.quantities:
            cell = row.cells[quantity.name]
            lines.append(
                {
                    **facts,
                    "metric": quantity.name,
                    "unit": quantity.base_unit,
                    "mean": cell.mean,
                    "sd": cell.sd,
                    "text": cell.text,
                    "bold": cell.bold,
                }
            )
    return lines
