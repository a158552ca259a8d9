"""The whole training step against a bare PyTorch loop that does the same by hand.

Ours is what the trainer runs: a batch of the feed with its views, the engine's step, the watch over
the loss. The bare loop has the same network, optimizer, precision, threads, batch and pictures, and
pads, crops, flips and normalises in plain torch. Both take turns in one process. CPU time is told
beside wall time, because other processes disturb it less.

    python benchmarks/step.py                          # 28 x 28 grey, fp32
    python benchmarks/step.py --pictures rgb32 --precision bf16
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import click
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ltbench.cell import Cell, prepare
from ltbench.config import Request, resolve
from ltbench.data.feed import Renderer, TrainingSet
from ltbench.method import Progress
from ltbench.registry import add_plugins
from ltbench.runner import build_method
from ltbench.training.devices import FabricCollective, make_fabric, settle
from ltbench.training.engine import LossWatch
from ltbench.training.stage import build_stage

NOISE = Path(__file__).with_name("noise_pictures.py")
# Size, channels, padding. At 8 x 8 (with --model resnet8_cifar --batch 32) the network is so small
# that what the harness adds to a step is seen best.
PICTURES = {"grey28": (28, 1, 3), "rgb32": (32, 3, 4), "grey8": (8, 1, 1)}
TARGET = 0.95


@dataclass
class Loop:
    """One contender: `step` makes a training step and returns the seconds its views took."""

    name: str
    step: Callable[[], float]


def make_cell(
    model: str, batch: int, precision: str, threads: int, pictures: str, work: Path
) -> Cell:
    """Cross-entropy on noise under a padded crop and a flip."""
    size, channels, padding = PICTURES[pictures]
    add_plugins([NOISE])
    settings = {
        "backbone": model,
        "batch_size": batch,
        "precision": precision,
        "machine.threads": threads,
        "machine.device": "cpu",
        "dataset.size": size,
        "dataset.channels": channels,
        "views.classify": [{"pad_crop": {"padding": padding}}, {"hflip": {"p": 0.5}}],
    }
    config = resolve(Request(method="ce", dataset="noise_pictures", settings=settings))
    settle(config)
    return prepare(config, results=work, data_root=None)


def our_loop(cell: Cell) -> Loop:
    """The step as `Trainer` makes it."""
    fabric = make_fabric(cell.config)
    method = build_method(cell, fabric)
    mean, std = cell.input_statistics
    renderer = Renderer(cell.training, cell.views(), mean=mean, std=std, device=fabric.device)
    training = TrainingSet(renderer, cell.config.eval_batch_size)
    stage, collective = method.stages()[0], FabricCollective(fabric)
    run = build_stage(0, stage, method, training, cell.config, fabric=fabric, collective=collective)
    for scheduled in run.optimizers:
        scheduled.set_epoch(stage.epochs // 2, stage.epochs)
    method.train()
    watch, steps = LossWatch(fabric.device), run.feed.num_batches

    def clock() -> Iterator[Progress]:
        epoch = 0
        while True:
            for step in range(steps):
                yield Progress(stage.name, epoch % stage.epochs, stage.epochs, step, steps)
            epoch += 1

    ticks = clock()

    def step() -> float:
        progress = next(ticks)
        start = time.perf_counter()
        batch = run.feed.batch(progress.epoch, progress.step)
        views_s = time.perf_counter() - start
        watch.add(run.engine.run(method, batch, progress), progress.step)
        return views_s

    return Loop("ours", step)


def bare_loop(cell: Cell, padding: int) -> Loop:
    """The same work as one writes it by hand."""
    backbone = cell.factory()
    network = nn.Sequential(backbone, nn.Linear(backbone.num_features, 10)).train()
    settings = cell.config.optimizer
    optimizer = torch.optim.SGD(
        network.parameters(),
        lr=settings.lr / 2,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
    )
    pictures = cell.training.images.take(cell.training.positions)
    targets = torch.from_numpy(cell.training.targets)
    mean, std = (torch.tensor(x).view(1, -1, 1, 1) for x in cell.input_statistics)
    size, total = cell.config.batch_size, torch.zeros(())
    use_bf16 = cell.config.precision == "bf16"

    def order() -> Iterator[Tensor]:
        while True:
            yield from torch.randperm(len(pictures)).split(size)[: len(pictures) // size]

    chosen = order()

    def step() -> float:
        index = next(chosen)
        start = time.perf_counter()
        images = (crop_and_flip(pictures[index], padding).float().div_(255) - mean) / std
        views_s = time.perf_counter() - start
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=use_bf16):
            loss = F.cross_entropy(network(images).float(), targets[index])
        loss.backward()
        optimizer.step()
        total.add_(loss.detach())
        return views_s

    return Loop("bare", step)


def crop_and_flip(images: Tensor, padding: int) -> Tensor:
    """A window of the padded picture at a random place, mirrored half the time; uint8 (B, C, H, W).

    One gather with columns that run backwards where the picture is mirrored.
    """
    batch, channels, height, width = images.shape
    padded = F.pad(images, (padding,) * 4)
    top, left = torch.randint(0, 2 * padding + 1, (2, batch, 1))
    columns = torch.arange(width).expand(batch, -1)
    columns = torch.where(torch.rand(batch, 1) < 0.5, width - 1 - columns, columns)
    rows = top + torch.arange(height)
    flat = rows[:, :, None] * padded.shape[-1] + (left + columns)[:, None, :]
    index = flat.view(batch, 1, -1).expand(-1, channels, -1)
    return padded.flatten(2).gather(2, index).view(images.shape)


class Turn(NamedTuple):
    """Seconds of some steps: by the wall's clock, the process's, and those spent in views."""

    wall_s: float
    cpu_s: float
    views_s: float


def turn(loop: Loop, steps: int) -> Turn:
    """Make some steps."""
    wall, cpu = time.perf_counter(), time.process_time()
    views_s = sum(loop.step() for _ in range(steps))
    return Turn(time.perf_counter() - wall, time.process_time() - cpu, views_s)


def measure(ours: Loop, bare: Loop, *, pairs: int, steps: int) -> list[tuple[Turn, Turn]]:
    """Pairs of turns (ours, bare); who begins changes from pair to pair."""
    for loop in (ours, bare):
        turn(loop, max(5, steps))
    found = []
    for pair in range(pairs):
        if pair % 2 == 0:
            first = turn(ours, steps)
            found.append((first, turn(bare, steps)))
        else:
            first = turn(bare, steps)
            found.append((turn(ours, steps), first))
    return found


def report(found: Sequence[tuple[Turn, Turn]], num_images: int) -> float:
    """Print both rates and their ratios; returns the median ratio by the wall's clock."""
    for name, turns in zip(("ours", "bare"), zip(*found, strict=True), strict=True):
        rate = num_images / statistics.median(one.wall_s for one in turns)
        views = statistics.median(one.views_s / one.wall_s for one in turns)
        click.echo(f"  {name}: {rate:8.1f} images/s, views {views:.2%} of the step")
    ratios = {
        "wall": [bare.wall_s / ours.wall_s for ours, bare in found],
        "CPU": [bare.cpu_s / ours.cpu_s for ours, bare in found],
    }
    for clock, values in ratios.items():
        click.echo(
            f"  ours / bare by {clock} time: {statistics.median(values):.3f} "
            f"(min {min(values):.3f}, max {max(values):.3f})"
        )
    return statistics.median(ratios["wall"])


@click.command(help=__doc__.partition("\n")[0] if __doc__ else None)
@click.option("--model", default="resnet20_cifar", show_default=True)
@click.option("--batch", default=128, show_default=True, type=click.IntRange(2))
@click.option("--precision", default="32", show_default=True, type=click.Choice(["32", "bf16"]))
@click.option("--pictures", default="grey28", show_default=True, type=click.Choice([*PICTURES]))
@click.option("--steps", default=3, show_default=True, type=click.IntRange(1), help="A turn.")
@click.option("--pairs", default=25, show_default=True, type=click.IntRange(1), help="Of turns.")
@click.option("--threads", default=1, show_default=True, type=click.IntRange(1))
@click.option("--check", is_flag=True, help=f"Exit 1 where the median ratio is below {TARGET}.")
def main(
    model: str,
    batch: int,
    precision: str,
    pictures: str,
    steps: int,
    pairs: int,
    threads: int,
    check: bool,
) -> None:
    """Print images/s of both, their ratio, and the part that views take."""
    with tempfile.TemporaryDirectory(prefix="ltbench-") as work:
        cell = make_cell(model, batch, precision, threads, pictures, Path(work))
        loops = our_loop(cell), bare_loop(cell, PICTURES[pictures][2])
        found = measure(*loops, pairs=pairs, steps=steps)
    click.echo(
        f"{model}, {pictures}, batch {batch}, precision {precision}, threads {threads}, torch "
        f"{torch.__version__}; {pairs} pairs of {steps} steps each, in turns"
    )
    ratio = report(found, steps * batch)
    click.echo(f"  target: at least {TARGET} by wall time")
    if check and ratio < TARGET:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
