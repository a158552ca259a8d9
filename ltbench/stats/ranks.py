"""Ranks of methods over data sets: what a critical-difference diagram shows.

Friedman's test says whether any method's ranks differ, Nemenyi's which pairs do. Both take the data
sets for independent ones, and need about six of them to say anything (Demsar, Statistical
Comparisons of Classifiers over Multiple Data Sets, JMLR 7 (2006), 1-30).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any, Final

from ltbench.errors import DataMissingError, UsageError
from ltbench.metrics import METRICS
from ltbench.registry import DATASETS
from ltbench.stats.board import check_metric

if TYPE_CHECKING:
    import numpy as np

FEWEST_SETS: Final = 6
FEWEST_METHODS: Final = 3

Record = Mapping[str, Any]
Origins = Callable[[str], frozenset[str]]


@dataclass(frozen=True)
class CriticalDifference:
    """What a critical-difference diagram draws.

    Attributes:
        metric: a name of `METRICS`.
        average_ranks: of each row's label, best (smallest) first; equal scores share a rank.
        critical_difference: ranks closer than this are not separable (Nemenyi).
        cliques: maximal runs of labels, in order of rank, none of which is separable from another.
        p_friedman: of no method being different.
        p_nemenyi: by pair of labels, the better first.
        data_sets: that were ranked, with their protocol.
        left_out: data set and protocol: why it was not.
        level: such as 0.95.
        estimator: how it was computed, in words.
    """

    metric: str
    average_ranks: Mapping[str, float]
    critical_difference: float
    cliques: tuple[tuple[str, ...], ...]
    p_friedman: float
    p_nemenyi: Mapping[tuple[str, str], float]
    data_sets: tuple[tuple[str, str], ...]
    left_out: Mapping[tuple[str, str], str]
    level: float
    estimator: str


def image_origins(dataset: str) -> frozenset[str]:
    """What a data set's plugin declares; empty where there is none, as then nothing is known."""
    try:
        declared: frozenset[str] = DATASETS[dataset].image_origins
    except (UsageError, DataMissingError):
        return frozenset()
    return declared


def critical_difference(
    records: Iterable[Record],
    metric: str,
    *,
    level: float = 0.95,
    origins: Origins = image_origins,
) -> CriticalDifference:
    """Rank the rows of records over their data sets, each by its mean over seeds.

    Rows are told apart by label. Of data sets that share pictures the one with the most test images
    counts; so does one protocol of a data set.

    Args:
        records: of finished runs, of any data sets and protocols.
        metric: a name of `METRICS`.
        level: such as 0.95.
        origins: gives the collections a data set's pictures were taken from.

    Raises:
        UsageError: fewer than six independent data sets or three methods, a label with several
            configurations on one data set, or no such metric; the message says which.
        DataMissingError: scikit-posthocs is not installed.
    """
    name = check_metric(metric)
    scores, sizes = _scores(list(records), name)
    labels = sorted({label for by_label in scores.values() for label in by_label})
    if len(labels) < FEWEST_METHODS:
        raise UsageError(
            f"A critical-difference diagram needs {FEWEST_METHODS} or more methods; these runs are "
            f"of {len(labels)}. Compare two with `compare`."
        )
    used, left_out = _independent(scores, sizes, labels, origins)
    if len(used) < FEWEST_SETS:
        why = "".join(f"\n  {where[0]}, {where[1]}: {why}" for where, why in left_out.items())
        named = f" ({', '.join(dataset for dataset, _ in used)})" if used else ""
        raise UsageError(
            f"A critical-difference diagram needs {FEWEST_SETS} or more independent data sets on "
            f"which every method was run; there are {len(used)}{named}. Run the methods on more "
            f"data sets, or show a table of each.{' Left out:' if why else ''}{why}"
        )
    table = [[scores[where][label] for label in labels] for where in used]
    return _ranked(name, labels, table, used, left_out, level)


def _scores(
    records: Sequence[Record], metric: str
) -> tuple[dict[tuple[str, str], dict[str, float]], dict[tuple[str, str], int]]:
    """By (data set, protocol): each label's mean over seeds, and the number of test images."""
    keys: dict[tuple[str, str], dict[str, set[str]]] = {}
    values: dict[tuple[str, str], dict[str, list[float | None]]] = {}
    sizes: dict[tuple[str, str], int] = {}
    for record in records:
        where, label = (record["dataset"], record["protocol"]), record["label"]
        keys.setdefault(where, {}).setdefault(label, set()).add(record["key"])
        found = METRICS[metric].read(record["metrics"]["test"])
        values.setdefault(where, {}).setdefault(label, []).append(found)
        sizes[where] = record["metrics"]["test"]["num_images"]
    for where, by_label in keys.items():
        several = [label for label, found in by_label.items() if len(found) > 1]
        if several:
            raise UsageError(
                f"'{several[0]}' has {len(by_label[several[0]])} configurations on {where[0]}, "
                f"{where[1]}. Expected one: leave the others' runs out."
            )
    means: dict[tuple[str, str], dict[str, float]] = {}
    for where, found_by_label in values.items():
        means[where] = {}
        for label, found_values in found_by_label.items():
            known = [value for value in found_values if value is not None]
            if len(known) == len(found_values):
                means[where][label] = fmean(known)
    return means, sizes


def _independent(
    scores: Mapping[tuple[str, str], Mapping[str, float]],
    sizes: Mapping[tuple[str, str], int],
    labels: Sequence[str],
    origins: Origins,
) -> tuple[tuple[tuple[str, str], ...], dict[tuple[str, str], str]]:
    """(the data sets that count, why the others do not); large ones first, then by name."""
    used: dict[tuple[str, str], frozenset[str]] = {}
    left_out: dict[tuple[str, str], str] = {}
    for where in sorted(scores, key=lambda one: (-sizes[one], one)):
        missing = [label for label in labels if label not in scores[where]]
        mine = origins(where[0])
        sharing = [other for other, theirs in used.items() if mine & theirs]
        if missing:
            left_out[where] = f"no result of {', '.join(missing)}"
        elif not mine:
            left_out[where] = "it does not say where its pictures are from (image_origins)"
        elif sharing:
            (dataset, _), common = sharing[0], sorted(mine & used[sharing[0]])
            left_out[where] = f"shares {', '.join(common)} with {dataset}, which counts already"
        else:
            used[where] = mine
    return tuple(sorted(used)), left_out


def _ranked(
    metric: str,
    labels: Sequence[str],
    table: Sequence[Sequence[float]],
    used: tuple[tuple[str, str], ...],
    left_out: Mapping[tuple[str, str], str],
    level: float,
) -> CriticalDifference:
    import numpy as np
    from scipy.stats import rankdata

    sign = -1.0 if METRICS[metric].higher_is_better else 1.0
    scores = sign * np.asarray(table, dtype=np.float64)
    num_sets, num_rows = scores.shape
    ranks = rankdata(scores, axis=1).mean(axis=0)
    order = [int(i) for i in np.argsort(ranks, kind="stable")]
    named = [labels[i] for i in order]
    p_friedman, p_pairs, critical = _tests(scores[:, order], level)
    return CriticalDifference(
        metric,
        {labels[i]: float(ranks[i]) for i in order},
        critical,
        _cliques(named, [float(ranks[i]) for i in order], critical),
        p_friedman,
        {
            (named[a], named[b]): float(p_pairs[a, b])
            for a in range(num_rows)
            for b in range(a + 1, num_rows)
        },
        used,
        dict(left_out),
        level,
        f"Friedman's test and Nemenyi's at {100 * level:g} % over {num_sets} independent data sets "
        f"and {num_rows} methods, each ranked by its mean {metric.replace('_', ' ')} over seeds",
    )


def _tests(scores: np.ndarray, level: float) -> tuple[float, np.ndarray, float]:
    """(p of Friedman's test, those of Nemenyi's by pair, critical difference of ranks).

    Args:
        scores: (data sets, methods), smaller is better.
    """
    import numpy as np
    from scipy.stats import friedmanchisquare, studentized_range

    try:
        from scikit_posthocs import posthoc_nemenyi_friedman
    except ImportError as error:
        raise DataMissingError(
            'A critical-difference diagram needs scikit-posthocs: pip install "ltbench[stats]".'
        ) from error
    num_sets, num_rows = scores.shape
    spread = float(studentized_range.ppf(level, num_rows, np.inf)) / math.sqrt(2)
    critical = spread * math.sqrt(num_rows * (num_rows + 1) / (6 * num_sets))
    constant = bool((scores == scores[:, :1]).all())  # Friedman's statistic is 0 / 0
    p_friedman = 1.0 if constant else float(friedmanchisquare(*scores.T).pvalue)
    return p_friedman, np.asarray(posthoc_nemenyi_friedman(scores)), critical


def _cliques(
    labels: Sequence[str], ranks: Sequence[float], critical: float
) -> tuple[tuple[str, ...], ...]:
    """Runs of two or more neighbours within the critical difference, none inside another."""
    found: list[tuple[str, ...]] = []
    reached = 0
    for start in range(len(labels)):
        end = max(i for i in range(start, len(ranks)) if ranks[i] - ranks[start] < critical) + 1
        if end - start > 1 and end > reached:
            found.append(tuple(labels[start:end]))
        reached = max(reached, end)
    return tuple(found)
