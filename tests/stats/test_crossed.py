"""Components of the uncertainty, intervals, p-values; Holm; seeds' variances fitted together."""

import numpy as np
import pytest
from scipy import stats

from ltbench.stats.crossed import Estimate, estimate
from ltbench.stats.holm import holm, holm_levels
from ltbench.stats.moderation import moderated

NORMAL = 1e9  # degrees of freedom


def values_by_image(random, num_images, num_seeds, seed_sd, image_sd, both_sd):
    return (
        random.normal(size=(1, num_seeds)) * seed_sd
        + random.normal(size=(num_images, 1)) * image_sd
        + random.normal(size=(num_images, num_seeds)) * both_sd
    )


def resampled_mean(values, random, num_resamples):
    """(1 + B, S): the mean over images, on the data and on each resample."""
    count = len(values)
    weights = random.multinomial(count, np.full(count, 1 / count), size=num_resamples)
    return np.vstack([values.mean(axis=0), weights @ values / count])


def test_the_parts_by_brute_force():
    """A bootstrap that draws images and seeds by loops has the variance that follows from them."""
    random = np.random.default_rng(0)
    values = values_by_image(random, 30, 4, 0.2, 1.0, 0.8)
    correction = 30 / 29
    found = estimate(values.mean(axis=0), resampled_mean(values, random, 20_000), correction, 29)
    ((seeds, freedom),) = found.seeds
    assert freedom == 3
    assert seeds == pytest.approx(values.mean(axis=0).var(ddof=1) / 4)
    assert found.sampling == pytest.approx(values.mean(axis=1).var(ddof=1) / 30, rel=0.05)
    residual = values - values.mean(axis=0) - values.mean(axis=1, keepdims=True) + values.mean()
    assert found.both == pytest.approx((residual**2).sum() / (29 * 3) / (30 * 4), rel=0.05)

    drawn = []
    for _ in range(6000):
        images, columns = random.integers(0, 30, 30), random.integers(0, 4, 4)
        drawn.append(values[np.ix_(images, columns)].mean())
    both_drawn = found.sampling / correction + 3 / 4 * (seeds + found.both / correction)
    assert np.var(drawn) == pytest.approx(both_drawn, rel=0.08)


def test_one_seed_covers_images_alone():
    random = np.random.default_rng(1)
    values = values_by_image(random, 40, 1, 0.5, 1, 0)
    found = estimate(values.mean(axis=0), resampled_mean(values, random, 3000), 40 / 39, 39)
    assert found.seeds == ()
    assert found.standard_error == pytest.approx(values.std(ddof=1) / 40**0.5, rel=0.05)
    width = stats.t.ppf(0.975, 39) * found.standard_error
    assert found.half_width(0.05) == pytest.approx(width)


def test_the_interval_is_students_where_one_part_is_all():
    of_images = Estimate(1.0, 0.04, 9.0, ((0.0, 4),), 0.0)
    assert of_images.half_width(0.05) == pytest.approx(stats.t.ppf(0.975, 9) * 0.2)
    of_seeds = Estimate(1.0, 1e-30, 9.0, ((0.04, 4),), 0.0)
    assert of_seeds.half_width(0.05) == pytest.approx(stats.t.ppf(0.975, 4) * 0.2)
    assert of_seeds.p_value() == pytest.approx(2 * stats.t.sf(5, 4))


def test_never_narrower_than_by_images_alone():
    """Five seeds that happen to agree do not make the images more telling."""
    found = Estimate(0.1, 0.04, NORMAL, ((0.0, 4),), 0.05)
    assert found.standard_error == pytest.approx(0.2)
    assert found.half_width(0.05) == pytest.approx(1.96 * 0.2, rel=1e-4)


@pytest.mark.parametrize("value", [0.0, 0.1, -0.5, 2.0, 30.0])
def test_p_and_interval_say_the_same(value):
    found = Estimate(value, 0.03, 25.0, ((0.02, 4),), 0.01)
    p = found.p_value()
    for alpha in (0.2, 0.05, 0.05 / 45):
        assert (p < alpha) == (found.half_width(alpha) < abs(value))
    if 0 < abs(value) < 5:
        assert found.half_width(p) == pytest.approx(abs(value))


def test_what_cannot_be_told():
    assert Estimate(0.5, 0.0, 0.0).half_width(0.05) is None
    assert Estimate(0.5, 0.0, 10.0).p_value() is None, "no resample differs: too few images"
    assert Estimate(0.0, 0.0, 10.0).p_value() == 1.0
    assert Estimate(0.5, 0.0, 10.0).detectable(0.05) is None
    undefined = np.full((11, 2), np.nan)
    undefined[0] = 0.5
    assert estimate(np.array([0.5, 0.5]), undefined, 1.0, 9.0).standard_error is None


def test_the_smallest_difference_that_shows():
    """By simulation: found four times in five."""
    error = 0.2
    found = Estimate(0.0, error**2, NORMAL)
    gain = found.detectable(0.05)
    assert gain == pytest.approx((1.959964 + 0.841621) * error, rel=1e-5)
    measured = np.random.default_rng(0).normal(gain, error, 20_000)
    assert np.mean(np.abs(measured) > found.half_width(0.05)) == pytest.approx(0.8, abs=0.01)


@pytest.mark.parametrize(("seed_sd", "image_sd", "both_sd"), [
    (0.0, 1.0, 0.0), (0.3, 1.0, 1.0), (1.0, 1.0, 0.5), (0.0, 0.0, 1.0),
])  # fmt: skip
def test_coverage_of_one_interval(seed_sd, image_sd, both_sd):
    """At least 95 %, whatever contributes; images are few, to be quick."""
    missed = 0
    for repeat in range(200):
        random = np.random.default_rng(repeat)
        values = values_by_image(random, 40, 5, seed_sd, image_sd, both_sd)
        found = estimate(values.mean(axis=0), resampled_mean(values, random, 200), 40 / 39, 39)
        missed += abs(found.value) > found.half_width(0.05)
    assert missed / 200 < 0.05 + 2.5 * (0.05 * 0.95 / 200) ** 0.5


@pytest.mark.services
def test_holm_is_that_of_statsmodels():
    from statsmodels.stats import multitest

    random = np.random.default_rng(0)
    for size in (1, 2, 7, 45):
        p = random.random(size) ** 3
        p[: size // 3] = p[0]  # ties
        assert holm(p) == pytest.approx(multitest.multipletests(p, method="holm")[1])
    assert holm([]) == []


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    levels = holm_levels([0.01, 0.04, 0.03, 0.005], 0.05)
    assert levels == pytest.approx([0.05 / 3, 0.05 / 2, 0.05 / 2, 0.05 / 4])


def test_intervals_at_holms_levels_agree_with_its_p_values():
    random = np.random.default_rng(1)
    for _ in range(200):
        p = random.random(6) ** 4
        levels, adjusted = holm_levels(p, 0.05), holm(p)
        claims = [one < level for one, level in zip(p, levels, strict=True)]
        assert claims == [one < 0.05 for one in adjusted]


def of_seeds(variances, freedom=4):
    return [Estimate(0.1, 0.01, 100.0, ((float(v), freedom),), 0.0) for v in variances]


def test_equal_rows_share_their_variance():
    random = np.random.default_rng(0)
    fitted = moderated(of_seeds(random.chisquare(4, 45) / 4), 10)
    ((variance, freedom),) = fitted[0].seeds
    assert freedom == 4 + 4 * 8, "as many as ten rows of five seeds have together"
    assert 0.6 < variance < 1.4


def test_rows_that_differ_keep_their_own():
    random = np.random.default_rng(0)
    true = np.exp(random.normal(size=400) * 1.5)
    fitted = moderated(of_seeds(true * random.chisquare(4, 400) / 4), 100)
    freedoms = {one.seeds[0][1] for one in fitted}
    assert len(freedoms) == 1
    assert 4 < freedoms.pop() < 7


def test_the_fit_finds_what_made_the_variances():
    """s0^2 d0 / chi^2(d0), as the method assumes."""
    random = np.random.default_rng(0)
    true = 2.0 * 10 / random.chisquare(10, 4000)
    fitted = moderated(of_seeds(true * random.chisquare(4, 4000) / 4), 4000)
    assert fitted[0].seeds[0][1] - 4 == pytest.approx(10, rel=0.2)
    drawn = np.array([one.seeds[0][0] for one in fitted])
    assert np.median(drawn / true) == pytest.approx(1, rel=0.1)


@pytest.mark.parametrize("nothing", [0.0, 1e-34])
def test_a_pair_without_spread_does_not_decide_the_fit(nothing):
    """A difference of accuracies on few images is easily the same for every seed."""
    random = np.random.default_rng(0)
    variances = random.chisquare(4, 45) / 4
    variances[0] = nothing  # as it is, or as rounding leaves it
    fitted = moderated(of_seeds(variances), 10)
    ((variance, freedom),) = fitted[1].seeds
    assert freedom > 20
    assert 0.6 < variance < 1.4
    ((variance, _),) = fitted[0].seeds
    assert 0.6 < variance < 1.4, "one pair alone knows no better than all of them"


def test_few_pairs_and_single_seeds_stay():
    few = of_seeds([1.0, 2.0])
    assert moderated(few, 3) == few
    single = [Estimate(0.1, 0.01, 9.0)] * 4
    assert moderated(single, 4) == single
