"""Figures of the seeds of one configuration, and of several configurations beside each other."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from ltbench.clinical.material import read_material
from ltbench.clinical.referral import CONFIDENCE, coverage_risk
from ltbench.errors import DataMissingError, UsageError, VerificationError
from ltbench.figures.choosing import choose
from ltbench.figures.class_size import ClassScores, draw_by_class_size, named_classes
from ltbench.figures.confusion import cell_words, draw_confusion, matrix_of
from ltbench.figures.coverage import RiskCurve, draw_coverage_risk
from ltbench.figures.drawing import Drawn, LeftOut, Sketch, drawn
from ltbench.figures.history import history_of, training_words_of_seeds
from ltbench.figures.names import literal, plural
from ltbench.figures.ranks import draw_critical_difference
from ltbench.figures.stored import known_record
from ltbench.figures.training import draw_histories
from ltbench.figures.words import about_seeds, per_cent, test_part
from ltbench.metrics import METRICS
from ltbench.report.rows import Row, Table, row_names, tables_of
from ltbench.results import RunFolder
from ltbench.stats.ranks import critical_difference

__all__ = [
    "BOARD_FIGURES",
    "RANKS",
    "ROW_FIGURES",
    "board_figures",
    "board_sketches",
    "rank_figures",
    "rank_sketch",
    "row_figures",
    "row_sketches",
]

Record = Mapping[str, Any]

RANKS: Final = "critical_difference"
MOST_ROWS: Final = 6
"""Rows of one figure; of more the best are drawn."""
_MOST_NAMED: Final = 10  # classes, where not all names have room


def row_figures(runs: Sequence[RunFolder], only: Collection[str] = ()) -> Iterator[Drawn]:
    """The figures of one configuration's seeds.

    Args:
        runs: finished runs that differ in their seed alone.
        only: names of `ROW_FIGURES`; empty for all.

    Raises:
        DataMissingError: a run is not done, or matplotlib is not installed.
        UsageError: runs of several configurations, or none.
    """
    return drawn(row_sketches(runs, only))


def row_sketches(
    runs: Sequence[RunFolder], only: Collection[str] = ()
) -> Iterator[Sketch | LeftOut]:
    """The same, each still to be drawn, and those that cannot be, with the reason."""
    records = [known_record(run) for run in runs]
    keys = {(record["key"], record["dataset"], record["protocol"]) for record in records}
    if len(keys) != 1:
        raise UsageError(
            f"Expected the seeds of one configuration; got {len(runs)} runs of {len(keys)}."
        )
    pairs = sorted(zip(records, runs, strict=True), key=lambda pair: int(pair[0]["seed"]))
    yield from _made(ROW_FIGURES, only, [r for r, _ in pairs], [run for _, run in pairs])


def board_figures(records: Iterable[Record], only: Collection[str] = ()) -> Iterator[Drawn]:
    """The figures that set the configurations of one data set, protocol and split side by side.

    Args:
        records: as `ltbench.report.reading.read` gives them, `per_class` and with their `folder`.
        only: names of `BOARD_FIGURES`; empty for all.

    Raises:
        UsageError: records of several splits, or none.
    """
    return drawn(board_sketches(records, only))


def board_sketches(
    records: Iterable[Record], only: Collection[str] = ()
) -> Iterator[Sketch | LeftOut]:
    """The same, each still to be drawn, and those that cannot be, with the reason."""
    tables = tables_of(records, lambda found: ())
    if len(tables) != 1:
        raise UsageError(
            f"Expected runs of one data set, protocol and split; got {len(tables)}. Draw each "
            "by itself."
        )
    yield from _made(BOARD_FIGURES, only, tables[0])


def rank_figures(records: Iterable[Record], metric: str = "macro_f1") -> Iterator[Drawn]:
    """The critical-difference diagram, where there are six independent data sets or more."""
    return drawn([rank_sketch(records, metric)])


def rank_sketch(records: Iterable[Record], metric: str = "macro_f1") -> Sketch | LeftOut:
    """The same, still to be drawn, or why it must not be.

    Args:
        records: of any data sets.
        metric: a name of `METRICS`.
    """
    title = "Critical-difference diagram"
    try:
        found = critical_difference(records, metric)
    except (UsageError, DataMissingError) as error:
        return LeftOut(RANKS, title, str(error))
    sets = ", ".join(f"{literal(name)} ({protocol})" for name, protocol in found.data_sets)
    left_out = "; ".join(
        f"{literal(name)} ({protocol}): {why}" for (name, protocol), why in found.left_out.items()
    )
    bars = "; ".join(", ".join(map(literal, clique)) for clique in found.cliques)
    caption = (
        f"Average ranks of {plural(len(found.average_ranks), 'method')} over "
        f"{plural(len(found.data_sets), 'independent data set')} by {metric.replace('_', ' ')}; "
        f"thick bars join methods that are not separable. {found.estimator}; Friedman p = "
        f"{found.p_friedman:.3g}. Data sets: {sets}.{f' Left out: {left_out}.' if left_out else ''}"
    )
    ranks = ", ".join(f"{literal(name)} {rank:.2f}" for name, rank in found.average_ranks.items())
    alt = (
        f"Average ranks, best first: {ranks}; critical difference "
        f"{found.critical_difference:.2f}; not separable: {bars or 'none'}."
    )
    return Sketch(RANKS, title, caption, alt, lambda: draw_critical_difference(found))


def _made(
    makers: Mapping[str, tuple[str, Callable[..., Sketch | LeftOut]]],
    only: Collection[str],
    *given: Any,
) -> Iterator[Sketch | LeftOut]:
    for name, (title, make) in makers.items():
        if only and name not in only:
            continue
        try:
            yield make(*given)
        except (DataMissingError, VerificationError) as error:
            yield LeftOut(name, title, str(error))


def _confusion(records: Sequence[Record], runs: Sequence[RunFolder]) -> Sketch | LeftOut:
    matrix = matrix_of(records)
    names, seeds = matrix.class_names, _of_seeds(records)
    diagonal = np.diagonal(matrix.shares)
    worst = int(np.nanargmin(diagonal))
    spread = (
        ""
        if matrix.spread is None
        else f" (standard deviation {per_cent(matrix.spread[worst, worst])})"
    )
    alt = (
        f"Confusion matrix of {plural(len(names), 'class')}, {seeds}: mean sensitivity "
        f"{per_cent(np.nanmean(diagonal))}; lowest of {literal(names[worst])} with "
        f"{per_cent(diagonal[worst])}{spread}."
    )
    caption = (
        f"Test images by true class (rows) and predicted class (columns), {seeds}. "
        f"{cell_words(matrix)} {about_seeds(records)}. {test_part(records[0])}."
    )
    title = f"Confusion matrix, {seeds}"
    return Sketch("confusion", title, caption, alt, lambda: draw_confusion(matrix))


def _of_seeds(records: Sequence[Record]) -> str:
    return f"mean over {len(records)} seeds" if len(records) > 1 else "one seed"


def _training(records: Sequence[Record], runs: Sequence[RunFolder]) -> Sketch | LeftOut:
    found = [
        (history, record)
        for run, record in zip(runs, records, strict=True)
        if (history := history_of(run.epochs(), record)) is not None
    ]
    if not found:
        title = "Training curves of all seeds"
        return LeftOut("training", title, "no run has a history: epochs.jsonl is missing or empty")
    histories = [history for history, _ in found]
    shown = [record for _, record in found]
    caption, alt = training_words_of_seeds(histories, shown)
    without = [str(record["seed"]) for record in records if record not in shown]
    if without:
        caption += f" Without a history, and so not drawn: seed {', '.join(without)}."
    title = f"Training curves of {plural(len(histories), 'seed')}"
    return Sketch("training", title, caption, alt, lambda: draw_histories(histories))


def _by_class_size(table: Table) -> Sketch | LeftOut:
    name, title = "f1_by_class_size", "F1 by class size"
    rows, sentence = _best(table)
    names, num_train = _classes(table)
    scores = [_scores(row, label, len(names)) for row, label in rows]
    values = np.array([one.mean for one in scores])
    known = [c for c in range(len(names)) if np.isfinite(values[:, c]).any()]
    if not known:
        return LeftOut(name, title, "no class has an F1 that is defined for all seeds")
    mean = np.full(len(names), np.nan)
    mean[known] = np.nanmean(values[:, known], axis=0)
    fits = len(names) <= named_classes(len(names), len(rows))
    chosen = choose(num_train, mean, "mean F1", most=len(names) if fits else _MOST_NAMED)
    spread = "whiskers: standard deviation; " if any(s.sd is not None for s in scores) else ""
    named = chosen.sentence.replace("are drawn", "are named")
    caption = (
        f"F1 of each class on the test part against its training images, mean over seeds; {spread}"
        "methods are moved apart sideways to be seen. "
        f"{_about(table, rows, f'{sentence} {named}')}"
    )
    rarest = min(known, key=lambda c: num_train[c])
    told = [f"{one.label} {per_cent(one.mean[rarest])}" for one in scores]
    alt = (
        f"F1 against class size of {plural(len(rows), 'method')} and "
        f"{plural(len(known), 'class')}: on {literal(names[rarest])}, the smallest with "
        f"{plural(num_train[rarest], 'training image')}, {', '.join(told)}."
    )
    pairs = [(c, names[c]) for c in chosen.indices]
    return Sketch(
        *(name, title, caption, alt), lambda: draw_by_class_size(scores, num_train, pairs, "F1")
    )


def _classes(table: Table) -> tuple[list[str], list[int]]:
    """(names, training images) of the classes, the same in every record of the table."""
    found = [record["metrics"]["test"].get("per_class") for record in table.records]
    if None in found:
        raise VerificationError("A record holds no numbers of each class. Run its cell again.")
    first = found[0]
    num = len(first["class_names"])
    for one in found:
        whole = len(one.get("f1") or ()) == len(one["train_count"]) == num
        if not whole or one["class_names"] != first["class_names"]:
            raise VerificationError(
                "The records do not fit each other: expected the numbers of the same "
                f"{plural(num, 'class')} in each. Restore them from a copy."
            )
    return list(first["class_names"]), [int(count) for count in first["train_count"]]


def _scores(row: Row, label: str, num_classes: int) -> ClassScores:
    """F1 of each class over the seeds of a row; NaN where it is undefined for one of them."""
    table = np.full((len(row.records), num_classes), np.nan)
    for line, record in zip(table, row.records, strict=True):
        f1 = record["metrics"]["test"]["per_class"]["f1"]
        line[:] = [np.nan if value is None else value for value in f1]
    sd = table.std(axis=0, ddof=1) if len(table) > 1 else None
    return ClassScores(label, table.mean(axis=0), sd)


def _coverage_risk(table: Table) -> Sketch | LeftOut:
    rows, sentence = _best(table)
    curves, told = [], []
    for row, label in rows:
        tests = [read_material(RunFolder(Path(r["folder"]))).test for r in row.records]
        found = [coverage_risk(test) for test in tests]
        risk = np.mean([one.risk for one in found], axis=0)
        area = float(np.mean([one.area for one in found]))
        curves.append(RiskCurve(label, area, found[0].coverage, risk))
        told.append(f"{label} {area:.4f}")
    caption = (
        f"Share of wrong decisions among the images that are decided, when the least confident (by "
        f"{CONFIDENCE}) are referred to a person; mean over seeds. In the legend the area, which "
        f"is the mean risk over all coverages. {_about(table, rows, sentence)}"
    )
    alt = f"Coverage-risk curves of {plural(len(rows), 'method')}; areas: {', '.join(told)}."
    return Sketch(
        *("coverage_risk", "Coverage-risk curves", caption, alt),
        lambda: draw_coverage_risk(curves),
    )


def _best(table: Table) -> tuple[list[tuple[Row, str]], str]:
    """The rows that are drawn, in the table's order, with their names, and how they were chosen."""
    names = {key: literal(name) for key, name in row_names(table.rows).items()}
    metric = METRICS["macro_f1"]

    def score(row: Row) -> float:
        found = [metric.read(record["metrics"]["test"]) for record in row.records]
        defined = [value for value in found if value is not None]
        return float(np.mean(defined)) if len(defined) == len(found) else float("-inf")

    best = sorted(table.rows, key=lambda row: -score(row))[:MOST_ROWS]
    keys = {row.key for row in best}
    sentence = (
        f"Drawn are the {len(best)} of {len(table.rows)} rows with the largest mean macro F1."
        if len(table.rows) > len(best)
        else ""
    )
    return [(row, names[row.key]) for row in table.rows if row.key in keys], sentence


def _about(table: Table, rows: Sequence[tuple[Row, str]], sentence: str) -> str:
    """The last words of a caption: seeds, what is not drawn, the test part."""
    told = f"Seeds: {_seeds(rows)}. {sentence} {test_part(table.records[0])}."
    return " ".join(told.split())


def _seeds(rows: Sequence[tuple[Row, str]]) -> str:
    numbers = {len(row.seeds) for row, _ in rows}
    if len(numbers) == 1:
        return f"{numbers.pop()} each"
    return ", ".join(f"{label} {len(row.seeds)}" for row, label in rows)


ROW_FIGURES: Mapping[str, tuple[str, Callable[..., Sketch | LeftOut]]] = MappingProxyType(
    {
        "confusion": ("Confusion matrix, mean over seeds", _confusion),
        "training": ("Training curves of all seeds", _training),
    }
)
BOARD_FIGURES: Mapping[str, tuple[str, Callable[..., Sketch | LeftOut]]] = MappingProxyType(
    {
        "f1_by_class_size": ("F1 by class size", _by_class_size),
        "coverage_risk": ("Coverage-risk curves", _coverage_risk),
    }
)
