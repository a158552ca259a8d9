"""Budget curves from what `tune` leaves beside its files of tuned settings."""

from __future__ import annotations

import csv
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from ltbench.errors import LtbenchError, VerificationError
from ltbench.figures.budget import Budget, TestAt, draw_budgets
from ltbench.figures.drawing import Drawn, LeftOut, Sketch, drawn
from ltbench.figures.names import literal, plural
from ltbench.figures.words import per_cent
from ltbench.tuned import read_tuned, tuned_file

__all__ = ["BUDGET", "budget_figures", "budget_sketch", "tuned_places"]

BUDGET: Final = "budget"
_CURVE, _TESTS = ".curve.csv", ".tests.csv"
_TEST_METRIC: Final = "macro_f1"
_MOST: Final = 6


def tuned_places(root: Path) -> list[tuple[str, str]]:
    """(data set, protocol) of every budget curve below the root of tuned settings, by name."""
    found = {file.parent for file in root.glob(f"*/*/*{_CURVE}")}
    return sorted((folder.parent.name, folder.name) for folder in found)


def budget_figures(root: Path, dataset: str, protocol: str) -> Iterator[Drawn]:
    """The budget curves of one data set and protocol, all methods in one figure."""
    return drawn([budget_sketch(root, dataset, protocol)])


def budget_sketch(
    root: Path, dataset: str, protocol: str, methods: Collection[str] = ()
) -> Sketch | LeftOut:
    """The same, still to be drawn, or why it cannot be.

    Args:
        root: of tuned settings: `<root>/<dataset>/<protocol>/<method>.curve.csv`.
        methods: only these, such as `ecl@paper`; empty for all.
    """
    title = f"Tuning budget on {literal(dataset)}"
    folder = root / dataset / protocol
    files = sorted(folder.glob(f"*{_CURVE}"))
    labels = {file.name.removesuffix(_CURVE): file for file in files}
    chosen = {label: file for label, file in labels.items() if not methods or label in methods}
    budgets, damaged = [], []
    for label, file in chosen.items():
        try:
            budgets.append(_budget(label, file))
        except VerificationError as error:
            damaged.append(str(error))
    if not budgets:
        return LeftOut(BUDGET, title, " ".join(damaged) or f"no file *{_CURVE} in {folder}")
    best = sorted(budgets, key=lambda one: -float(one.expected[-1]))[:_MOST]
    kept = [one for one in budgets if one in best]
    objective, about = _studies(root, dataset, protocol, [one.label for one in kept])
    caption = _caption(kept, len(budgets), objective, about, damaged)
    alt = (
        f"Budget curves of {plural(len(kept), 'method')} on {literal(dataset)}, {objective}: "
        + "; ".join(_in_words(one) for one in kept)
        + "."
    )
    axis = f"{objective}, {_in_plain('test.' + _TEST_METRIC)}" if _tested(kept) else objective
    return Sketch(BUDGET, title, caption, alt, lambda: draw_budgets(kept, axis))


def _budget(label: str, file: Path) -> Budget:
    rows = _rows(file, ("k", "expected_best", "best_so_far"))
    if [int(row["k"]) for row in rows] != list(range(1, len(rows) + 1)):
        raise VerificationError(f"{file} is damaged: expected k from 1 on, one line each.")
    tests = file.with_name(file.name.removesuffix(_CURVE) + _TESTS)
    return Budget(
        label,
        np.array([row["expected_best"] for row in rows]),
        np.array([row["best_so_far"] for row in rows]),
        _tests(tests) if tests.is_file() else (),
    )


def _tests(file: Path) -> list[TestAt]:
    """Of each k the mean and sample standard deviation over seeds."""
    by_k: dict[int, list[float]] = {}
    for row in _rows(file, ("k", _TEST_METRIC)):
        by_k.setdefault(int(row["k"]), []).append(row[_TEST_METRIC])
    return [
        TestAt(
            k,
            float(np.mean(values)),
            float(np.std(values, ddof=1)) if len(values) > 1 else None,
            len(values),
        )
        for k, values in sorted(by_k.items())
    ]


def _rows(file: Path, columns: Sequence[str]) -> list[dict[str, float]]:
    """The numbers of some columns.

    Raises:
        VerificationError: a column or number is missing, or one is not finite.
    """
    try:
        with file.open(encoding="utf-8", newline="") as lines:
            found = list(csv.DictReader(lines))
        rows = [{name: float(row[name]) for name in columns} for row in found]
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise VerificationError(
            f"{file} is damaged: expected numbers in the columns {', '.join(columns)}, got "
            f"{type(error).__name__}: {error}. The same `tune` command writes it again."
        ) from error
    if not rows or not all(math.isfinite(value) for row in rows for value in row.values()):
        raise VerificationError(
            f"{file} is damaged: expected at least one line of finite numbers. The same `tune` "
            "command writes it again."
        )
    return rows


def _studies(root: Path, dataset: str, protocol: str, labels: Sequence[str]) -> tuple[str, str]:
    """(objective, what the studies had) from the files of tuned settings, where these are there."""
    blocks: list[Mapping[str, Any]] = []
    for label in labels:
        file = tuned_file(root, dataset=dataset, protocol=protocol, method=label)
        try:
            blocks.append(read_tuned(file).tuning or {})
        except LtbenchError:
            continue
    objectives = sorted({str(block["objective"]) for block in blocks if "objective" in block})
    told = []
    for name, noun in (("validation_images", "validation image"), ("seeds", "tuning seed")):
        values = {
            len(block[name]) if isinstance(block[name], list) else int(block[name])
            for block in blocks
            if name in block
        }
        told += [plural(values.pop(), noun)] if len(values) == 1 else []
    samplers = sorted({str((block.get("sampler") or {}).get("name")) for block in blocks})
    told += [f"sampler {', '.join(samplers)}"] if samplers else []
    objective = " or ".join(map(_in_plain, objectives)) or "validation objective"
    return objective, ", ".join(told)


def _caption(
    kept: Sequence[Budget], num_all: int, objective: str, about: str, damaged: Sequence[str]
) -> str:
    told = [
        f"Lines with small markers: the expected best {objective} of k trials, the mean over all "
        "subsets of k of those that were run, as if they were independent draws; thin steps: the "
        "best of the first k."
    ]
    if _tested(kept):
        seeds = sorted({at.num_seeds for one in kept for at in one.tests})
        told.append(
            f"Large hollow markers: {_in_plain('test.' + _TEST_METRIC)} of what the first k "
            f"trials would have chosen, mean and standard deviation over "
            f"{' or '.join(map(str, seeds))} seeds."
        )
    if num_all > len(kept):
        told.append(f"Drawn are the {len(kept)} of {num_all} methods with the largest values.")
    told += [f"{about}."] if about else []
    told += [f"Left out: {why}" for why in damaged]
    return " ".join(told)


def _tested(budgets: Sequence[Budget]) -> bool:
    return any(one.tests for one in budgets)


def _in_words(one: Budget) -> str:
    last = len(one.expected)
    told = (
        f"{literal(one.label)} {per_cent(one.expected[0])} with 1 trial, "
        f"{per_cent(one.expected[-1])} with {last}"
    )
    return f"{told}, on test {per_cent(one.tests[-1].mean)}" if one.tests else told


def _in_plain(objective: str) -> str:
    """Such as "validation macro F1" of "val.macro_f1"."""
    words = objective.replace("val.", "validation ").replace("test.", "test ").replace("_", " ")
    return literal(words.replace(" f1", " F1"))
