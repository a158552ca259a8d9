import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from ltbench.data.samplers import (
    SAMPLERS,
    choose_classes,
    class_probabilities,
    epoch_indices,
)
from ltbench.errors import UsageError

GOLDEN = Path(__file__).parents[1] / "golden" / "bbn_reverse_sampler.json"
COUNTS = np.array([500, 250, 100, 50, 10, 1])


def targets_of(counts):
    """Mixed up, so that a sampler that confuses position and class fails."""
    targets = np.repeat(np.arange(len(counts)), counts)
    return np.random.default_rng(0).permutation(targets)


def probabilities(name, counts=COUNTS, epoch=0, epochs=10):
    return class_probabilities(name, counts, epoch=epoch, epochs=epochs)


def test_instance_balanced_and_sqrt_follow_their_formula():
    np.testing.assert_allclose(probabilities("instance"), COUNTS / 911)
    np.testing.assert_allclose(probabilities(None), COUNTS / 911)
    np.testing.assert_allclose(probabilities("balanced"), np.full(6, 1 / 6))
    np.testing.assert_allclose(probabilities("sqrt"), COUNTS**0.5 / (COUNTS**0.5).sum())


def test_reversed_follows_the_formula_of_bbn():
    weights = np.array([1, 2, 5, 10, 50, 500])
    np.testing.assert_allclose(probabilities("reversed"), weights / weights.sum())


@pytest.mark.parametrize("case", [0, 1])
def test_reversed_agrees_with_the_authors_code(case):
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    ours = probabilities("reversed", np.array(golden["inputs"]["counts"][case]))
    np.testing.assert_allclose(ours, golden["outputs"]["class_probability"][case], rtol=1e-9)
    drawn = choose_classes(ours, np.array(golden["inputs"]["uniform_draws"]))
    assert drawn.tolist() == golden["outputs"]["drawn_class"][case]


def test_progressive_goes_from_instance_to_balanced():
    start, end = probabilities("instance"), probabilities("balanced")
    np.testing.assert_allclose(probabilities("progressive", epoch=0), start)
    np.testing.assert_allclose(probabilities("progressive", epoch=9), end)
    np.testing.assert_allclose(probabilities("progressive", epoch=3), start * 2 / 3 + end / 3)
    np.testing.assert_allclose(probabilities("progressive", epoch=0, epochs=1), end)


@pytest.mark.parametrize("name", SAMPLERS)
def test_an_empty_class_is_never_drawn(name):
    counts = np.array([0, 30, 0, 5, 0])
    answer = probabilities(name, counts, epoch=4)
    assert answer.dtype == np.float64
    assert (answer[counts == 0] == 0).all()
    assert answer.sum() == pytest.approx(1, abs=1e-12)
    targets = targets_of(counts)
    chosen = epoch_indices(targets, 5, name, seed=0, stream=0, epoch=4, epochs=10)
    assert set(targets[chosen]) == {1, 3}


def test_choice_of_classes_at_the_edges():
    p = np.array([0.0, 0.25, 0.0, 0.75, 0.0])
    u = np.array([0.0, 0.25, np.nextafter(0.25, 1), 1 - 2**-32, np.nextafter(1, 0)])
    assert choose_classes(p, u).tolist() == [1, 1, 3, 3, 3]
    tenths = np.full(10, 0.1 - 1e-12)  # their running sum ends below 1
    assert choose_classes(tenths, np.array([np.nextafter(1, 0)])).tolist() == [9]


@pytest.mark.parametrize("sampler", [None, "instance"])
def test_instance_sampling_is_a_permutation(sampler):
    targets = targets_of(COUNTS)
    chosen = epoch_indices(targets, 6, sampler, seed=3, stream=0, epoch=1, epochs=5)
    assert chosen.dtype == np.int64
    np.testing.assert_array_equal(np.sort(chosen), np.arange(len(targets)))


@pytest.mark.parametrize("name", ["balanced", "sqrt", "progressive", "reversed"])
def test_classes_and_images_come_at_their_frequencies(name):
    counts = COUNTS * 20
    targets = targets_of(counts)
    chosen = epoch_indices(targets, 6, name, seed=3, stream=0, epoch=4, epochs=10)
    assert chosen.dtype == np.int64
    assert chosen.shape == targets.shape
    seen = np.bincount(targets[chosen], minlength=6)
    expected = probabilities(name, counts, epoch=4) * len(targets)
    assert stats.chisquare(seen, expected).pvalue > 1e-3
    rarest = np.flatnonzero(targets == 5)
    images = np.bincount(np.searchsorted(rarest, chosen[targets[chosen] == 5]), minlength=20)
    assert stats.chisquare(images).pvalue > 1e-3


def test_a_function_draws_with_replacement():
    targets = targets_of(COUNTS)
    chosen = epoch_indices(targets, 6, SAMPLERS["instance"], seed=0, stream=0, epoch=0, epochs=1)
    assert len(np.unique(chosen)) < len(targets)


def test_epochs_are_repeatable_and_differ():
    targets = targets_of(COUNTS)

    def draw(seed=0, stream=0, epoch=0):
        return epoch_indices(
            targets, 6, "balanced", seed=seed, stream=stream, epoch=epoch, epochs=9
        )

    np.testing.assert_array_equal(draw(), draw())
    for other in (draw(seed=1), draw(seed=2**32), draw(stream=1), draw(epoch=1)):
        assert (draw() != other).mean() > 0.5


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(UsageError, match="Did you mean 'balanced'"):
        probabilities("balance")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (np.full(5, 0.2), "shape"),
        (np.array([1.5, -0.5, 0, 0, 0, 0]), "negative"),
        (np.array([np.nan, 1, 0, 0, 0, 0]), "non-finite"),
        (np.full(6, 1.0), "sum to 6"),
        (np.array([0, 0, 0, 0, 0, 1.0]), "without images"),
    ],
)
def test_a_function_that_gives_no_distribution_is_refused(answer, message):
    counts = np.array([5, 5, 5, 5, 5, 0])
    with pytest.raises(UsageError, match=message):
        probabilities(lambda counts, epoch, epochs: answer, counts)


def test_no_images_at_all_is_refused():
    with pytest.raises(UsageError, match="no images"):
        probabilities("balanced", np.zeros(3, dtype=int))
