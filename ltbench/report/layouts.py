"""Which columns a table has and how its rows stand: the presets of `bench.py table`."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from ltbench.errors import UsageError
from ltbench.metrics import GROUP_BOUNDS
from ltbench.report.quantities import (
    CLINICAL_METRICS,
    DEFAULT_METRICS,
    PAPER_METRICS,
    Quantity,
    Record,
    ledger,
    of_class,
    of_metrics,
    of_runs,
    tail,
)
from ltbench.report.rows import OfClass, Row, Table, grouped, row_of

_MOST_CLASSES = 12  # named in the line on head, medium and tail


@dataclass(frozen=True)
class Layout:
    """A preset.

    Attributes:
        quantities: the columns, for these records.
        title: what the caption begins with.
        side_by_side: whether data sets share a table.
        bold: whether rows are compared with the best, which reads predictions.
        notes: more lines for the footer of one table.
    """

    quantities: Callable[[Sequence[Record]], Sequence[Quantity]]
    title: str
    side_by_side: bool = False
    bold: bool = False
    notes: Callable[[Table], list[str]] = lambda table: []


def check_one_protocol(tables: Sequence[Table]) -> None:
    """Refuse to put results of several protocols, or of several splits, beside each other.

    Raises:
        UsageError: naming what is mixed, and how to choose or to allow it.
    """
    protocols: dict[str, list[str]] = {}
    for table in tables:
        protocols.setdefault(table.protocol, []).append(table.dataset)
    if len(protocols) > 1:
        found = "; ".join(f"{name} ({', '.join(sets)})" for name, sets in protocols.items())
        raise UsageError(
            f"The runs are of several protocols: {found}. Expected one in a table, since "
            "different protocols answer different questions. Choose one with --protocol, or give "
            "--mixed to have them side by side."
        )
    several = [name for name, number in Counter(t.dataset for t in tables).items() if number > 1]
    if several:
        splits = "; ".join(
            f"{name}: {', '.join(t.split_digest[:8] for t in tables if t.dataset == name)}"
            for name in several
        )
        raise UsageError(
            f"The runs are of several splits or images of one data set ({splits}). Expected one a "
            "data set in a table. Choose with --results or --dataset, or give --mixed to have them "
            "side by side."
        )


def per_class_tables(tables: Sequence[Table]) -> list[Table]:
    """For each table one with a row for each class and configuration, largest class first.

    Tables whose records hold no numbers of each class have none.
    """
    found = []
    for table in tables:
        groups = grouped(table.records, lambda record: (record["key"],))
        places = {id(record): _places(record) for record in table.records}
        rows = []
        for about in _classes(table.records):
            quantities = of_class(partial(_place, places, about.name))
            rows += [
                dataclasses.replace(row_of(group, quantities), of_class=about) for group in groups
            ]
        if rows:
            columns = of_class(lambda record: None)
            made = dataclasses.replace(table, quantities=columns, rows=tuple(rows), notes=())
            found.append(made)
    return found


def _classes(records: Sequence[Record]) -> list[OfClass]:
    """The classes of all records, largest in training first; each with its images."""
    found: dict[str, OfClass] = {}
    for record in records:
        facts = record["metrics"]["test"].get("per_class")
        if facts and not set(facts["class_names"]) <= set(found):
            columns = (facts["class_names"], facts["train_count"], facts["support"])
            for name, num_train, num_test in zip(*columns, strict=False):
                found.setdefault(name, OfClass(name, num_train, num_test))
    return sorted(found.values(), key=lambda about: -(about.num_train or 0))


def _place(places: Mapping[int, Mapping[str, int]], name: str, record: Record) -> int | None:
    return places[id(record)].get(name)


def _places(record: Record) -> dict[str, int]:
    facts = record["metrics"]["test"].get("per_class") or {}
    return {name: index for index, name in enumerate(facts.get("class_names") or ())}


def ordered_by(tables: Sequence[Table], name: str) -> list[Table]:
    """The tables with their rows best first in one quantity, in its direction; undefined last.

    Raises:
        UsageError: no column of this name.
    """
    found = []
    for table in tables:
        quantity = next((q for q in table.quantities if q.name == name.replace("-", "_")), None)
        if quantity is None:
            raise UsageError(
                f"No column '{name}' to sort by. Expected one of: {', '.join(table.metrics)}."
            )
        sign = 1 if quantity.higher_is_better is False else -1

        def place(row: Row, name: str = quantity.name, sign: int = sign) -> tuple[bool, float]:
            mean = row.cells[name].mean
            return mean is None, 0.0 if mean is None else sign * mean

        found.append(dataclasses.replace(table, rows=tuple(sorted(table.rows, key=place))))
    return found


def _groups_note(table: Table) -> list[str]:
    """Which classes head, medium and tail are."""
    groups = table.records[0]["metrics"]["test"].get("groups") or {}
    parts = []
    for name, bounds in GROUP_BOUNDS.items():
        classes = (groups.get(name) or {}).get("classes") or []
        listed = ", ".join(classes[:_MOST_CLASSES])
        listed += (
            f" and {len(classes) - _MOST_CLASSES} more" if len(classes) > _MOST_CLASSES else ""
        )
        told = f"{_plural(len(classes), 'class')} ({listed})" if classes else "no such class"
        parts.append(f"{name}: {told} with {bounds} training images")
    return [
        f"Sensitivity, mean over the classes of a group. {'; '.join(parts)}. Worst class: "
        "the smallest of any class, which may be another one for each row and seed."
    ]


def _plural(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}es"


def _cost_note(table: Table) -> list[str]:
    tuned = any(record.get("tuning") for record in table.records)
    return [
        "Cost of one run, mean over seeds: training is the steps alone, wall time has validation, "
        "over all sessions; images seen are those of the first stream, however many views; memory "
        "is the peak of one device, of the process where that is a CPU. Rows of different devices "
        "are not comparable in time." + ("" if tuned else " No row is tuned.")
    ]


def _clinical(records: Sequence[Record]) -> tuple[Quantity, ...]:
    """Plain metrics, and those that are derived from each run's stored predictions."""
    from ltbench.clinical.columns import CLINICAL

    return *of_metrics(CLINICAL_METRICS), *of_runs(CLINICAL, records)


def _definitions(table: Table) -> list[str]:
    told = [f"{q.title}: {q.definition}" for q in table.quantities if q.definition]
    return [f"{'; '.join(told)}."]


PLAIN = "plain"  # without a preset

LAYOUTS: Mapping[str, Layout] = {
    PLAIN: Layout(lambda _: of_metrics(DEFAULT_METRICS), "Test results"),
    "paper": Layout(
        lambda _: of_metrics(PAPER_METRICS), "Test results", side_by_side=True, bold=True
    ),
    "tail": Layout(
        lambda _: tail(),
        "Sensitivity by size of class",
        bold=True,
        notes=_groups_note,
    ),
    "clinical": Layout(_clinical, "Clinical view", bold=True, notes=_definitions),
    "compute": Layout(ledger, "Cost", notes=_cost_note),
}
