"""The `sweep` command: parse, call one function, print."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ltbench.errors import UsageError
from ltbench.options import grid_options, json_option, settings_of
from ltbench.registry import import_plugins

if TYPE_CHECKING:
    from ltbench.launchers.choice import LaunchOptions


@click.command()
@click.argument("grid_file", metavar="[GRID.yaml]", required=False, type=click.Path(path_type=Path))
@click.option("--methods", help="all, or names with commas between them.")
@click.option("--datasets", help="Several with commas.")
@click.option("--protocols", help="Several with commas; default: each data set's.")
@click.option("--seeds", help="0-4 or 0,2,5; five unless given.")
@click.option("-j", "num_at_once", type=click.IntRange(min=1), help="Cells side by side.")
@click.option(
    "--slots-per-device",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Cells that share a CUDA device.",
)
@click.option(
    "--launcher",
    type=click.Choice(["local", "ray", "slurm"]),
    default="local",
    show_default=True,
    help="Who runs the cells.",
)
@click.option("--retry-failed", is_flag=True, help="Also run cells that failed before.")
@click.option(
    "--retries",
    type=click.IntRange(min=0),
    default=3,
    show_default=True,
    help="How often a cell is started again whose process died.",
)
@click.option("--time", "minutes", type=click.IntRange(min=1), help="Slurm: minutes a job.")
@click.option("--slurm", "slurm_options", multiple=True, metavar="KEY=VALUE", help="For sbatch.")
@click.option("--status", is_flag=True, help="Show how every cell stands, and run nothing.")
@click.option("--dry-run", is_flag=True, help="Check every cell as --status does; run nothing.")
@click.option("--resume", type=click.Choice(["auto", "never"]), default="auto", show_default=True)
@json_option
@grid_options
def sweep(
    grid_file: Path | None,
    launcher: str,
    retry_failed: bool,
    status: bool,
    dry_run: bool,
    as_json: bool,
    **flags: Any,
) -> None:
    """Run a grid of methods, data sets, protocols and seeds; what is done is not run again.

    The grid comes from flags, or from a file with the same names and more (docs/sweeps.md).
    """
    only_look = status or dry_run
    if as_json and not only_look:
        raise UsageError("sweep --json goes with --status; `table --format csv` has the results.")
    import_plugins(flags["plugins"])
    from ltbench.console import Console
    from ltbench.grid.running import check_whole, render_status, status_rows
    from ltbench.grid.spec import read_grid
    from ltbench.grid.sweep import Sweep
    from ltbench.runner import Place

    place = Place(
        flags["results"], flags["data_root"], resume=flags["resume"], plugins=flags["plugins"]
    )
    console = Console()
    spec = read_grid(grid_file, _grid_flags(flags))
    planned = Sweep(spec, place, launcher=launcher, options=_options(flags), say=console.say)
    if only_look:
        rows = status_rows(planned.plan)
        click.echo(json.dumps(rows, indent=2) if as_json else render_status(rows, planned.plan))
        return
    grid = planned.run(retry_failed=retry_failed)
    click.echo()
    console.comparison(grid.records())
    check_whole(grid)


def _options(flags: dict[str, Any]) -> LaunchOptions:
    from ltbench.launchers.choice import LaunchOptions

    return LaunchOptions(
        num_at_once=flags["num_at_once"],
        slots_per_device=flags["slots_per_device"],
        retries=flags["retries"],
        minutes=flags["minutes"],
        slurm=_pairs(flags["slurm_options"]),
    )


def _grid_flags(flags: dict[str, Any]) -> dict[str, Any]:
    """What the flags say of the grid, by field of `GridSpec`."""
    names = ("methods", "datasets", "protocols", "seeds", "recipe")
    files = {"config": flags["config_file"], "tuned": flags["tuned_file"]}
    return {**{name: flags[name] for name in names}, **files, "settings": settings_of(flags)}


def _pairs(texts: tuple[str, ...]) -> dict[str, str]:
    """`key=value` texts."""
    pairs = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise UsageError(f"--slurm takes KEY=VALUE, such as partition=gpu; got '{text}'.")
        pairs[key.strip()] = value.strip()
    return pairs
