"""What a larger budget would have brought: the expected best of k trials."""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Sequence

__all__ = ["best_so_far", "expected_best"]


def expected_best(values: Sequence[float]) -> list[float]:
    """E_k for k = 1..N: the mean over all subsets of k values of their largest.

    With v_(1) <= ... <= v_(N), E_k = sum_i v_(i) C(i-1, k-1) / C(N, k): v_(i) is the largest of
    those C(i-1, k-1) subsets whose other k-1 values lie below it. Drawn without replacement, it is
    unbiased for k draws from where the N came from; E_N is their maximum.

    Args:
        values: of the trials, in any order, at least one.

    Source: Dodge et al., "Show Your Work", EMNLP 2019, for the curve, where subsets are drawn with
        replacement, which is biased; Tang et al., "Showing Your Work Doesn't Always Work", ACL
        2020, for this form.
    """
    ranked = sorted(values)
    num = len(ranked)
    return [math.fsum(map(operator.mul, ranked, _shares(num, k))) for k in range(1, num + 1)]


def _shares(num: int, k: int) -> list[float]:
    """C(i-1, k-1) / C(N, k) for i = 1..N, from the last to the first without large numbers."""
    shares = [k / num]
    for below in range(num - 1, 0, -1):
        shares.append(shares[-1] * max(0, below - k + 1) / below)
    return shares[::-1]


def best_so_far(values: Sequence[float]) -> list[float]:
    """The largest of the first k values, for k = 1..N, in the order given."""
    return list(itertools.accumulate(values, max))
