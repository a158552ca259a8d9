"""The command line: parse, call one function, print. Heavy imports stay inside the commands."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any

import click

from ltbench import api, results_api
from ltbench.compare_cli import compare
from ltbench.data_cli import data
from ltbench.errors import LtbenchError, UsageError
from ltbench.eval_cli import evaluate
from ltbench.figures_cli import figures
from ltbench.grid_cli import sweep
from ltbench.leaderboard_cli import leaderboard
from ltbench.model_cli import export, predict, verify
from ltbench.options import (
    Commands,
    json_option,
    place_of,
    plugin_option,
    print_or_write,
    request_of,
    results_option,
    run_options,
)
from ltbench.registry import add_plugins, import_plugins
from ltbench.report_cli import report
from ltbench.settings import parse_names, parse_seeds
from ltbench.table_cli import table
from ltbench.tune_cli import tune

EXIT_CODES = (
    "Exit codes: 0 done; 1 failed while running; 2 wrong usage; 3 data missing; 4 verification "
    "failed; 5 some cells of a grid failed; 128 + a signal's number (Ctrl-C 130, SIGTERM 143) "
    "interrupted, saved."
)


@click.group(cls=Commands, epilog=EXIT_CODES)
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.version_option(package_name="ltbench")
def cli(debug: bool) -> None:
    """A benchmark suite for long-tailed image classification."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    given = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in given  # wherever it stands: it is added to a command that has just failed
    try:
        cli.main(
            args=[one for one in given if one != "--debug"],
            prog_name="bench.py",
            standalone_mode=False,
        )
    except click.exceptions.Abort:
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    except LtbenchError as error:
        if debug:
            raise
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    except Exception as error:
        if debug:
            raise
        click.echo(
            f"error: unexpected {type(error).__name__}: {error}\nThis is a fault in ltbench or in "
            "a plugin. Run the command again with --debug to see where, and report it.",
            err=True,
        )
        sys.exit(1)


@cli.command("list")
@click.argument("kind", metavar="methods|datasets|recipes|presets|metrics|backbones")
@plugin_option
@json_option
def list_command(kind: str, plugins: tuple[Path, ...], as_json: bool) -> None:
    """List what there is; on a terminal long lines are cut, `describe NAME` has them whole."""
    from ltbench import listing
    from ltbench.columns import terminal_width

    add_plugins(plugins)
    rows = listing.rows(kind)
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    click.echo(listing.render(kind, rows, terminal_width()))


@cli.command()
@click.argument("name", required=False)
@click.option(
    "--cards",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write every method's card, as Markdown, into this folder instead.",
)
@plugin_option
@json_option
def describe(
    name: str | None, cards: Path | None, plugins: tuple[Path, ...], as_json: bool
) -> None:
    """Explain a method, data set or recipe: settings, equations, departures, golden checks."""
    from ltbench import catalogue
    from ltbench.columns import terminal_width

    add_plugins(plugins)
    if cards is not None and plugins:
        raise UsageError("describe --cards writes this project's own methods; leave out --plugin.")
    if cards is not None and name is None:
        click.echo("\n".join(f"Wrote {file}" for file in api.write_cards(cards)))
        return
    if name is None or cards is not None:
        raise UsageError("describe: expected the NAME of one thing, or --cards FOLDER for all.")
    facts = catalogue.about(name)
    if as_json:
        click.echo(json.dumps(facts, indent=2, default=str))
        return
    click.echo(catalogue.render(facts, min(terminal_width() or catalogue.WIDTH, 120)))


@cli.command()
@click.option("--method", "methods", required=True, help="ecl, ecl@authors; several with commas.")
@click.option("--dataset", "datasets", required=True, help="Several with commas.")
@click.option("--seed", type=int, help="One seed; 0 unless given.")
@click.option("--seeds", help="Several: 0-4 or 0,2,5.")
@click.option("--resume", type=click.Choice(["auto", "never"]), default="auto", show_default=True)
@click.option("--log", type=click.Choice(["tensorboard"]), help="Also log epochs for TensorBoard.")
@click.option("--dry-run", is_flag=True, help="Check everything and print the configuration only.")
@run_options
def run(
    methods: str,
    datasets: str,
    seed: int | None,
    seeds: str | None,
    log: str | None,
    dry_run: bool,
    **flags: Any,
) -> None:
    """Train, select on validation, test once, and print the result."""
    seed_list = parse_seeds(seeds, seed)
    from ltbench.config import resolve
    from ltbench.console import Console

    console = Console(log)
    import_plugins(flags["plugins"])
    requests = [
        request_of(method, dataset, flags)
        for dataset in parse_names(datasets)
        for method in parse_names(methods)
    ]
    for request in requests:
        resolve(request)  # a mistake in the last of several runs is found before the first trains
    cells = [(request, one) for request in requests for one in seed_list]
    place = place_of(flags, console)
    if dry_run:
        for request, one in cells:
            console.dry_run(request, one, place)
        return
    if len(cells) > 1:
        from ltbench.runner import check

        for request in requests:
            check(request, seed_list, place)
    outcomes = []
    for request, one in cells:
        outcomes.append(api.run_seed(request, one, place))
        console.outcome(outcomes[-1])
    if len(outcomes) > 1:
        console.comparison([outcome.record for outcome in outcomes])


@cli.command()
@click.option("--method", required=True, help="NAME, or NAME@PRESET: every row builds on it.")
@click.option("--dataset", required=True)
@click.option("--seed", type=int, help="One seed; 0 unless given.")
@click.option("--seeds", help="Several: 0-4 or 0,2,5.")
@click.option("--only", help="Only these rows; commas between them.")
@click.option("--format", "table_format", type=click.Choice(["md", "csv"]), default="md")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write to a file.")
@click.option("--resume", type=click.Choice(["auto", "never"]), default="auto", show_default=True)
@run_options
def ablate(
    method: str,
    dataset: str,
    seed: int | None,
    seeds: str | None,
    only: str | None,
    table_format: Any,
    out: Path | None,
    **flags: Any,
) -> None:
    """Run the ablations a method declares, and print them as the table of its paper.

    Rows that are done are not run again, so the same command prints the table again.
    """
    seed_list = parse_seeds(seeds, seed)
    from ltbench.ablation import ablation_rows, check_whole, run_ablation
    from ltbench.console import Console

    import_plugins(flags["plugins"])
    rows = ablation_rows(method, parse_names(only) if only else ())
    console = Console()
    ablation = run_ablation(
        request_of(method, dataset, flags),
        rows,
        seed_list,
        place_of(flags, console),
        run_seed=api.run_seed,
        on_outcome=console.row,
    )
    click.echo()
    print_or_write(results_api.write_tables(ablation.tables(), table_format), out)
    check_whole(ablation)


@cli.command("test")
@click.argument("run_name", metavar="RUN")
@click.option("--dataset", required=True, help="The data to test on.")
@click.option("--protocol", help="Only this protocol's test part; default: every image.")
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="dataset.csv=FILE")
@click.option(
    "--label-map",
    type=click.Path(path_type=Path, dir_okay=False),
    help="CSV with the columns theirs,ours; an empty 'ours' leaves a class out.",
)
@click.option("--data-root", type=click.Path(path_type=Path), help="Where the data lie.")
@results_option
@plugin_option
@json_option
def test_command(
    run_name: str,
    dataset: str,
    protocol: str | None,
    assignments: tuple[str, ...],
    label_map: Path | None,
    data_root: Path | None,
    results: Path,
    plugins: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Test a finished run on data it has never seen; kept apart from its own record."""
    from ltbench import external
    from ltbench.settings import parse_assignments

    add_plugins(plugins)
    found = api.external_test(
        run_name,
        dataset,
        settings=parse_assignments(assignments),
        protocol=protocol,
        label_map=label_map,
        data_root=data_root,
        results=results,
    )
    click.echo(json.dumps(found.record, indent=2) if as_json else external.render(found))


@cli.command()
@results_option
@json_option
def status(results: Path, as_json: bool) -> None:
    """Show which runs are done, running, failed, or stopped half way."""
    from ltbench import inspection

    rows = inspection.status(results)
    click.echo(json.dumps(rows, indent=2) if as_json else inspection.render_status(rows))


@cli.command()
@results_option
@json_option
def doctor(results: Path, as_json: bool) -> None:
    """Check this machine: libraries, devices, memory, storage, data sets, plugins."""
    from ltbench import inspection

    checks = inspection.doctor(results)
    click.echo(json.dumps(checks, indent=2) if as_json else inspection.render_doctor(checks))
    if any(check["state"] == "failed" for check in checks):
        sys.exit(1)


cli.add_command(data)
cli.add_command(sweep)
cli.add_command(evaluate)
cli.add_command(compare)
cli.add_command(tune)
cli.add_command(table)
cli.add_command(figures)
cli.add_command(report)
cli.add_command(leaderboard)
for _command in (verify, predict, export):
    cli.add_command(_command)


@cli.group(cls=Commands)
def plugin() -> None:
    """Start a plugin of your own, and test it."""


@plugin.command("new")
@click.argument("name")
@click.option("--kind", type=click.Choice(["method", "dataset"]), default="method")
@click.option("--dir", "folder", type=click.Path(path_type=Path, file_okay=False))
def plugin_new(name: str, kind: str, folder: Path | None) -> None:
    """Write a small plugin that works, to be filled in."""
    from ltbench import scaffold

    file = scaffold.new_plugin(name, kind, folder)
    click.echo(f"Wrote {file}\nTest it: python bench.py plugin test {scaffold.testable_name(file)}")


@plugin.command("test")
@click.argument("name", metavar="NAME|FILE")
@click.option("--kind", type=click.Choice(["method", "dataset"]), help="Told by the name or file.")
@click.option("--data-root", type=click.Path(path_type=Path), help="Where a data set's files lie.")
@plugin_option
def plugin_test(
    name: str, kind: str | None, data_root: Path | None, plugins: tuple[Path, ...]
) -> None:
    """Run the conformance suite on a plugin."""
    from ltbench import scaffold

    add_plugins(plugins)
    sys.exit(scaffold.run_suite(name, kind, plugins, data_root))
