"""A grid by two workers against one worker, and what the harness costs a cell.

The same cells are run by the whole command `bench.py sweep`, each time into an empty folder: by one
worker with one thread, by one worker with two threads, and by two workers with one thread each. All
take turns, so that a busy machine slows each of them. Harness time is what a sweep takes beyond its
cells' training and validation: starting Python, imports, planning, processes, data, the test part,
writing.

    python benchmarks/sweep.py
    python benchmarks/sweep.py --cells 4 --epochs 30 --turns 1       # a first look
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import click
from tabulate import tabulate

from ltbench.results import read_records

BENCH = Path(__file__).resolve().parents[1] / "bench.py"
TARGET = 1.6


@dataclass
class Contender:
    """One way to run the grid, and what its turns took."""

    name: str
    workers: int
    threads: int
    wall_times_s: list[float] = field(default_factory=list)
    trained_s: list[float] = field(default_factory=list)

    def turn(self, method: str, cells: int, epochs: int) -> None:
        """Run the grid once."""
        with tempfile.TemporaryDirectory() as folder:
            words = [
                *("sweep", "--methods", method, "--datasets", "digits_lt"),
                *("--seeds", f"0-{cells - 1}", "--epochs", epochs, "--results", folder),
                *("-j", self.workers, "--threads", self.threads),
            ]
            started = time.monotonic()
            subprocess.run(
                [sys.executable, str(BENCH), *map(str, words)],
                check=True,
                stdout=subprocess.DEVNULL,
            )
            self.wall_times_s.append(time.monotonic() - started)
            records, _ = read_records(Path(folder))
        assert len(records) == cells
        self.trained_s.append(sum(record["ledger"]["wall_time_s"] for record in records))


@click.command()
@click.option("--method", default="ecl", show_default=True)
@click.option("--cells", default=12, show_default=True)
@click.option("--epochs", default=60, show_default=True)
@click.option("--turns", default=3, show_default=True)
def main(method: str, cells: int, epochs: int, turns: int) -> None:
    """Print the three and their ratios."""
    contenders = [
        Contender("one worker, one thread", 1, 1),
        Contender("one worker, two threads", 1, 2),
        Contender("two workers, one thread each", 2, 1),
    ]
    for _ in range(turns):
        for contender in contenders:
            contender.turn(method, cells, epochs)
    two = contenders[-1]
    rows = []
    for one in contenders:
        ratios = [a / b for a, b in zip(one.wall_times_s, two.wall_times_s, strict=True)]
        harness = [
            (wall * one.workers - trained) / cells
            for wall, trained in zip(one.wall_times_s, one.trained_s, strict=True)
        ]
        trained = statistics.median(one.trained_s) / cells
        rows.append(
            [
                one.name,
                f"{statistics.median(one.wall_times_s):.1f}",
                f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
                f"{trained:.2f}",
                f"{statistics.median(harness):.2f}",
            ]
        )
    click.echo(f"{cells} cells of {method} on digits_lt, {epochs} epochs; medians of {turns} turns")
    headers = ["", "wall s", "times two workers' wall", "training s a cell", "harness s a cell"]
    click.echo(tabulate(rows, headers=headers, disable_numparse=True))
    click.echo(
        "Harness time of a cell is counted over all workers, imports included; the command's own "
        "start is spread over its cells."
    )
    gain = statistics.median(
        a / b for a, b in zip(contenders[0].wall_times_s, two.wall_times_s, strict=True)
    )
    click.echo(f"Two workers against one, one thread each: {gain:.2f} (wanted: {TARGET})")


if __name__ == "__main__":
    main()
