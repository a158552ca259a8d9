"""The budget curve against what it says it is: the mean over all subsets."""

from __future__ import annotations

import itertools
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ltbench.tuning.curve import best_so_far, expected_best

values = st.lists(st.floats(0, 1), min_size=1, max_size=8)


@given(values)
def test_expected_best_is_the_mean_over_subsets(found):
    for k, expected in enumerate(expected_best(found), start=1):
        largest = [max(subset) for subset in itertools.combinations(found, k)]
        assert expected == pytest.approx(statistics.fmean(largest), abs=1e-12)


@given(values)
def test_expected_best_from_the_mean_to_the_maximum(found):
    curve = expected_best(found)
    assert curve[0] == pytest.approx(statistics.fmean(found), abs=1e-12)
    assert curve[-1] == max(found)
    assert all(b >= a - 1e-12 for a, b in itertools.pairwise(curve))


def test_many_trials_neither_overflow_nor_vanish():
    curve = expected_best(range(1, 401))
    for k in (1, 2, 100, 399, 400):  # the mean of the largest of k of 1..N
        assert curve[k - 1] == pytest.approx(k * 401 / (k + 1), rel=1e-12)


def test_best_so_far():
    assert best_so_far([0.25, 0.5, 0.125, 0.75]) == [0.25, 0.5, 0.5, 0.75]
