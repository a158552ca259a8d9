"""The `compare` command: parse, call one function, print."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from ltbench import results_api
from ltbench.options import json_option, print_or_write, results_option


@click.command()
@click.argument("first", metavar="METHOD")
@click.argument("second", metavar="METHOD")
@click.option("--dataset", required=True)
@click.option("--protocol", help="May be left out where one protocol alone has both.")
@click.option("--metric", help="One metric only, overall and by class; see `list metrics`.")
@click.option(
    "--level",
    type=click.FloatRange(0.5, 1, max_open=True),
    default=0.95,
    show_default=True,
    help="Of the intervals, after Holm's correction.",
)
@click.option("--format", "table_format", type=click.Choice(["md", "csv", "html"]), default="md")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write to a file.")
@results_option
@json_option
def compare(
    first: str,
    second: str,
    dataset: str,
    protocol: str | None,
    metric: str | None,
    level: float,
    table_format: Any,
    out: Path | None,
    results: Path,
    as_json: bool,
) -> None:
    """Compare two rows of finished runs on the same test images, overall and by class.

    METHOD is ecl, ecl@authors, another row's label, or the beginning of its key.
    """
    from ltbench.stats.rendering import render

    found = results_api.compare(
        *(first, second, dataset), protocol=protocol, metric=metric, level=level, results=results
    )
    text = json.dumps(found.as_dict(), indent=2) + "\n" if as_json else render(found, table_format)
    print_or_write(text, out)
