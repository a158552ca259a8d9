import numpy as np
import pytest

from ltbench.audit import audit, near_duplicates, overlaps, perceptual_hashes
from ltbench.data.images import ArrayImages, UnreadImages
from ltbench.dataset import Source, Split
from ltbench.errors import DataMissingError

COUNT = 12


def pictures(seed=0, count=COUNT):
    """Coarse patterns, so that a little noise does not make them other pictures."""
    coarse = np.random.default_rng(seed).integers(0, 256, (count, 3, 8, 8))
    return np.repeat(np.repeat(coarse, 8, axis=2), 8, axis=3).astype(np.uint8)


def source_of(pixels=None, groups=None, ids=None):
    return Source(
        images=ArrayImages(pictures() if pixels is None else pixels),
        ids=np.array([f"i{k}" for k in range(COUNT)] if ids is None else ids),
        targets=np.tile([0, 1], COUNT // 2),
        class_names=("a", "b"),
        groups=None if groups is None else np.array(groups),
    )


SPLIT = Split(np.arange(6), np.arange(6, 8), np.arange(8, 12))


def test_a_clean_split():
    found = audit(source_of(groups=[f"g{k}" for k in range(COUNT)]), SPLIT)
    assert found.is_clean
    assert found.overlaps == found.alike == ()
    assert found.counts == {"train": [3, 3], "val": [1, 1], "test": [2, 2]}
    assert found.num_groups == {"train": 6, "val": 2, "test": 4}
    assert found.imbalance == 1
    assert not found.leak.leaks


def test_equal_pixels_in_two_parts_are_found_by_name():
    pixels = pictures()
    pixels[9] = pixels[2]
    pixels[7] = pixels[2]
    pixels[1] = pixels[0]
    found = audit(source_of(pixels), SPLIT)
    shared = {one.parts: one for one in found.overlaps}
    assert set(shared) == {("train", "val"), ("train", "test"), ("val", "test")}
    assert {one.kind for one in found.overlaps} == {"pixels"}
    assert shared["train", "test"].examples == (("i2", "i9"),)
    assert (shared["train", "test"].num_images, shared["train", "test"].num_in_part) == (1, 4)
    assert found.within == {"train": 1, "val": 0, "test": 0}
    assert not found.is_clean


def test_groups_in_two_parts():
    found = audit(source_of(groups=["x", *(f"g{k}" for k in range(1, 11)), "x"]), SPLIT)
    (one,) = found.overlaps
    assert (one.kind, one.parts, one.examples) == ("group", ("train", "test"), (("i0", "i11"),))
    assert found.leak.test_in_train.images == 1


def test_names_in_two_parts():
    split = Split(np.arange(6), None, np.array([5, 8, 9]))
    kinds = {one.kind for one in overlaps(source_of(), split)}
    assert kinds == {"name", "pixels"}


def test_pictures_that_look_alike_only_advise():
    pixels = pictures()
    noise = np.random.default_rng(1).integers(-3, 4, pixels[3].shape)
    pixels[10] = (pixels[3].astype(int) + noise).clip(0, 255)
    found = audit(source_of(pixels), SPLIT)
    assert found.is_clean
    assert [one.examples for one in found.alike] == [(("i3", "i10"),)]
    assert audit(source_of(pixels), SPLIT, perceptual=False).alike == ()


def test_near_is_a_number_of_bits():
    pixels = pictures()
    hashes = perceptual_hashes(ArrayImages(pixels))
    assert len(np.unique(hashes, axis=0)) == COUNT
    assert near_duplicates(source_of(pixels), SPLIT, near=128)[0].num_images == 2
    assert near_duplicates(source_of(pixels), SPLIT, near=0) == ()


def test_more_pictures_than_one_block():
    pixels = pictures(count=COUNT)
    many = np.concatenate([pixels] * 60)
    source = Source(
        images=ArrayImages(many),
        ids=np.array([f"i{k}" for k in range(len(many))]),
        targets=np.zeros(len(many), np.int64),
        class_names=("a",),
    )
    split = Split(np.arange(COUNT), None, np.arange(COUNT, len(many)))
    (found,) = near_duplicates(source, split)
    assert found.num_images == len(many) - COUNT
    assert [first for first, _ in found.examples] == [f"i{k}" for k in range(10)]


def test_missing_classes_and_an_empty_one():
    found = audit(source_of(), Split(np.array([0, 2, 4]), None, np.array([1, 3])))
    assert found.missing == {"train": ["b"], "test": ["a"]}
    assert found.imbalance is None


def test_tables_alone():
    source = Source(
        images=UnreadImages(COUNT, "not here"),
        ids=np.array([f"i{k}" for k in range(COUNT)]),
        targets=np.tile([0, 1], COUNT // 2),
        class_names=("a", "b"),
        groups=np.array(["g"] * COUNT),
    )
    found = audit(source, SPLIT, unread="not here")
    assert {one.kind for one in found.overlaps} == {"group"}
    assert found.within == {}
    with pytest.raises(DataMissingError, match="not here"):
        audit(source, SPLIT)
