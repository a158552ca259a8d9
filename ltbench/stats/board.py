"""Rows of runs that were tested on the same images, and their metrics on every resample."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np

from ltbench import derived, metrics
from ltbench.errors import UsageError, VerificationError
from ltbench.files import canonical_json, sha256_hex
from ltbench.metrics import METRICS, evaluate
from ltbench.predictions import Predictions
from ltbench.registry import suggest
from ltbench.results import PREDICTIONS, RunFolder, training_counts
from ltbench.stats.crossed import Estimate, estimate
from ltbench.stats.resamples import NUM_RESAMPLES, RANDOM_SEED, GroupedImages, Resamples, resample
from ltbench.stats.scores import CLASS_METRICS, averaged_classes, draws

Rows = Mapping[str, Sequence[RunFolder]]

_CODE: Final = (*Path(__file__).parent.glob("*.py"), Path(metrics.__file__))
_NUM_NAMED: Final = 3
_SAME: Final = 1e-9  # a recorded metric and the one computed again
_NEEDED: Final = {
    **dict.fromkeys(("label", "method", "key", "dataset", "protocol", "split_digest"), str),
    **{"seed": int, "train_counts": list, "metrics": dict},
}


class Board:
    """Runs by row and seed. Records are read at once, predictions when a metric is asked for.

    Attributes:
        runs: by row and seed.
        digest: of the predictions, what else the numbers follow from, and the code.
        num_resamples: B, and `seed` of their random numbers.
    """

    def __init__(
        self, rows: Rows, *, num_resamples: int = NUM_RESAMPLES, seed: int = RANDOM_SEED
    ) -> None:
        self.num_resamples, self.seed = num_resamples, seed
        records = {row: [(_whole(run), run) for run in runs] for row, runs in rows.items()}
        self.runs: dict[str, dict[int, RunFolder]] = {}
        self._records: dict[str, dict[int, Mapping[str, Any]]] = {}
        for row, pairs in sorted(records.items()):
            self.runs[row] = {}
            for record, run in sorted(pairs, key=lambda pair: int(pair[0]["seed"])):
                if record["seed"] in self.runs[row]:
                    raise VerificationError(
                        f"Two runs of one seed in row '{row}': {run.path} and "
                        f"{self.runs[row][record['seed']].path}. Expected one a seed."
                    )
                self.runs[row][record["seed"]] = run
                self._records.setdefault(row, {})[record["seed"]] = record
        if not all(self.runs.values()) or not self.runs:
            raise UsageError("Expected at least one row, and a finished run in each; got none.")
        self.digest = self._digest()
        self._draws: dict[tuple[str, int], dict[str, np.ndarray]] = {}
        self._points: dict[tuple[str, int], Mapping[str, Any]] = {}

    @property
    def first_run(self) -> RunFolder:
        """Of the first row."""
        return next(iter(next(iter(self.runs.values())).values()))

    @cached_property
    def tested(self) -> GroupedImages:
        """The images all runs were tested on.

        Raises:
            VerificationError: a run was tested on others, or its groups or classes differ.
        """
        first = self._predictions[next(iter(self._predictions))]
        groups = first.ids if first.groups is None else first.groups
        _, codes = np.unique(groups, return_inverse=True)
        record = next(iter(next(iter(self._records.values())).values()))
        noun = str((record.get("leak") or {}).get("noun") or "group")
        return GroupedImages(
            first.ids,
            first.targets,
            first.class_names,
            codes.reshape(-1).astype(np.int64),
            first.groups is not None,
            noun,
        )

    @cached_property
    def resamples(self) -> Resamples:
        """The same for every run of the board."""
        return resample(self.tested, num_resamples=self.num_resamples, seed=self.seed)

    def seeds(self, row: str) -> tuple[int, ...]:
        """Ascending."""
        return tuple(self.runs[row])

    def label(self, row: str) -> str:
        """What tables call the row."""
        return str(next(iter(self._records[row].values())).get("label", row))

    def values(self, row: str, name: str, class_index: int | None = None) -> np.ndarray | None:
        """The metric of each seed as `evaluate` gives it, (S,); None where one is undefined.

        Raises:
            VerificationError: a record says another number.
        """
        found = [self._value(row, seed, name, class_index) for seed in self.seeds(row)]
        return None if None in found else np.asarray(found, dtype=np.float64)

    def drawn(
        self, row: str, name: str, class_index: int | None = None, seeds: Iterable[int] = ()
    ) -> np.ndarray:
        """The metric on the test part and on every resample, (1 + B, S), of some seeds or all."""
        columns = []
        for seed in tuple(seeds) or self.seeds(row):
            known = self._draws.setdefault((row, seed), {})
            if name not in known:
                known |= draws(
                    self._predictions[row, seed],
                    self.resamples,
                    training_counts(self._records[row][seed]),
                    _asked_together(name),
                )
            columns.append(known[name] if class_index is None else known[name][:, class_index])
        return np.stack(columns, axis=1)

    def reach(self, name: str, class_index: int | None = None) -> tuple[float, float]:
        """See `Resamples.reach`."""
        if class_index is not None:
            return self.resamples.reach([class_index])
        support = np.bincount(self.tested.targets, minlength=len(self.tested.class_names))
        counts = training_counts(next(iter(next(iter(self._records.values())).values())))
        return self.resamples.reach(averaged_classes(name, support, counts))

    def estimate(self, row: str, name: str, class_index: int | None = None) -> Estimate | None:
        """The mean over seeds of one row; None where undefined for one of them."""
        values = self.values(row, name, class_index)
        if values is None:
            return None
        return estimate(values, self.drawn(row, name, class_index), *self.reach(name, class_index))

    def difference(
        self, row: str, other: str, name: str, class_index: int | None = None
    ) -> tuple[Estimate, tuple[int, ...]] | None:
        """The first row minus the other, over the seeds that both have, which are returned too.

        Rows without two seeds in common are compared with all of theirs: one pair says nothing of
        what seeds do, where all seeds of both do. None where the metric is undefined for one of the
        runs.
        """
        mine, theirs = (self.values(one, name, class_index) for one in (row, other))
        if mine is None or theirs is None:
            return None
        reach = self.reach(name, class_index)
        common = tuple(seed for seed in self.seeds(row) if seed in self.runs[other])
        if len(common) > 1 or (common and min(len(mine), len(theirs)) == 1):
            a, b = (self.drawn(one, name, class_index, common) for one in (row, other))
            at = [[self.seeds(one).index(seed) for seed in common] for one in (row, other)]
            return estimate(mine[at[0]] - theirs[at[1]], a - b, *reach), common
        a, b = (self.drawn(one, name, class_index) for one in (row, other))
        means = a.mean(axis=1, keepdims=True) - b.mean(axis=1, keepdims=True)
        whole = estimate(np.array([mine.mean() - theirs.mean()]), means, *reach)
        parts = [estimate(v, d, *reach) for v, d in ((mine, a), (theirs, b))]
        return parts[0].minus(parts[1], whole.sampling), ()

    def _value(self, row: str, seed: int, name: str, class_index: int | None) -> float | None:
        _ = self._predictions
        found = self._points[row, seed]
        if class_index is None:
            value = METRICS[name].read(found)
            _check_claimed(self._records[row][seed], value, name, self.runs[row][seed])
            return value
        value = found["per_class"][name.removeprefix("class.")][class_index]
        return None if value is None else float(value)

    @cached_property
    def _predictions(self) -> dict[tuple[str, int], Predictions]:
        found: dict[tuple[str, int], Predictions] = {}
        first: tuple[RunFolder, Predictions] | None = None
        for row, runs in self.runs.items():
            for seed, run in runs.items():
                stored = run.read_predictions("test")
                self._points[row, seed] = _evaluated(stored, self._records[row][seed], run)
                predictions = _sorted(stored, run)
                first = first or (run, predictions)
                _check_same(*first, run, predictions)
                found[row, seed] = predictions
        return found

    def _digest(self) -> str:
        runs = {
            row: [
                [
                    seed,
                    derived.predictions_file_digest(run),
                    training_counts(self._records[row][seed]),
                    _recorded(self._records[row][seed]),
                ]
                for seed, run in found.items()
            ]
            for row, found in self.runs.items()
        }
        parts = [runs, self.num_resamples, self.seed, derived.code_digest(_CODE)]
        return sha256_hex(canonical_json(parts).encode())


_REMEMBERED: dict[str, Board] = {}
_MOST_REMEMBERED: Final = 2


def board_of(rows: Rows) -> Board:
    """A board, or the one that was made before of the same predictions and still lies in memory."""
    board = Board(rows)
    if board.digest not in _REMEMBERED and len(_REMEMBERED) == _MOST_REMEMBERED:
        del _REMEMBERED[next(iter(_REMEMBERED))]
    return _REMEMBERED.setdefault(board.digest, board)


def check_metric(name: str) -> str:
    """The name, if resampling knows the metric.

    Raises:
        UsageError: it does not.
    """
    if name not in METRICS:
        raise UsageError(suggest("metric", name, list(METRICS)))
    return name


def _asked_together(name: str) -> list[str]:
    """Metrics that cost nothing more once one of them is computed."""
    if name in ("macro_auc", "class.auc"):
        return ["macro_auc", "class.auc"]
    if name in ("macro_auc_raw_logits", "nll", "brier", "ece"):
        return [name]
    apart = {"macro_auc", "macro_auc_raw_logits", "nll", "brier", "ece"}
    return [*(set(METRICS) - apart), *(f"class.{one}" for one in CLASS_METRICS if one != "auc")]


def check_whole(record: Mapping[str, Any], where: str = "it") -> None:
    """Whether a record has what comparisons read.

    Raises:
        VerificationError: a field is missing, or is not what it should be.
    """
    for name, kind in _NEEDED.items():
        if not isinstance(record.get(name), kind):
            raise VerificationError(
                f"{where} is not a whole record: expected '{name}' as {kind.__name__}, found "
                f"{record.get(name)!r:.40}. Restore it from a copy, or move it away and run it "
                "again."
            )


def check_recorded(run: RunFolder, name: str) -> None:
    """Whether a run's record has the metric that its test predictions give.

    Raises:
        VerificationError: it differs by more than 1e-9, or record or predictions are damaged.
    """
    record = _whole(run)
    found = _evaluated(run.read_predictions("test"), record, run)
    _check_claimed(record, METRICS[name].read(found), name, run)


def _whole(run: RunFolder) -> dict[str, Any]:
    record = run.record()
    check_whole(record, str(run.path / "record.json"))
    return record


def _recorded(record: Mapping[str, Any]) -> dict[str, float | None]:
    test = record["metrics"].get("test") or {}
    return {name: metric.read(test) for name, metric in METRICS.items()}


def _evaluated(
    predictions: Predictions, record: Mapping[str, Any], run: RunFolder
) -> Mapping[str, Any]:
    try:
        return evaluate(predictions, training_counts(record))
    except VerificationError as error:
        raise VerificationError(f"{run.path / PREDICTIONS}: {error}") from error


def _check_claimed(
    record: Mapping[str, Any], computed: float | None, name: str, run: RunFolder
) -> None:
    """Tables print the record's number, and compare the predictions': they must be one."""
    claimed = _recorded(record)[name]
    if claimed is not None and (computed is None or abs(claimed - computed) > _SAME):
        raise VerificationError(
            f"{run.path}: the record says {name} {claimed}, its predictions give {computed}. "
            "One of them was changed: restore it from a copy, or run the cell again."
        )


def _sorted(predictions: Predictions, run: RunFolder) -> Predictions:
    """In order of ids."""
    order = np.argsort(predictions.ids, kind="stable")
    ids = predictions.ids[order]
    twice = ids[1:][ids[1:] == ids[:-1]]
    if twice.size:
        raise VerificationError(
            f"{run.path / PREDICTIONS} has '{twice[0]}' more than once. Expected each image once."
        )
    groups = None if predictions.groups is None else predictions.groups[order]
    return replace(
        predictions,
        ids=ids,
        targets=predictions.targets[order],
        logits=predictions.logits[order],
        groups=groups,
        metadata={},
    )


def _check_same(run: RunFolder, one: Predictions, other_run: RunFolder, other: Predictions) -> None:
    """Raise VerificationError unless both are of the same images, classes, targets and groups."""
    where = f"{run.name} and {other_run.name} cannot be compared"
    if one.class_names != other.class_names:
        raise VerificationError(
            f"{where}: the classes are {', '.join(one.class_names)} in one and "
            f"{', '.join(other.class_names)} in the other. Expected the same, in the same order."
        )
    if not np.array_equal(one.ids, other.ids):
        lost = [np.setdiff1d(a.ids, b.ids) for a, b in ((one, other), (other, one))]
        said = [
            f"{len(ids)} only in {name}{_few(ids)}"
            for ids, name in zip(lost, (run.name, other_run.name), strict=True)
        ]
        raise VerificationError(
            f"{where}: they were tested on different images, {said[0]}, {said[1]}. Expected the "
            "same: compare runs of one protocol and split."
        )
    differ = one.targets != other.targets
    if differ.any():
        raise VerificationError(
            f"{where}: {differ.sum()} images have another class in one than in the other, first "
            f"'{one.ids[differ][0]}'. Expected the same labels."
        )
    mine, theirs = one.groups, other.groups
    if (mine is None) != (theirs is None) or (
        mine is not None and theirs is not None and not np.array_equal(mine, theirs)
    ):
        raise VerificationError(
            f"{where}: their images have other groups in one than in the other. Expected the same; "
            "run the older one again."
        )


def _few(ids: np.ndarray) -> str:
    names = ", ".join(map(str, ids[:_NUM_NAMED]))
    return f" ({names}{', ...' if len(ids) > _NUM_NAMED else ''})" if len(ids) else ""
