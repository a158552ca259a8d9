"""The Python twins of the commands."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ltbench.errors import InterruptedRunError
from ltbench.program import DEFAULT_RESULTS, DEFAULT_TUNED
from ltbench.registry import DATASETS, METHODS, Registry, add_plugins, import_plugins

if TYPE_CHECKING:
    from ltbench.ablation import Ablation
    from ltbench.config import Request
    from ltbench.external import External
    from ltbench.grid.running import Grid
    from ltbench.launchers.choice import LaunchOptions
    from ltbench.runner import Outcome, Place
    from ltbench.tuning.session import Tuned


def list_plugins(registry: Registry[Any]) -> list[dict[str, Any]]:
    """Name, paper, year, tags and source of each plugin; imports none of them."""
    infos = [registry.info(name) for name in registry.names()]
    return [
        {
            "name": info.name,
            "year": info.year,
            "tags": list(info.tags),
            "paper": info.paper,
            "source": info.source,
            "licence": info.licence,
        }
        for info in infos
    ]


def list_methods() -> list[dict[str, Any]]:
    """All methods."""
    return list_plugins(METHODS)


def list_datasets() -> list[dict[str, Any]]:
    """All data sets."""
    return list_plugins(DATASETS)


def describe(name: str) -> dict[str, Any]:
    """Everything the project knows of a method, data set or recipe."""
    from ltbench.catalogue import about

    return about(name)


def write_cards(folder: Path) -> list[Path]:
    """Write the conformance card of every method of this project, and their index, as Markdown."""
    from ltbench.catalogue import cards
    from ltbench.files import storage_errors, write_text

    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    files = {folder / name: text for name, text in cards().items()}
    for file, text in files.items():
        write_text(file, text)
    return list(files)


def run(
    method: str,
    dataset: str,
    *,
    seeds: Sequence[int] = (0,),
    protocol: str | None = None,
    recipe: str | None = None,
    settings: Mapping[str, Any] | None = None,
    config_file: str | Path | None = None,
    tuned_file: str | Path | None = None,
    results: str | Path = DEFAULT_RESULTS,
    data_root: str | Path | None = None,
    resume: Literal["auto", "never"] = "auto",
    plugins: Sequence[str | Path] = (),
) -> list[Outcome]:
    """Train, select on validation and test one method with several seeds.

    Args:
        method: `ecl`, or with a preset `ecl@authors`.
        settings: dotted settings, such as {"method.temperature": 0.2, "epochs": 5}.

    Returns:
        For each seed the run's folder, its record, and whether it ran now or was done before.
    """
    from ltbench.config import Request
    from ltbench.runner import Place, check

    add_plugins([Path(file) for file in plugins])
    request = Request(
        *(method, dataset, protocol, recipe, dict(settings or {})),
        *(_path(config_file), _path(tuned_file)),
    )
    place = Place(Path(results), _path(data_root), resume, tuple(map(Path, plugins)))
    check(request, seeds, place)
    return [run_seed(request, seed, place) for seed in seeds]


def ablate(
    method: str,
    dataset: str,
    *,
    seeds: Sequence[int] = (0,),
    only: Sequence[str] = (),
    protocol: str | None = None,
    recipe: str | None = None,
    settings: Mapping[str, Any] | None = None,
    results: str | Path = DEFAULT_RESULTS,
    data_root: str | Path | None = None,
    plugins: Sequence[str | Path] = (),
) -> Ablation:
    """Run each ablation that a method declares with several seeds.

    Args:
        method: `ecl`, or with a preset that all rows build on, `ecl@authors`.
        only: names of rows; all unless given.

    Returns:
        The outcomes, `tables()` of them in the paper's columns, and `failures`.
    """
    from ltbench.ablation import ablation_rows, run_ablation
    from ltbench.config import Request
    from ltbench.runner import Place

    add_plugins([Path(file) for file in plugins])
    request = Request(method, dataset, protocol, recipe, dict(settings or {}))
    place = Place(Path(results), _path(data_root), plugins=tuple(map(Path, plugins)))
    return run_ablation(request, ablation_rows(method, only), seeds, place, run_seed=run_seed)


def sweep(
    methods: Sequence[str] | str = (),
    datasets: Sequence[str] | str = (),
    *,
    grid: str | Path | None = None,
    protocols: Sequence[str] | str | None = None,
    seeds: Sequence[int] | str | None = None,
    recipe: str | None = None,
    settings: Mapping[str, Any] | None = None,
    results: str | Path = DEFAULT_RESULTS,
    data_root: str | Path | None = None,
    plugins: Sequence[str | Path] = (),
    launcher: str = "local",
    options: LaunchOptions | None = None,
    retry_failed: bool = False,
    say: Callable[[str], None] = print,
) -> Grid:
    """Run every cell of methods x data sets x protocols x seeds that is not done.

    Args:
        methods: names, `ecl@authors` too; "all" for every method.
        grid: a YAML file of the same and more; what is given here wins. See `GridSpec`.
        seeds: [0, 1, 2] or "0-2"; five unless given.
        launcher: "local", "ray" or "slurm".

    Returns:
        `done` and `failures`; `records()` of those that are done.
    """
    from ltbench.grid.spec import read_grid
    from ltbench.grid.sweep import Sweep
    from ltbench.runner import Place

    import_plugins([Path(file) for file in plugins])
    given = {
        "methods": methods or None,
        "datasets": datasets or None,
        "protocols": protocols,
        "seeds": seeds,
        "recipe": recipe,
        "settings": dict(settings or {}),
    }
    place = Place(Path(results), _path(data_root), plugins=tuple(map(Path, plugins)))
    spec = read_grid(_path(grid), given)
    return Sweep(spec, place, launcher=launcher, options=options, say=say).run(
        retry_failed=retry_failed
    )


def tune(
    methods: Sequence[str],
    dataset: str,
    *,
    trials: int = 30,
    space: Literal["method", "recipe", "both"] = "both",
    search: Mapping[str, str] | None = None,
    objective: str = "val.macro_f1",
    storage: str | None = None,
    num_workers: int = 1,
    tune_seeds: Sequence[int] | None = None,
    sampler: str = "tpe",
    sampler_seed: int = 0,
    pruner: str = "median",
    test_at: Sequence[int] = (),
    seeds: Sequence[int] = (),
    out: str | Path = DEFAULT_TUNED,
    protocol: str | None = None,
    recipe: str | None = None,
    settings: Mapping[str, Any] | None = None,
    results: str | Path = DEFAULT_RESULTS,
    data_root: str | Path | None = None,
    plugins: Sequence[str | Path] = (),
    say: Callable[[str], None] = print,
) -> Tuned:
    """Search settings of several methods with equal budgets, by validation alone.

    Args:
        methods: `ecl`, or with a preset `ecl@authors`.
        search: ranges by setting, such as {"optimizer.lr": "0.01:0.5:log"}.
        storage: a database URL; an SQLite file below the results unless given.
        num_workers: trials side by side on this machine.
        tune_seeds: that every trial trains with.
        test_at: numbers of trials after which the best until then is run with `seeds` and tested.

    Returns:
        `reports`, one a method, each with the file of its tuned settings; `tests`; `troubles`.
    """
    from ltbench.config import Request
    from ltbench.runner import Place
    from ltbench.tuning.plan import FIRST_SEED, Options
    from ltbench.tuning.session import Tuning

    import_plugins([Path(file) for file in plugins])
    options = Options(
        *(trials, space, search, objective, tuple(tune_seeds or (FIRST_SEED,))),
        *(sampler, sampler_seed, pruner),
    )
    requests = [Request(name, dataset, protocol, recipe, dict(settings or {})) for name in methods]
    place = Place(Path(results), _path(data_root), plugins=tuple(map(Path, plugins)))
    tuning = Tuning(requests, options, place, storage=storage, out=Path(out), say=say)
    return tuning.run(num_workers=num_workers, test_at=test_at, seeds=seeds, run_seed=run_seed)


def run_seed(request: Request, seed: int, place: Place) -> Outcome:
    """Run one cell with one seed, its record holding the command that repeats it."""
    from ltbench import runner
    from ltbench.repeat import repeat_command

    request = replace(request, settings={**request.settings, "seed": seed})
    command = place.command or repeat_command(request, seed, place)
    try:
        return runner.run(request, replace(place, command=command))
    except InterruptedRunError as error:
        text = f"{error}\nTo go on from there: {command}"
        raise InterruptedRunError(text, error.exit_code - 128) from error


def audit_data(
    target: str,
    *,
    protocol: str | None = None,
    split_seed: int = 0,
    settings: Mapping[str, Any] | None = None,
    data_root: str | Path | None = None,
) -> dict[str, Any]:
    """Compare the parts of a split with each other; `bench.py data audit --json` as a dict.

    Args:
        target: a data set's name, or the path of a folder or table.
        settings: by dotted name, such as {"dataset.label_column": "dx"}.
    """
    from ltbench import data_work

    dataset = data_work.open_dataset(str(target), settings, _path(data_root))
    facts, _ = data_work.audit_data(dataset, protocol, split_seed)
    return facts


def external_test(
    run: str | Path | Outcome,
    dataset: str,
    *,
    settings: Mapping[str, Any] | None = None,
    protocol: str | None = None,
    label_map: str | Path | None = None,
    data_root: str | Path | None = None,
    results: str | Path = DEFAULT_RESULTS,
) -> External:
    """Test a finished run on data it has never seen; see `ltbench.external`.

    Args:
        run: what `ltbench.run` gave, a folder, `<key>/seed-<n>`, or the beginning of a key.
        protocol: test on this protocol's test part alone; None for every image.
    """
    from ltbench import external
    from ltbench.data_work import open_dataset
    from ltbench.runner import Outcome

    return external.external_test(
        str(run.folder.path if isinstance(run, Outcome) else run),
        open_dataset(str(dataset), settings, _path(data_root)),
        results=Path(results),
        protocol=protocol,
        map_file=_path(label_map),
    )


def _path(given: str | Path | None) -> Path | None:
    """Paths may be given as text."""
    return None if given is None else Path(given)
