"""How often rows without a true difference are called different, by simulation.

Ten rows are made, with five seeds each (`--seeds`), whose balanced accuracy is the same in the long
run over images and seeds. An image is recognised if the sum of normal effects is above a threshold:
of the image, of the row on this image, of the row's seed, and of this seed on this image. Three
classes of 300, 100 and 40 images lie in groups of one to three. Called different is a row whose
interval to the best leaves out 0:

- `all pairs`: as ltbench does it, Holm over all pairs of rows;
- `best only`: Holm over the nine comparisons with the row that turned out best;
- `unfitted`: all pairs, each with its own variance of seeds.

    python benchmarks/coverage.py
    python benchmarks/coverage.py --repeats 200        # a first look
    python benchmarks/coverage.py --seeds 3
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import click
import numpy as np
from tabulate import tabulate

from ltbench.stats.crossed import Estimate, estimate
from ltbench.stats.holm import holm
from ltbench.stats.moderation import moderated
from ltbench.stats.resamples import GroupedImages, Resamples, resample

SIZES = (300, 100, 40)
ALPHA = 0.05


@dataclass(frozen=True)
class Effects:
    """Standard deviations of what makes an image recognised, beside that of images (1).

    Attributes:
        unstable: how many times as much seeds move the last row.
    """

    name: str
    row_and_image: float
    seed: float
    seed_and_image: float
    unstable: float = 1.0


SCENARIOS = (
    Effects("images decide", 0.7, 0.0, 0.3),
    Effects("seeds move the whole", 0.3, 0.3, 0.5),
    Effects("seeds scatter images", 0.0, 0.0, 1.0),
    Effects("all of these", 0.5, 0.1, 0.5),
    Effects("seeds move one row three times as much", 0.1, 0.15, 0.3, unstable=3.0),
)


def made_test(random: np.random.Generator) -> GroupedImages:
    """Classes of `SIZES`, groups of one to three images of one class."""
    targets = np.repeat(np.arange(len(SIZES)), SIZES)
    starts = random.random(len(targets)) < 0.6
    starts[np.flatnonzero(np.diff(targets, prepend=-1))] = True
    groups = np.cumsum(starts) - 1
    names = tuple("abc"[: len(SIZES)])
    return GroupedImages(np.arange(len(targets)).astype(str), targets, names, groups, True)


def recognised(
    effects: Effects,
    tested: GroupedImages,
    random: np.random.Generator,
    *,
    rows: int = 10,
    seeds: int = 5,
    gain: float = 0.0,
) -> np.ndarray:
    """Whether each image is, by row and seed, (N, rows, seeds); the first row is `gain` better."""
    count = len(tested.targets)
    of_group = random.normal(size=tested.num_groups)[tested.groups]
    images = of_group * 0.8 + random.normal(size=count) * 0.6
    total = images[:, None, None] + effects.row_and_image * random.normal(size=(count, rows, 1))
    of_seeds = effects.seed * random.normal(size=(1, rows, seeds))
    of_seeds[:, -1] *= effects.unstable
    total = total + of_seeds
    total += effects.seed_and_image * random.normal(size=(count, rows, seeds))
    total[:, 0] += gain
    return total > -0.5


def balanced_accuracy(right: np.ndarray, resamples: Resamples) -> np.ndarray:
    """On the test part and its resamples, (1 + B, rows, seeds)."""
    tested = resamples.tested
    weights = np.concatenate([block.T for block in resamples.blocks()])
    flat = right.reshape(len(right), -1).astype(np.float32)
    found = np.zeros((len(weights), flat.shape[1]))
    for index in range(len(SIZES)):
        of_class = tested.targets == index
        mine = weights[:, of_class]
        found += (mine @ flat[of_class]) / mine.sum(axis=1, keepdims=True) / len(SIZES)
    return found.reshape(len(weights), *right.shape[1:])


def called_different(draws: np.ndarray, reach: tuple[float, float]) -> dict[str, set[int]]:
    """The rows that each way calls worse than the best."""
    num_rows = draws.shape[1]
    best = int(draws[0].mean(axis=1).argmax())
    pairs = list(combinations(range(num_rows), 2))
    plain = [estimate((d := draws[:, a] - draws[:, b])[0], d, *reach) for a, b in pairs]
    fitted = moderated(plain, num_rows)
    ways = {
        "all pairs": _claims(pairs, fitted, best),
        "unfitted": _claims(pairs, plain, best),
    }
    to_best = [i for i, pair in enumerate(pairs) if best in pair]
    ways["best only"] = _claims([pairs[i] for i in to_best], [fitted[i] for i in to_best], best)
    return ways


def _claims(pairs: list[tuple[int, int]], found: list[Estimate], best: int) -> set[int]:
    p_values = [1.0 if (p := one.p_value()) is None else p for one in found]
    adjusted = holm(p_values)
    return {
        a if b == best else b
        for (a, b), p in zip(pairs, adjusted, strict=True)
        if best in (a, b) and p < ALPHA
    }


def simulate(
    effects: Effects,
    repeats: int,
    *,
    num_seeds: int = 5,
    num_resamples: int = 400,
    gain: float = 0.0,
    seed: int = 0,
) -> Iterator[dict[str, set[int]]]:
    """What each way calls different, in each repeat."""
    for repeat in range(repeats):
        random = np.random.default_rng([seed, repeat])
        tested = made_test(random)
        resamples = resample(tested, num_resamples=num_resamples, seed=repeat)
        right = recognised(effects, tested, random, seeds=num_seeds, gain=gain)
        draws = balanced_accuracy(right, resamples)
        yield called_different(draws, resamples.reach([0, 1, 2]))


@click.command()
@click.option("--repeats", default=1000, show_default=True)
@click.option("--seeds", "num_seeds", default=5, show_default=True, help="Of each row.")
@click.option(
    "--gain", default=0.6, show_default=True, help="Of the first row, in the second table."
)
def main(repeats: int, num_seeds: int, gain: float) -> None:
    """Print family-wise error and power."""
    errors, powers = [], []
    for effects in SCENARIOS:
        made = list(simulate(effects, repeats, num_seeds=num_seeds))
        errors.append(
            {"scenario": effects.name}
            | {way: f"{100 * np.mean([bool(one[way]) for one in made]):.1f} %" for way in made[0]}
        )
        made = list(simulate(effects, max(repeats // 5, 1), num_seeds=num_seeds, gain=gain, seed=1))
        powers.append(
            {"scenario": effects.name}
            | {
                way: f"{100 * np.mean([len(one[way] - {0}) / 9 for one in made]):.0f} %"
                for way in made[0]
            }
        )
    print(f"No true difference: repeats of {repeats} in which any row is called different\n")
    print(tabulate(errors, headers="keys", tablefmt="github"))
    print("\nOne row truly better: rows called worse than it\n")
    print(tabulate(powers, headers="keys", tablefmt="github"))


if __name__ == "__main__":
    main()
