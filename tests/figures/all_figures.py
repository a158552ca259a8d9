"""Every figure of made runs; imports nothing but what draws, so that a process starts quickly."""

from __future__ import annotations

from pathlib import Path

from ltbench.figures.of_rows import board_sketches, row_sketches
from ltbench.figures.of_run import run_sketches
from ltbench.report.reading import read
from ltbench.results import RunFolder


def all_figures(root):
    """Those of the first run, of its row and of the board."""
    records, notes = read([root], per_class=True)
    assert notes == []
    runs = [RunFolder(Path(record["folder"])) for record in records if record["label"] == "ce"]
    sketches = [*run_sketches(runs[0]), *row_sketches(runs), *board_sketches(records)]
    return [sketch.drawn() for sketch in sketches]
