"""What tables, intervals and comparisons of stored results take, on one core.

Results are made: predictions and records as finished runs leave them, without training. What is
measured runs in a Python of its own. Each section stands alone.

    python benchmarks/report.py
    python benchmarks/report.py --only statistics
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
from tabulate import tabulate

from ltbench.results import RunFolder, run_folders

# ---- Statistics: paired intervals of a board ----

NUM_ROWS, NUM_SEEDS = 15, 5
METRICS_SHOWN = ("accuracy", "macro_sensitivity", "macro_precision", "macro_f1", "macro_auc")
FIRST_LIMIT_S, AGAIN_LIMIT_S = 30.0, 2.0
# Test images by class of the `group` protocols' sizes, eight classes, lesions of 1 to 3 images.
TEST_PARTS = {
    "2005 images, as ISIC 2018": (200, 1241, 103, 65, 220, 23, 29, 124),
    "5069 images, as ISIC 2019": (905, 2575, 665, 173, 525, 48, 51, 127),
}
_PEER_RESAMPLES = 10


def statistics() -> str:
    """Every paper metric of 15 rows with 5 seeds against the best, first and again."""
    lines = []
    for name, counts in TEST_PARTS.items():
        with tempfile.TemporaryDirectory() as folder:
            make_board(Path(folder), counts)
            first = measured("compare_board", folder)
            again = measured("compare_board", folder)
            peer_s = scikit_learn_s(next(iter(run_folders(Path(folder)))))
        lines += [
            [f"{name}, first", *first, FIRST_LIMIT_S],
            [f"{name}, again", *again, AGAIN_LIMIT_S],
            [f"{name}, scikit-learn in a loop, scaled up", "", peer_s, "", ""],
        ]
    title = (
        f"Paired intervals: {len(METRICS_SHOWN)} metrics of {NUM_ROWS} rows with {NUM_SEEDS} "
        "seeds, 2000 resamples; a new Python each"
    )
    headers = ["", "wall s", "CPU s", "peak MB", "limit s"]
    return f"{title}\n\n{tabulate(lines, headers=headers, floatfmt=('', '.1f', '.1f', '.0f', 'g'))}"


def make_board(root: Path, counts: tuple[int, ...]) -> None:
    """15 rows, from weaker to stronger."""
    from ltbench.testing.made_runs import made_predictions, made_run

    random = np.random.default_rng(0)
    targets = np.repeat(np.arange(len(counts)), counts)
    names = [f"class {i}" for i in range(len(counts))]
    starts = random.random(len(targets)) < 0.9
    starts[np.flatnonzero(np.diff(targets, prepend=-1))] = True
    groups = np.char.add("lesion-", np.cumsum(starts).astype(np.str_))
    for row in range(NUM_ROWS):
        hard = random.normal(size=(len(targets), len(counts))) * 0.5
        for seed in range(NUM_SEEDS):
            made = made_predictions(
                targets,
                names,
                strength=1.5 + 0.04 * row,
                seed=1000 + row * NUM_SEEDS + seed,
                groups=groups,
                shared=hard,
            )
            made_run(root, f"row-{row:02d}", seed, made, key=f"{row:016x}")


def compare_board(root: Path) -> None:
    """As a table does it, metric by metric."""
    from ltbench.stats.paired import against_best

    rows: dict[str, list[RunFolder]] = {}
    for run in run_folders(root):
        rows.setdefault(run.path.parent.name, []).append(run)
    for metric in METRICS_SHOWN:
        found = against_best(rows, metric)
        assert len(found) == NUM_ROWS


def scikit_learn_s(run: RunFolder) -> float:
    """CPU time of the same scores by scikit-learn on every resample of every run."""
    from sklearn.metrics import classification_report, roc_auc_score

    predictions = run.read_predictions("test")
    random = np.random.default_rng(0)
    exponentials = np.exp(predictions.logits.astype(np.float64))
    scores = exponentials / exponentials.sum(axis=1, keepdims=True)
    labels = np.arange(len(predictions.class_names))
    started = time.process_time()
    for _ in range(_PEER_RESAMPLES):
        of_class = (np.flatnonzero(predictions.targets == index) for index in labels)
        drawn = np.concatenate([random.choice(one, len(one)) for one in of_class])
        targets = predictions.targets[drawn]
        classification_report(targets, scores[drawn].argmax(axis=1), output_dict=True)
        for index in labels:
            roc_auc_score(targets == index, scores[drawn, index])
    taken = time.process_time() - started
    return taken / _PEER_RESAMPLES * 2000 * NUM_ROWS * NUM_SEEDS


# ---- Running sections ----


def measured(function: str, *arguments: str) -> tuple[float, float, float]:
    """(wall s, CPU s, peak MB) of a function of this file on paths, in a Python of its own."""
    paths = ", ".join(f"report.Path({one!r})" for one in arguments)
    program = f"import report; report.{function}({paths}); print(report.usage())"
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parent,
        check=True,
        capture_output=True,
        text=True,
    )
    wall_s = time.perf_counter() - started
    cpu_s, peak_mb = json.loads(done.stdout.splitlines()[-1])
    return wall_s, cpu_s, peak_mb


def usage() -> str:
    """(CPU s, peak MB) of this process, as JSON."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    # Linux hands `ru_maxrss` down from the process that started this one; this line it does not.
    status = Path("/proc/self/status").read_text("ascii").splitlines()
    peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    return json.dumps([used.ru_utime + used.ru_stime, peak / 1024])


SECTIONS: dict[str, Callable[[], str]] = {"statistics": statistics}


@click.command()
@click.option("--only", type=click.Choice(sorted(SECTIONS)), help="One section.")
def main(only: str | None) -> None:
    """Run the sections on one core."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    for name in [only] if only else SECTIONS:
        print(SECTIONS[name](), end="\n\n")


if __name__ == "__main__":
    main()
