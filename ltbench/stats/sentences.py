"""What a comparison says, in words that a paper can print."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ltbench.metrics import METRICS
from ltbench.stats.paired import Paired

_FINE: Final = 0.002  # a standard error, as a fraction


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
            f"none that any resample changes (difference {_signed(found.difference, what, found)})."
        )
    interval = (
        f"{100 * found.level:g} % interval {_number(found.low, what, found)} to "
        f"{_number(found.high, what, found)}{_corrected(found)}"
    )
    if not found.separable:
        return (
            f"{row} is not separable from {other} in {what.name} with {what.where} (difference "
            f"{_signed(found.difference, what, found)}, {interval}; {_seeds(found)})."
        )
    better = (found.difference > 0) == what.higher_is_better
    size = abs(found.difference)
    low, high = sorted((abs(found.low), abs(found.high)))
    interval = (
        f"{100 * found.level:g} % interval {_number(low, what, found)} to "
        f"{_number(high, what, found)}{_corrected(found)}"
    )
    return (
        f"{row} is {'better' if better else 'worse'} than {other} in {what.name} by "
        f"{_amount(size, what, found)} ({interval}; {_seeds(found)}, {what.where})."
    )


def smallest_gain(what: Measured, found: Paired) -> str:
    """The smallest difference that these test images could show between the two rows."""
    if found.detectable is None:
        return f"What difference in {what.name} {what.where} could show cannot be told."
    if what.percent and found.detectable >= 1:
        return f"No difference in {what.name} is large enough for {what.where} ({_seeds(found)})."
    return (
        f"The smallest difference in {what.name} that {what.where} could show is "
        f"{_amount(found.detectable, what, found)} ({_seeds(found)}; 80 % power at "
        f"{100 * found.level:g} %, uncorrected)."
    )


def _corrected(found: Paired) -> str:
    if found.num_comparisons < 2:
        return ""
    return f", Holm-adjusted over {found.num_comparisons} comparisons"


def _seeds(found: Paired) -> str:
    if found.standard_error_seeds is None:
        return "one seed, other seeds not covered"
    return f"{found.num_seeds} {'paired seeds' if found.seeds_paired else 'seeds a row, unpaired'}"


def decimals(found: Paired) -> int:
    """Of rates in percent and of their differences: two where one would round the error to 0."""
    return 2 if found.standard_error is not None and found.standard_error < _FINE else 1


def rounded(value: float, places: int) -> str:
    """In decimals, without a minus before 0."""
    return f"{round(value, places) + 0.0:.{places}f}"


def _amount(value: float, what: Measured, found: Paired) -> str:
    text = _number(value, what, found)
    return f"{text} points" if what.percent else text


def _signed(value: float, what: Measured, found: Paired) -> str:
    text = _amount(value, what, found)
    return text if text.startswith("-") else f"+{text}"


def _number(value: float, what: Measured, found: Paired) -> str:
    return rounded(100 * value, decimals(found)) if what.percent else rounded(value, 4)
