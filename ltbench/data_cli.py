"""The `data` commands: parse, call one function, print."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from ltbench.options import Commands, json_option, plugin_option
from ltbench.registry import add_plugins

EXIT_LEAK = 4


def target_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """What every `data` command takes: a data set or path, its settings, where it lies."""
    options = [
        click.argument("target", metavar="DATASET|FOLDER|CSV"),
        click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE"),
        click.option("--data-root", type=click.Path(path_type=Path), help="Where the files lie."),
        click.option("--skip-broken", is_flag=True, help="Leave out, and record, broken pictures."),
        plugin_option,
    ]
    for option in reversed(options):
        command = option(command)
    return command


def split_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Which split is looked at."""
    command = click.option("--protocol", help="Default: the data set's.")(command)
    return click.option("--split-seed", type=click.IntRange(min=0), default=0, show_default=True)(
        command
    )


def _opened(
    target: str,
    assignments: tuple[str, ...],
    data_root: Path | None,
    skip_broken: bool,
    plugins: tuple[Path, ...],
) -> Any:
    from ltbench.data_work import open_dataset
    from ltbench.settings import parse_assignments

    add_plugins(plugins)
    settings = parse_assignments(assignments)
    if skip_broken:
        settings["dataset.skip_broken"] = True
    return open_dataset(target, settings, data_root)


@click.group(cls=Commands)
def data() -> None:
    """Fetch, prepare, audit and show data sets."""


@data.command("show")
@target_options
@split_options
@json_option
def show(protocol: str | None, split_seed: int, as_json: bool, **where: Any) -> None:
    """Classes, counts, protocols, licence, and where the data lie."""
    from ltbench import data_work

    facts = data_work.show(_opened(**where), protocol, split_seed)
    click.echo(json.dumps(facts, indent=2) if as_json else data_work.render_data(facts))


@data.command("fetch")
@target_options
@click.option("--accept-licence", is_flag=True, help="You have read and accept the licence.")
@click.option(
    "--from-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Take files that you placed here by hand; download nothing.",
)
@click.option("--mirror", metavar="URL", help="Download from here in place of the known servers.")
def fetch(accept_licence: bool, from_dir: Path | None, mirror: str | None, **where: Any) -> None:
    """Download a data set, after its licence was shown and accepted."""
    from ltbench import data_work
    from ltbench.dataset import FetchRequest

    data_work.fetch(_opened(**where), FetchRequest(accept_licence, from_dir, mirror, click.echo))


@data.command("prepare")
@target_options
@click.option("--workers", type=click.IntRange(min=1), help="Processes; default: one a core.")
def prepare(workers: int | None, **where: Any) -> None:
    """Decode and resize every picture once; interrupted work goes on where it stopped."""
    from tqdm import tqdm

    from ltbench import data_work
    from ltbench.dataset import PrepareRequest

    dataset = _opened(**where)
    with tqdm(unit="picture", disable=None, leave=False) as bar:
        tenth = 0

        def move(done: int, total: int) -> None:
            nonlocal tenth
            bar.total = total
            bar.update(done - bar.n)
            if bar.disable and total and 10 * done // total > tenth:
                tenth = 10 * done // total
                click.echo(f"{done} of {total} pictures")

        request = PrepareRequest(
            workers or min(len(os.sched_getaffinity(0)), 16), on_progress=move, say=click.echo
        )
        try:
            data_work.prepare(dataset, request)
        except KeyboardInterrupt:
            click.echo("Interrupted. What is decoded is kept: the same command goes on.", err=True)
            raise


@data.command("audit")
@target_options
@split_options
@click.option("--no-perceptual", is_flag=True, help="Do not look for pictures that look alike.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Also write JSON.")
@json_option
def audit(
    protocol: str | None,
    split_seed: int,
    no_perceptual: bool,
    out: Path | None,
    as_json: bool,
    **where: Any,
) -> None:
    """Prove that the parts of a split share nothing; exit 4 where they do unannounced."""
    from ltbench import data_work
    from ltbench.files import write_json

    facts, in_order = data_work.audit_data(
        _opened(**where), protocol, split_seed, perceptual=not no_perceptual
    )
    click.echo(json.dumps(facts, indent=2) if as_json else data_work.render_audit(facts))
    if out is not None:
        write_json(out, facts)
        click.echo(f"Wrote {out}", err=True)
    if not in_order:
        sys.exit(EXIT_LEAK)
