"""What tables, intervals and comparisons of stored results take, on one core.

Results are made: predictions and records as finished runs leave them, without training. What is
measured runs in a Python of its own, imports included. Each section stands alone; a limit that was
passed ends with exit code 1.

    python benchmarks/report.py
    python benchmarks/report.py --only tables
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from tabulate import tabulate

from ltbench.metrics import evaluate
from ltbench.predictions import Predictions
from ltbench.results import RunFolder, run_folders


@dataclass(frozen=True)
class Row:
    """What one thing took, and what it may take."""

    what: str
    wall_s: float | None = None
    cpu_s: float | None = None
    peak_mb: float | None = None
    limit_s: float | None = None
    limit_mb: float | None = None

    @property
    def passed_limit(self) -> bool:
        """Whether it took more than it may."""
        return any(
            limit is not None and taken is not None and taken > limit
            for taken, limit in ((self.wall_s, self.limit_s), (self.peak_mb, self.limit_mb))
        )


@dataclass(frozen=True)
class Section:
    """A titled table."""

    title: str
    rows: Sequence[Row]

    def __str__(self) -> str:
        headers = ["", "wall s", "CPU s", "peak MB", "limit s", "limit MB"]
        formats = ("", ".1f", ".1f", ".0f", "g", "g")
        table = tabulate([astuple(row) for row in self.rows], headers=headers, floatfmt=formats)
        return f"{self.title}\n\n{table}\n"


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


def statistics() -> Section:
    """Every paper metric of 15 rows with 5 seeds against the best, first and again."""
    rows = []
    for name, counts in TEST_PARTS.items():
        with tempfile.TemporaryDirectory() as folder:
            make_board(Path(folder), counts)
            first = measured("compare_board", folder)
            again = measured("compare_board", folder)
            peer_s = scikit_learn_s(next(iter(run_folders(Path(folder)))))
        rows += [
            Row(f"{name}, first", *first, limit_s=FIRST_LIMIT_S),
            Row(f"{name}, again", *again, limit_s=AGAIN_LIMIT_S),
            Row(f"{name}, scikit-learn in a loop, scaled up", cpu_s=peer_s),
        ]
    title = (
        f"Paired intervals: {len(METRICS_SHOWN)} metrics of {NUM_ROWS} rows with {NUM_SEEDS} "
        "seeds, 2000 resamples; a new Python each"
    )
    return Section(title, rows)


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


# ---- Tables: a plain table of many records ----

NUM_RECORDS = 10_000
TABLE_LIMIT_S, TABLE_LIMIT_MB = 5.0, 500.0
CLASSES = ("AK", "BCC", "BKL", "DF", "MEL", "NV", "SCC", "VASC")
TRAIN_COUNTS = (519, 1993, 1574, 143, 2712, 7725, 376, 151)
NUM_DATASETS, NUM_METHODS = 4, 25


def tables() -> Section:
    """The command `table` on records of several data sets, methods and settings."""
    with tempfile.TemporaryDirectory() as folder:
        size = write_records(Path(folder) / "runs", NUM_RECORDS)
        wall_s, cpu_s, peak_mb = measured("table_of_records", folder)
        lines = len((Path(folder) / "table.md").read_text("utf-8").splitlines())
    title = (
        f"bench.py table: {NUM_RECORDS} records of {size / NUM_RECORDS / 1000:.1f} KB, a table of "
        f"{lines} lines"
    )
    row = Row("", wall_s, cpu_s, peak_mb, limit_s=TABLE_LIMIT_S, limit_mb=TABLE_LIMIT_MB)
    return Section(title, [row])


def table_of_records(folder: Path) -> None:
    """As the command does it."""
    from ltbench.cli import cli

    words = ["table", "--results", str(folder / "runs"), "--out", str(folder / "table.md")]
    cli.main(words, standalone_mode=False)


def made_metrics() -> dict[str, Any]:
    """What a record holds of one part; the same numbers for all, moved a little by seed later."""
    generator = np.random.default_rng(0)
    targets = np.repeat(np.arange(len(CLASSES)), 20)
    logits = generator.normal(size=(len(targets), len(CLASSES))).astype(np.float32)
    logits[np.arange(len(targets)), targets] += 1.0
    ids = np.array([f"image-{i}" for i in range(len(targets))])
    return evaluate(Predictions(ids, targets, logits, CLASSES), TRAIN_COUNTS)


def record(found: dict[str, Any], number: int) -> dict[str, Any]:
    """Record `number`: seeds change fastest, then settings, methods, data sets."""
    row, seed = divmod(number, NUM_SEEDS)
    dataset, method = f"made_{row % NUM_DATASETS}", f"method_{row // NUM_DATASETS % NUM_METHODS}"
    split = hashlib.sha256(dataset.encode()).hexdigest()
    key = hashlib.sha256(f"{row}".encode()).hexdigest()[:16]
    test = {**found, "accuracy": 0.5 + (number % 997) / 2000}
    views = [{"color_jitter": {"brightness": 0.4, "contrast": 0.4, "hue": 0.1, "p": 0.8}}] * 6
    groups = {"test_in_train": {"images": 630, "of": 2005}, "noun": "lesion"}
    return {
        "schema_version": 1,
        **{"name": f"{key}/seed-{seed}", "label": f"{method} optimizer.lr=0.0{row}"},
        **{"method": method, "preset": None, "dataset": dataset, "protocol": "paper"},
        "protocol_notes": {
            "split_by": "image",
            "measured_imbalance": {"train": 54.02, "val": 53.6},
            "counts": {part: list(TRAIN_COUNTS) for part in ("train", "val", "test")},
            "groups": {"train": 9000, "val": 4000, "test": 4021},
        },
        "groups_note": "Groups are lesions; patients are not recorded. " * 3,
        "data_notes": {"columns": {"image": "image", "group": "lesion_id"}},
        "leak": {**groups, "sentence": "2812 of 5069 test images (55.5 %) share a lesion"},
        **{"recipe": "ecl_paper", "key": key, "seed": seed, "split_digest": split},
        "key_parts": {
            "config": {"epochs": 100, "views": dict.fromkeys(("classify", "contrast"), views)},
            "image_digest": split,
        },
        **{"class_names": list(CLASSES), "train_counts": list(TRAIN_COUNTS)},
        **{"uses_validation": False, "select": "val.accuracy", "precision": "bf16"},
        "selected": [{"stage": "train", "epochs": 100, "epoch": 93, "value": 0.84}],
        **{"device": "NVIDIA A100", "num_devices": 1, "threads": 8, "render": "device"},
        "overlaps": [
            {"kind": "group", "parts": ["train", "test"], "num_images": 9, "examples": ["a"] * 20}
        ],
        "weights": {"name": "resnet50.tv_in1k", "digest": split},
        "metrics": {"val": test, "test": test},
        "ledger": {"num_parameters": 23_524_424, "wall_time_s": 5000.0 + number},
        "digest": hashlib.sha256(f"{number}".encode()).hexdigest(),
        "versions": {"python": "3.11.7", "torch": "2.14.1", "timm": "1.0.31", "numpy": "2.4.6"},
        "git": {"commit": "c6c340e647edd7a5348fe91e70724081fd340a22", "dirty": False},
    }


def write_records(root: Path, num_records: int) -> int:
    """Write the records below `root`; returns their bytes."""
    found, size = made_metrics(), 0
    for number in range(num_records):
        made = record(found, number)
        place = (made["dataset"], made["protocol"], made["method"], *made["name"].split("/"))
        folder = root.joinpath(*place)
        folder.mkdir(parents=True)
        text = json.dumps(made, indent=1)
        (folder / "record.json").write_text(text, encoding="utf-8")
        size += len(text)
    return size


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


SECTIONS: dict[str, Callable[[], Section]] = {"tables": tables, "statistics": statistics}


@click.command()
@click.option("--only", type=click.Choice(sorted(SECTIONS)), help="One section.")
def main(only: str | None) -> None:
    """Run the sections on one core."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    passed = False
    for name in [only] if only else SECTIONS:
        section = SECTIONS[name]()
        print(section)
        passed |= any(row.passed_limit for row in section.rows)
    sys.exit(int(passed))


if __name__ == "__main__":
    main()
