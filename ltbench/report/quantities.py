"""What a column of a table holds: how it is read from a record, and how it is shown."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ltbench.errors import LtbenchError, UsageError
from ltbench.metrics import METRICS, Metric
from ltbench.registry import normalise, suggest
from ltbench.results import RunFolder

Record = Mapping[str, Any]
Value = float | str | None

PAPER_METRICS = tuple(name for name, metric in METRICS.items() if metric.paper_column)
DEFAULT_METRICS = (*PAPER_METRICS, "balanced_accuracy")
TAIL_METRICS = (
    "macro_sensitivity",
    "head_sensitivity",
    "medium_sensitivity",
    "tail_sensitivity",
    "worst_class_sensitivity",
)
CLINICAL_METRICS = ("balanced_accuracy", "worst_class_sensitivity", "ece", "brier", "nll")

_TITLES = {
    "ece": "ECE",
    "brier": "Brier",
    "nll": "NLL",
    "mcc": "MCC",
}
_UNITS = {"nll": "nats"}


@dataclass(frozen=True)
class Quantity:
    """One column.

    Attributes:
        name: for machines; a metric's name in `METRICS` where it is one.
        title: for readers, without the unit.
        unit: of the number shown, "" for none.
        read: the value in the unit that records store; None where undefined or not recorded. A
            text is shown as it is and has no mean.
        higher_is_better: None where neither is.
        factor: shown number = stored value * factor.
        decimals: of the number shown.
        base_unit: of the stored value, for CSV.
        metric: whether it is one of `METRICS`, so that rows can be compared in it.
        words: whether its values are texts.
        definition: what is computed, where the title does not say it.
    """

    name: str
    title: str
    unit: str
    read: Callable[[Record], Value]
    higher_is_better: bool | None = None
    factor: float = 1.0
    decimals: int = 2
    base_unit: str = ""
    metric: bool = False
    words: bool = False
    definition: str = ""

    @property
    def heading(self) -> str:
        """Title and unit: `Acc (%)`."""
        return f"{self.title} ({self.unit})" if self.unit else self.title

    def shown(self, value: float) -> str:
        """A stored value as text, without its unit."""
        return f"{value * self.factor:.{self.decimals}f}"


def of_metrics(names: Sequence[str]) -> tuple[Quantity, ...]:
    """The quantities of these metrics.

    Raises:
        UsageError: an unknown metric.
    """
    known = [normalise(name) for name in names]
    for name in known:
        if name not in METRICS:
            raise UsageError(suggest("metric", name, list(METRICS)))
    return tuple(_of_metric(METRICS[name]) for name in known)


def tail() -> tuple[Quantity, ...]:
    """Sensitivity over all classes, by their size, and of the worst."""
    titles = ("all classes", "head", "medium", "tail", "worst class")
    quantities = of_metrics(TAIL_METRICS)
    return tuple(
        dataclasses.replace(quantity, title=title)
        for quantity, title in zip(quantities, titles, strict=True)
    )


def _of_metric(metric: Metric) -> Quantity:
    def read(record: Record) -> Value:
        return metric.read(record["metrics"]["test"])

    return Quantity(
        name=metric.name,
        title=metric.paper_column or _TITLES.get(metric.name, metric.name.replace("_", " ")),
        unit="%" if metric.percent else _UNITS.get(metric.name, ""),
        read=read,
        higher_is_better=metric.higher_is_better,
        factor=100.0 if metric.percent else 1.0,
        decimals=2 if metric.percent else 4,
        base_unit="" if metric.percent else _UNITS.get(metric.name, ""),
        metric=True,
        definition=metric.definition,
    )


class RunColumn(Protocol):
    """A number of one run that is computed from its stored predictions."""

    @property
    def title(self) -> str:
        """For the head of a table, without the unit."""

    @property
    def definition(self) -> str:
        """What is computed."""

    @property
    def value(self) -> Callable[[RunFolder], float | None]:
        """The number; None where the run cannot give it."""

    @property
    def percent(self) -> bool:
        """Whether tables show it times 100."""

    @property
    def higher_is_better(self) -> bool:
        """Its direction."""


def of_runs(columns: Mapping[str, RunColumn], records: Iterable[Record]) -> tuple[Quantity, ...]:
    """Quantities that are computed from the runs' folders; those that no run has are left out."""
    found = (_of_run(name, column) for name, column in columns.items())
    records = list(records)
    return tuple(q for q in found if any(q.read(record) is not None for record in records))


def _of_run(name: str, column: RunColumn) -> Quantity:
    known: dict[str, float | None] = {}

    def read(record: Record) -> Value:
        folder = record.get("folder")
        if folder is None:
            return None
        if folder not in known:
            try:
                known[folder] = column.value(RunFolder(Path(folder)))
            except LtbenchError:  # predictions that are missing or damaged have no such number
                known[folder] = None
        return known[folder]

    return Quantity(
        *(name, column.title, "%" if column.percent else "", read),
        higher_is_better=column.higher_is_better,
        factor=100.0 if column.percent else 1.0,
        decimals=2 if column.percent else 4,
        definition=column.definition,
    )


_RATES = {
    "sensitivity": "Sen",
    "precision": "Pre",
    "specificity": "Spe",
    "f1": "F1",
    "auc": "AUC",
}


def of_class(index_of: Callable[[Record], int | None]) -> tuple[Quantity, ...]:
    """The rates of one class.

    Args:
        index_of: the place of the class in the lists of a record; None where it has no such class.
    """

    def reader(name: str) -> Callable[[Record], Value]:
        def read(record: Record) -> Value:
            index = index_of(record)
            values = (record["metrics"]["test"].get("per_class") or {}).get(name) or ()
            return None if index is None or index >= len(values) else values[index]

        return read

    return tuple(
        Quantity(name, title, "%", reader(name), higher_is_better=True, factor=100.0)
        for name, title in _RATES.items()
    )


def ledger(records: Iterable[Record]) -> tuple[Quantity, ...]:
    """What runs cost, in units that fit all of `records`; what none of them has is left out."""
    records = list(records)
    wanted = (
        _entry("num_parameters", "parameters", ""),
        Quantity("forward_passes_per_step", "forward passes a step", "", _passes),
        _entry("images_seen", "images seen", ""),
        _entry("train_time_s", "training", "s"),
        _entry("wall_time_s", "wall time", "s"),
        _entry("images_per_s", "images/s", "", decimals=1),
        _entry("peak_memory_mb", "peak memory", "MB", decimals=0),
        Quantity("pretraining", "pre-training", "", _pretraining, words=True),
        Quantity("tuning_trials", "tuning trials", "", _tuning("trials"), decimals=0),
        Quantity(
            "tuning_device_hours",
            "tuning",
            "device-hours",
            _tuning("device_hours"),
            base_unit="device-hours",
        ),
    )
    scaled = (_scaled(quantity, records) for quantity in wanted)
    return tuple(q for q in scaled if any(q.read(record) is not None for record in records))


_SCALES: Mapping[str, tuple[tuple[float, str, int], ...]] = {
    # From which size on, in which unit, divided by: the largest value of a column decides.
    "num_parameters": ((1e6, "million", 1_000_000), (1e3, "thousand", 1_000)),
    "images_seen": ((1e6, "million", 1_000_000), (1e3, "thousand", 1_000)),
    "train_time_s": ((7200.0, "h", 3600), (120.0, "min", 60)),
    "wall_time_s": ((7200.0, "h", 3600), (120.0, "min", 60)),
    "peak_memory_mb": ((1e4, "GB", 1000),),
}


def _scaled(quantity: Quantity, records: Sequence[Record]) -> Quantity:
    values = [quantity.read(record) for record in records]
    largest = max((abs(v) for v in values if isinstance(v, int | float)), default=0.0)
    for start, unit, divisor in _SCALES.get(quantity.name, ()):
        if largest >= start:
            return dataclasses.replace(quantity, unit=unit, factor=1 / divisor, decimals=2)
    if quantity.name in ("num_parameters", "images_seen"):
        return dataclasses.replace(quantity, decimals=0)
    return quantity


def _entry(name: str, title: str, unit: str, decimals: int = 2) -> Quantity:
    def read(record: Record) -> Value:
        value = (record.get("ledger") or {}).get(name)
        return value if isinstance(value, int | float) else None

    return Quantity(name, title, unit, read, decimals=decimals, base_unit=unit)


def _passes(record: Record) -> Value:
    by_stage = (record.get("ledger") or {}).get("forward_passes_per_step") or {}
    numbers = {f"{value:g}" for value in by_stage.values()}
    if len(numbers) <= 1:
        return next(iter(numbers), None)
    return ", ".join(f"{stage} {value:g}" for stage, value in by_stage.items())


def _pretraining(record: Record) -> Value:
    value = (record.get("ledger") or {}).get("pretraining")
    return None if value is None else str(value)


def _tuning(name: str) -> Callable[[Record], Value]:
    def read(record: Record) -> Value:
        value = (record.get("tuning") or {}).get(name)
        return value if isinstance(value, int | float) else None

    return read
