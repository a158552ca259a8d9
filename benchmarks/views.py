"""Two augmented 224-px views of a picture, T1 and T2 of the ECL paper: pairs/s of one core.

The usual chain decodes the JPEG file with Pillow, applies torchvision's transforms to the PIL
picture and ends with ToTensor. Ours reads decoded pictures whose shorter side is 256, and for T1
those that were resized to 224 x 224 from the files. The rate we report is that of uint8 batches,
channels last; dividing by 255 is the first operation on the device. All take turns in one run, each
repeats the same work, and its fastest turns by the processor's clock count: other processes can
only slow it down. Two workers against one go by the wall's clock, on a machine that is idle.

    python benchmarks/views.py            # two minutes
    python benchmarks/views.py --quick    # whether it runs
"""

from __future__ import annotations

import tempfile
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import click
import cv2
import numpy as np
import torch
import yaml
from PIL import Image
from pydantic import TypeAdapter
from tabulate import tabulate
from torchvision import transforms

import ltbench
from ltbench.dataset import Images
from ltbench.store.layout import StoreSettings
from ltbench.store.writer import write_store
from ltbench.views.host import HostView
from ltbench.views.pool import HostPictures
from ltbench.views.view import View, ViewSpec

SOURCES = {"600 x 450": (450, 600), "1024 x 1024": (1024, 1024)}
TARGETS = {"600 x 450": 10.0, "1024 x 1024": 20.0}
TWO_WORKERS_TARGET = 1.7
NAMES = ("classify", "contrast")  # T1 and T2 of the recipe
SIDE, BATCH = 224, 64
REPORTED = "ours, uint8"


class Effort(NamedTuple):
    """How much is measured.

    Attributes:
        drawn: different pictures; each is stored `copies` times, so that no cache holds them all.
        parts: batches of pairs, `usual` pairs each for the usual chain.
        rounds: turns; the fastest of each batch counts.
        jobs: batches in a turn of the workers.
    """

    drawn: int
    copies: int
    parts: int
    usual: int
    rounds: int
    jobs: int


FULL = Effort(drawn=16, copies=16, parts=4, usual=32, rounds=12, jobs=24)
QUICK = Effort(drawn=4, copies=2, parts=1, usual=4, rounds=2, jobs=3)
Turn = Callable[[int], int]
"""Does a part of the work; returns the number of pairs."""


def main_views() -> dict[str, View]:
    """T1 and T2 as the shared recipe has them."""
    recipe = Path(ltbench.__file__).parent / "recipes" / "ecl_paper.yaml"
    steps = yaml.safe_load(recipe.read_text("utf-8"))["views"]
    return {name: View(TypeAdapter(ViewSpec).validate_python(steps[name])) for name in NAMES}


def lesion(number: int, height: int, width: int) -> np.ndarray:
    """A picture like dermoscopy: skin, a dark netted spot, hairs, a dark rim and noise."""
    rng = np.random.default_rng(number)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    side = min(height, width)
    field = cv2.resize(rng.normal(0, 1, (6, 8, 3)).astype(np.float32), (width, height))
    away = np.hypot(x - width * rng.uniform(0.4, 0.6), y - height / 2) / rng.uniform(0.2, 0.35)
    inside = (1 / (1 + np.exp(12 * (away / side - 1))))[..., None]
    net = (np.sin(x / side * 90) * np.sin(y / side * 90))[..., None]
    picture = (np.array([224, 168, 160]) + 5 * field) * (1 - inside)
    picture += (np.array([120, 72, 52]) + 20 * net + 10 * field) * inside
    for start, end in rng.uniform(0, 1, (8, 2, 2)) * [width, height]:
        points = start.astype(int).tolist(), end.astype(int).tolist()
        cv2.line(picture, *points, (60, 42, 38), max(1, side // 200), cv2.LINE_AA)
    rim = np.hypot(x - width / 2, y - height / 2) / np.hypot(width, height)
    picture *= np.clip(4 - 8 * rim, 0, 1)[..., None]
    picture += rng.normal(0, 3, picture.shape)
    return np.clip(picture, 0, 255).astype(np.uint8)


def prepare(folder: Path, size: tuple[int, int], effort: Effort) -> tuple[list[Path], Images]:
    """JPEG files of our own drawing, and the store made from them, each file several times."""
    folder.mkdir()
    files = [folder / f"{number}.jpg" for number in range(effort.drawn)]
    for number, file in enumerate(files):
        Image.fromarray(lesion(number, *size)).save(file, quality=92, subsampling="4:2:0")
    ids = np.array([f"{file.stem}-{copy}" for copy in range(effort.copies) for file in files])
    paths = np.array([str(file) for file in files] * effort.copies)
    store = write_store(folder / "store", ids, paths, StoreSettings(256, (SIDE,)), workers=1)
    return files, store.images(ids)


def usual_chain(files: list[Path], effort: Effort) -> Turn:
    """(a) Decode, torchvision on PIL, ToTensor."""
    jitter = transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8)
    t1 = transforms.Compose(
        [
            transforms.Resize((SIDE, SIDE)),
            transforms.RandomHorizontalFlip(),
            jitter,
            transforms.ToTensor(),
        ]
    )
    t2 = transforms.Compose(
        [
            transforms.RandomResizedCrop(SIDE, scale=(0.8, 1.0)),
            transforms.RandomHorizontalFlip(),
            transforms.RandomVerticalFlip(),
            transforms.RandomRotation(90),
            jitter,
            transforms.RandomGrayscale(0.2),
            transforms.ToTensor(),
        ]
    )

    def turn(part: int) -> int:
        torch.manual_seed(part)
        for number in range(effort.usual):
            with Image.open(files[number % len(files)]) as file:
                picture = file.convert("RGB")
            t1(picture)
            t2(picture)
        return effort.usual

    return turn


class Untouched:
    """Pictures as they are, without those prepared for a first resize."""

    def __init__(self, images: Images) -> None:
        self.picture, self.sizes, self.channels = images.picture, images.sizes, images.channels

    def prepared(self, height: int, width: int) -> None:
        """None are kept."""


def ours(images: Images, views: Mapping[str, View], after: Callable[[np.ndarray], None]) -> Turn:
    """(b) and (c): draw the numbers and render a batch, then `after` with each view's batch."""
    hosts = [HostView(view, images) for view in views.values()]
    batches = [np.empty((BATCH, SIDE, SIDE, 3), np.uint8) for _ in hosts]
    order = np.random.default_rng(0).permutation(len(images.sizes))

    def turn(part: int) -> int:
        draws = np.arange(part * BATCH, (part + 1) * BATCH)
        positions = order[draws % len(order)]
        for word, (host, batch) in enumerate(zip(hosts, batches, strict=True)):
            u = host.view.draw(0, stream=word, epoch=0, indices=draws)
            host.render(positions, u, batch)
            after(batch)
        return BATCH

    return turn


def to_floats() -> Callable[[np.ndarray], None]:
    """Into a kept float32 batch, divided by 255."""
    floats = torch.empty(BATCH, SIDE, SIDE, 3)

    def after(batch: np.ndarray) -> None:
        floats.copy_(torch.from_numpy(batch)).div_(255)

    return after


def memory_limit(images: Images) -> Turn:
    """(d) What nobody can be faster than: two pictures of 150 kB a pair copied into the batch."""
    batches = [np.empty((BATCH, SIDE, SIDE, 3), np.uint8) for _ in NAMES]
    prepared = images.prepared(SIDE, SIDE)
    assert prepared is not None
    order = np.random.default_rng(0).permutation(len(prepared))

    def turn(part: int) -> int:
        for number, batch in enumerate(batches):
            start = (2 * part + number) * BATCH
            for row, position in enumerate(order[np.arange(start, start + BATCH) % len(order)]):
                np.copyto(batch[row], prepared.picture(position))
        return BATCH

    return turn


def fastest(turns: Mapping[str, Turn], effort: Effort) -> dict[str, float]:
    """Milliseconds a pair: the fastest of each part's turns, averaged over the parts."""
    seconds = {name: [float("inf")] * effort.parts for name in turns}
    for _ in range(effort.rounds):
        for part in range(effort.parts):
            for name, turn in turns.items():
                start = time.process_time()
                pairs = turn(part)
                taken = (time.process_time() - start) / pairs
                seconds[name][part] = min(seconds[name][part], taken)
    return {name: 1e3 * sum(parts) / len(parts) for name, parts in seconds.items()}


def with_workers(images: Images, views: Mapping[str, View], effort: Effort) -> dict[int, float]:
    """(e) Pairs/s by the wall's clock with one and two workers, jobs asked for ahead."""
    pools = {n: HostPictures(images, views, seed=0, workers=n) for n in (1, 2)}
    best = dict.fromkeys(pools, 0.0)
    for number in range(effort.rounds + 1):
        for workers, pool in pools.items():
            rate = pairs_per_second(pool, len(images), effort.jobs)
            best[workers] = max(best[workers], rate if number else 0.0)
    for pool in pools.values():
        pool.close()
    return best


def pairs_per_second(pool: HostPictures, num_images: int, jobs: int) -> float:
    """Of some jobs one after the other, from the first request to the last result."""
    asked: deque[Callable[[], object]] = deque()
    start = time.perf_counter()
    for job in range(jobs):
        draws = np.arange(job * BATCH, (job + 1) * BATCH)
        asked.append(pool.submit(draws % num_images, draws, NAMES, epoch=0, words=(0, 1)))
        if len(asked) == pool.depth:
            asked.popleft()()
    while asked:
        asked.popleft()()
    return jobs * BATCH / (time.perf_counter() - start)


@click.command(help=__doc__.partition("\n")[0] if __doc__ else None)
@click.option("--quick", is_flag=True, help="A few turns, to see that it runs.")
@click.option("--check", is_flag=True, help="Exit 1 where a target is missed.")
def main(quick: bool, check: bool) -> None:
    """Print ms a pair, pairs/s and ratios, for both sizes of files."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    effort, views = QUICK if quick else FULL, main_views()
    met = True
    with tempfile.TemporaryDirectory(prefix="ltbench-") as work:
        for source, size in SOURCES.items():
            files, images = prepare(Path(work) / source.replace(" ", ""), size, effort)
            turns = {
                "usual chain": usual_chain(files, effort),
                REPORTED: ours(images, views, lambda batch: None),
                "ours, float32": ours(images, views, to_floats()),
                "ours, uint8, T1 from 256": ours(Untouched(images), views, lambda batch: None),
                "copying 2 x 150 kB": memory_limit(images),
            }
            ms = fastest(turns, effort)
            rows = [(name, one, 1e3 / one, ms["usual chain"] / one) for name, one in ms.items()]
            click.echo(f"\n{source} JPEG files, one core, batches of {BATCH} pairs")
            headers = ("", "ms a pair", "pairs/s", "times the usual chain")
            click.echo(tabulate(rows, headers, floatfmt=("", ".3f", ".0f", ".1f")))
            met &= ms["usual chain"] / ms[REPORTED] >= TARGETS[source]
        rates = with_workers(images, views, effort)
    ratio = rates[2] / rates[1]
    click.echo(f"\nworkers: {rates[1]:.0f} pairs/s with one, {rates[2]:.0f} with two: {ratio:.2f}x")
    wanted = " and ".join(f"{times:.0f}x at {source}" for source, times in TARGETS.items())
    click.echo(f"targets: {wanted}, {TWO_WORKERS_TARGET}x with two workers")
    if check and not (met and ratio >= TWO_WORKERS_TARGET):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
