import warnings

import numpy as np
import pytest
from pydantic import ValidationError

from ltbench.data.lists import stored_split
from ltbench.data.longtail import carve, exponential_counts
from ltbench.dataset import DATASETS
from ltbench.datasets.digits_lt import DigitsLT

# The default lists of seed 0. They never change: a new number here is a new split, and every
# result on the old one would become another cell.
FROZEN_DIGEST = "6d8f774b11c2757a58b8d5f70d0220b0ee18407b9d8e11857435771980d67a56"


@pytest.fixture(scope="module")
def source():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return DigitsLT(DigitsLT.Config()).load("held_out")


def split_of(source, seed=0, **settings):
    return DigitsLT(DigitsLT.Config(**settings)).split(source, "held_out", seed)


def test_is_registered_with_all_it_says_of_itself():
    assert DATASETS["digits-lt"] is DigitsLT
    info = DATASETS.info("digits_lt")
    assert info.paper
    assert info.source
    assert (info.year, info.licence) == (1998, "CC BY 4.0")
    assert set(DigitsLT.protocols) == {DigitsLT.default_protocol}
    assert DigitsLT.default_recipe == "digits"


def test_source_is_the_real_digits(source):
    assert len(source.images) == len(source.ids) == len(source.targets) == 1797
    assert source.images.shape == (1, 8, 8)
    assert source.ids[[0, 1796]].tolist() == ["digits-0000", "digits-1796"]
    assert len(set(source.ids.tolist())) == 1797
    assert source.class_names == tuple("0123456789")
    assert np.bincount(source.targets).tolist() == [
        *(178, 182, 177, 183, 181, 182, 181, 179, 174, 180)
    ]
    assert source.targets.dtype == np.int64
    blocks, sizes = np.unique(source.groups, return_counts=True)
    assert len(blocks) == 40
    assert sizes.tolist() == [45] * 39 + [42]
    assert "writer" in source.groups_note


def test_pixels_are_scaled_to_the_whole_range(source):
    pixels = source.images.tensor
    assert (int(pixels.min()), int(pixels.max())) == (0, 255)
    assert len(pixels.unique()) == 17
    assert pixels[0, 0, 0].tolist() == [0, 0, 80, 207, 143, 16, 0, 0]  # 0 0 5 13 9 1 0 0 of 16
    assert source.images.digest() == (
        "c60b7c15fa01684823bcdc7587a8bc234cb941309f4f5550f325dfc8670aff27"
    )


@pytest.mark.parametrize("imbalance", [20, 50])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_sizes(source, imbalance, seed):
    split = split_of(source, seed, imbalance=imbalance)
    counts = split.notes["counts"]
    assert counts["train"] == exponential_counts(counts["train"][0], 10, imbalance)
    assert 100 <= counts["train"][0] <= 110
    assert counts["train"][-1] == {20: 5, 50: 2}[imbalance]
    assert min(counts["test"]) == max(counts["test"]) >= 50
    assert counts["val"][0] >= 15
    assert min(counts["val"]) >= 1
    assert split.notes["groups"] == {"train": 24, "val": 4, "test": 12}
    measured = split.notes["measured_imbalance"]["train"]
    assert imbalance <= measured < imbalance * 1.1


def test_parts_share_no_image_and_no_block(source):
    for seed in range(10):
        split = split_of(source, seed)
        parts = [split.train, split.val, split.test]
        assert len(np.unique(np.concatenate(parts))) == sum(map(len, parts))
        held = [set(source.groups[part].tolist()) for part in parts]
        assert not held[0] & held[1]
        assert not held[0] & held[2]
        assert not held[1] & held[2]
        assert set(source.targets[split.val].tolist()) == set(range(10))


def test_balanced_validation(source):
    plain, balanced = split_of(source), split_of(source, balanced_validation=True)
    assert len(set(balanced.notes["counts"]["val"])) == 1
    np.testing.assert_array_equal(balanced.train, plain.train)
    np.testing.assert_array_equal(balanced.test, plain.test)


def test_seeds_give_different_lists(source):
    tests = {split_of(source, seed).test.tobytes() for seed in range(5)}
    assert len(tests) == 5
    np.testing.assert_array_equal(split_of(source, 3).train, split_of(source, 3).train)


@pytest.mark.parametrize("seed", range(5))
def test_the_training_part_can_be_carved(source, seed):
    train = split_of(source, seed).train
    rest, carved = carve(source, train, 0.2, seed)
    counts = np.bincount(source.targets[rest]), np.bincount(source.targets[carved])
    assert min(counts[0].min(), counts[1].min()) >= 1
    assert counts[1][0] == pytest.approx(0.2 * (counts[0][0] + counts[1][0]), abs=5)


def test_default_lists_never_change(source, tmp_path):
    dataset = DigitsLT(DigitsLT.Config())
    split, digest = stored_split(dataset, source, "held_out", 0, tmp_path)
    assert digest == FROZEN_DIGEST
    np.testing.assert_array_equal(split.train, split_of(source).train)


def test_the_default_written_out_is_the_same_setting(source, tmp_path):
    for settings in ({}, {"imbalance": 20}, {"imbalance": "20"}):
        dataset = DigitsLT(DigitsLT.Config(**settings))
        stored_split(dataset, source, "held_out", 0, tmp_path)
    assert len(list(tmp_path.rglob("*.json"))) == 1


@pytest.mark.parametrize(
    "wrong", [{"imbalance": 0.05}, {"imbalance": 0}, {"imbalence": 20}, {"balanced_validation": 3}]
)
def test_bad_settings_are_refused(wrong):
    with pytest.raises(ValidationError):
        DigitsLT.Config(**wrong)
