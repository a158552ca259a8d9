"""Holm's correction: the chance of any false claim among many stays at the level of one.

Source: S. Holm, A Simple Sequentially Rejective Multiple Test Procedure, Scandinavian Journal of
Statistics 6 (1979), 65-70.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values, in the order given: max over j <= k of min(1, (m - j + 1) p_(j))."""
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    adjusted = np.empty(len(p))
    adjusted[order] = np.maximum.accumulate((len(p) - np.arange(len(p))) * p[order])
    return [float(value) for value in np.minimum(adjusted, 1.0)]


def holm_levels(p_values: Sequence[float], alpha: float) -> list[float]:
    """The error level of each comparison's interval, in the order given.

    Sorted by p-value, the k-th of m comparisons is tested at alpha / (m - k + 1), until the first
    that fails; that one and all after it have the level at which it failed. An interval at this
    level leaves 0 out exactly where the adjusted p-value is below alpha. The chance that any of
    them leaves out a difference of 0 is at most alpha. They are no joint region: intervals that
    leave 0 out may, together, miss the true sizes of their differences more often than that.
    """
    p = np.asarray(p_values, dtype=np.float64)
    levels = np.empty(len(p))
    order, level = np.argsort(p, kind="stable"), alpha
    for rank, index in enumerate(order):
        if rank == 0 or p[order[rank - 1]] < level:
            level = alpha / (len(p) - rank)
        levels[index] = level
    return [float(value) for value in levels]
