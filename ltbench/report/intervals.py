"""Which rows are bold: those that cannot be told from the best of their column."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from ltbench.errors import LtbenchError
from ltbench.report.quantities import Quantity
from ltbench.report.rows import Row, Table, row_names
from ltbench.results import PREDICTIONS, RunFolder

_MOST_NAMES = 12
LEVEL_PERCENT = 95


class Paired(Protocol):
    """The paired difference of a row to the best, as `ltbench.stats.paired` gives it."""

    @property
    def low(self) -> float | None:
        """Lower end of its Holm-adjusted interval; None where there is none."""

    @property
    def high(self) -> float | None:
        """Upper end."""

    @property
    def num_seeds(self) -> int:
        """Seeds that both rows have."""

    @property
    def num_images(self) -> int:
        """Test images."""

    @property
    def num_groups(self) -> int:
        """Groups they are resampled in; each image is one where none are known."""

    @property
    def estimator(self) -> str:
        """How the interval was made, in words."""


AgainstBest = Callable[[Mapping[str, Sequence[RunFolder]], str], Mapping[str, Paired]]


def with_bold(table: Table, against_best: AgainstBest) -> Table:
    """The table with bold cells, and with notes on how they were decided.

    Bold is every row whose interval of the paired difference to the best row contains 0; the best
    by the metric's direction, on unrounded values. A row without an interval (one seed, predictions
    that are missing or damaged) is never bold; where that is the best row itself, none of its
    column is.

    Args:
        against_best: row key -> paired difference to the best of the rows, from run folders.
    """
    if len(table.rows) < 2:
        return table.with_notes(["No bold: there is one row only."])
    judge = _Judge(table.rows, against_best)
    others = [quantity.heading for quantity in table.quantities if not quantity.metric]
    for quantity in table.quantities:
        if quantity.metric:
            judge.decide(quantity)
    rows = tuple(_marked(row, judge.bold) for row in table.rows)
    notes = judge.notes()
    if others:
        notes.append(
            f"Columns that rows are not compared in, so without bold: {', '.join(others)}."
        )
    return dataclasses.replace(table, rows=rows).with_notes(notes)


class _Judge:
    """Decides column by column, and remembers why it could not.

    Attributes:
        bold: keys of the bold rows by name of the column.
    """

    def __init__(self, rows: Sequence[Row], against_best: AgainstBest) -> None:
        self.bold: dict[str, set[str]] = {}
        self._rows = rows
        self._names = row_names(rows)
        self._against_best = against_best
        self._folders, self._reasons = _usable(rows)
        self._said: dict[str, list[str]] = {}  # headings of columns with bold, by how it was found
        self._without: dict[str, list[str]] = {}  # headings of columns without bold, by reason
        self._alike: list[str] = []  # headings of columns where every row with an interval is bold

    def decide(self, quantity: Quantity) -> None:
        """Find the bold rows of one column."""
        means = {row.key: row.cells[quantity.name].mean for row in self._rows}
        defined = {key: mean for key, mean in means.items() if mean is not None}
        sign = -1 if quantity.higher_is_better is False else 1
        # Of rows that tie for the best, one that can have an interval.
        best = max(defined, key=lambda k: (sign * defined[k], k in self._folders), default=None)
        reason = "no row is defined"
        while best is not None:
            rows = {key: runs for key, runs in self._folders.items() if key in defined}
            if best not in rows:
                reason = f"the best row, {self._names[best]}, has no interval"
                break
            if len(rows) < 2:
                reason = "no second row has an interval"
                break
            try:
                pairs = self._against_best(rows, quantity.name)
            except LtbenchError as error:
                reason = str(error).rstrip(".")
                if self._damaged_found(rows, quantity.name):
                    continue
                break
            self.bold[quantity.name] = {key for key, pair in pairs.items() if _holds_0(pair)}
            if self.bold[quantity.name] == set(rows):
                self._alike.append(quantity.heading)
            how = _how([pair for key, pair in pairs.items() if key != best])
            self._said.setdefault(how, []).append(quantity.heading)
            return
        self._without.setdefault(reason, []).append(quantity.heading)

    def notes(self) -> list[str]:
        """How bold was decided, where it was not, and which rows are never bold."""
        lines = [f"Bold in {', '.join(found)}: {how}" for how, found in self._said.items()]
        if len(lines) == 1:
            lines = [f"Bold: {how}" for how in self._said]
        if self._alike:
            lines.append(
                f"No row can be told from the best in {', '.join(self._alike)}: the order there "
                "may be chance."
            )
        for reason, headings in self._without.items():
            lines.append(f"No bold in {', '.join(headings)}: {reason}.")
        rows_of: dict[str, list[str]] = {}
        for key, reason in self._reasons.items():
            rows_of.setdefault(reason, []).append(self._names[key])
        for reason, names in rows_of.items():
            more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
            lines.append(f"Never bold, {reason}: {', '.join(names[:_MOST_NAMES])}{more}.")
        return lines

    def _damaged_found(self, rows: Mapping[str, Sequence[RunFolder]], metric: str) -> bool:
        """Whether rows had to be set aside for what their predictions are."""
        for key, runs in rows.items():
            trouble = next(filter(None, (_trouble(run, metric) for run in runs)), None)
            if trouble is not None:
                self._reasons[key] = trouble
                del self._folders[key]
        return any(key not in self._folders for key in rows)


def _usable(rows: Sequence[Row]) -> tuple[dict[str, list[RunFolder]], dict[str, str]]:
    """(run folders of the rows that can have an interval, why the others cannot), by key."""
    folders, reasons = {}, {}
    for row in rows:
        places = [record.get("folder") for record in row.records]
        if len(row.seeds) < 2:
            reasons[row.key] = "one seed"
        elif not all(places):
            reasons[row.key] = "its folders are not known"
        else:
            runs = [RunFolder(Path(str(place))) for place in places]
            if all((run.path / PREDICTIONS).is_file() for run in runs):
                folders[row.key] = runs
            else:
                reasons[row.key] = "without stored predictions"
    return folders, reasons


def _trouble(run: RunFolder, metric: str) -> str | None:
    """What is wrong with a run's test predictions or its record; None where nothing is."""
    # Reads predictions and computes: imported where it is needed alone.
    from ltbench.stats.board import check_recorded

    try:
        predictions = run.read_predictions("test")
        if not np.isfinite(predictions.logits).all():
            return f"the predictions in {run.path} hold NaN or infinite logits"
        check_recorded(run, metric)
    except LtbenchError as error:
        return str(error).rstrip(".")
    return None


def _holds_0(pair: Paired) -> bool:
    return pair.low is not None and pair.high is not None and pair.low <= 0 <= pair.high


def _how(others: Sequence[Paired]) -> str:
    """The line on the intervals of the rows that are not the best."""
    first = others[0]
    seeds = sorted({pair.num_seeds for pair in others})
    span = str(seeds[0]) if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    groups = "" if first.num_groups == first.num_images else f" in {first.num_groups} groups"
    return (
        "not separable from the best of its column, on unrounded values: the Holm-adjusted "
        f"{LEVEL_PERCENT} % interval of the paired difference contains 0 ({span} seeds, "
        f"{first.num_images} test images{groups}; {first.estimator})."
    )


def _marked(row: Row, bold: Mapping[str, set[str]]) -> Row:
    cells = {
        name: dataclasses.replace(cell, bold=row.key in bold.get(name, ()))
        for name, cell in row.cells.items()
    }
    return dataclasses.replace(row, cells=cells)
