"""`bench.py report`: a site of static pages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ltbench.options import plugin_option
from ltbench.program import DEFAULT_RESULTS, DEFAULT_TUNED
from ltbench.settings import parse_names
from ltbench.site.choices import NUM_MISTAKES, SORTED_BY, TITLE

_folder = click.Path(path_type=Path, file_okay=False)


@click.command()
@click.option("--out", type=_folder, required=True, help="A new folder, or one with a site.")
@click.option("--method", "--methods", "methods", help="Only these; commas between them.")
@click.option("--dataset", "--datasets", "datasets", help="Only these; commas between them.")
@click.option("--protocol", help="Only this one.")
@click.option("--title", default=TITLE, show_default=True, help="Of the first page.")
@click.option("--with-published", is_flag=True, help="Papers' figures below, in italics.")
@click.option(
    "--bold/--no-bold",
    default=True,
    show_default=True,
    help="Mark rows that cannot be told from the best, from stored predictions.",
)
@click.option(
    "--sort", default=SORTED_BY, show_default=True, help="Best row first; 'name' for by name."
)
@click.option("--figures/--no-figures", default=True, show_default=True, help="Draw figures.")
@click.option(
    "--pictures/--no-pictures",
    default=True,
    show_default=True,
    help="Copy small pictures of mistakes from the data set, where it is here.",
)
@click.option(
    "--mistakes", "num_mistakes", type=int, default=NUM_MISTAKES, show_default=True, help="A run."
)
@click.option("--data-root", type=click.Path(path_type=Path), help="Where the data lie.")
@click.option(
    "--tuned",
    type=click.Path(path_type=Path, file_okay=False),
    default=DEFAULT_TUNED,
    show_default=True,
    help="Root of tuned settings, for the budget curves of tuned rows.",
)
@plugin_option
@click.option("-j", "--jobs", type=int, help="Processes; default: one a core.")
@click.option(
    "--board",
    "boards",
    type=_folder,
    multiple=True,
    help="Show a board of `leaderboard build` in place of --results; may be given several times.",
)
@click.option(
    "--results",
    type=_folder,
    multiple=True,
    show_default=str(DEFAULT_RESULTS),
    help="Root of the runs; may be given several times.",
)
def report(
    out: Path, methods: str | None, datasets: str | None, sort: str, results: Any, **chosen: Any
) -> None:
    """Write a site of static pages: boards, a page a run, a page a method.

    It opens from disk, without a server and without the network. The same command again makes
    again what has changed.
    """
    from ltbench import results_api

    made = results_api.write_site(
        out,
        results=list(results) or None,
        methods=parse_names(methods) if methods else None,
        dataset=parse_names(datasets) if datasets else None,
        sort=None if sort == "name" else sort,
        say=lambda line: click.echo(line, err=True),
        **chosen,
    )
    for note in made.notes:
        click.echo(f"note: {note}", err=True)
    for line in made.privacy:
        click.echo(line, err=True)
    click.echo(
        f"{made.num_boards} boards, {made.num_runs} runs, {made.num_methods} methods: "
        f"{made.num_written} files written, {made.num_kept} kept, {made.num_removed} removed"
    )
    click.echo(f"Open {made.index}")
