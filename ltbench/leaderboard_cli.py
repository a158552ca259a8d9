"""The `leaderboard` commands: parse, call one function, print."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ltbench import bundle_api
from ltbench.options import Commands, json_option, plugin_option, results_option
from ltbench.settings import parse_names, parse_seeds

if TYPE_CHECKING:
    from ltbench.bundles.work import Rerun

_path = click.Path(path_type=Path)
_data_root = click.option("--data-root", type=_path, help="Where the data lie.")


def _rerun_options(command: Any) -> Any:
    for option in (
        click.option(
            "--tolerance",
            type=click.FloatRange(min=0),
            default=0.01,
            show_default=True,
            help="With --rerun: how far a test metric may be off where the bits differ.",
        ),
        click.option(
            "--trust-plugin",
            is_flag=True,
            help="With --rerun: run the bundle's own code, with your rights.",
        ),
        click.option("--rerun", is_flag=True, help="Train each row again, in a fresh process."),
    ):
        command = option(command)
    return command


@click.group(cls=Commands)
def leaderboard() -> None:
    """Boards of bundles: rows whose numbers can be computed again (docs/leaderboard.md)."""


@leaderboard.command()
@click.argument("key")
@click.option("--out", type=_path, required=True, help="A file that ends in .zip, or a new folder.")
@click.option("--seeds", help="Only these: 0-4 or 0,2,5; default: all that are finished.")
@results_option
@plugin_option
@json_option
def bundle(
    key: str,
    out: Path,
    seeds: str | None,
    results: Path,
    plugins: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Put a configuration and its seeds into one file, to be handed on.

    KEY is the configuration's key or its beginning, or one of its runs.
    """
    chosen = None if seeds is None else parse_seeds(seeds, None)
    manifest = bundle_api.bundle(key, out, seeds=chosen, results=results, plugins=plugins)
    if as_json:
        click.echo(json.dumps(manifest, indent=2))
        return
    click.echo(
        f"Wrote {out}: {manifest['label']}, {manifest['dataset']}, {manifest['protocol']}, seeds "
        f"{', '.join(map(str, manifest['seeds']))}; digest {manifest['digest']}"
    )


@leaderboard.command()
@click.argument("paths", nargs=-1, metavar="[PATH ...]", type=_path)
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True)
@click.option("--method", "methods", help="Of folders of results: only these; with commas.")
@click.option("--dataset", help="Of folders of results: only this one.")
@click.option("--protocol", help="Of folders of results: only this one.")
@_rerun_options
@_data_root
@results_option
@plugin_option
@json_option
def build(
    paths: tuple[Path, ...],
    out: Path,
    methods: str | None,
    dataset: str | None,
    protocol: str | None,
    data_root: Path | None,
    results: Path,
    plugins: tuple[Path, ...],
    as_json: bool,
    **flags: Any,
) -> None:
    """Make a board of runs, bundles and other boards; without a PATH of all finished runs."""
    found = bundle_api.build_board(
        paths or [results],
        out,
        methods=parse_names(methods) if methods else None,
        dataset=dataset,
        protocol=protocol,
        again=_rerun({**flags, "plugins": plugins}, data_root),
        data_root=data_root,
        plugins=plugins,
    )
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    for row in found["added"]:
        click.echo(_said(row))
    click.echo(f"{len(found['added'])} rows added to {out}; the table: {out / 'README.md'}")


@leaderboard.command()
@click.argument("bundle_path", metavar="BUNDLE", type=_path)
@click.option(
    "--board",
    type=click.Path(path_type=Path, file_okay=False),
    help="Default: the board of the bundle's split in results/boards.",
)
@click.option("--dry-run", is_flag=True, help="Check everything and add nothing.")
@_rerun_options
@_data_root
@plugin_option
@json_option
def add(
    bundle_path: Path,
    board: Path | None,
    dry_run: bool,
    data_root: Path | None,
    plugins: tuple[Path, ...],
    as_json: bool,
    **flags: Any,
) -> None:
    """Compute every number of a bundle again and, where all fit, add it to a board as a row.

    Code in the bundle is run only with --rerun and --trust-plugin.
    """
    added = bundle_api.add_to_board(
        bundle_path,
        board,
        again=_rerun({**flags, "plugins": plugins}, data_root),
        dry_run=dry_run,
        data_root=data_root,
        plugins=plugins,
    )
    if as_json:
        click.echo(json.dumps(added, indent=2))
        return
    click.echo(_said(added["row"]))
    done = "Nothing was written (--dry-run)" if dry_run else f"Wrote {added['file']}"
    click.echo(f"{done}; board: {added['board']}")


@leaderboard.command()
@click.argument("boards", nargs=-1, metavar="[BOARD ...]", type=_path)
@_data_root
@json_option
def check(boards: tuple[Path, ...], data_root: Path | None, as_json: bool) -> None:
    """Compute every number of boards again; default: all in results/boards."""
    from ltbench.bundles.work import refuse_failed

    found = bundle_api.check_boards(boards, data_root=data_root)
    if as_json:
        click.echo(json.dumps(found, indent=2))
    else:
        for one in found:
            state = "ok" if not one["problems"] else f"{len(one['problems'])} problems"
            click.echo(
                f"{one['board']}: {state}; {one['rows']} rows, {one['images']} predictions scored, "
                f"{one['numbers']} numbers computed again; split: {one['split']}"
            )
    refuse_failed(found)


def _rerun(flags: dict[str, Any], data_root: Path | None) -> Rerun | None:
    if not flags["rerun"]:
        return None
    from ltbench.bundles.work import Rerun

    return Rerun(
        trust_plugin=flags["trust_plugin"],
        tolerance=flags["tolerance"],
        data_root=data_root,
        plugins=flags["plugins"],
        say=lambda line: click.echo(line, err=True),
    )


def _said(row: dict[str, Any]) -> str:
    again = f", {row['rerun']['equal']}" if row["rerun"] else ""
    score = row["test"]["macro_f1"]
    return (
        f"{row['label']} ({row['key']}): {row['level']}{again}; {len(row['seeds'])} seeds, "
        f"macro F1 {100 * score['mean']:.2f}"
    )
