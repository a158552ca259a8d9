"""Two rows of stored runs beside each other: overall and by class."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from ltbench import derived
from ltbench.errors import DataMissingError, UsageError
from ltbench.metrics import METRICS
from ltbench.registry import normalise, suggest
from ltbench.results import RunFolder, read_records
from ltbench.stats.board import Board, board_of, check_whole
from ltbench.stats.means import Mean, mean_of
from ltbench.stats.paired import LEVEL, Paired, differences
from ltbench.stats.scores import CLASS_METRICS
from ltbench.stats.sentences import Measured, measured, smallest_gain, verdict

OVERALL: Final = tuple(name for name, metric in METRICS.items() if metric.paper_column)
BY_CLASS: Final = ("sensitivity", "f1")
_CLASS_METRIC_OF: Final = {
    "macro_sensitivity": "sensitivity",
    "balanced_accuracy": "sensitivity",
    "macro_precision": "precision",
    "macro_f1": "f1",
    "macro_auc": "auc",
}
_SHORTEST_KEY: Final = 4
_SETTINGS: Final = re.compile(r" (?=[\w.]+=)")  # values of settings may have spaces

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Line:
    """One metric, overall or of one class.

    Attributes:
        metric: a name of `METRICS`, or of a class's metrics.
        of_class: the class, or None.
        num_images, num_groups: that the class has in test; of all where there is no class.
        first, second: the rows' means.
        paired: first - second.
        sentences: the verdict, and the smallest difference that could be shown.
    """

    metric: str
    of_class: str | None
    num_images: int
    num_groups: int
    first: Mean
    second: Mean
    paired: Paired
    sentences: tuple[str, str]


@dataclass(frozen=True)
class Comparison:
    """Two rows on the test part of one protocol.

    Attributes:
        first, second: labels without the settings that both have, which `notes` name; with the
            beginning of the key where both have one label.
        seeds: of each row.
        lines: overall first, then by class; corrected within each of these families: all overall
            lines, and the lines of one metric over the classes.
        notes: what a reader must know beside the lines.
    """

    first: str
    second: str
    keys: tuple[str, str]
    seeds: tuple[tuple[int, ...], tuple[int, ...]]
    dataset: str
    protocol: str
    num_images: int
    num_groups: int
    group_noun: str
    level: float
    lines: tuple[Line, ...]
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """What JSON can hold."""
        lines = [{**asdict(line), "paired": line.paired.as_dict()} for line in self.lines]
        return {**asdict(self), "lines": lines}


def find_row(records: Sequence[Record], name: str) -> list[Record]:
    """The records of the one row that a user means.

    Args:
        records: to choose from.
        name: a label such as `ecl@authors`, a method whose rows are one, or the beginning of a key.

    Raises:
        UsageError: no row, or several, which are listed.
    """
    wanted = normalise(name)
    ways = (
        [r for r in records if normalise(r["label"]) == wanted],
        [r for r in records if normalise(r["method"]) == wanted],
        [r for r in records if len(name) >= _SHORTEST_KEY and r["key"].startswith(name)],
    )
    found = next((way for way in ways if way), [])
    if not found:
        labels = sorted({record["label"] for record in records})
        raise UsageError(suggest("row of finished runs", name, labels))
    keys = {record["key"]: record for record in found}
    if len(keys) > 1:
        listed = "".join(f"\n  {_row_words(r, found)}" for r in keys.values())
        raise UsageError(
            f"'{name}' means {len(keys)} rows. Give one by its label or the beginning of its key:"
            f"{listed}"
        )
    return found


def compared(
    results: Path,
    first: str,
    second: str,
    *,
    dataset: str,
    protocol: str | None = None,
    metric: str | None = None,
    level: float = LEVEL,
) -> Comparison:
    """Compare two rows of stored runs; see `ltbench.compare`."""
    if not 0.5 <= level < 1:
        raise UsageError(f"Expected a level from 0.5 to below 1, such as 0.95; got {level}.")
    overall, by_class = _asked(metric)
    records, notes = read_records(results, dataset=dataset, protocol=protocol, keep=_kept)
    if not records:
        raise DataMissingError(
            "\n".join([*notes, f"No finished run on {dataset} in {results}. Run one first."])
        )
    try:
        rows = _rows_of_one_protocol(records, (first, second))
    except UsageError as error:
        raise UsageError("\n".join([str(error), *notes])) from error
    if rows[0][0]["key"] == rows[1][0]["key"]:
        raise UsageError(
            f"'{first}' and '{second}' are the same row, {_row_words(rows[0][0], rows[0])}."
        )
    folders = {
        key: [RunFolder(Path(record["folder"])) for record in found]
        for key, found in ((found[0]["key"], found) for found in rows)
    }
    board = board_of(folders)
    if rows[0][0]["split_digest"] != rows[1][0]["split_digest"]:
        notes.append("The two were trained on different splits; their test images are the same.")
    return _comparison(board, rows, overall, by_class, level, notes)


def _kept(record: dict[str, Any]) -> dict[str, Any]:
    check_whole(record)
    return record


def _asked(metric: str | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(metrics overall, metrics by class)."""
    if metric is None:
        return OVERALL, BY_CLASS
    name = normalise(metric)
    if name in CLASS_METRICS:
        return (), (name,)
    if name not in METRICS:
        raise UsageError(suggest("metric", metric, [*METRICS, *CLASS_METRICS]))
    return (name,), (_CLASS_METRIC_OF[name],) if name in _CLASS_METRIC_OF else ()


def _rows_of_one_protocol(
    records: Sequence[Record], names: tuple[str, str]
) -> tuple[list[Record], list[Record]]:
    """Both rows, from the one protocol that has them."""
    by_protocol: dict[str, list[Record]] = {}
    for record in records:
        by_protocol.setdefault(record["protocol"], []).append(record)
    if len(by_protocol) == 1:
        return find_row(records, names[0]), find_row(records, names[1])
    both = {}
    problems = []
    for protocol, found in by_protocol.items():
        try:
            both[protocol] = find_row(found, names[0]), find_row(found, names[1])
        except UsageError as error:
            problems.append(f"{protocol}: {error}")
    if len(both) == 1:
        return next(iter(both.values()))
    if both:
        raise UsageError(
            f"Both rows are there in {len(both)} protocols: {', '.join(both)}. Results of "
            "different protocols are not comparable; choose one with --protocol."
        )
    raise UsageError("No protocol has both rows.\n" + "\n".join(problems))


def _comparison(
    board: Board,
    rows: tuple[list[Record], list[Record]],
    overall: tuple[str, ...],
    by_class: tuple[str, ...],
    level: float,
    notes: list[str],
) -> Comparison:
    keys = (rows[0][0]["key"], rows[1][0]["key"])
    labels, shared = _told_apart([found[0]["label"] for found in rows], keys)
    tested = board.tested
    classes = [c for c in range(len(tested.class_names)) if (tested.targets == c).any()]
    families: list[list[tuple[str, int | None]]] = [[(name, None) for name in overall]]
    families += [[(f"class.{name}", c) for c in classes] for name in by_class]
    lines = [line for family in families for line in _lines(board, keys, labels, family, level)]
    return Comparison(
        *labels,
        keys,
        (board.seeds(keys[0]), board.seeds(keys[1])),
        rows[0][0]["dataset"],
        rows[0][0]["protocol"],
        len(tested.ids),
        tested.num_groups,
        tested.group_noun if tested.grouped else "image",
        level,
        tuple(lines),
        (*shared, *notes, *_alone(board)),
    )


def _told_apart(
    labels: Sequence[str], keys: tuple[str, str]
) -> tuple[tuple[str, str], tuple[str, ...]]:
    """Two names, and a note of the settings that both have, which the names then leave out."""
    first, second = (_SETTINGS.split(label) for label in labels)
    if first == second:
        return (f"{labels[0]} {keys[0][:8]}", f"{labels[1]} {keys[1][:8]}"), ()
    shared = [word for word in first[1:] if word in second[1:]]
    names = [
        " ".join([words[0], *(word for word in words[1:] if word not in shared)])
        for words in (first, second)
    ]
    note = (f"Both rows: {', '.join(shared)}.",) if shared else ()
    return (names[0], names[1]), note


def _alone(board: Board) -> list[str]:
    """The classes that resampling cannot vary."""
    tested = board.tested
    single = [tested.class_names[c] for c in np.flatnonzero(tested.holds.sum(axis=0) == 1)]
    if not single:
        return []
    noun = tested.group_noun if tested.grouped else "image"
    return [
        f"With one {noun} each, {', '.join(single)} cannot be resampled: intervals do not cover "
        "how they vary."
    ]


def _lines(
    board: Board,
    keys: tuple[str, str],
    labels: tuple[str, str],
    family: Sequence[tuple[str, int | None]],
    level: float,
) -> list[Line]:
    """One family, from the cache of the two rows where it is there."""

    def compute() -> list[dict[str, Any]]:
        pairs = differences(board, [(*keys, name, c) for name, c in family], level)
        means = [[mean_of(board, key, *one, level) for key in keys] for one in family]
        return [
            {"paired": vars(pair), "means": [vars(mean) for mean in two]}
            for pair, two in zip(pairs, means, strict=True)
        ]

    if not family:
        return []
    path = derived.shared_folder(board.first_run) / "pairs" / f"{board.digest[:32]}.json"
    names = sorted({name for name, _ in family})
    name = f"compare {keys[0]} {keys[1]} {' '.join(names)} {level:g}"
    found = derived.kept(path, name, board.digest, compute)
    return [
        _line(board, labels, one, Paired(**entry["paired"]), [Mean(**m) for m in entry["means"]])
        for one, entry in zip(family, found, strict=True)
    ]


def _line(
    board: Board,
    labels: tuple[str, str],
    asked: tuple[str, int | None],
    paired: Paired,
    means: list[Mean],
) -> Line:
    name, index = asked
    tested = board.tested
    if index is None:
        of_class, images, groups, where = None, len(tested.ids), tested.num_groups, tested.said()
        named = None
    else:
        of_class = named = tested.class_names[index]
        images, groups = int((tested.targets == index).sum()), int(tested.holds[:, index].sum())
        plural = "s" if images > 1 else ""
        where = f"{images} {of_class} test image{plural}"
        if not of_class[:1].isalpha():  # "52 0 test images" could not be read
            named = f"class {of_class}"
            where = f"{images} test image{plural} of {named}"
        if tested.grouped:
            where += f" of {groups} {tested.group_noun}{'s' if groups > 1 else ''}"
    what: Measured = measured(name, where, named)
    return Line(
        name.removeprefix("class."),
        of_class,
        images,
        groups,
        means[0],
        means[1],
        paired,
        (verdict(*labels, what, paired), smallest_gain(what, paired)),
    )


def _row_words(record: Record, records: Sequence[Record]) -> str:
    seeds = sorted(r["seed"] for r in records if r["key"] == record["key"])
    return (
        f"{record['key'][:8]}  {record['label']}, {record['protocol']}, seeds "
        f"{', '.join(map(str, seeds))}"
    )
