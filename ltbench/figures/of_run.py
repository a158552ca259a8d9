"""The figures of one run, from its record, its history and its stored predictions."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np

from ltbench.clinical.material import Material, read_material
from ltbench.errors import DataMissingError, VerificationError
from ltbench.figures.confusion import cell_words, draw_confusion, matrix_of
from ltbench.figures.drawing import Drawn, LeftOut, Sketch, drawn
from ltbench.figures.names import literal, plural
from ltbench.figures.words import about_run, per_cent, test_part
from ltbench.results import RunFolder

__all__ = ["RUN_FIGURES", "run_figures", "run_sketches"]

Facts = Mapping[str, Any]


def run_figures(run: RunFolder, only: Collection[str] = ()) -> Iterator[Drawn]:
    """The figures of a finished run, or of an external test of it, one after the other.

    Args:
        only: names of `RUN_FIGURES`; empty for all.

    Raises:
        DataMissingError: the run is not done, or matplotlib is not installed.
        VerificationError: its record is damaged.
    """
    return drawn(run_sketches(run, only))


def run_sketches(run: RunFolder, only: Collection[str] = ()) -> Iterator[Sketch | LeftOut]:
    """The same, each still to be drawn, and those that cannot be, with the reason."""
    given = _Given(run)
    _ = given.record
    for name, (title, make) in RUN_FIGURES.items():
        if only and name not in only:
            continue
        try:
            yield make(given)
        except (DataMissingError, VerificationError) as error:
            yield LeftOut(name, title, str(error))


class _Given:
    """What is stored of a run, read when it is needed."""

    def __init__(self, run: RunFolder) -> None:
        self.run = run

    @cached_property
    def record(self) -> dict[str, Any]:
        return self.run.record()

    @cached_property
    def material(self) -> Material:
        return read_material(self.run)


def _confusion(given: _Given) -> Sketch | LeftOut:
    record = given.record
    matrix = matrix_of([record])
    names, counts, order = matrix.class_names, matrix.counts, matrix.order
    told = [c for c in order.tolist() if matrix.num_images[c] > 0]
    worst = min(told, key=lambda c: float(matrix.shares[c, c]))
    sensitivity = float(np.mean([matrix.shares[c, c] for c in told]))
    others = np.where(np.arange(len(names)) == worst, -1, counts[worst])
    confused = int(others.argmax())
    taken = f", most often taken for {literal(names[confused])} ({others[confused]:.0f})"
    alt = (
        f"Confusion matrix of {plural(len(names), 'class')}: mean sensitivity "
        f"{per_cent(sensitivity)} over {plural(len(told), 'class')}; lowest of "
        f"{literal(names[worst])} with {per_cent(float(matrix.shares[worst, worst]))} "
        f"({counts[worst, worst]:.0f} of {counts[worst].sum():.0f})"
        f"{taken if others[confused] > 0 else ''}."
    )
    caption = (
        f"Test images by true class (rows) and predicted class (columns). {cell_words(matrix)} "
        f"{about_run(record)}. {test_part(record)}."
    )
    return Sketch("confusion", "Confusion matrix", caption, alt, lambda: draw_confusion(matrix))


RUN_FIGURES: Mapping[str, tuple[str, Callable[[_Given], Sketch | LeftOut]]] = MappingProxyType(
    {
        "confusion": ("Confusion matrix", _confusion),
    }
)
"""By name: (title, what makes it)."""
