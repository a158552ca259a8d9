"""Mean difference of two methods over paired seeds, with its t-interval, from stored records.

    python benchmarks/paired_difference.py logit_adjust ce --dataset fashion_mnist_lt

Seeds that both have on one split are paired. The interval is Student's over the seeds: it says how
far the mean would move with other initial weights and orders, not with other test images.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from scipy import stats

from ltbench.metrics import METRICS
from ltbench.results import read_records


def main() -> None:
    """Read, pair, print."""
    arguments = _arguments()
    metric = METRICS[arguments.metric]
    values = [_by_seed(arguments, label) for label in (arguments.first, arguments.second)]
    seeds = sorted(set(values[0]) & set(values[1]))
    if len(seeds) < 2:
        sys.exit(
            f"Expected at least two seeds of both {arguments.first} and {arguments.second} on "
            f"{arguments.dataset} in {arguments.results}, found {len(seeds)}. Run them first."
        )
    first, second = (
        np.array([metric.read(by_seed[seed]["metrics"]["test"]) for seed in seeds]) * 100
        for by_seed in values
    )
    difference = first - second
    low, high = stats.t.interval(
        0.95, len(seeds) - 1, loc=difference.mean(), scale=stats.sem(difference)
    )
    for seed, a, b in zip(seeds, first, second, strict=True):
        print(f"seed {seed}: {a:.2f} - {b:.2f} = {a - b:+.2f}")
    print(
        f"{arguments.metric.replace('_', ' ')}: {arguments.first} {first.mean():.2f}, "
        f"{arguments.second} {second.mean():.2f}; difference {difference.mean():+.2f} points, 95 % "
        f"interval {low:+.2f} to {high:+.2f} (Student's t, {len(seeds)} paired seeds)"
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("first", help="a row's label, such as logit_adjust")
    parser.add_argument("second", help="the row it is compared with")
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--metric", default="balanced_accuracy", choices=sorted(METRICS))
    parser.add_argument("--results", type=Path, default=Path("results/runs"))
    return parser.parse_args()


def _by_seed(arguments: argparse.Namespace, label: str) -> dict[int, dict]:
    """The records of one row, which must be one configuration."""
    records, _ = read_records(arguments.results, dataset=arguments.dataset)
    found = [r for r in records if r["method"] == label or r["label"] == label]
    configurations = {(r["key"], r["split_digest"]) for r in found}
    if len(configurations) > 1:
        names = sorted({f"{r['label']} ({r['key']})" for r in found})
        sys.exit(f"'{label}' means several configurations: {', '.join(names)}. Give one label.")
    return {r["seed"]: r for r in found}


if __name__ == "__main__":
    main()
