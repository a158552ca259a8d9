"""What a run shows: a bar on a terminal, sparse lines in a log file, a table at the end."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import click
import yaml
from tqdm import tqdm

from ltbench.cell import Cell, prepare
from ltbench.config import Request, asked, resolve
from ltbench.report.tables import comparison, per_class, to_markdown
from ltbench.results import RunFolder
from ltbench.runner import Outcome, Place, folder_of
from ltbench.tensorboard import TensorBoardLog
from ltbench.training.devices import check_devices

_LINES_A_STAGE = 10


class Console:
    """Prints the course of runs to stdout; the progress bar goes to stderr.

    Args:
        log: "tensorboard" also writes each epoch for TensorBoard, into the run's folder.
    """

    def __init__(self, log: str | None = None) -> None:
        self._log_kind = log
        self._log: Callable[[Mapping[str, Any]], None] | None = None
        self._bar: Any = None
        self._stage = ""
        self._told_at = 0.0

    def say(self, text: str) -> None:
        """One line."""
        click.echo(text)

    def start(self, cell: Cell, folder: RunFolder, goes_on: str) -> None:
        """Before training: what runs, on what, where it goes."""
        config, counts = cell.config, cell.training.class_counts
        sizes = [f"train {len(cell.training)}"]
        if cell.validation is not None:
            sizes.append(f"val {len(cell.validation)}")
        sizes.append(f"test {len(cell.split.test)}")
        parts = cell.key_parts
        several = f" (BatchNorm {cell.batchnorm})" if parts["num_devices"] > 1 else ""
        self._log = TensorBoardLog(folder.path) if self._log_kind == "tensorboard" else None
        click.echo(
            f"{config.method_label} on {config.dataset_name}, protocol {config.protocol}, recipe "
            f"{config.recipe}, seed {config.seed}\n"
            f"  images: {', '.join(sizes)}; {len(counts)} classes, measured imbalance "
            f"{max(counts) / min(counts):.1f} ({max(counts)} to {min(counts)})\n"
            f"  {config.backbone}, weights {config.weights}, {parts['device']} x "
            f"{parts['num_devices']}{several}, precision {parts['precision']}, threads "
            f"{parts['threads']}\n"
            f"  folder: {folder.path}\n  key: {cell.key}" + (f"\n  {goes_on}" if goes_on else "")
        )
        for one in cell.overlaps:
            if one.num_beyond_groups:
                click.echo(
                    f"  WARNING: {one.num_images} of {one.num_in_part} images of {one.parts[1]} "
                    f"are in {one.parts[0]} too, by {one.kind}; `data audit` names them",
                    err=True,
                )

    def epoch(self, row: Mapping[str, Any]) -> None:
        """After an epoch."""
        if self._log is not None:
            self._log(row)
        number, epochs = row["epoch"] + 1, row["epochs"]
        if sys.stderr.isatty():
            self._advance(row, number, epochs)
            return
        step = max(1, epochs // _LINES_A_STAGE)
        if number % step == 0 or number == epochs or time.monotonic() - self._told_at > 60:
            self._told_at = time.monotonic()
            click.echo(f"  {row['stage']} epoch {number}/{epochs}: {_figures(row)}")

    def _advance(self, row: Mapping[str, Any], number: int, epochs: int) -> None:
        if self._bar is None or self._stage != row["stage"]:
            self._close()
            self._bar = tqdm(total=epochs, initial=number - 1, desc=f"  {row['stage']}", unit="ep")
            self._stage = row["stage"]
        self._bar.set_postfix_str(_figures(row))
        self._bar.update(1)
        if number == epochs:
            self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def outcome(self, outcome: Outcome) -> None:
        """After a run: its table, its folder, and how to repeat it."""
        self._close()
        record = outcome.record
        if outcome.status == "already done":
            click.echo(
                f"{record['label']} on {record['dataset']}, seed {record['seed']}: already done, "
                "nothing was trained"
            )
        click.echo(
            f"\n{per_class(record).rstrip()}\n\n"
            f"run:     {outcome.folder.path}\nkey:     {record['key']}\n"
            f"digest:  {record['digest']}\nrepeat:  {record['command']}\n"
        )

    def row(self, outcome: Outcome) -> None:
        """After one cell of several that end in a table: one line."""
        self._close()
        record = outcome.record
        accuracy = record["metrics"]["test"]["balanced_accuracy"]
        click.echo(
            f"{record['label']}, seed {record['seed']}: {outcome.status}, balanced accuracy "
            f"{100 * accuracy:.2f}, run {outcome.folder.name}"
        )

    def comparison(self, records: Sequence[Mapping[str, Any]]) -> None:
        """After several runs: the comparison table."""
        for table in comparison([dict(record) for record in records]):
            click.echo(to_markdown(table))

    def dry_run(self, request: Request, seed: int, place: Place) -> None:
        """The configuration, its key and its folder; nothing is trained, only lists are stored."""
        config = resolve(replace(request, settings={**request.settings, "seed": seed}))
        check_devices(config.machine)
        cell = prepare(
            config,
            results=place.results,
            data_root=place.data_root,
            asked=asked(request),
        )
        folder = folder_of(cell, place.results)
        click.echo(yaml.safe_dump(cell.config.model_dump(mode="json"), sort_keys=False, width=110))
        click.echo(f"key:     {cell.key}\nfolder:  {folder.path}\ndone:    {folder.is_done()}")


def _figures(row: Mapping[str, Any]) -> str:
    figures = [f"loss {row['train'].get('loss', float('nan')):.4f}"]
    if row["val"]:
        figures.append(f"val accuracy {row['val']['accuracy']:.4f}")
        figures.append(f"balanced {row['val']['balanced_accuracy']:.4f}")
    return ", ".join(figures)
