"""Which groups a resample holds."""

import numpy as np
import pytest

from ltbench.stats import resamples as drawing
from ltbench.stats.resamples import GroupedImages, resample


def lesions(groups_of_classes):
    """Groups as lists of the classes of their images."""
    targets = np.array([c for group in groups_of_classes for c in group])
    groups = np.repeat(np.arange(len(groups_of_classes)), [len(g) for g in groups_of_classes])
    ids = np.array([f"i{i:03d}" for i in range(len(targets))])
    return GroupedImages(ids, targets, tuple("abcd"), groups, True, "lesion")


def test_every_class_keeps_its_groups():
    made = lesions([[0]] * 9 + [[1], [1, 1], [1]] + [[2]] + [[3, 3]] * 2)
    again = resample(made, num_resamples=300)
    for c in range(4):
        members = made.holds[:, c]
        assert (again.counts[members].sum(axis=0) == members.sum()).all()
    assert (again.counts[12] == 1).all(), "a class of one group is in every resample, once"
    assert again.counts[:9].min() == 0
    assert again.counts.mean() == 1


def test_images_of_a_group_go_together():
    made = lesions([[0, 0, 0], [0], [0, 0]])
    (block,) = resample(made, num_resamples=50).blocks()
    assert (block[:, 0] == 1).all()
    for group in range(3):
        rows = block[made.groups == group]
        assert (rows == rows[0]).all()


def test_groups_with_several_classes_are_drawn_among_their_like():
    made = lesions([[0, 1], [1, 0, 0], [0], [0], [1], [1], [1]])
    again = resample(made, num_resamples=200)
    assert (again.counts[:2].sum(axis=0) == 2).all()
    for c in (0, 1):
        members = made.holds[:, c]
        assert (again.counts[members].sum(axis=0) == members.sum()).all()


def test_combinations_of_their_own_share_a_stratum_by_the_rarest_class():
    made = lesions([[0]] * 6 + [[1]] * 5 + [[2, 0], [2, 1], [2, 0, 1]])
    again = resample(made, num_resamples=400)
    assert len(set(again.strata[11:].tolist())) == 1
    assert again.counts[11:].min() == 0, "they do vary"
    assert (again.counts[11:].sum(axis=0) == 3).all()


# Each combination is the only one; classes 0 and 1 are the rarest of two each, and class 2 lies in
# one group of either stratum.
TANGLED = [[3]] * 6 + [[0, 3], [0, 2], [1, 2], [1, 3]]


def test_no_class_is_lost():
    again = resample(lesions(TANGLED), num_resamples=400)
    assert again.counts[[7, 8]].max(axis=0).min() == 1, "class 2 is in every resample"
    assert (again.counts[6:].min(axis=1) == 0).all(), "and each of its groups in some only"


def test_groups_stay_where_too_many_draws_lose_a_class(monkeypatch):
    monkeypatch.setattr(drawing, "_MOST_ROUNDS", 1)
    again = resample(lesions(TANGLED), num_resamples=50)
    assert (again.counts[6:] == 1).all()
    assert again.counts[:6].min() == 0


def test_the_same_seed_draws_the_same():
    made = lesions([[0]] * 20 + [[1]] * 7)
    one, same, other = (resample(made, num_resamples=40, seed=s).counts for s in (5, 5, 6))
    assert (one == same).all()
    assert (one != other).any()


def test_draws_do_not_depend_on_how_many_are_made_at_once(monkeypatch):
    made = lesions([[0]] * 20 + [[1]] * 7)
    whole = resample(made, num_resamples=40).counts
    monkeypatch.setattr(drawing, "_DRAWN_AT_ONCE", 60)
    assert (resample(made, num_resamples=40).counts == whole).all()


def test_variance_and_degrees_of_freedom():
    """A mean over n groups: variance s^2 / n, n - 1 degrees of freedom."""
    made = lesions([[0]] * 12 + [[1]] * 5 + [[2]])
    again = resample(made, num_resamples=20_000)
    correction, freedom = again.reach([1])
    assert freedom == pytest.approx(4)
    assert correction == pytest.approx(5 / 4)
    values = np.array([0.0, 1, 1, 0, 1])
    means = values @ again.counts[12:17] / 5
    assert correction * means.var() == pytest.approx(values.var(ddof=1) / 5, rel=0.03)
    assert again.reach([2]) == (1.0, 0.0), "one group says nothing"
    shares = np.array([1 / 12, 1 / 5])
    wanted = shares.sum() ** 2 / (shares**2 / [11, 4]).sum()
    assert again.reach([0, 1, 2])[1] == pytest.approx(wanted)
    assert again.reach(None)[1] == pytest.approx((12 + 5) ** 2 / (144 / 11 + 25 / 4))
