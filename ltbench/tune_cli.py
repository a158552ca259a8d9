"""The `tune` command: parse, call one function, print."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ltbench import api
from ltbench.errors import UsageError
from ltbench.options import json_option, request_of, run_options
from ltbench.program import DEFAULT_RESULTS, DEFAULT_TUNED, PROGRAM
from ltbench.registry import import_plugins
from ltbench.settings import parse_names, parse_seeds

if TYPE_CHECKING:
    from ltbench.runner import Place
    from ltbench.tuning.plan import Options
    from ltbench.tuning.session import Tuned


@click.command()
@click.option(
    "--methods",
    required=True,
    help="ecl, ecl@authors; several with commas. Their budgets are equal.",
)
@click.option("--dataset", required=True)
@click.option("--trials", type=int, default=30, show_default=True, help="Budget of each method.")
@click.option(
    "--space",
    type=click.Choice(["method", "recipe", "both"]),
    default="both",
    show_default=True,
    help="What is searched: the method's settings, the recipe's lr and weight decay, or both.",
)
@click.option(
    "--search", "ranges", multiple=True, metavar="KEY=RANGE", help="LOW:HIGH, LOW:HIGH:log or A,B."
)
@click.option(
    "--objective",
    type=click.Choice(["val.macro_f1", "val.balanced_accuracy"]),
    default="val.macro_f1",
    show_default=True,
)
@click.option("--storage", metavar="URL", help="Default: an SQLite file below the results.")
@click.option(
    "-j", "num_workers", type=click.IntRange(min=1), default=1, help="Trials side by side."
)
@click.option("--tune-seeds", help="What trials train with; 1000000 unless given.")
@click.option("--sampler", type=click.Choice(["tpe", "random"]), default="tpe", show_default=True)
@click.option("--sampler-seed", type=int, default=0, show_default=True)
@click.option(
    "--pruner",
    type=click.Choice(["median", "hyperband", "none"]),
    default="median",
    show_default=True,
    help="What stops trials early.",
)
@click.option("--test-at", metavar="K,K,...", help="Test what the first K trials would choose.")
@click.option("--seeds", help="To report with --test-at: 0-4 or 0,2,5.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=DEFAULT_TUNED,
    show_default=True,
    help="Root of the files of tuned settings.",
)
@json_option
@run_options
def tune(methods: str, dataset: str, as_json: bool, **flags: Any) -> None:
    """Search settings by validation alone, with the same budget for every method.

    The same command goes on with a study, or shows one that is complete (docs/tuning.md).
    """
    import_plugins(flags["plugins"])
    at = _numbers(flags["test_at"])
    seeds = parse_seeds(flags["seeds"], None) if flags["seeds"] is not None else []
    if bool(at) != bool(seeds):
        raise UsageError("--test-at and --seeds go together: --test-at 1,4,12 --seeds 0-4.")
    from ltbench.runner import Place
    from ltbench.tuning.session import Tuning, check_whole

    place = Place(flags["results"], flags["data_root"], plugins=flags["plugins"])
    tuning = Tuning(
        [request_of(name, dataset, flags) for name in parse_names(methods)],
        _options(flags),
        place,
        storage=flags["storage"],
        out=flags["out"],
        say=lambda text: click.echo(text, err=as_json),
    )
    tuned = tuning.run(
        num_workers=flags["num_workers"], test_at=at, seeds=seeds, run_seed=api.run_seed
    )
    text = f"{_as_json(tuned)}\n" if as_json else _as_text(tuned, place, flags["out"])
    click.echo(text, nl=False)
    check_whole(tuned)


def _options(flags: Mapping[str, Any]) -> Options:
    """What the studies have in common."""
    from ltbench.tuning.plan import FIRST_SEED, Options
    from ltbench.tuning.space import parse_ranges

    seeds = flags["tune_seeds"]
    return Options(
        trials=flags["trials"],
        space=flags["space"],
        own=parse_ranges(flags["ranges"]),
        objective=flags["objective"],
        seeds=tuple(parse_seeds(seeds, None) if seeds is not None else [FIRST_SEED]),
        sampler=flags["sampler"],
        sampler_seed=flags["sampler_seed"],
        pruner=flags["pruner"],
    )


def _numbers(text: str | None) -> list[int]:
    """`1,4,12` to numbers."""
    try:
        return [int(part) for part in (text or "").split(",") if part.strip()]
    except ValueError as error:
        raise UsageError(f"--test-at takes numbers of trials, such as 1,4,12; got '{text}'.") from (
            error
        )


def _as_json(tuned: Tuned) -> str:
    return json.dumps(
        {
            "studies": [report.as_json() for report in tuned.reports],
            "tests": [vars(row) for row in tuned.tests],
            "troubles": tuned.troubles,
        },
        indent=2,
    )


def _as_text(tuned: Tuned, place: Place, out: Path) -> str:
    """Tables, then the command that runs what was found."""
    from ltbench.tuning.after import render_tests
    from ltbench.tuning.report import render_curves, render_table

    parts = [render_table(tuned.reports), render_curves(tuned.reports)]
    if tuned.tests:
        parts.append(render_tests(tuned.tests))
    found = [report for report in tuned.reports if report.file is not None]
    if found:
        words = [*PROGRAM, "run", "--method", ",".join(report.method for report in found)]
        words += ["--dataset", found[0].dataset, "--protocol", found[0].protocol]
        words += ["--tuned", str(out), "--seeds", "0-4"]
        if place.results != DEFAULT_RESULTS:
            words += ["--results", str(place.results)]
        if place.data_root is not None:
            words += ["--data-root", str(place.data_root)]
        words += [word for file in place.plugins for word in ("--plugin", str(file))]
        parts.append(f"{shlex.join(words)}\n")
    return "\n" + "\n".join(part for part in parts if part)
