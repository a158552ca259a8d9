"""What preparing a store costs: time beside decoding alone, memory, room, and accuracy of views.

Pictures are drawn here: dermoscopy-like, 600 x 450 and 1024 x 1024, JPEG of quality 92. Times are
minima of repeated runs taken in turns, and do not hold the start of processes, which is told apart.

    python benchmarks/prepare.py
"""

from __future__ import annotations

import io
import os
import tempfile
import time
from collections.abc import Callable
from multiprocessing import active_children
from pathlib import Path
from typing import NamedTuple

import click
import cv2
import numpy as np
from PIL import Image
from tabulate import tabulate

from ltbench.store.decode import decode
from ltbench.store.layout import StoreSettings
from ltbench.store.writer import write_store

VIEW = (224, 224)
CROPS_A_PICTURE = 4


class Sizes(NamedTuple):
    """How much is measured.

    Attributes:
        pictures: of each (height, width).
        num_drawn: how many of them differ.
        repeats: of each measurement of time.
        memory: after how many pictures memory is looked at.
        memory_workers: processes that prepare them.
    """

    pictures: dict[tuple[int, int], int]
    num_drawn: int
    repeats: int
    memory: tuple[int, ...]
    memory_workers: int


FULL = Sizes({(450, 600): 360, (1024, 1024): 120}, 16, 3, memory=(200, 800), memory_workers=2)
QUICK = Sizes({(450, 600): 96}, 4, 1, memory=(16, 32), memory_workers=1)


class Run(NamedTuple):
    """Of decoding or of a preparation.

    Attributes:
        rate: pictures/s once the processes had begun.
        start_s: seconds until then.
        cpu_ms: CPU time of this process a picture.
        worker_mb: the most memory that another process held.
    """

    rate: float
    start_s: float = 0.0
    cpu_ms: float = 0.0
    worker_mb: float = 0.0


def lesion(height: int, width: int, seed: int) -> np.ndarray:
    """A dark blot with a pigment network on skin, hairs, a dark rim and noise; uint8 RGB."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
    angle, radius = np.arctan2(y, x), np.hypot(x, y)
    edge = 0.5 + 0.06 * np.sin(3 * angle + seed) + 0.04 * np.sin(7 * angle)
    inside = 1 / (1 + np.exp((radius - edge) * 25))
    cells = rng.uniform(40, 60)
    net = np.maximum(np.sin(cells * x + 3 * np.sin(4 * y)), np.sin(cells * y + 3 * np.sin(4 * x)))
    skin = np.array([205, 160, 140], np.float32) + rng.normal(0, 8, 3).astype(np.float32)
    dark = np.array([90, 110, 100], np.float32)
    picture = skin - (inside * (0.75 + 0.25 * net))[..., None] * dark
    for _ in range(12):
        points = np.cumsum(rng.normal(0, 0.08, (9, 2)), axis=0) + rng.uniform(0, 1, 2)
        line = (points * (width, height)).astype(np.int32)
        cv2.polylines(picture, [line], False, (60, 45, 40), max(1, width // 400), cv2.LINE_AA)
    picture *= (1 / (1 + np.exp((radius - 1.15) * 12)))[..., None]
    picture += rng.normal(0, 5, picture.shape)
    return picture.clip(0, 255).astype(np.uint8)


def draw_files(folder: Path, size: tuple[int, int], count: int, num_drawn: int) -> list[Path]:
    """`count` files of `num_drawn` different pictures."""
    folder.mkdir()
    drawn = []
    for seed in range(num_drawn):
        buffer = io.BytesIO()
        Image.fromarray(lesion(*size, seed)).save(buffer, "JPEG", quality=92)
        drawn.append(buffer.getvalue())
    files = [folder / f"{number:05}.jpg" for number in range(count)]
    for number, file in enumerate(files):
        file.write_bytes(drawn[number % len(drawn)])
    return files


def decode_all(files: list[Path]) -> Run:
    """Reading and decoding alone, in this process."""
    start, cpu = time.perf_counter(), time.process_time()
    for file in files:
        decode(file.read_bytes())
    cpu_ms = (time.process_time() - cpu) / len(files) * 1000
    return Run(len(files) / (time.perf_counter() - start), cpu_ms=cpu_ms)


def prepare(files: list[Path], folder: Path, workers: int) -> Run:
    """Prepare a new store."""
    ids = np.array([file.stem for file in files])
    begin, cpu = time.perf_counter(), time.process_time()
    told, peaks = [(0, begin)], [0.0]

    def on_progress(done: int, _total: int) -> None:
        if done:
            told.append((done, time.perf_counter()))
        peaks.extend(peak_mb(child.pid) for child in active_children() if child.pid)

    write_store(folder, ids, files, StoreSettings(), workers=workers, on_progress=on_progress)
    # By the second report, two processes are at work.
    num_done, at = told[2 if workers > 1 else 0]
    rate = (len(files) - num_done) / (time.perf_counter() - at)
    cpu_ms = (time.process_time() - cpu) / len(files) * 1000
    return Run(rate, at - num_done / rate - begin, cpu_ms, max(peaks))


def peak_mb(pid: int) -> float:
    """The most memory a process ever held."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def memory_rows(files: list[Path], sizes: Sizes, work: Path) -> list[list[object]]:
    """Peaks after preparing few pictures, then after many: what is held would show."""
    rows: list[list[object]] = [["none yet", f"{peak_mb(os.getpid()):.0f}", ""]]
    for count in sizes.memory:
        run = prepare(files[:count], work / f"memory{count}", sizes.memory_workers)
        rows.append([count, f"{peak_mb(os.getpid()):.0f}", f"{run.worker_mb:.0f}"])
    return rows


def speed_row(size: tuple[int, int], files: list[Path], repeats: int, work: Path) -> list[object]:
    """Rates of decoding and of preparing, all in turns, the best of each."""
    runs: dict[str, list[Run]] = {}
    contenders: dict[str, Callable[[Path], Run]] = {
        "decode": lambda _: decode_all(files),
        "one": lambda folder: prepare(files, folder, 1),
        "two": lambda folder: prepare(files, folder, 2),
    }
    for number in range(repeats):
        for name, run in contenders.items():
            folder = work / f"{size[0]}-{name}-{number}"
            runs.setdefault(name, []).append(run(folder))
    decoding, one, two = (max(run.rate for run in runs[name]) for name in contenders)
    cpu_ms = [min(run.cpu_ms for run in runs[name]) for name in ("decode", "one")]
    return [
        f"{size[1]} x {size[0]}",
        f"{decoding:.0f}",
        f"{one:.0f} ({one / decoding:.2f})",
        f"{two:.0f} ({two / decoding:.2f})",
        f"{min(run.start_s for run in runs['two']):.1f}",
        *(f"{ms:.2f}" for ms in cpu_ms),
    ]


def quality_row(size: tuple[int, int], files: list[Path], work: Path) -> list[object]:
    """Room, and how far views from the store are from those of the files."""
    ids = np.array([file.stem for file in files])
    folder = work / f"{size[0]}-quality"
    images = write_store(folder, ids, files, StoreSettings()).images(ids)
    rng = np.random.default_rng(0)
    found = [
        deviation(images.picture(position), decode(file.read_bytes()).pixels, rng)
        for position, file in enumerate(files)
        for _ in range(CROPS_A_PICTURE)
    ]
    means, tails = zip(*found, strict=True)
    stored = sum(file.stat().st_size for file in folder.iterdir()) / len(files)
    return [
        f"{size[1]} x {size[0]}",
        f"{sum(file.stat().st_size for file in files) / len(files) / 1000:.0f}",
        f"{stored / 1000:.0f}",
        f"{np.mean(means):.2f}",
        f"{np.mean(tails):.1f}",
        f"{max(means):.2f}",
    ]


def deviation(
    stored: np.ndarray, original: np.ndarray, rng: np.random.Generator
) -> tuple[float, float]:
    """Mean and 99th percentile of the difference of a random crop, in grey levels of 255."""
    height, width = stored.shape[:2]
    area, ratio = rng.uniform(0.8, 1) * height * width, np.exp(rng.uniform(-1, 1) * np.log(4 / 3))
    h, w = min(height, round((area / ratio) ** 0.5)), min(width, round((area * ratio) ** 0.5))
    top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
    views = []
    for picture in (stored, original):
        scale_y, scale_x = picture.shape[0] / height, picture.shape[1] / width
        box = (left * scale_x, top * scale_y, (left + w) * scale_x, (top + h) * scale_y)
        view = Image.fromarray(picture).resize(VIEW, Image.Resampling.BILINEAR, box=box)
        views.append(np.asarray(view, dtype=np.int64))
    difference = np.abs(views[0] - views[1])
    return float(difference.mean()), float(np.percentile(difference, 99))


@click.command(help=__doc__.partition("\n")[0] if __doc__ else None)
@click.option("--quick", is_flag=True, help="A few pictures, one run: whether it works at all.")
def main(quick: bool) -> None:
    """Draw, measure, print."""
    sizes = QUICK if quick else FULL
    with tempfile.TemporaryDirectory(prefix="ltbench-prepare-") as name:
        work = Path(name)
        first = next(iter(sizes.pictures))
        many = draw_files(work / "many", first, max(sizes.memory), sizes.num_drawn)
        memory = memory_rows(many, sizes, work)
        speed, quality = [], []
        for size, count in sizes.pictures.items():
            files = draw_files(work / f"files{size[0]}", size, count, sizes.num_drawn)
            speed.append(speed_row(size, files, sizes.repeats, work))
            quality.append(quality_row(size, files[: sizes.num_drawn], work))
    heads = ["pictures", "decode only, im/s", "prepare, 1 worker", "2 workers", "start of 2, s"]
    click.echo(tabulate(speed, [*heads, "CPU ms: decode", "prepare"]))
    click.echo("In brackets: ratio to decoding alone in one process, same run.\n")
    heads = ["pictures", "file, kB", "store, kB", "crop dev mean", "p99", "worst view's mean"]
    click.echo(tabulate(quality, heads))
    click.echo(
        "Deviation in grey levels of 255: a crop (scale .8-1) resized to 224, from the store and "
        "from the file.\n"
    )
    click.echo(tabulate(memory, ["pictures prepared", "peak of parent, MB", "of a worker, MB"]))


if __name__ == "__main__":
    main()
