"""How long a grid will still take, told from the cells that are done."""

from __future__ import annotations

import statistics
from collections.abc import Hashable, Iterable
from pathlib import Path

from ltbench.grid.cells import GridCell

__all__ = ["TimeLeft", "in_words"]


class TimeLeft:
    """Learns what cells take: of the same configuration, else on the same data, else of any."""

    def __init__(self) -> None:
        self._num_at_once = 1
        self._seen: dict[Hashable, list[float]] = {}
        self._open: dict[Path, GridCell] = {}

    def expect(self, cells: Iterable[GridCell], num_at_once: int) -> None:
        """These are still to run, so many side by side."""
        self._num_at_once = num_at_once
        self._open = {cell.folder.path: cell for cell in cells}

    def learn_from(self, cell: GridCell) -> None:
        """A cell that was done before, by what its record says."""
        seconds = cell.folder.record().get("ledger", {}).get("wall_time_s")
        if seconds:
            self._note(cell, float(seconds))

    def ended(self, cell: GridCell, seconds: float | None) -> None:
        """A cell has ended now; None where its time tells nothing, since it failed."""
        self._open.pop(cell.folder.path, None)
        if seconds is not None:
            self._note(cell, seconds)

    def seconds(self) -> float | None:
        """Expected until the last cell ends; None where nothing is known yet."""
        expected = [self._expected(cell) for cell in self._open.values()]
        known = [one for one in expected if one is not None]
        if not known:
            return None
        total = sum(known) * len(expected) / len(known)
        return max(total / min(self._num_at_once, len(expected)), max(known))

    def in_words(self) -> str:
        """For the end of a line; empty where there is nothing to say."""
        seconds = self.seconds()
        return "" if seconds is None else f"; about {in_words(seconds)} left"

    def _note(self, cell: GridCell, seconds: float) -> None:
        for kind in _kinds(cell):
            self._seen.setdefault(kind, []).append(seconds)

    def _expected(self, cell: GridCell) -> float | None:
        found = (self._seen[kind] for kind in _kinds(cell) if kind in self._seen)
        return next((statistics.fmean(seconds) for seconds in found), None)


def _kinds(cell: GridCell) -> tuple[Hashable, ...]:
    """From the nearest likeness to the farthest."""
    return cell.folder.path.parent, cell.folder.path.parents[2], "any"


def in_words(seconds: float) -> str:
    """7 s, 3 min, 2 h 5 min."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"
