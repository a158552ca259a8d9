import json
from dataclasses import replace

import numpy as np
import pytest

from ltbench.data.leaks import Leak, Overlap, group_leak, part_notes, shared_groups
from ltbench.dataset import Source, Split


class NoImages:
    pass


#            0    1    2    3    4    5    6    7    8       9
GROUPS = ["a", "a", "b", "b", "c", "c", "d", "a", "img:8", "img:9"]
TARGETS = [0, 0, 1, 1, 1, 1, 0, 0, 1, 0]


def source_with(groups):
    return Source(
        images=NoImages(),
        ids=np.array([f"i{i}" for i in range(10)]),
        targets=np.array(TARGETS),
        class_names=("nevus", "melanoma"),
        groups=None if groups is None else np.array(groups),
    )


def split_of(train, val, test):
    return Split(
        *(None if part is None else np.array(part, dtype=np.int64) for part in (train, val, test))
    )


def test_images_and_groups_are_counted_for_each_pair_of_parts():
    leak = group_leak(source_with(GROUPS), split_of([0, 2], [3, 4, 6, 8], [1, 5, 7, 9]))
    assert leak == Leak(
        test_in_train=Overlap(images=2, of=4, groups=1),
        test_in_train_and_val=Overlap(images=3, of=4, groups=2),
        val_in_train=Overlap(images=1, of=4, groups=1),
        classes={"nevus": (2, 3), "melanoma": (0, 1)},
        unknown=1,
    )
    assert leak.leaks
    assert leak.sentence() == (
        "2 of 4 test images (50.0 %) share a group with the training part, and of 1 the group is "
        "not known; 1 of 4 validation images share one with training"
    )


def test_where_no_group_of_the_test_is_known_nothing_is_measured():
    leak = group_leak(source_with(GROUPS), split_of([0, 2], None, [8, 9]))
    assert not leak.shares
    assert leak.sentence() == ("the group of no test image is known, so a leak cannot be measured")


def test_validation_that_shares_is_not_clean():
    leak = group_leak(source_with(GROUPS), split_of([0, 2], [1], [4]))
    assert not leak.leaks
    assert leak.shares


def test_groups_of_single_images_do_not_leak():
    leak = group_leak(source_with(GROUPS), split_of([0, 8], None, [2, 9]))
    assert leak.test_in_train == Overlap(0, 2, 0)
    assert leak.val_in_train is None
    assert leak.test_in_train_and_val == leak.test_in_train
    assert not leak.leaks


def test_validation_that_shares_with_training_alone_is_no_leak_of_the_test():
    leak = group_leak(source_with(GROUPS), split_of([0, 2], [1, 3], [4, 5]))
    assert leak.val_in_train == Overlap(2, 2, 2)
    assert not leak.leaks


def test_no_groups_no_answer():
    source = source_with(None)
    assert group_leak(source, split_of([0], None, [1])) is None
    assert shared_groups(source, {"train": np.array([0]), "test": np.array([1])}) == []


def test_note_survives_json():
    leak = group_leak(source_with(GROUPS), split_of([0, 2], [3], [1, 4]))
    note = leak.as_note()
    assert json.loads(json.dumps(note)) == note
    assert note["test_in_train"] == {"images": 1, "of": 2, "groups": 1}
    assert note["classes"] == {"nevus": [1, 1], "melanoma": [0, 1]}
    without_val = group_leak(source_with(GROUPS), split_of([0], None, [1])).as_note()
    assert without_val["val_in_train"] is None


@pytest.mark.parametrize(
    ("train", "val", "test", "sentence"),
    [
        (
            [0, 2],
            [4],
            [1, 3, 6],
            "2 of 3 test images (66.7 %) share a lesion with the training part",
        ),
        ([0], [4], [5, 6], "1 of 2 test images (50.0 %) share a lesion with the validation part"),
        ([0], None, [2], "0 of 1 test images (0.0 %) share a lesion with the training part"),
    ],
)
def test_sentence(train, val, test, sentence):
    leak = group_leak(source_with(GROUPS), split_of(train, val, test))
    assert leak.sentence() == sentence.replace("lesion", "group")
    assert replace(leak, noun="lesion").sentence() == sentence
    assert leak.as_note()["sentence"] == leak.sentence()


def test_notes_count_classes_and_groups():
    parts = {"train": np.array([0, 1, 2]), "val": np.array([3]), "test": np.array([7, 9])}
    assert part_notes(source_with(GROUPS), parts) == {
        "counts": {"train": [2, 1], "val": [0, 1], "test": [2, 0]},
        "groups": {"train": 2, "val": 1, "test": 2},
        "shared_groups": 2,
    }
    assert shared_groups(source_with(GROUPS), parts) == [
        ("train and val", ["b"]),
        ("train and test", ["a"]),
    ]
    assert set(part_notes(source_with(None), parts)) == {"counts"}
