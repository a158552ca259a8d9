"""Values of records as a page shows them: text, and pairs of a name and a text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ltbench.bundles.portable import portable
from ltbench.settings import as_yaml, flat

__all__ = ["Pairs", "digits", "mapping", "pairs", "part_of", "percent", "plain", "short"]

Pairs = list[tuple[str, str]]

NOTHING = "\N{EN DASH}"
SHORT = 12  # letters of a digest that is shown beside others


def mapping(value: Any) -> Mapping[str, Any]:
    """`value` where it is one; nothing of a record is taken for granted but what tables read."""
    return value if isinstance(value, Mapping) else {}


def part_of(record: Mapping[str, Any], *path: str) -> Any:
    """What stands in a record at a path; None where it does not go so far."""
    found: Any = record
    for name in path:
        found = mapping(found).get(name)
    return found


def plain(value: Any) -> str:
    """A JSON value as text, without paths of the machine that made it."""
    if value is None or value == "":
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return str(portable(value))
    return as_yaml(portable(value))


def pairs(facts: Mapping[str, Any]) -> Pairs:
    """Names and values, nested names dotted; those without a value are left out."""
    return [
        (name, plain(value))
        for name, value in flat(facts).items()
        if value is not None and value != "" and value != {}
    ]


def short(digest: Any) -> str:
    """The beginning of a digest."""
    return plain(digest)[:SHORT]


def percent(value: float) -> str:
    """A share as a percentage with one decimal, never rounded to a certainty it is not."""
    if 0.9995 <= value < 1:
        return "> 99.9 %"
    if 0 < value < 0.0005:
        return "< 0.1 %"
    return f"{100 * value:.1f} %"


def digits(value: Any, decimals: int = 4) -> str:
    """A number with as many decimals; a dash for what is none."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return f"{value:.{decimals}f}" if is_number else NOTHING
