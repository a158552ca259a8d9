"""What a board's own files say, beside the numbers: its header, and what a re-run is said to be."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from ltbench.bundles.board import HEADER, Board
from ltbench.bundles.claims import shortened

__all__ = ["header_problems", "rerun_problems"]

BITS: Final = "bit for bit"
_FACTS = {"equal", "largest_difference", "seeds", "other_machine", "versions"}


def header_problems(board: Board) -> list[str]:
    """Where `board.json` names another data set or protocol than the split lists."""
    lists, header = board.reference.lists, board.header
    expected = {"dataset": lists.dataset, "protocol": lists.protocol}
    return [
        f"{HEADER}: {name}: expected {shortened(value)}, came {shortened(header.get(name))}"
        for name, value in expected.items()
        if header.get(name) != value
    ]


def rerun_problems(name: str, row: Mapping[str, Any]) -> list[str]:
    """Where a row's `rerun` is nothing that `--rerun` writes.

    That it was trained again is its keeper's word; that all its seeds were, and how near they came,
    must at least be said in one piece.
    """
    told = row["rerun"]
    if told is None:
        return []
    if not isinstance(told, Mapping) or set(told) != _FACTS:
        return [f"{name}: rerun: expected {', '.join(sorted(_FACTS))}, came {shortened(told)}"]
    problems = []
    if told["seeds"] != row["seeds"]:
        problems.append(
            f"{name}: rerun: of the seeds {shortened(told['seeds'])}, but the row has "
            f"{shortened(row['seeds'])}"
        )
    allowed, off = _allowed(told["equal"]), told["largest_difference"]
    if allowed is None:
        problems.append(
            f"{name}: rerun: expected '{BITS}' or 'within' a number, came "
            f"{shortened(told['equal'])}"
        )
    elif not (isinstance(off, int | float) and 0 <= off <= allowed):
        problems.append(
            f"{name}: rerun: it is said to be equal {told['equal']}, and off by {shortened(off)}"
        )
    return problems


def _allowed(equal: object) -> float | None:
    """The largest difference that the words allow; None for other words."""
    if equal == BITS:
        return 0.0
    word, _, number = str(equal).partition(" ")
    try:
        found = float(number)
    except ValueError:
        return None
    whole = word == "within" and math.isfinite(found) and f"{word} {found:g}" == equal
    return found * (1 + 1e-5) if whole else None  # the number is rounded to six digits
