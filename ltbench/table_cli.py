"""`bench.py table`: the finished runs side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ltbench.options import print_or_write
from ltbench.program import DEFAULT_RESULTS
from ltbench.settings import parse_names


@click.command()
@click.option(
    "--method", "--methods", "methods", help="Only these, in this order; commas between them."
)
@click.option("--dataset", "--datasets", "datasets", help="Only these; commas between them.")
@click.option("--protocol", help="Only this one.")
@click.option(
    "--preset",
    type=click.Choice(["paper", "tail", "clinical", "compute"]),
    help="paper: data sets side by side; tail: head, medium, tail and worst class; compute: what "
    "runs cost. Without it: a table a data set.",
)
@click.option(
    "--format",
    "table_format",
    type=click.Choice(["md", "csv", "latex", "html"]),
    default="md",
    show_default=True,
)
@click.option("--with-published", is_flag=True, help="Papers' figures below, in italics.")
@click.option("--per-class", is_flag=True, help="Also a table of every class.")
@click.option(
    "--bold/--no-bold",
    default=None,
    help="Mark rows that cannot be told from the best, from stored predictions; default: with "
    "--preset, but for compute.",
)
@click.option("--mixed", is_flag=True, help="Let several protocols or splits share a table.")
@click.option("--sort", metavar="METRIC", help="Best row first; default: by name.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write to a file.")
@click.option(
    "--results",
    type=click.Path(path_type=Path, file_okay=False),
    default=[DEFAULT_RESULTS],
    show_default=str(DEFAULT_RESULTS),
    multiple=True,
    help="Root of the runs; may be given several times.",
)
def table(
    methods: str | None, datasets: str | None, out: Path | None, results: Any, **chosen: Any
) -> None:
    """Compare the finished runs: mean and standard deviation over seeds."""
    from ltbench import results_api

    text, notes = results_api.table(
        results=results,
        methods=parse_names(methods) if methods else None,
        dataset=parse_names(datasets) if datasets else None,
        **chosen,
    )
    for note in notes:
        click.echo(f"note: {note}", err=True)
    print_or_write(text, out)
