"""The first page: boards, methods, runs that are not finished, records that were left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ltbench.bundles.page import LEVELS
from ltbench.metrics import METRICS
from ltbench.site.boards import KINDS, Board, columns_of, method_page, published_of, rows_of
from ltbench.site.figure_plan import FigurePlan
from ltbench.site.material import Material
from ltbench.site.method_page import described
from ltbench.site.naming import RunIdentity
from ltbench.site.pages import rendered

__all__ = ["first_page", "methods_of"]

Facts = dict[str, Any]


def first_page(
    material: Material,
    boards: Sequence[Board],
    stems: Mapping[RunIdentity, str],
    figures: FigurePlan,
    *,
    title: str,
    sort: str | None,
) -> bytes:
    """`index.html`.

    Args:
        stems: of the runs' pages.
        figures: of the boards.
        sort: the column that rows are ordered by.
    """
    shown: list[Facts] = [
        {
            "board": board,
            "columns": columns_of(board, sort),
            "rows": rows_of(board, stems, material.levels),
            "published": published_of(board),
            "figures": figures.of_board(board),
        }
        for board in boards
    ]
    has_published = any(one["published"] for one in shown)
    return rendered(
        "index.html.j2",
        depth=0,
        title=title,
        boards=shown,
        datasets=list(dict.fromkeys(board.table.dataset for board in boards)),
        kinds={key: told for key, told in KINDS.items() if key != "published" or has_published},
        num_rows=sum(len(one["rows"]) + len(one["published"]) for one in shown),
        methods=_methods(material),
        unfinished=material.unfinished,
        notes=material.notes,
        has_levels=bool(material.levels),
        levels=LEVELS,
        definitions=_definitions(boards),
        across=figures.across(),
        totals=_totals(material, boards),
    )


def methods_of(material: Material) -> list[str]:
    """Every method of the records and of the runs that are not finished, sorted."""
    found = {str(record["method"]) for record in material.records}
    return sorted(found | {one["method"].partition("@")[0] for one in material.unfinished})


def _methods(material: Material) -> list[Facts]:
    names = methods_of(material)
    return [{**one, "href": method_page(one["name"])} for one in described(names)]


def _definitions(boards: Sequence[Board]) -> list[tuple[str, str]]:
    columns = {q.name: q for board in boards for q in board.table.quantities}
    return [(q.title, METRICS[name].definition) for name, q in columns.items()]


def _totals(material: Material, boards: Sequence[Board]) -> str:
    """How much there is, and of when."""
    rows = sum(len(board.table.rows) for board in boards)
    methods = len({record["method"] for record in material.records})
    ends = sorted(str(r["finished_at"])[:10] for r in material.records if r.get("finished_at"))
    when = ""
    if ends:
        span = ends[0] if ends[0] == ends[-1] else f"{ends[0]} to {ends[-1]}"
        when = f", finished {span}"
    counts = [
        _counted(len(boards), "board"),
        _counted(methods, "method"),
        _counted(rows, "row"),
        _counted(len(material.records), "run"),
    ]
    return f"{', '.join(counts)}{when}."


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
