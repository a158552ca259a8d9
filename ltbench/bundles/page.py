"""The table of a board, as Markdown."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any, Final

from ltbench.data.lists import SplitLists
from ltbench.errors import VerificationError
from ltbench.report.tables import comparison, to_markdown

__all__ = ["LEVELS", "board_page", "check_shown", "level_words"]

Facts = dict[str, Any]

LEVELS: Final[Mapping[str, str]] = {
    "re-scored": "every number was computed again here from the row's predictions. That they came "
    "from a trained model is its maker's word: test labels are public, so that logits could be "
    "invented",
    "re-run": "moreover, the row was trained again here, in a fresh process, from its "
    "configuration and the source of its method",
}
_SORTED_BY = "macro_f1"
_MARKDOWN = str.maketrans({mark: f"\\{mark}" for mark in "\\|_*`["})


def board_page(
    lists: SplitLists, rows: Mapping[str, Facts], records: Mapping[str, Sequence[Facts]]
) -> str:
    """Rows best first, what must be known to read them, and how each was checked.

    Args:
        rows, records: by name of the row; metrics of the records were computed here.
    """
    names = sorted(records, key=lambda name: (-_mean(rows[name]), name))
    tables = comparison(record for name in names for record in records[name])
    lines = [
        f"# {_escaped(lists.dataset)}, protocol {_escaped(lists.protocol)}",
        "",
        f"Rows by {_SORTED_BY.replace('_', ' ')}. Every number here is computed again by "
        "`leaderboard check`.",
        "",
        "\n\n".join(to_markdown(table).strip() for table in tables),
        "",
        "## How each row was checked",
        "",
        "| row | key | level | seeds | method's source | bundle |",
        "|:--|:--|:--|--:|:--|:--|",
        *(_checked(rows[name], records[name][0]) for name in names),
        "",
        *(f"- {level}: {meaning}." for level, meaning in LEVELS.items()),
        "- method's source: SHA-256 of the method's files, which the bundle holds. Rows of one "
        "name and different sources are different methods.",
    ]
    return "\n".join([*lines, ""])


def check_shown(where: object, lists: SplitLists, row: Facts, records: Sequence[Facts]) -> None:
    """Refuse a row that no table can show, before it is on a board.

    Raises:
        VerificationError: its records are not shaped as the schema has it.
    """
    try:
        board_page(lists, {"row": row}, {"row": records})
    except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
        raise VerificationError(
            f"{where}: its records cannot be shown in a table ({type(error).__name__}: {error}). "
            "Make the bundle with `leaderboard bundle`."
        ) from error


def level_words(row: Facts) -> str:
    """How a row was checked, and how near a re-run came."""
    again = row["rerun"]
    if again is None:
        return "re-scored"
    off = again["largest_difference"]
    return f"re-run ({again['equal']}{f', largest difference {off:.2g}' if off else ''})"


def _checked(row: Facts, record: Facts) -> str:
    level, seeds = level_words(row), ", ".join(map(str, row["seeds"]))
    source, digest = record["key_parts"]["method_digest"][:12], row["bundle_digest"][:12]
    return f"| {_escaped(row['label'])} | {row['key']} | {level} | {seeds} | {source} | {digest} |"


def _escaped(text: str) -> str:
    return html.escape(text, quote=False).translate(_MARKDOWN)


def _mean(row: Facts) -> float:
    """What rows are sorted by."""
    return float(row["test"][_SORTED_BY]["mean"])
