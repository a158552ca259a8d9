"""How long a plain table of many records takes on one core, and how much memory.

The records are made: as large as those of a data set with eight classes, of several data sets,
methods and settings, five seeds each. The whole command `bench.py table` is measured, imports
included, in a process that may use one core; it reads records alone, no predictions.

    python benchmarks/report_tables.py
    python benchmarks/report_tables.py --records 1000 --turns 1      # a first look
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import numpy as np

from ltbench.metrics import evaluate
from ltbench.predictions import Predictions

BENCH = Path(__file__).resolve().parents[1] / "bench.py"
TARGET_S, TARGET_MB = 5.0, 500.0
CLASSES = ("AK", "BCC", "BKL", "DF", "MEL", "NV", "SCC", "VASC")
TRAIN_COUNTS = (519, 1993, 1574, 143, 2712, 7725, 376, 151)
DATASETS, METHODS, SEEDS = 4, 25, 5


def metrics() -> dict[str, Any]:
    """What a record holds of one part; the same numbers for all, moved a little by seed later."""
    generator = np.random.default_rng(0)
    targets = np.repeat(np.arange(len(CLASSES)), 20)
    logits = generator.normal(size=(len(targets), len(CLASSES))).astype(np.float32)
    logits[np.arange(len(targets)), targets] += 1.0
    ids = np.array([f"image-{i}" for i in range(len(targets))])
    return evaluate(Predictions(ids, targets, logits, CLASSES), TRAIN_COUNTS)


def record(found: dict[str, Any], number: int) -> dict[str, Any]:
    """Record `number`: seeds change fastest, then settings, methods, data sets."""
    row, seed = divmod(number, SEEDS)
    dataset, method = f"made_{row % DATASETS}", f"method_{row // DATASETS % METHODS}"
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


def write(root: Path, num_records: int) -> int:
    """Write the records below `root`; returns their bytes."""
    found, size = metrics(), 0
    for number in range(num_records):
        made = record(found, number)
        place = (made["dataset"], made["protocol"], made["method"], *made["name"].split("/"))
        folder = root.joinpath(*place)
        folder.mkdir(parents=True)
        text = json.dumps(made, indent=1)
        (folder / "record.json").write_text(text, encoding="utf-8")
        size += len(text)
    return size


def measure(root: Path, out: Path) -> tuple[float, float, float]:
    """(wall time in s, CPU time in s, peak memory in MB) of the command on one core."""
    core = min(os.sched_getaffinity(0))
    words = [sys.executable, str(BENCH), "table", "--results", str(root), "--out", str(out)]
    start = time.perf_counter()
    process = subprocess.Popen(
        words, stdout=subprocess.DEVNULL, preexec_fn=lambda: os.sched_setaffinity(0, {core})
    )
    _, status, usage = os.wait4(process.pid, 0)
    wall_time_s = time.perf_counter() - start
    if status:
        raise SystemExit(f"bench.py table ended with {os.waitstatus_to_exitcode(status)}")
    return wall_time_s, usage.ru_utime + usage.ru_stime, peak_mb(usage)


def peak_mb(usage: resource.struct_rusage) -> float:
    """Linux counts kilobytes."""
    return usage.ru_maxrss / 1000


@click.command(help=__doc__.partition("\n")[0] if __doc__ else None)
@click.option("--records", default=10_000, show_default=True, type=click.IntRange(1))
@click.option("--turns", default=3, show_default=True, type=click.IntRange(1))
@click.option("--check", is_flag=True, help=f"Exit 1 over {TARGET_S} s or {TARGET_MB} MB.")
def main(records: int, turns: int, check: bool) -> None:
    """Print what each turn took, and the median beside the target."""
    with tempfile.TemporaryDirectory() as folder:
        root, out = Path(folder) / "runs", Path(folder) / "table.md"
        size = write(root, records)
        click.echo(f"{records} records of {size / records / 1000:.1f} KB each")
        found = []
        for turn in range(1, turns + 1):
            found.append(measure(root, out))
            wall, cpu, memory = found[-1]
            click.echo(f"turn {turn}: {wall:.2f} s ({cpu:.2f} s of CPU), {memory:.0f} MB at most")
        lines = len(out.read_text("utf-8").splitlines())
    wall_time_s = statistics.median(one[0] for one in found)
    memory_mb = max(one[2] for one in found)
    click.echo(
        f"median {wall_time_s:.2f} s (target: less than {TARGET_S:g} s), peak {memory_mb:.0f} MB "
        f"(target: less than {TARGET_MB:g} MB), {lines} lines"
    )
    if check and (wall_time_s >= TARGET_S or memory_mb >= TARGET_MB):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
