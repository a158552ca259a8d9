"""Figures of rows, of boards and over boards: which must be drawn, and where they stand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from ltbench.report.rows import Row
from ltbench.site import stamps
from ltbench.site.boards import Board
from ltbench.site.figures_shown import FigureTask, captions_in
from ltbench.site.folder import SiteFolder
from ltbench.site.naming import RunIdentity, identity

__all__ = ["FigurePlan"]

Facts = dict[str, Any]

_RANKS: Final = "figures/across"


@dataclass(frozen=True)
class FigurePlan:
    """The figures of a site that are of no single run.

    Attributes:
        stems: of the runs' pages.
        wanted: whether there are any.
        tuned: the root of tuned settings.
    """

    folder: SiteFolder
    boards: list[Board]
    stems: Mapping[RunIdentity, str]
    wanted: bool
    tuned: Path | None

    def tasks(self) -> list[FigureTask]:
        """Those that must be drawn; the others are taken over."""
        stale = []
        for task in self._all:
            if self.folder.is_right(task.folder, task.stamp):
                self.folder.keep(task.folder)
            else:
                stale.append(task)
        return stale

    def of_row(self, row: Row) -> list[Facts]:
        """Captions and places of the figures of a row; none of a row with one seed."""
        return self._shown(self._row_folder(row))

    def of_board(self, board: Board) -> list[Facts]:
        """The same of a board."""
        return self._shown(_board_folder(board))

    def across(self) -> list[Facts]:
        """The same over all boards; none where there is one board only."""
        return self._shown(_RANKS)

    def _shown(self, folder: str) -> list[Facts]:
        there = any(task.folder == folder for task in self._all)
        return captions_in(self.folder.path, folder) if there else []

    @cached_property
    def _all(self) -> list[FigureTask]:
        return list(self._planned()) if self.wanted else []

    def _planned(self) -> Iterator[FigureTask]:
        code = stamps.code_digest(of_pages=False)
        of_boards = []
        for board in self.boards:
            digests = {}
            for row in board.table.rows:
                runs = tuple(Path(record["folder"]) for record in row.records)
                digests[row.key] = [stamps.run_digest(run) for run in runs]
                if len(runs) > 1:
                    stamp = stamps.stamp(code, digests[row.key])
                    yield FigureTask(self._row_folder(row), stamp, runs=runs)
            tuned = self._tuned_of(board)
            of_boards.append(stamps.stamp(code, digests, tuned and stamps.folder_digest(tuned)))
            yield FigureTask(
                *(_board_folder(board), of_boards[-1]),
                records=board.table.records,
                tuned=None if tuned is None else self.tuned,
            )
        if len(self.boards) > 1:
            records = tuple(record for board in self.boards for record in board.table.records)
            yield FigureTask(_RANKS, stamps.stamp(of_boards), records=records, ranks=True)

    def _row_folder(self, row: Row) -> str:
        return f"figures/row-{self.stems[identity(row.records[0])]}"

    def _tuned_of(self, board: Board) -> Path | None:
        """The folder with the budget curves of a board's rows; None where there are none."""
        if self.tuned is None or not any(record.get("tuning") for record in board.table.records):
            return None
        place = self.tuned / board.table.dataset / board.table.protocol
        return place if any(place.glob("*.curve.csv")) else None


def _board_folder(board: Board) -> str:
    return f"figures/board-{board.name}"
