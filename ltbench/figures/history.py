"""A run's history as arrays: one place an epoch over all stages, NaN where nothing is recorded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import numpy as np

from ltbench.errors import VerificationError
from ltbench.figures.names import literal, plural
from ltbench.figures.words import about_run, about_seeds, per_cent, where_trained

__all__ = [
    "LOSS",
    "MOST_TERMS",
    "VALIDATION",
    "History",
    "StageSpan",
    "history_of",
    "training_words",
    "training_words_of_seeds",
]

LOSS: Final = "loss"
MOST_TERMS: Final = 4  # logged values that are drawn beside the loss
NLL: Final = "nll"
_MOST_EPOCHS: Final = 1_000_000  # more can only be a mistake, and memory would not hold them
VALIDATION: Final[Mapping[str, str]] = MappingProxyType(
    {"macro_f1": "macro F1", "balanced_accuracy": "balanced accuracy", "accuracy": "accuracy"}
)


class StageSpan(NamedTuple):
    """Epochs `first` to `last` over all stages, from 1."""

    name: str
    first: int
    last: int


@dataclass(frozen=True)
class History:
    """What `epochs.jsonl` holds.

    Attributes:
        stages: in order.
        epochs: 1 .. E, float64 (E,).
        terms: each logged training value by name, (E,); `LOSS` is the first.
        nll: of validation, (E,), nats.
        validation: of `VALIDATION`, by name, shares (E,).
        selected: the epoch whose weights are reported; None where the record does not say.
    """

    stages: tuple[StageSpan, ...]
    epochs: np.ndarray
    terms: Mapping[str, np.ndarray]
    nll: np.ndarray
    validation: Mapping[str, np.ndarray]
    selected: int | None

    @property
    def is_validated(self) -> bool:
        """Whether any epoch was."""
        return any(np.isfinite(values).any() for values in self.validation.values())


def history_of(rows: Sequence[Mapping[str, Any]], record: Mapping[str, Any]) -> History | None:
    """The history of a run; None where no epoch is recorded.

    Raises:
        VerificationError: a row is not what a run writes.
    """
    if not rows:
        return None
    try:
        return _history(rows, record)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise VerificationError(
            "The history is damaged: expected stage, epoch, epochs, train and val in every line "
            f"of epochs.jsonl, got {type(error).__name__}: {error}. Run the cell again."
        ) from error


def _history(rows: Sequence[Mapping[str, Any]], record: Mapping[str, Any]) -> History:
    selected = record.get("selected") or []
    lengths = {str(stage["stage"]): int(stage["epochs"]) for stage in selected}
    for row in rows:
        lengths.setdefault(str(row["stage"]), int(row["epochs"]))
    ends = list(accumulate(lengths.values()))
    stages = tuple(
        StageSpan(name, end - length + 1, end)
        for (name, length), end in zip(lengths.items(), ends, strict=True)
    )
    first = {stage.name: stage.first for stage in stages}
    at = [first[str(row["stage"])] + int(row["epoch"]) - 1 for row in rows]
    total = ends[-1]
    if not 0 < total <= _MOST_EPOCHS or min(lengths.values()) < 0:
        raise ValueError(f"{total} epochs")
    if not 0 <= min(at) <= max(at) < total:
        raise ValueError(f"an epoch that is none of 1 to {total}")
    names = [LOSS, *sorted({name for row in rows for name in row["train"]} - {LOSS})]

    def line(values: Sequence[Any]) -> np.ndarray:
        found = np.full(total, np.nan)
        found[at] = [np.nan if value is None else float(value) for value in values]
        return found

    val = [row["val"] or {} for row in rows]
    last = selected[-1] if selected and selected[-1].get("epoch") is not None else None
    return History(
        stages=stages,
        epochs=np.arange(1.0, total + 1),
        terms={name: line([row["train"].get(name) for row in rows]) for name in names},
        nll=line([one.get(NLL) for one in val]),
        validation={name: line([one.get(name) for one in val]) for name in VALIDATION},
        selected=None if last is None else first[str(last["stage"])] + int(last["epoch"]),
    )


def training_words(history: History, record: Mapping[str, Any]) -> tuple[str, str]:
    """(caption, text alternative) of the training curves of one run."""
    told = ["Training loss, mean over the steps of an epoch, in nats."]
    if np.isfinite(history.nll).any():
        told[0] = "Training loss, mean over the steps of an epoch, and validation NLL, in nats."
    if others := list(history.terms)[1:]:
        more = f" ({len(others) - MOST_TERMS} more are not drawn)" if others[MOST_TERMS:] else ""
        names = ", ".join(map(literal, others[:MOST_TERMS]))
        told.append(f"What the method logs besides, in its own units: {names}{more}.")
    if history.is_validated:
        told.append(f"{_validation_part(record)}: {', '.join(VALIDATION.values())}, per cent.")
    else:
        told.append("No epoch was validated.")
    if history.selected is not None:
        told.append(
            f"Dashed: epoch {history.selected}, whose weights are reported, "
            f"chosen by {record.get('select')}."
        )
    told += [_stage_words(history), f"{about_run(record)}, trained on {where_trained(record)}."]
    loss = history.terms[LOSS][np.isfinite(history.terms[LOSS])]
    alt = f"Training curves over {plural(len(history.epochs), 'epoch')}"
    if loss.size:
        alt += f": training loss from {loss[0]:.4g} to {loss[-1]:.4g} nats"
    return " ".join(filter(None, told)), f"{alt}{_best_words(history)}."


def training_words_of_seeds(
    histories: Sequence[History], records: Sequence[Mapping[str, Any]]
) -> tuple[str, str]:
    """(caption, text alternative) of the training curves of several seeds of one configuration."""
    seeds = plural(len(histories), "seed")
    name = next(iter(VALIDATION))
    reached = [
        float(history.validation[name][history.selected - 1])
        for history in histories
        if history.selected is not None
    ]
    reached = [value for value in reached if np.isfinite(value)]
    caption = (
        f"Training loss, mean over the steps of an epoch, in nats, and validation macro F1 of "
        f"{seeds}: each thin, their mean bold; dots: epochs whose weights are reported, chosen by "
        f"{records[0].get('select')}. {_validation_part(records[0])}. {_stage_words(histories[0])} "
        f"{about_seeds(records)}, trained on {where_trained(records[0])}."
    )
    alt = f"Training curves of {seeds}"
    if reached:
        spread = f" (standard deviation {per_cent(np.std(reached, ddof=1))})" if reached[1:] else ""
        alt += (
            f": validation macro F1 at the reported epochs {per_cent(np.mean(reached))} on "
            f"average{spread}"
        )
    return " ".join(caption.split()), f"{alt}."


def _validation_part(record: Mapping[str, Any]) -> str:
    found = record["metrics"].get("val") or {}
    number = found.get("num_images")
    return "Validation part" + (f" of {plural(number, 'image')}" if type(number) is int else "")


def _stage_words(history: History) -> str:
    if len(history.stages) == 1:
        return ""
    stages = "; ".join(
        f"{literal(stage.name)}, epochs {stage.first} to {stage.last}" for stage in history.stages
    )
    return f"Stages, with lines between them: {stages}."


def _best_words(history: History) -> str:
    name, label = next(iter(VALIDATION.items()))
    values = history.validation[name]
    if not np.isfinite(values).any():
        return ""
    best = int(np.nanargmax(values))
    told = f"; validation {label} at most {per_cent(float(values[best]))}, at epoch {best + 1}"
    if history.selected is None or not np.isfinite(values[history.selected - 1]):
        return told
    there = per_cent(float(values[history.selected - 1]))
    return f"{told}, and {there} at the reported epoch {history.selected}"
