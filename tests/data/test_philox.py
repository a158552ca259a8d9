import numpy as np
import pytest
from scipy import stats

from ltbench.data import philox

ONES = 0xFFFFFFFF


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0, 0, 0, 0), (0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ((ONES,) * 4, (ONES, ONES), "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_known_answers_of_random123(counter, key, expected):
    drawn = philox.block(np.array([counter], dtype=np.uint32), key)
    assert " ".join(f"{word:08x}" for word in drawn[0]) == expected


def test_words_use_the_documented_counter_and_key():
    seed = (0x299F31D0 << 32) | 0xA4093822
    drawn = philox.words(seed, stream=9, epoch=4, index=np.array([5, 7]), num_words=6)
    counter = np.array([[0, 7, 4, 9], [1, 7, 4, 9]], dtype=np.uint32)
    expected = philox.block(counter, (0xA4093822, 0x299F31D0)).ravel()[:6]
    assert drawn.dtype == np.uint32
    assert drawn.shape == (2, 6)
    np.testing.assert_array_equal(drawn[1], expected)


def test_numbers_do_not_depend_on_the_batch_or_on_how_many_are_asked_for():
    index = np.array([11, 3, 3, 2**32 - 1, 0])
    batch = philox.words(1, stream=2, epoch=3, index=index, num_words=9)
    for row, i in zip(batch, index, strict=True):
        alone = philox.words(1, stream=2, epoch=3, index=np.array([i]), num_words=5)
        np.testing.assert_array_equal(alone[0], row[:5])


def test_every_part_of_the_address_matters_and_all_64_bits_of_the_seed():
    index = np.arange(4)
    first = philox.words(1, stream=0, epoch=0, index=index, num_words=4)
    others = [
        philox.words(1 + 2**32, stream=0, epoch=0, index=index, num_words=4),
        philox.words(1 + 2**63, stream=0, epoch=0, index=index, num_words=4),
        philox.words(1, stream=1, epoch=0, index=index, num_words=4),
        philox.words(1, stream=0, epoch=1, index=index, num_words=4),
        philox.words(1, stream=0, epoch=0, index=index + 4, num_words=4),
    ]
    for other in others:
        assert not np.isin(first, other).any()


@pytest.mark.parametrize(
    "wrong",
    [
        {"seed": -1},
        {"seed": 2**64},
        {"epoch": -1},
        {"epoch": 2**32},
        {"stream": 2**32},
        {"index": np.array([-1])},
        {"index": np.array([2**32])},
        {"index": np.array([0.5])},
        {"index": np.array([[1]])},
    ],
)
def test_numbers_outside_their_range_are_refused(wrong):
    settings = {"seed": 0, "stream": 0, "epoch": 0, "index": np.array([0]), "num_words": 1}
    with pytest.raises(ValueError, match="must"):
        philox.words(**(settings | wrong))


def test_nothing_asked_for_gives_nothing():
    assert philox.uniform(0, stream=0, epoch=0, index=np.arange(3), num_words=0).shape == (3, 0)
    empty = np.arange(0)
    assert philox.uniform(0, stream=0, epoch=0, index=empty, num_words=2).shape == (0, 2)
    assert philox.permutation(0, 0, stream=0, epoch=0).shape == (0,)


def test_uniform_numbers_are_uniform_and_uncorrelated():
    u = philox.uniform(7, stream=1, epoch=2, index=np.arange(20_000), num_words=3)
    assert u.dtype == np.float64
    assert u.min() >= 0
    assert u.max() < 1
    for column in u.T:
        counts = np.histogram(column, bins=100, range=(0, 1))[0]
        assert stats.chisquare(counts).pvalue > 1e-3
    pairs = np.histogram2d(u[:, 0], u[:, 1], bins=20, range=((0, 1), (0, 1)))[0]
    assert stats.chisquare(pairs.ravel()).pvalue > 1e-3


def test_a_permutation_holds_each_position_once_and_is_frozen():
    order = philox.permutation(0, 1000, stream=0, epoch=0)
    assert order.dtype == np.int64
    np.testing.assert_array_equal(np.sort(order), np.arange(1000))
    # If this changes, every run's order of images changes with it.
    assert philox.permutation(0, 8, stream=0, epoch=0).tolist() == [4, 2, 0, 5, 1, 7, 6, 3]


def test_permutations_differ_between_seeds_epochs_and_streams():
    orders = [
        philox.permutation(seed, 100, stream=stream, epoch=epoch)
        for seed, stream, epoch in [(0, 0, 0), (1, 0, 0), (2**32, 0, 0), (0, 1, 0), (0, 0, 1)]
    ]
    for i, order in enumerate(orders):
        for other in orders[:i]:
            assert (order == other).mean() < 0.1


def test_first_places_of_permutations_are_uniform():
    first = [philox.permutation(5, 10, stream=0, epoch=epoch)[0] for epoch in range(2000)]
    assert stats.chisquare(np.bincount(first, minlength=10)).pvalue > 1e-3
