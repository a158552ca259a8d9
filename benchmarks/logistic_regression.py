"""Logistic regression on pixels: the figure that trained networks have to beat.

It trains on the same lists as the runs (same data set, settings, protocol and split seed) and is
scored on the same test part by the same metrics. Beside it stand the finished runs:

    python benchmarks/logistic_regression.py --dataset digits_lt --methods ce,ecl
"""

from __future__ import annotations

import statistics
import warnings
from pathlib import Path
from typing import Any

import click
import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tabulate import tabulate

from ltbench.cell import prepare
from ltbench.config import Request, resolve
from ltbench.data.feed import Part
from ltbench.metrics import evaluate
from ltbench.predictions import Predictions
from ltbench.program import DEFAULT_RESULTS
from ltbench.results import read_records
from ltbench.settings import parse_assignments

COLUMNS = ("balanced_accuracy", "accuracy", "macro_f1")
MODELS: dict[str, str | None] = {
    "logistic regression": None,
    "logistic regression, balanced": "balanced",
}


def pixels(part: Part) -> np.ndarray:
    """One row a picture: pixel values / 255, float64 (n, channels * height * width)."""
    pictures = part.images.take(part.positions).numpy()
    return pictures.reshape(len(pictures), -1) / 255.0


def predictions(model: Any, part: Part) -> Predictions:
    """Scores of a fitted classifier as the metrics take them."""
    scores = model.decision_function(pixels(part))
    if scores.ndim == 1:  # two classes: the score of the second against the first
        scores = np.stack([np.zeros_like(scores), scores], axis=1)
    return Predictions(
        ids=part.ids,
        targets=part.targets,
        logits=scores.astype(np.float32),
        class_names=part.class_names,
        groups=part.groups,
    )


def fit(training: Part, class_weight: str | None, iterations: int) -> tuple[Any, bool]:
    """(pixels standardised and an L2-regularised classifier, whether it converged)."""
    classifier = LogisticRegression(max_iter=iterations, class_weight=class_weight)
    model = make_pipeline(StandardScaler(), classifier)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        model.fit(pixels(training), training.targets)
    stopped = any(issubclass(one.category, ConvergenceWarning) for one in caught)
    return model, not stopped


def rows_of_runs(
    results: Path, methods: list[str], dataset: str, protocol: str, split_digest: str
) -> list[list[str]]:
    """Mean and standard deviation over the seeds of each configuration on the same split."""
    records, notes = read_records(results, methods=methods, dataset=dataset, protocol=protocol)
    for note in notes:
        click.echo(f"note: {note}", err=True)
    same = [record for record in records if record["split_digest"] == split_digest]
    if len(same) < len(records):
        click.echo(f"note: {len(records) - len(same)} runs on other splits left out", err=True)
    by_key: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for record in same:
        by_key.setdefault((record["label"], record["key"]), []).append(record)
    found = []
    for (label, key), group in by_key.items():
        cells = [_mean_sd([one["metrics"]["test"][name] for one in group]) for name in COLUMNS]
        found.append([f"{label} ({key[:8]}), {len(group)} seeds", *cells])
    missing = set(methods) - {record["method"] for record in same}
    if missing:
        click.echo(f"note: no finished run of {', '.join(sorted(missing))}", err=True)
    return found


def _mean_sd(values: list[float]) -> str:
    mean = f"{100 * statistics.mean(values):.2f}"
    return f"{mean} ± {100 * statistics.stdev(values):.2f}" if len(values) > 1 else mean


@click.command(help=__doc__.partition("\n")[0] if __doc__ else None)
@click.option("--dataset", default="digits_lt", show_default=True)
@click.option("--protocol", help="Default: the data set's.")
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Of the data set.")
@click.option("--split-seed", default=0, show_default=True)
@click.option("--data-root", type=click.Path(path_type=Path))
@click.option("--methods", default="ce,ecl", show_default=True, help="Whose runs to show.")
@click.option(
    "--results", type=click.Path(path_type=Path), default=DEFAULT_RESULTS, show_default=True
)
@click.option("--iterations", default=2000, show_default=True, help="Most steps of the solver.")
def main(
    dataset: str,
    protocol: str | None,
    assignments: tuple[str, ...],
    split_seed: int,
    data_root: Path | None,
    methods: str,
    results: Path,
    iterations: int,
) -> None:
    """Fit, score, and print beside the runs."""
    settings = {**parse_assignments(assignments), "split_seed": split_seed, "weights": "none"}
    config = resolve(Request(method="ce", dataset=dataset, protocol=protocol, settings=settings))
    cell = prepare(config, results=results, data_root=data_root)
    training, test = cell.training, Part.of(cell.source, cell.split.test)
    click.echo(
        f"{dataset}, protocol {config.protocol}, split {cell.split_digest[:12]}: "
        f"{len(training)} training images "
        f"({max(training.class_counts)} to {min(training.class_counts)} a class), {len(test)} test"
    )
    rows = []
    for name, class_weight in MODELS.items():
        model, converged = fit(training, class_weight, iterations)
        scores = evaluate(predictions(model, test), training.class_counts)
        label = name if converged else f"{name} (stopped after {iterations} steps)"
        rows.append([label, *(f"{100 * scores[column]:.2f}" for column in COLUMNS)])
    names = [name.strip() for name in methods.split(",") if name.strip()]
    rows += rows_of_runs(results, names, dataset, config.protocol, cell.split_digest)
    click.echo(tabulate(rows, headers=["percent", *COLUMNS], disable_numparse=True))


if __name__ == "__main__":
    main()
