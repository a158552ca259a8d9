"""Which of many classes a figure shows: the rarest, and those that come out worst."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from ltbench.figures.names import plural

__all__ = ["Chosen", "choose"]

_MOST: Final = 10
_NUM_RAREST: Final = 5


class Chosen(NamedTuple):
    """Class indices, the largest class first, and how they were chosen ("" for all of them)."""

    indices: tuple[int, ...]
    sentence: str


def choose(
    num_train: Sequence[int], scores: np.ndarray, score: str, *, most: int = _MOST
) -> Chosen:
    """All classes with a score; of more than `most`, the five rarest and the worst of the others.

    Args:
        num_train: training images, (C,).
        scores: larger is better, float64 (C,); NaN for classes that have none.
        score: its name, in words.
    """
    order = np.argsort(-np.asarray(num_train), kind="stable")
    scored = [int(c) for c in order if not np.isnan(scores[c])]
    if len(scored) <= most:
        return Chosen(tuple(scored), "")
    rarest = scored[-_NUM_RAREST:]
    others = sorted(scored[:-_NUM_RAREST], key=lambda c: float(scores[c]))[: most - _NUM_RAREST]
    sentence = (
        f"Of {plural(len(scored), 'class')} the {len(rarest)} rarest in training and the "
        f"{len(others)} others with the smallest {score} are drawn."
    )
    chosen = {*rarest, *others}
    return Chosen(tuple(c for c in scored if c in chosen), sentence)
