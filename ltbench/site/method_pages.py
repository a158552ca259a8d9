"""The pages of all methods of a site."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ltbench.errors import LtbenchError
from ltbench.results import RunFolder
from ltbench.site import stamps
from ltbench.site.boards import Board, columns_of, method_page, rows_of
from ltbench.site.figure_plan import FigurePlan
from ltbench.site.first_page import methods_of
from ltbench.site.folder import SiteFolder, Unit, digests_of
from ltbench.site.material import Material
from ltbench.site.method_page import card_facts, digests_note
from ltbench.site.naming import RunIdentity
from ltbench.site.pages import rendered
from ltbench.site.run_page import record_of
from ltbench.site.shown import part_of

__all__ = ["make_method_pages"]

Facts = dict[str, Any]


def make_method_pages(
    folder: SiteFolder,
    material: Material,
    boards: list[Board],
    stems: Mapping[RunIdentity, str],
    figures: FigurePlan,
    sort: str | None,
) -> int:
    """Write those that are not right; plugins are imported for these alone.

    Returns:
        How many methods there are.
    """
    names = methods_of(material)
    for name in names:
        file, facts = method_page(name), _facts(name, material, boards, stems, figures, sort)
        stamp = stamps.stamp(stamps.code_digest(), stamps.plugins_digest([name], []), facts)
        if folder.is_right(file, stamp):
            folder.keep(file)
            continue
        card = card_facts(name)
        note = "" if card["why_not"] else digests_note(name, _digests(name, boards))
        data = rendered("method.html.j2", depth=1, name=name, card=card, note=note, **facts)
        folder.put(file, data)
        folder.made(file, Unit(stamp=stamp, files=digests_of({file: data})))
    return len(names)


def _facts(
    name: str,
    material: Material,
    boards: list[Board],
    stems: Mapping[RunIdentity, str],
    figures: FigurePlan,
    sort: str | None,
) -> Facts:
    """What records say of a method, JSON-able."""
    shown = [
        {
            "name": board.name,
            "title": board.title,
            "columns": columns_of(board, sort),
            "rows": rows_of(board, stems, material.levels, name),
            "figures": [
                {"label": row.label, "found": found}
                for row in board.table.rows
                if row.records[0]["method"] == name and (found := figures.of_row(row))
            ],
        }
        for board in boards
    ]
    return {
        "boards": [one for one in shown if one["rows"]],
        "has_levels": bool(material.levels),
        "unfinished": [
            one for one in material.unfinished if one["method"].partition("@")[0] == name
        ],
    }


def _digests(name: str, boards: list[Board]) -> list[str]:
    """Of the plugin that each row of a method was made with."""
    found = []
    for board in boards:
        for row in board.table.rows:
            if row.records[0]["method"] != name:
                continue
            try:
                record = record_of(RunFolder(Path(row.records[0]["folder"])))
            except LtbenchError:
                continue
            digest = part_of(record, "key_parts", "method_digest")
            found += [digest] if isinstance(digest, str) else []
    return found
