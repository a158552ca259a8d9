"""Proportions and their intervals."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from ltbench.clinical.proportions import CLUSTERED, EXACT, proportion


@pytest.mark.parametrize(("hits", "total"), [(0, 7), (3, 7), (7, 7), (1, 1), (0, 1), (91, 111)])
@pytest.mark.parametrize("level", [0.9, 0.95, 0.99])
def test_without_groups_it_is_clopper_and_pearsons(hits, total, level):
    got = proportion(np.arange(total) < hits, level=level)
    expected = binomtest(hits, total).proportion_ci(level, method="exact")
    assert (got.low, got.high) == pytest.approx((expected.low, expected.high), abs=1e-9)
    assert (got.value, got.hits, got.total) == (hits / total, hits, total)
    assert (got.num_groups, got.effective, got.estimator) == (total, total, EXACT)


def test_nothing_is_undefined_and_not_zero():
    got = proportion(np.zeros(0, dtype=bool), np.zeros(0, dtype=np.str_))
    assert (got.value, got.low, got.high, got.total) == (None, None, None, 0)


def test_groups_of_one_image_change_nothing():
    hits = np.array([True, False, True, True])
    alone = np.array(["a", "b", "c", "d"])
    assert proportion(hits, alone) == proportion(hits)


def test_copies_of_lesions_are_no_further_lesions():
    """Ten lesions, each photographed five times with one outcome, say little more than ten."""
    once = np.array([True] * 6 + [False] * 4)
    several, names = np.repeat(once, 5), np.repeat([f"l{i}" for i in range(10)], 5)
    one, many, naive = proportion(once), proportion(several, names), proportion(several)
    assert many.estimator == CLUSTERED
    assert many.num_groups == 10
    assert many.effective == pytest.approx(9, abs=2.5)
    assert many.high - many.low >= one.high - one.low
    assert many.high - many.low > 1.5 * (naive.high - naive.low)


def test_effective_number_by_hand():
    """p = 3/5; groups a: 2 of 2, b: 1 of 3. v = 2 / 1 * ((2 - 1.2)^2 + (1 - 1.8)^2) / 25."""
    from scipy.stats import t

    hits = np.array([True, True, True, False, False])
    got = proportion(hits, np.array(["a", "a", "b", "b", "b"]))
    variance = 2 * (0.8**2 + 0.8**2) / 25
    few = (t.ppf(0.975, 4) / t.ppf(0.975, 1)) ** 2
    assert got.effective == pytest.approx(0.6 * 0.4 / variance * few)


def test_where_all_are_right_groups_count():
    got = proportion(np.ones(50, dtype=bool), np.repeat(np.arange(10).astype(str), 5))
    expected = binomtest(10, 10).proportion_ci(0.95, method="exact")
    assert (got.value, got.effective) == (1.0, 10)
    assert (got.low, got.high) == pytest.approx((expected.low, 1.0))


def test_the_interval_covers_where_lesions_have_several_images():
    """Simulated lesions whose images agree with each other; the plain interval falls short."""
    rng = np.random.default_rng(0)
    truth, covered, plain_covered, trials = 0.8, 0, 0, 300
    for _ in range(trials):
        sizes = rng.geometric(0.4, size=40)
        rates = rng.beta(truth, 1 - truth, size=40)  # intra-lesion correlation 0.5
        hits = rng.random(sizes.sum()) < np.repeat(rates, sizes)
        got = proportion(hits, np.repeat(np.arange(40).astype(str), sizes))
        plain = proportion(hits)
        covered += got.low <= truth <= got.high
        plain_covered += plain.low <= truth <= plain.high
    assert covered / trials > 0.91
    assert plain_covered / trials < 0.88


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=1, max_size=40))
def test_properties(pairs):
    hits = np.array([hit for hit, _ in pairs])
    groups = np.array([str(group) for _, group in pairs])
    got = proportion(hits, groups)
    assert 0 <= got.low <= got.value <= got.high <= 1
    assert 0 < got.effective <= got.total
    order = np.random.default_rng(len(pairs)).permutation(len(pairs))
    again = proportion(hits[order], groups[order])
    assert (again.low, again.high) == pytest.approx((got.low, got.high), abs=1e-12)
