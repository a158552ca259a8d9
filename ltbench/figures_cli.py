"""The `figures` command: parse, call one function, print."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from ltbench.options import json_option
from ltbench.program import DEFAULT_RESULTS
from ltbench.settings import parse_names


@click.command()
@click.argument("runs", metavar="[RUN ...]", nargs=-1)
@click.option("--method", "--methods", "methods", help="Only these; commas between them.")
@click.option("--dataset", "--datasets", "datasets", help="Only these; commas between them.")
@click.option("--protocol", help="Only this one.")
@click.option("--only", help="Only these figures, such as confusion,roc; commas between them.")
@click.option(
    "--format",
    "figure_format",
    type=click.Choice(["svg", "pdf", "png"]),
    default="svg",
    show_default=True,
)
@click.option(
    "--tuned",
    type=click.Path(path_type=Path, file_okay=False),
    help="Also budget curves, from what `tune` wrote into this folder.",
)
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True)
@click.option(
    "--results",
    type=click.Path(path_type=Path, file_okay=False),
    default=[DEFAULT_RESULTS],
    show_default=str(DEFAULT_RESULTS),
    multiple=True,
    help="Root of the runs; may be given several times.",
)
@json_option
def figures(
    runs: tuple[str, ...],
    methods: str | None,
    datasets: str | None,
    only: str | None,
    out: Path,
    results: Any,
    as_json: bool,
    **chosen: Any,
) -> None:
    """Draw figures of RUNs, or without one of all configurations and their comparison."""
    from ltbench import results_api
    from ltbench.figures.command import render

    written = results_api.write_figures(
        out,
        runs,
        results=results,
        methods=parse_names(methods) if methods else None,
        dataset=parse_names(datasets) if datasets else None,
        only=parse_names(only) if only else (),
        **chosen,
    )
    for note in written.notes:
        click.echo(f"note: {note}", err=True)
    click.echo(json.dumps(written.as_facts(), indent=2) if as_json else render(written))
