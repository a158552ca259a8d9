"""Rows and cells: the records of one configuration put together over its seeds."""

from __future__ import annotations

import dataclasses
import itertools
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ltbench.errors import VerificationError
from ltbench.files import canonical_json
from ltbench.report.quantities import Quantity, Record

NUM_SEEDS_WANTED = 5


@dataclass(frozen=True)
class Cell:
    """One quantity over the seeds of a row, in the unit that records store (not percent).

    Attributes:
        mean: None where the quantity is undefined for any of the seeds, or is a text.
        sd: sample standard deviation (ddof = 1); None for a single seed.
        text: a quantity in words, where it is one.
        bold: whether the row cannot be told from the best of its column.
    """

    mean: float | None
    sd: float | None
    text: str = ""
    bold: bool = False


@dataclass(frozen=True)
class OfClass:
    """The class that a row of a per-class table is about: its name, and its images."""

    name: str
    num_train: int | None
    num_test: int | None


@dataclass(frozen=True)
class Row:
    """One configuration: all its seeds.

    Attributes:
        label: method, preset and changed settings.
        key: the configuration's full key; rows of one label differ in it.
        uses_validation: whether training itself used validation results.
        cells: by name of the quantity.
        records: one a seed, in the order of `seeds`.
        of_class: the class, where the row is about one.
    """

    label: str
    key: str
    seeds: tuple[int, ...]
    uses_validation: bool
    cells: Mapping[str, Cell]
    records: tuple[Record, ...] = field(default=(), repr=False, compare=False)
    of_class: OfClass | None = None

    @property
    def provisional(self) -> bool:
        """Whether there are too few seeds to lean on."""
        return len(self.seeds) < NUM_SEEDS_WANTED


@dataclass(frozen=True)
class Table:
    """Configurations compared on the test part of one split.

    Attributes:
        quantities: one a column, in order.
        rows: in the order in which the records came.
        notes: what was found out beside the records, such as how bold was decided.
    """

    dataset: str
    protocol: str
    split_digest: str
    quantities: tuple[Quantity, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()

    def with_notes(self, notes: Iterable[str]) -> Table:
        """The table with more notes."""
        return dataclasses.replace(self, notes=(*self.notes, *notes))

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the columns."""
        return tuple(quantity.name for quantity in self.quantities)

    @property
    def records(self) -> tuple[Record, ...]:
        """Every record once, row by row."""
        found = {
            (record["key"], record["seed"]): record for row in self.rows for record in row.records
        }
        return tuple(found.values())

    @property
    def num_images(self) -> int | None:
        """Of the test part; None where the records do not say."""
        value = self.rows[0].records[0]["metrics"]["test"].get("num_images")
        return None if value is None else int(value)

    @property
    def num_groups(self) -> int | None:
        """Groups of the test part (lesions, patients, writers); None where not known."""
        notes = self.rows[0].records[0].get("protocol_notes") or {}
        groups = notes.get("groups")
        value = groups.get("test") if isinstance(groups, Mapping) else None
        return value if isinstance(value, int) else None

    @property
    def group_noun(self) -> str:
        """What one of `num_groups` is: "lesion", or "group" where nothing says more."""
        first = self.rows[0].records[0]
        return str(first.get("group_noun") or (first.get("leak") or {}).get("noun") or "group")


def tables_of(
    records: Iterable[Record], quantities: Callable[[Sequence[Record]], Sequence[Quantity]]
) -> list[Table]:
    """One table for each data set, protocol and split, in the order in which the records came.

    A row is one configuration (one key). Protocol notes that are numbers, such as the measured
    imbalance, also keep tables apart; notes in words are printed in the footer.

    Args:
        quantities: the columns, for all records together, so that tables share their units.

    Raises:
        VerificationError: two records of the same configuration and seed.
    """
    checked = each_once(records)
    columns = tuple(quantities(checked))
    return [_table(group, columns) for group in grouped(checked, _what_is_compared)]


def row_of(records: Sequence[Record], quantities: Sequence[Quantity]) -> Row:
    """The row of one configuration."""
    ordered = sorted(records, key=lambda record: int(record["seed"]))
    return Row(
        label=ordered[0]["label"],
        key=ordered[0]["key"],
        seeds=tuple(record["seed"] for record in ordered),
        uses_validation=any(record["uses_validation"] for record in ordered),
        cells={quantity.name: _cell(ordered, quantity) for quantity in quantities},
        records=tuple(ordered),
    )


def each_once(records: Iterable[Record]) -> list[Record]:
    """The records as a list, none of them twice: a run counted twice would shrink its spread."""
    checked = list(records)
    seen: dict[tuple[str, int], Record] = {}
    for record in checked:
        run = (record["key"], record["seed"])
        if run in seen:
            where = [str(one["folder"]) for one in (seen[run], record) if one.get("folder")]
            raise VerificationError(
                f"Two records of one run, {record['key']}/seed-{record['seed']} "
                f"({record['label']}){': ' if where else ''}{' and '.join(where)}. Expected one a "
                "seed: give each folder of results once."
            )
        seen[run] = record
    return checked


def grouped(
    records: Iterable[Record], value: Callable[[Record], tuple[Any, ...]]
) -> list[list[Record]]:
    """Records with the same value together, in the order in which they came."""
    groups: dict[tuple[Any, ...], list[Record]] = {}
    for record in records:
        groups.setdefault(value(record), []).append(record)
    return list(groups.values())


def row_names(rows: Sequence[Row]) -> dict[str, str]:
    """By key, the row's label, with the shown key where the label alone is not enough."""
    by_key = {row.key: row for row in rows}  # a per-class table has a key in many rows
    labels = Counter(row.label for row in by_key.values())
    shown = shown_keys(rows)
    return {
        key: f"{row.label} {shown[key]}" if labels[row.label] > 1 else row.label
        for key, row in by_key.items()
    }


def shown_keys(rows: Iterable[Row]) -> dict[str, str]:
    """By key, its first characters: at least eight, and as many as tell all keys apart."""
    keys = {row.key for row in rows}
    length = next(n for n in itertools.count(8) if len({key[:n] for key in keys}) == len(keys))
    return {key: key[:length] for key in keys}


def _what_is_compared(record: Record) -> tuple[str, ...]:
    notes = record.get("protocol_notes") or {}
    facts = {name: note for name, note in notes.items() if not isinstance(note, str)}
    images = (record.get("key_parts") or {}).get("image_digest") or ""
    where = record["dataset"], record["protocol"], record["split_digest"]
    return *where, images, canonical_json(facts)


def _table(records: Sequence[Record], quantities: tuple[Quantity, ...]) -> Table:
    configurations = grouped(records, lambda record: (record["key"],))
    first = records[0]
    return Table(
        *(first["dataset"], first["protocol"], first["split_digest"]),
        quantities=quantities,
        rows=tuple(row_of(group, quantities) for group in configurations),
    )


def _cell(records: Sequence[Record], quantity: Quantity) -> Cell:
    values = [quantity.read(record) for record in records]
    texts = [value for value in values if isinstance(value, str)]
    if texts:
        return Cell(None, None, text="; ".join(dict.fromkeys(texts)))
    defined = [value for value in values if isinstance(value, int | float)]
    # A mean over some of the seeds would look like the others and be another quantity.
    if len(defined) < len(values):
        return Cell(None, None)
    sd = statistics.stdev(defined) if len(defined) > 1 else None
    return Cell(statistics.fmean(defined), sd)
