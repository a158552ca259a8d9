"""Figures that papers report: shown beside our own rows, never ranked or averaged with them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from functools import cache
from importlib import resources
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ltbench.errors import VerificationError
from ltbench.metrics import METRICS
from ltbench.registry import normalise
from ltbench.report.rows import Table
from ltbench.report.sheet import MISSING

Evidence = Literal["paper", "supplement", "authors", "third party"]
OTHER = "other"  # a protocol that ltbench does not have
_NONE = "-"  # stands in a row for a figure that its source does not give


class _Given(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FigureColumn(_Given):
    """A column of a paper's table.

    Attributes:
        conditions: settings of the data set that a run must have to stand beside it.
    """

    dataset: str
    metric: str
    conditions: Mapping[str, float | str] = {}

    @model_validator(mode="after")
    def _known(self) -> FigureColumn:
        if self.metric not in METRICS:
            raise ValueError(f"unknown metric '{self.metric}'")
        return self


class FigureRow(_Given):
    """A row of a paper's table.

    Attributes:
        row: its name there.
        method: ours that it is, or None.
        values: one a column, as printed there, with spaces between; `-` for none.
        setting: what it differs in from the rest of the table.
    """

    row: str = Field(min_length=1)
    values: str = Field(min_length=1)
    method: str | None = None
    setting: str = ""


class FigureTable(_Given):
    """A table of a paper.

    Attributes:
        table: its name there.
        protocol: ours that its split is.
        role: an ablation's rows stand only beside runs of its own method.
        num_runs: that a figure is the mean of; None where not said.
        evidence: where the figures were read: in the paper, in its supplement, in what its authors
            published beside it, or in somebody else's list.
        verified: whether every digit was compared with that source when the file was written.
    """

    table: str = Field(min_length=1)
    protocol: str
    evidence: Evidence
    verified: bool
    unit: Literal["percent", "fraction"]
    columns: tuple[FigureColumn, ...] = Field(min_length=1)
    rows: tuple[FigureRow, ...] = Field(min_length=1)
    role: Literal["comparison", "ablation"] = "comparison"
    method: str | None = None
    num_runs: int | None = Field(default=None, ge=1)
    setting: str = ""
    note: str = ""

    @model_validator(mode="after")
    def _whole(self) -> FigureTable:
        for row in self.rows:
            texts = row.values.split()
            if len(texts) != len(self.columns):
                raise ValueError(
                    f"row '{row.row}' has {len(texts)} values for {len(self.columns)} columns"
                )
            for text, column in zip(texts, self.columns, strict=True):
                if text != _NONE:
                    self._check(text, column, row.row)
        return self

    def _check(self, text: str, column: FigureColumn, row: str) -> None:
        try:
            value = Decimal(text) / (100 if self.unit == "percent" else 1)
        except InvalidOperation:
            raise ValueError(f"row '{row}': '{text}' is not a number") from None
        if METRICS[column.metric].percent and not 0 <= value <= 1:
            raise ValueError(f"row '{row}': {text} is no rate in {self.unit}")


class FigureFile(_Given):
    """One source: a paper, or a list of figures.

    Attributes:
        paper: authors, title, venue.
        source: where a reader finds it.
    """

    paper: str = Field(min_length=1)
    source: str = Field(min_length=1)
    tables: tuple[FigureTable, ...] = Field(min_length=1)


@dataclass(frozen=True)
class Figure:
    """One number that a paper reports, with all that says what it is.

    Attributes:
        text: as printed there.
        value: as records store it: a fraction where the metric is a rate.
    """

    paper: str
    source: str
    about: FigureTable
    row: FigureRow
    column: FigureColumn
    text: str
    value: float

    @property
    def table(self) -> str:
        """Name of its table."""
        return self.about.table


@dataclass(frozen=True)
class PublishedRow:
    """A row below the rule; texts are those of its columns."""

    label: str
    texts: tuple[str, ...]


@dataclass(frozen=True)
class Beside:
    """What stands below a table: rows, lines for the footer, values for CSV."""

    rows: tuple[PublishedRow, ...]
    notes: tuple[str, ...]
    values: tuple[Mapping[str, Any], ...]


class Published:
    """The figures that may stand beside tables.

    Args:
        figures: all unless given.
        methods: only those of these methods, by our names; None for all.
    """

    def __init__(
        self, figures: Iterable[Figure] | None = None, methods: Iterable[str] | None = None
    ) -> None:
        self._figures = tuple(published_figures() if figures is None else figures)
        self._methods = (
            None if methods is None else {normalise(m).partition("@")[0] for m in methods}
        )

    def beside(self, tables: Sequence[Table]) -> Beside | None:
        """The rows that fit the data sets and columns of tables side by side; None for none."""
        fitting = [
            (place, figure)
            for place, table in enumerate(tables)
            for figure in self._figures
            if figure.column.metric in table.metrics and self._fits(figure, table)
        ]
        if not fitting:
            return None
        # The nearest to our rows first: of their protocol, and read at their source.
        protocols = {table.protocol for table in tables}
        fitting.sort(
            key=lambda one: (
                one[1].about.protocol not in protocols,
                one[1].about.protocol == OTHER,
                one[1].about.evidence == "third party",
            )
        )
        found: dict[tuple[str, str, str], dict[tuple[int, str], Figure]] = {}
        for place, figure in fitting:
            name = figure.paper, figure.table, figure.row.row
            found.setdefault(name, {})[place, figure.column.metric] = figure
        numbers: dict[tuple[str, str], int] = {}
        rows = []
        for (paper, source_table, label), cells in found.items():
            number = numbers.setdefault((paper, source_table), len(numbers) + 1)
            texts = [
                _shown(cells.get((place, quantity.name)))
                for place, table in enumerate(tables)
                for quantity in table.quantities
            ]
            rows.append(PublishedRow(f"{label} [{number}]", tuple(texts)))
        figures = [(place, f) for cells in found.values() for (place, _), f in cells.items()]
        return Beside(
            rows=tuple(rows),
            notes=tuple(_notes(tables, figures, numbers)),
            values=tuple(_value(figure) for _, figure in figures),
        )

    def _fits(self, figure: Figure, table: Table) -> bool:
        if figure.column.dataset != table.dataset:
            return False
        ours = {record["method"] for record in table.records}
        if figure.about.role == "ablation" and ours != {figure.about.method}:
            return False
        wanted = self._methods is None or figure.row.method in self._methods
        if figure.about.role == "comparison" and not wanted:
            return False
        config = (table.records[0].get("key_parts") or {}).get("config") or {}
        settings = config.get("dataset") or {}
        conditions = figure.column.conditions
        return all(settings.get(name) == value for name, value in conditions.items())


@cache
def published_figures() -> tuple[Figure, ...]:
    """Every figure of `results/published/*.yaml`, in the order of the files' names.

    Raises:
        VerificationError: a file does not say what it should.
    """
    folder = resources.files("ltbench.published")
    files = sorted(file.name for file in folder.iterdir() if file.name.endswith(".yaml"))
    return tuple(
        figure
        for name in files
        for figure in figures_of(folder.joinpath(name).read_text("utf-8"), name)
    )


def figures_of(text: str, name: str) -> list[Figure]:
    """The figures of one YAML file.

    Raises:
        VerificationError: it does not say what it should.
    """
    try:
        file = FigureFile.model_validate(yaml.safe_load(text))
    except (yaml.YAMLError, ValidationError) as error:
        raise VerificationError(
            f"The published figures in {name} cannot be read: {error}. Expected paper, source and "
            "tables, as results/published/README.md says."
        ) from error
    return [
        Figure(file.paper, file.source, table, row, column, text, _stored(text, column, table.unit))
        for table in file.tables
        for row in table.rows
        for column, text in zip(table.columns, row.values.split(), strict=True)
        if text != _NONE
    ]


def _stored(text: str, column: FigureColumn, unit: str) -> float:
    """In decimal arithmetic, so that 83.89 percent is the float64 that 0.8389 is."""
    percent = unit == "percent" and METRICS[column.metric].percent
    return float(Decimal(text) / 100 if percent else Decimal(text))


def _shown(figure: Figure | None) -> str:
    """With the digits its paper gives."""
    if figure is None:
        return MISSING
    if figure.about.unit == "fraction" and METRICS[figure.column.metric].percent:
        return format(Decimal(figure.text).scaleb(2), "f")
    return figure.text


def _notes(
    tables: Sequence[Table],
    figures: Sequence[tuple[int, Figure]],
    numbers: Mapping[tuple[str, str], int],
) -> list[str]:
    lines = [
        "In italics: published figures, apart from the ranking, never bold or averaged; "
        f"{MISSING}: not given there."
    ]
    for (paper, name), number in numbers.items():
        of_source = [f for _, f in figures if (f.paper, f.table) == (paper, name)]
        lines.append(f"[{number}] {_source_line(of_source)}.")
    differing: dict[str, None] = {}
    for place, figure in figures:
        ours, theirs = tables[place].protocol, figure.about.protocol
        if ours != theirs:
            split = "another split than any here" if theirs == OTHER else f"protocol {theirs}"
            number = numbers[figure.paper, figure.table]
            differing[f"[{number}] on {figure.column.dataset} is of {split}"] = None
    if differing:
        lines.append(
            f"Not of our rows' protocol: {'; '.join(differing)}. Other images were tested there: "
            "for orientation alone."
        )
    return lines


def _source_line(figures: Sequence[Figure]) -> str:
    first = figures[0]
    about = first.about
    runs = "number of runs not said" if about.num_runs is None else f"mean of {about.num_runs} runs"
    read_in = {
        "paper": "read in the paper",
        "supplement": "read in its supplement",
        "authors": "read in its authors' repository",
        "third party": "read in this list, not in the methods' papers",
    }[about.evidence]
    settings = dict.fromkeys(f"{f.row.row}: {f.row.setting}" for f in figures if f.row.setting)
    parts = [
        f"{first.paper}: {about.table}, rows by their names there ({first.source})",
        "a split of its own" if about.protocol == OTHER else f"protocol {about.protocol}",
        *([about.setting] if about.setting else []),
        *settings,
        runs,
        read_in + ("" if about.verified else ", unverified"),
        *([about.note] if about.note else []),
    ]
    return "; ".join(part.rstrip(".") for part in parts)


def _value(figure: Figure) -> dict[str, Any]:
    return {
        "dataset": figure.column.dataset,
        "protocol": figure.about.protocol,
        "label": figure.row.method,
        "num_seeds": figure.about.num_runs,
        "metric": figure.column.metric,
        "mean": figure.value,
        "published": True,
        "verified": figure.about.verified,
        "paper": figure.paper,
        "table": figure.about.table,
        "row": figure.row.row,
    }
