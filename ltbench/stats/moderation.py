"""The seeds' variance of each pair of rows, drawn towards that of all pairs of a table.

Five seeds say little about a variance, and the corrected level of a hundred comparisons asks much
of it: Student's t of 4 degrees of freedom is then 11, where that of many is 3.5. How much seeds
move results is, however, similar for the methods of one table, and all of them together know it
well. As in limma, the variance s^2 of a pair, with d degrees of freedom, becomes

    (d0 s0^2 + d s^2) / (d0 + d)        with d0 + d degrees of freedom

where s0^2 and d0 are fitted to all pairs: d0 is large where their variances differ no more than
chance explains, and small where rows differ truly.

Source: G. K. Smyth, Linear Models and Empirical Bayes Methods for Assessing Differential Expression
in Microarray Experiments, Statistical Applications in Genetics and Molecular Biology 3 (2004),
article 3, section 6.2.

Departures: d0 + d is at most (S - 1) (rows - 1), the degrees of freedom that the runs have in all,
since pairs that share a row are not independent; s0^2 is then the plain mean. Pairs whose
difference is the same for every seed, as that of accuracies on few images may be, are drawn towards
s0^2 like the others but left out of the fit: the logarithm of their 0, or of what rounding made of
it, would decide it alone (limma puts 1e-5 of the median in its place).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ltbench.stats.crossed import Estimate

_FEWEST_PAIRS = 3
_ROUNDING = 1e-12  # of the largest variance: less is what rounding makes of 0


def moderated(estimates: Sequence[Estimate], num_rows: int) -> list[Estimate]:
    """The same differences, their seeds' variances fitted together.

    Args:
        estimates: of pairs of rows, in one metric; those of unpaired seeds stay as they are.
        num_rows: of the table.
    """
    found = [(index, *one.seeds[0]) for index, one in enumerate(estimates) if len(one.seeds) == 1]
    variances, freedoms = (np.array([one[i] for one in found], dtype=np.float64) for i in (1, 2))
    vary = variances > _ROUNDING * variances.max(initial=0.0)
    if vary.sum() < _FEWEST_PAIRS:
        return list(estimates)
    most = float(freedoms.mean()) * (num_rows - 2)
    prior, prior_freedom = _prior(variances[vary], freedoms[vary], most)
    made = list(estimates)
    for (index, *_), variance, freedom in zip(found, variances, freedoms, strict=True):
        total = float(prior_freedom + freedom)
        drawn = float((prior_freedom * prior + freedom * variance) / total)
        made[index] = replace(estimates[index], seeds=((drawn, total),))
    return made


def _prior(variances: np.ndarray, freedoms: np.ndarray, most: float) -> tuple[float, float]:
    """(s0^2, d0): the mean of log s^2 and what its spread has beyond chance."""
    from scipy.special import digamma, polygamma

    logs = np.log(variances) - digamma(freedoms / 2) + np.log(freedoms / 2)
    excess = float(logs.var(ddof=1) - polygamma(1, freedoms / 2).mean())
    freedom = 2 * _inverse_trigamma(excess) if excess > 0 else np.inf
    if freedom >= most:
        return float(variances.mean()), most
    return float(np.exp(logs.mean() + digamma(freedom / 2) - np.log(freedom / 2))), freedom


def _inverse_trigamma(value: float) -> float:
    """The x with trigamma(x) = value > 0; trigamma falls from infinity to 0."""
    from scipy.optimize import brentq
    from scipy.special import polygamma

    def above(log_x: float) -> float:
        return float(np.log(polygamma(1, np.exp(log_x))) - np.log(value))

    return float(np.exp(brentq(above, -20.0, 20.0)))
