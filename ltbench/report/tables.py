"""Tables made from the records of runs, and from nothing else.

A table never mixes what cannot be compared: each data set, protocol and split has a table of its
own. Whatever differs between its rows beyond the method is said in the footer.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from tabulate import tabulate

from ltbench.errors import UsageError, VerificationError
from ltbench.files import canonical_json
from ltbench.metrics import GROUP_BOUNDS, METRICS, Metric
from ltbench.registry import normalise, suggest
from ltbench.report.footer import footer

Record = Mapping[str, Any]

PAPER_METRICS = tuple(name for name, metric in METRICS.items() if metric.paper_column)
DEFAULT_METRICS = (*PAPER_METRICS, "balanced_accuracy")
NUM_SEEDS_WANTED = 5
UNDEFINED = "n/a"
DAGGER = "\N{DAGGER}"

_FACTS = [
    "label",
    "method",
    "preset",
    "dataset",
    "protocol",
    "split_digest",
    "key",
    "seed",
    "recipe",
    "select",
    "uses_validation",
    "precision",
    "device",
    "num_devices",
    "threads",
]


@dataclass(frozen=True)
class Cell:
    """One metric over the seeds of a row, in the metric's own unit (not percent).

    Attributes:
        mean: None where the metric is undefined for any of the seeds.
        sd: sample standard deviation (ddof = 1); None for a single seed.
    """

    mean: float | None
    sd: float | None


@dataclass(frozen=True)
class Row:
    """One configuration: all its seeds.

    Attributes:
        label: method, preset and changed settings.
        key: the configuration's full key; rows of one label differ in it.
        uses_validation: whether training itself used validation results.
        cells: by name of the metric.
    """

    label: str
    key: str
    seeds: tuple[int, ...]
    uses_validation: bool
    cells: Mapping[str, Cell]

    @property
    def provisional(self) -> bool:
        """Whether there are too few seeds to lean on."""
        return len(self.seeds) < NUM_SEEDS_WANTED


@dataclass(frozen=True)
class Table:
    """Configurations compared on the test part of one split.

    Attributes:
        metrics: names in `METRICS`, in the order of the columns.
        rows: in the order in which the records came.
        footer: what must be known to read the numbers, one statement a line.
    """

    dataset: str
    protocol: str
    split_digest: str
    metrics: tuple[str, ...]
    rows: tuple[Row, ...]
    footer: tuple[str, ...]


def frame(records: Iterable[Record]) -> pd.DataFrame:
    """One row a record.

    Columns: the record's facts under their own names; `test.<metric>` and `val.<metric>` for every
    metric of `METRICS`, unrounded, NaN where undefined or not recorded; `ledger.<entry>`.

    Raises:
        VerificationError: two records of the same configuration and seed.
    """
    rows = []
    for record in _checked(records):
        row = {fact: record.get(fact) for fact in _FACTS}
        for part in ("test", "val"):
            metrics = record["metrics"].get(part) or {}
            values = {name: metric.read(metrics) for name, metric in METRICS.items()}
            row |= {
                f"{part}.{name}": float("nan") if value is None else value
                for name, value in values.items()
            }
        row |= {f"ledger.{name}": value for name, value in record.get("ledger", {}).items()}
        rows.append(row)
    measured = [f"{part}.{name}" for part in ("test", "val") for name in METRICS]
    return pd.DataFrame(rows) if rows else pd.DataFrame(columns=[*_FACTS, *measured])


def comparison(
    records: Iterable[Record], *, metrics: Sequence[str] = DEFAULT_METRICS
) -> list[Table]:
    """One table for each data set, protocol and split, in the order in which the records came.

    A row is one configuration (one key), a cell the mean and the sample standard deviation
    of a test metric over its seeds. Protocol notes that are numbers, such as the measured
    imbalance, also keep tables apart; notes in words are printed in the footer.

    Args:
        records: as stored; empty for no table.
        metrics: names in `METRICS`, one column each.

    Raises:
        UsageError: an unknown metric.
        VerificationError: two records of the same configuration and seed.
    """
    names = tuple(normalise(name) for name in metrics)
    for name in names:
        if name not in METRICS:
            raise UsageError(suggest("metric", name, list(METRICS)))
    return [_table(group, names) for group in _grouped(_checked(records), _what_is_compared)]


def to_markdown(table: Table) -> str:
    """The table and its footer in GitHub's Markdown; rates in percent with two decimals."""
    shown = _shown_keys(table.rows)
    lines = [
        {
            "method": _escaped(row.label) + (f" {DAGGER}" if row.uses_validation else ""),
            "key": shown[row.key],
            "seeds": f"{len(row.seeds)}{' (provisional)' if row.provisional else ''}",
            **{
                _escaped(_column(METRICS[name])): _cell_text(row.cells[name], METRICS[name])
                for name in table.metrics
            },
        }
        for row in table.rows
    ]
    alignment = ("left", "left", *["right"] * (1 + len(table.metrics)))
    body = pd.DataFrame(lines).to_markdown(index=False, disable_numparse=True, colalign=alignment)
    footer = "\n".join(f"- {_escaped(line)}" for line in table.footer)
    return f"{body}\n\n{footer}\n"


def to_csv(table: Table) -> str:
    """One line for each row and metric; means and deviations unrounded, empty where undefined."""
    lines = [
        {
            "dataset": table.dataset,
            "protocol": table.protocol,
            "split_digest": table.split_digest,
            "label": row.label,
            "key": row.key,
            "uses_validation": row.uses_validation,
            "num_seeds": len(row.seeds),
            "seeds": " ".join(map(str, row.seeds)),
            "provisional": row.provisional,
            "metric": name,
            "mean": row.cells[name].mean,
            "sd": row.cells[name].sd,
        }
        for row in table.rows
        for name in table.metrics
    ]
    return pd.DataFrame(lines).to_csv(index=False, lineterminator="\n")


def per_class(record: Record) -> str:
    """The closing table of one run, as plain text: a line a class, then the summary.

    A dash stands for what is undefined.
    """
    metrics = record["metrics"]["test"]
    rows = metrics["per_class"]
    rates = {"Pre": "precision", "Sen": "sensitivity", "Spe": "specificity"}
    rates |= {"F1": "f1", "AUC": "auc"}
    columns = {
        "class": rows["class_names"],
        "train": rows["train_count"],
        "test": rows["support"],
        **{title: [_percent(value) for value in rows[name]] for title, name in rates.items()},
    }
    alignment = ("left", *["right"] * (len(columns) - 1))
    body = tabulate(columns, headers="keys", colalign=alignment, disable_numparse=True)
    title = "{label}, seed {seed}: {dataset}, {protocol}, test part; rates in percent"
    return f"{title.format_map(record)}\n\n{body}\n\n{_summary_lines(metrics)}\n"


def _summary_lines(metrics: Mapping[str, Any]) -> str:
    num_classes, averaged = metrics["num_classes"], metrics["classes_averaged"]
    rows, lines = metrics["per_class"], []
    for name in DEFAULT_METRICS:
        counted = averaged.get(name, num_classes)
        note = "" if counted == num_classes else f"over {counted} of {num_classes} classes"
        lines.append((name.replace("_", " "), _percent(METRICS[name].read(metrics)), note))
    support = dict(zip(rows["class_names"], rows["support"], strict=True))
    for group, bounds in GROUP_BOUNDS.items():
        members = metrics["groups"][group]["classes"]
        tested = sum(support[name] > 0 for name in members)
        note = f"over {tested} of {len(members)} classes with {bounds} training images"
        if not members:
            note = f"no such class ({bounds} training images)"
        sensitivity = _percent(METRICS[f"{group}_sensitivity"].read(metrics))
        lines.append((f"{group} sensitivity", sensitivity, note))
    if metrics["num_tied"]:
        lines.append(("tied images", str(metrics["num_tied"]), "the first class was taken"))
    alignment = ("left", "right", "left")
    return tabulate(lines, tablefmt="plain", colalign=alignment, disable_numparse=True)


def _checked(records: Iterable[Record]) -> list[Record]:
    """The records as a list, none of them twice: a run counted twice would shrink its spread."""
    checked = list(records)
    seen = set()
    for record in checked:
        run = (record["key"], record["seed"])
        if run in seen:
            raise VerificationError(
                f"Two records of one run, {record['key']}/seed-{record['seed']} "
                f"({record['label']}). Expected one a seed: give each folder of results once."
            )
        seen.add(run)
    return checked


def _grouped(
    records: Iterable[Record], value: Callable[[Record], tuple[Any, ...]]
) -> list[list[Record]]:
    """Records with the same value together, in the order in which they came."""
    groups: dict[tuple[Any, ...], list[Record]] = {}
    for record in records:
        groups.setdefault(value(record), []).append(record)
    return list(groups.values())


def _what_is_compared(record: Record) -> tuple[str, ...]:
    notes = record.get("protocol_notes") or {}
    facts = {name: note for name, note in notes.items() if not isinstance(note, str)}
    images = (record.get("key_parts") or {}).get("image_digest", "")
    where = record["dataset"], record["protocol"], record["split_digest"]
    return *where, images, canonical_json(facts)


def _table(records: Sequence[Record], metrics: tuple[str, ...]) -> Table:
    configurations = _grouped(records, lambda record: (record["key"],))
    rows = tuple(_row(group, metrics) for group in configurations)
    first = records[0]
    where = first["dataset"], first["protocol"], first["split_digest"]
    lines = footer(records, _row_names(rows), {row.key: row.seeds for row in rows})
    if any(row.provisional for row in rows):
        lines.append(f"Provisional: fewer than {NUM_SEEDS_WANTED} seeds.")
    if any(row.uses_validation for row in rows):
        lines.append(f"{DAGGER} Training itself uses results on the validation part.")
    return Table(*where, metrics=metrics, rows=rows, footer=tuple(lines))


def _row(records: Sequence[Record], metrics: tuple[str, ...]) -> Row:
    return Row(
        label=records[0]["label"],
        key=records[0]["key"],
        seeds=tuple(sorted(record["seed"] for record in records)),
        uses_validation=any(record["uses_validation"] for record in records),
        cells={name: _cell(records, METRICS[name]) for name in metrics},
    )


def _cell(records: Sequence[Record], metric: Metric) -> Cell:
    values = [metric.read(record["metrics"]["test"]) for record in records]
    defined = [value for value in values if value is not None]
    # A mean over some of the seeds would look like the others and be another quantity.
    if len(defined) < len(values):
        return Cell(None, None)
    sd = statistics.stdev(defined) if len(defined) > 1 else None
    return Cell(statistics.fmean(defined), sd)


def _row_names(rows: Sequence[Row]) -> dict[str, str]:
    """By key, the row's label, with the shown key where the label alone is not enough."""
    labels = [row.label for row in rows]
    shown = _shown_keys(rows)
    return {
        row.key: f"{row.label} {shown[row.key]}" if labels.count(row.label) > 1 else row.label
        for row in rows
    }


def _shown_keys(rows: Sequence[Row]) -> dict[str, str]:
    """By key, its first characters: at least eight, and as many as tell all keys apart."""
    keys = {row.key for row in rows}
    length = next(n for n in itertools.count(8) if len({key[:n] for key in keys}) == len(keys))
    return {key: key[:length] for key in keys}


def _column(metric: Metric) -> str:
    return metric.paper_column or metric.name.replace("_", " ")


def _cell_text(cell: Cell, metric: Metric) -> str:
    if cell.mean is None:
        return UNDEFINED
    numbers = [cell.mean] if cell.sd is None else [cell.mean, cell.sd]
    texts = (f"{100 * x:.2f}" if metric.percent else f"{x:.4f}" for x in numbers)
    return " \N{PLUS-MINUS SIGN} ".join(texts)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"


_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "\n": " ", "\r": " "}
_MARKDOWN = str.maketrans({mark: f"\\{mark}" for mark in "\\|_*`["} | _ENTITIES)


def _escaped(text: str) -> str:
    """`text` so that Markdown shows it as it is, also inside a table."""
    return text.translate(_MARKDOWN)
