"""The commands that use or check one trained run: parse, call one function, print."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import click

from ltbench import model_api
from ltbench.options import json_option, plugin_option, results_option

_path = click.Path(path_type=Path)
_data_root = click.option("--data-root", type=_path, help="Where the data lie.")
_run = click.argument("run_name", metavar="RUN")


@click.command()
@_run
@click.option(
    "--weights/--no-weights",
    default=True,
    show_default=True,
    help="Load the weights, and predict again where the data are here.",
)
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0),
    help="How far logits may be off; default: nothing on the same kind of machine.",
)
@_data_root
@results_option
@plugin_option
@json_option
def verify(
    run_name: str,
    weights: bool,
    tolerance: float | None,
    data_root: Path | None,
    results: Path,
    plugins: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Find every number and digest of a finished run again; exit code 4 where one differs."""
    from ltbench.verification import render

    found = model_api.verify(
        run_name,
        weights=weights,
        data_root=data_root,
        tolerance=tolerance,
        results=results,
        plugins=plugins,
    )
    click.echo(json.dumps(found.as_facts(), indent=2) if as_json else render(found))
    found.refuse_failed()


@click.command()
@_run
@click.option(
    "--images",
    "images",
    multiple=True,
    required=True,
    type=_path,
    help="A picture or a folder of pictures; several may follow.",
)
@click.argument("more", nargs=-1, metavar="[MORE ...]", type=_path)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True)
@click.option("--skip-broken", is_flag=True, help="Pictures that cannot be read are no failure.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
@results_option
@plugin_option
@json_option
def predict(
    run_name: str,
    images: tuple[Path, ...],
    more: tuple[Path, ...],
    out: Path,
    skip_broken: bool,
    device: str,
    results: Path,
    plugins: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Predict classes and probabilities of your own pictures, into a CSV table."""
    found = model_api.predict(
        run_name,
        [*images, *more],
        out,
        device=device,
        results=results,
        plugins=plugins,
    )
    for note in found.notes:
        click.echo(f"note: {note}", err=True)
    if as_json:
        click.echo(json.dumps(found.as_facts(), indent=2))
    else:
        click.echo(f"Wrote {out}: {found.num_predicted} pictures by {found.run}")
    if not skip_broken:
        found.refuse_broken()


@click.command()
@_run
@click.option("--to", "kind", type=click.Choice(["onnx", "safetensors"]), required=True)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True)
@_data_root
@results_option
@plugin_option
@json_option
def export(
    run_name: str,
    kind: Literal["onnx", "safetensors"],
    out: Path,
    data_root: Path | None,
    results: Path,
    plugins: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Write the trained model for other programs, with a model card beside it."""
    from ltbench.exporting.work import render

    found = model_api.export(
        run_name,
        kind,
        out,
        data_root=data_root,
        results=results,
        plugins=plugins,
    )
    click.echo(json.dumps(found.as_facts(), indent=2) if as_json else render(found))
