"""The Python twins of the commands that read finished runs: tables, figures, sites, evaluations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from ltbench.errors import UsageError
from ltbench.program import DEFAULT_RESULTS

if TYPE_CHECKING:
    from ltbench.clinical.evaluation import EvalOptions
    from ltbench.figures.command import WrittenFigures
    from ltbench.figures.drawing import FigureFormat
    from ltbench.report.choices import Format, TableChoices
    from ltbench.report.tables import Table
    from ltbench.runner import Outcome
    from ltbench.site.choices import Made, SiteChoices
    from ltbench.stats.comparing import Comparison


def table(
    *,
    results: str | Path | Sequence[str | Path] = DEFAULT_RESULTS,
    dataset: str | Sequence[str] | None = None,
    **choices: Unpack[TableChoices],
) -> tuple[str, list[str]]:
    """(the comparison tables of the stored runs, notes on records that were left out).

    Args:
        results: one folder, or several.
        dataset: one name, or several; None for all.
        choices: see `ltbench.report.choices.TableChoices`.

    Raises:
        DataMissingError: no finished run fits.
        UsageError: several protocols in one table.
    """
    from ltbench.report.command import comparison_text

    roots = [results] if isinstance(results, str | Path) else list(results)
    datasets = [dataset] if isinstance(dataset, str) else dataset
    return comparison_text([Path(root) for root in roots], datasets=datasets, **choices)


def write_site(
    out: str | Path,
    *,
    results: str | Path | Sequence[str | Path] | None = None,
    boards: str | Path | Sequence[str | Path] = (),
    dataset: str | Sequence[str] | None = None,
    **choices: Unpack[SiteChoices],
) -> Made:
    """Write a site of static pages, or bring one up to date: `bench.py report`.

    Args:
        out: a new folder, or one with a site.
        results: one folder of results, or several; None for the usual one, or for none where
            `boards` are given.
        boards: folders of boards, in place of results.
        dataset: one name, or several; None for all.
        choices: see `ltbench.site.choices.SiteChoices`.

    Returns:
        What was written, with notes on records that were left out.

    Raises:
        DataMissingError: no finished run fits, or figures are wanted and matplotlib is missing.
        UsageError: `out` holds something else than a site, results and boards are both given, or a
            plugin cannot be imported.
    """
    from ltbench.registry import import_plugins
    from ltbench.site.choices import Selection
    from ltbench.site.making import SiteOptions, make_site

    import_plugins(choices.pop("plugins", ()))
    methods, protocol = choices.pop("methods", None), choices.pop("protocol", None)
    given, shown = _paths(results), _paths(boards)
    wanted = [dataset] if isinstance(dataset, str) else dataset or ()
    selection = Selection(
        roots=given if given or shown else (DEFAULT_RESULTS,),
        boards=shown,
        methods=None if methods is None else tuple(methods),
        datasets=None if dataset is None else tuple(wanted),
        protocol=protocol,
    )
    rest: dict[str, Any] = {**choices}
    return make_site(selection, Path(out), SiteOptions(**rest))


def _paths(given: str | Path | Sequence[str | Path] | None) -> tuple[Path, ...]:
    several = [given] if isinstance(given, str | Path) else given or ()
    return tuple(Path(one) for one in several)


def compare(
    first: str,
    second: str,
    dataset: str,
    *,
    protocol: str | None = None,
    metric: str | None = None,
    level: float = 0.95,
    results: str | Path = DEFAULT_RESULTS,
) -> Comparison:
    """Two rows of finished runs on the same test images: by how much they differ, and how sure.

    Args:
        first, second: `ecl`, `ecl@authors`, another row's label, or the beginning of its key.
        protocol: may be left out where one protocol alone has both.
        metric: one of `METRICS` with its values by class, or `sensitivity`, `precision`, `f1` or
            `auc` of the classes; None for the paper's metrics, sensitivity and F1 by class.
        level: of the intervals of one family of comparisons together.

    Returns:
        `lines`, each with both means, the paired difference `paired` and `sentences`.

    Raises:
        UsageError: a name means no row or several, or protocols would be mixed.
        VerificationError: the two were tested on different images, or predictions are damaged.
    """
    from ltbench.stats.comparing import compared

    return compared(
        *(Path(results), first, second),
        dataset=dataset,
        protocol=protocol,
        metric=metric,
        level=level,
    )


def evaluate_run(
    run: str | Path | Outcome,
    options: EvalOptions | None = None,
    *,
    results: str | Path = DEFAULT_RESULTS,
) -> dict[str, Any]:
    """Evaluate a run again from its stored predictions; `bench.py eval --json` as a dict.

    Args:
        run: what `ltbench.run` gave, a folder (of an external test too), `<key>/seed-<n>`, or the
            beginning of a key.
        options: `ltbench.clinical.evaluation.EvalOptions`.
    """
    from ltbench.clinical.evaluation import evaluation
    from ltbench.results import find_run

    if not isinstance(run, str | Path):
        return evaluation(run.folder, options)
    return evaluation(find_run(Path(results), str(run)), options)


def evaluate_seeds(
    runs: Sequence[str | Path | Outcome],
    options: EvalOptions | None = None,
    *,
    results: str | Path = DEFAULT_RESULTS,
) -> dict[str, Any]:
    """`evaluate_run` of the seeds of one configuration (`runs`), and their mean (`over_seeds`).

    Args:
        runs: as for `evaluate_run`; a key, or the beginning of one, means all its seeds.
    """
    from ltbench.clinical.seeds import over_seeds
    from ltbench.results import find_runs

    folders: list[Path] = []
    for run in runs:
        if isinstance(run, str | Path):
            folders += [one.path for one in find_runs(Path(results), str(run))]
        else:
            folders.append(run.folder.path)
    found = [evaluate_run(folder, options, results=results) for folder in folders]
    return {"runs": found, "over_seeds": over_seeds(found)}


def write_figures(
    out: str | Path,
    runs: Sequence[str | Path | Outcome] = (),
    *,
    results: str | Path | Sequence[str | Path] = DEFAULT_RESULTS,
    methods: Sequence[str] | None = None,
    dataset: str | Sequence[str] | None = None,
    protocol: str | None = None,
    tuned: str | Path | None = None,
    only: Sequence[str] = (),
    figure_format: FigureFormat = "svg",
) -> WrittenFigures:
    """Draw figures from records and stored predictions into files; see `ltbench.figures`.

    Args:
        out: folder of the files.
        runs: what `ltbench.run` gave, folders, `<key>/seed-<n>`, or beginnings of keys: the figures
            of each. Without any, those of configurations and of their comparison.
        results: one folder, or several.
        methods: only these; for figures of configurations, as are the next three.
        dataset: one name, or several.
        tuned: the folder into which `tune` wrote, for budget curves.
        only: names of figures; empty for all.
        figure_format: "svg", "pdf" or "png".

    Returns:
        The files, and what was left out with the reason.

    Raises:
        UsageError: no such figure; runs together with a selection.
        DataMissingError: nothing to draw, or matplotlib is not installed.
    """
    from ltbench.figures.command import figures_of_results, figures_of_runs
    from ltbench.results import find_run

    roots = [Path(root) for root in ([results] if isinstance(results, str | Path) else results)]
    if not runs:
        return figures_of_results(
            roots,
            Path(out),
            methods=methods,
            datasets=[dataset] if isinstance(dataset, str) else dataset,
            protocol=protocol,
            tuned=None if tuned is None else Path(tuned),
            only=only,
            figure_format=figure_format,
        )
    if any(one is not None for one in (methods, dataset, protocol, tuned)):
        raise UsageError(
            "Figures are drawn of the runs that are named, or of those that --method, --dataset, "
            "--protocol and --tuned select; got both. Leave one out."
        )
    if len(roots) > 1:
        raise UsageError("Runs are named within one folder of results; give --results once.")
    names = [str(one) if isinstance(one, str | Path) else str(one.folder.path) for one in runs]
    found = [find_run(roots[0], name) for name in names]
    return figures_of_runs(found, Path(out), only=only, figure_format=figure_format)


def write_tables(tables: Sequence[Table], table_format: Format) -> str:
    """Tables one below the other."""
    from ltbench.report.tables import single_sheets, written

    return written(single_sheets(tables), table_format)
