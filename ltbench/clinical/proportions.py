"""A proportion with its interval, where several images of one group do not count as several."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

__all__ = ["LEVEL", "Proportion", "proportion"]

LEVEL: Final = 0.95
EXACT: Final = "exact binomial (Clopper-Pearson)"
CLUSTERED: Final = "Clopper-Pearson on the effective number of images (Korn-Graubard)"


@dataclass(frozen=True)
class Proportion:
    """hits / total, with an interval.

    Attributes:
        value: None where `total` is 0.
        low, high: None with it.
        num_groups: groups (lesions, patients) that the `total` belong to; `total` without groups.
        effective: independent images that carry as much information; at most `total`.
        level: of the interval, two-sided.
        estimator: how the interval was made, in words.
    """

    value: float | None
    low: float | None
    high: float | None
    hits: int
    total: int
    num_groups: int
    effective: float
    level: float
    estimator: str


def proportion(
    hits: np.ndarray, groups: np.ndarray | None = None, *, level: float = LEVEL
) -> Proportion:
    """The share of hits and its interval.

    Without groups of several, the exact binomial interval: the values q for which
    P(X <= hits | q) and P(X >= hits | q) are both at least (1 - level) / 2. With them, the same of
    the effective number of images

        n_eff = min(n, p (1 - p) / v * (t_{n-1} / t_{m-1})^2),
        v = m / (m - 1) * sum over groups g of (hits_g - p n_g)^2 / n^2

    for m groups of n_g images, where v is the variance of p between groups and t_k Student's
    quantile at (1 + level) / 2 with k degrees of freedom. Where all are hits, or none, v says
    nothing, and n_eff is m.

    Args:
        hits: bool (n,).
        groups: what each belongs to, str (n,); None where each stands alone.

    Source: Clopper and Pearson, Biometrika 26, 1934; Korn and Graubard, Survey Methodology 24,
    1998, pages 193 to 201.
    Departures: n_eff is not above n, so that groups never narrow an interval.
    """
    total, found = len(hits), int(np.count_nonzero(hits))
    num_groups = total if groups is None else len(np.unique(groups))
    clustered = groups is not None and num_groups < total
    if total == 0:
        return Proportion(None, None, None, 0, 0, 0, 0.0, level, EXACT)
    effective = float(total)
    if groups is not None and clustered:
        effective = _effective(hits, groups, level)
    low, high = _clopper_pearson(found / total, effective, level)
    estimator = CLUSTERED if clustered else EXACT
    value = found / total
    return Proportion(value, low, high, found, total, num_groups, effective, level, estimator)


def _clopper_pearson(share: float, number: float, level: float) -> tuple[float, float]:
    """For any positive number of trials, through quantiles of the beta distribution."""
    from scipy.stats import beta

    tail, hits = (1 - level) / 2, share * number
    low = 0.0 if share == 0 else float(beta.ppf(tail, hits, number - hits + 1))
    high = 1.0 if share == 1 else float(beta.ppf(1 - tail, hits + 1, number - hits))
    return low, high


def _effective(hits: np.ndarray, groups: np.ndarray, level: float) -> float:
    from scipy.stats import t

    _, members = np.unique(groups, return_inverse=True)
    sizes = np.bincount(members)
    num, share = len(hits), float(hits.mean())
    found = np.bincount(members, weights=hits)
    if share in (0.0, 1.0) or len(sizes) == 1:
        return float(len(sizes))
    between = float(np.square(found - share * sizes).sum())
    if between == 0.0:  # every group has the same share: nothing says that they depend
        return float(num)
    variance = len(sizes) / (len(sizes) - 1) * between / num**2
    at = (1 + level) / 2
    few = float(t.ppf(at, num - 1) / t.ppf(at, len(sizes) - 1)) ** 2
    return float(min(num, share * (1 - share) / variance * few))
