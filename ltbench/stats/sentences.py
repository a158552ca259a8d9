"""What a comparison says, in words that a paper can print."""

from __future__ import annotations

from dataclasses import dataclass

from ltbench.metrics import METRICS
from ltbench.stats.paired import Paired


@dataclass(frozen=True)
class Measured:
    """What a difference was measured in.

    Attributes:
        name: in words, such as "macro F1" or "sensitivity of DF".
        percent: whether differences are said in points (hundredths).
        higher_is_better: of the metric.
        where: the test images it was measured on: "2005 images of 1915 lesions", or "23 DF test
            images of 20 lesions".
    """

    name: str
    percent: bool
    higher_is_better: bool
    where: str


def metric_words(name: str) -> str:
    """A metric's name as prose has it."""
    words = name.removeprefix("class.").replace("_", " ")
    for short, said in {"f1": "F1", "auc": "AUC", "mcc": "MCC", "ece": "ECE", "nll": "NLL"}.items():
        words = " ".join(said if word == short else word for word in words.split())
    return words


def measured(name: str, where: str, of_class: str | None = None) -> Measured:
    """Of a metric of `METRICS`, or of a class's (`class.f1`)."""
    words = metric_words(name) + (f" of {of_class}" if of_class is not None else "")
    metric = METRICS.get(name)
    if metric is None:
        return Measured(words, True, True, where)
    return Measured(words, metric.percent, metric.higher_is_better, where)


def verdict(row: str, other: str, what: Measured, found: Paired) -> str:
    """Whether `row` is better or worse than `other`, by how much, and how sure that is."""
    if found.difference is None:
        return f"{row} and {other} have no {what.name} that is defined for every seed."
    if found.low is None or found.high is None or not found.standard_error:
        return (
            f"{row} is not separable from {other} in {what.name} with {what.where}: too few, or "
            f"none that any resample changes (difference {_signed(found.difference, what)})."
        )
    interval = (
        f"{100 * found.level:g} % interval {_number(found.low, what)} to "
        f"{_number(found.high, what)}{_corrected(found)}"
    )
    if not found.separable:
        return (
            f"{row} is not separable from {other} in {what.name} with {what.where} (difference "
            f"{_signed(found.difference, what)}, {interval}; {_seeds(found)})."
        )
    better = (found.difference > 0) == what.higher_is_better
    size = abs(found.difference)
    low, high = sorted((abs(found.low), abs(found.high)))
    interval = (
        f"{100 * found.level:g} % interval {_number(low, what)} to {_number(high, what)}"
        f"{_corrected(found)}"
    )
    return (
        f"{row} is {'better' if better else 'worse'} than {other} in {what.name} by "
        f"{_amount(size, what)} ({interval}; {_seeds(found)}, {what.where})."
    )


def smallest_gain(what: Measured, found: Paired) -> str:
    """The smallest difference that these test images could show between the two rows."""
    if found.detectable is None:
        return f"What difference in {what.name} {what.where} could show cannot be told."
    if what.percent and found.detectable >= 1:
        return f"No difference in {what.name} is large enough for {what.where} and {_seeds(found)}."
    return (
        f"The smallest difference in {what.name} that {what.where} and {_seeds(found)} could show "
        f"is {_amount(found.detectable, what)} (80 % power at {100 * found.level:g} %, "
        "uncorrected)."
    )


def _corrected(found: Paired) -> str:
    if found.num_comparisons < 2:
        return ""
    return f", Holm-adjusted over {found.num_comparisons} comparisons"


def _seeds(found: Paired) -> str:
    if found.standard_error_seeds is None:
        return "one seed, other seeds not covered"
    return f"{found.num_seeds} {'paired seeds' if found.seeds_paired else 'seeds a row, unpaired'}"


def _amount(value: float, what: Measured) -> str:
    return f"{_number(value, what)} points" if what.percent else _number(value, what)


def _signed(value: float, what: Measured) -> str:
    return f"{100 * value:+.1f} points" if what.percent else f"{value:+.4f}"


def _number(value: float, what: Measured) -> str:
    return f"{100 * value:.1f}" if what.percent else f"{value:.4f}"
