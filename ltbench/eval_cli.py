"""The `eval` command: parse, call one function, print."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from ltbench.options import json_option, results_option


@click.command("eval")
@click.argument("runs", metavar="RUN...", nargs=-1, required=True)
@click.option(
    "--positive",
    multiple=True,
    metavar="NAMES",
    help="Classes against the rest, commas between them: MEL, or MEL,BCC; default: as the data "
    "set declares. May be given several times.",
)
@click.option(
    "--specificity",
    multiple=True,
    type=click.FloatRange(0, 1, min_open=True),
    default=(0.95,),
    show_default=True,
    help="Report sensitivity here; the threshold is taken on validation.",
)
@click.option(
    "--sensitivity",
    multiple=True,
    type=click.FloatRange(0, 1, min_open=True),
    default=(0.9,),
    show_default=True,
    help="Report specificity here.",
)
@click.option(
    "--by",
    multiple=True,
    metavar="FACT",
    help="Subgroups: sex, site, source, age, ...; lesion asks for --per-lesion.",
)
@click.option("--per-lesion", is_flag=True, help="One decision a lesion: the mean of its images.")
@click.option(
    "--lesion-rule",
    type=click.Choice(["mean", "max"]),
    help="How images become one decision; max takes the most suspect image.",
)
@click.option("--temperature", is_flag=True, help="Scale by the temperature that validation fits.")
@click.option(
    "--prior",
    multiple=True,
    metavar="PRIOR",
    help="uniform, train, forward:50, backward:50, or a CSV file class,share.",
)
@click.option(
    "--cost",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A CSV file of costs: header truth,<class>,... and a row a true class.",
)
@json_option
@results_option
def evaluate(
    runs: tuple[str, ...],
    per_lesion: bool,
    lesion_rule: Any,
    as_json: bool,
    results: Path,
    **asked: Any,
) -> None:
    """Evaluate runs again from their stored predictions: the clinical view.

    Several RUNs must be the seeds of one configuration; their mean is printed below them. A key
    means the runs of all its seeds.
    """
    from ltbench import results_api
    from ltbench.clinical.evaluation import EvalOptions
    from ltbench.clinical.rendering import render, render_over_seeds

    if lesion_rule is None and per_lesion:
        lesion_rule = "mean"
    options = EvalOptions(per_lesion=lesion_rule, **asked)
    several = results_api.evaluate_seeds(runs, options, results=results)
    alone = several["runs"][0] if len(several["runs"]) == 1 else None
    if as_json:
        click.echo(json.dumps(several if alone is None else alone, indent=2))
        return
    for found in several["runs"]:
        click.echo(render(found), nl=alone is None)
    if alone is None:
        click.echo(render_over_seeds(several["over_seeds"], several["runs"]), nl=False)
