import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given as cases
from hypothesis import settings
from hypothesis import strategies as st

from ltbench.data.division import divide
from ltbench.data.leaks import group_leak
from ltbench.data.protocols import (
    as_many_dropped,
    given,
    grouped,
    k_fold,
    listed,
    official,
    random_per_class,
    shifted,
    without_shared_groups,
)
from ltbench.dataset import Source
from ltbench.errors import UsageError, VerificationError

NAMES = ("alpha", "beta", "gamma", "delta")


class NoImages:
    pass


def make_source(targets, groups=None, partition=None, num_classes=None):
    targets = np.asarray(targets, dtype=np.int64)
    return Source(
        images=NoImages(),
        ids=np.array([f"i{i:03d}" for i in range(len(targets))]),
        targets=targets,
        class_names=NAMES[: num_classes or int(targets.max()) + 1],
        groups=None if groups is None else np.asarray(groups).astype(str),
        partition=None if partition is None else np.asarray(partition),
    )


def long_tailed(seed=0, counts=(200, 60, 23), images_a_group=3):
    """Shuffled classes; groups of one class each and of 1 to 2 * images_a_group - 1 images."""
    rng = np.random.default_rng(seed)
    targets = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    group = rng.integers(0, [max(n // images_a_group, 5) for n in np.take(counts, targets)])
    return make_source(targets, targets * 1000 + group)


def parts_of(split):
    parts = {"train": split.train, "val": split.val, "test": split.test}
    return {name: at for name, at in parts.items() if at is not None}


def counts_of(source, positions):
    return np.bincount(source.targets[positions], minlength=len(source.class_names)).tolist()


def assert_well_formed(source, split, *, covers=True):
    parts = parts_of(split)
    for positions in parts.values():
        assert positions.dtype == np.int64
        assert (np.diff(positions) > 0).all()
    joined = np.concatenate(list(parts.values()))
    assert len(np.unique(joined)) == len(joined)
    assert not covers or len(joined) == len(source.targets)
    assert split.notes["counts"] == {name: counts_of(source, at) for name, at in parts.items()}
    train = split.notes["counts"]["train"]
    assert split.notes["measured_imbalance"] == {"train": max(train) / min(train)}
    json.dumps(dict(split.notes), allow_nan=False)


def assert_groups_whole(source, split):
    held = [set(source.groups[at].tolist()) for at in parts_of(split).values()]
    assert sum(map(len, held)) == len(set.union(*held))


# random_per_class


@pytest.mark.parametrize("count", range(3, 14))
def test_random_gives_test_and_validation_the_ceiling(count):
    source = make_source([0] * count + [1] * 40)
    split = random_per_class(source, 7)
    assert_well_formed(source, split)
    expected = Counter(["test", "val", *["train"] * 3][i % 5] for i in range(count))
    assert {name: n[0] for name, n in split.notes["counts"].items()} == dict(expected)
    assert split.notes["split_by"] == "image"
    assert "groups" not in split.notes


def test_random_disregards_groups_and_says_so():
    source = long_tailed()
    split = random_per_class(source, 0)
    leak = group_leak(source, split)
    assert leak.test_in_train.images > 20
    assert split.notes["leak"] == leak.sentence()
    assert split.notes["shared_groups"] > 0


def test_no_class_depends_on_the_others_order():
    targets = np.array([0, 1, 2] * 20)
    a = random_per_class(make_source(targets), 3)
    b = random_per_class(make_source(np.where(targets == 2, 1, targets)), 3)
    assert np.array_equal(a.test[targets[a.test] == 0], b.test[targets[b.test] == 0])


@pytest.mark.parametrize("protocol", [random_per_class, grouped])
def test_another_seed_another_split(protocol):
    source = long_tailed()
    lists = {protocol(source, seed).test.tobytes() for seed in (0, 1, 2, 2**64 - 1)}
    assert len(lists) == 4
    assert np.array_equal(protocol(source, 1).train, protocol(source, 1).train)


@pytest.mark.parametrize("count", [1, 2])
def test_random_names_the_class_that_training_would_lack(count):
    with pytest.raises(UsageError, match="the train part has none of beta"):
        random_per_class(make_source([0] * 10 + [1] * count), 0)


def test_a_class_without_images_is_named():
    with pytest.raises(UsageError, match="none of gamma, delta"):
        grouped(make_source([0, 1] * 10, num_classes=4), 0)


# grouped


@pytest.mark.parametrize("seed", range(5))
def test_groups_stay_whole_near_three_to_one_to_one(seed):
    source = long_tailed(seed, counts=(600, 200, 60, 25))
    split = grouped(source, seed)
    assert_well_formed(source, split)
    assert_groups_whole(source, split)
    for name, share in (("train", 3 / 5), ("val", 1 / 5), ("test", 1 / 5)):
        wanted = share * np.array([600, 200, 60, 25])
        assert np.abs(np.array(split.notes["counts"][name]) - wanted).max() <= 2
    assert split.notes["split_by"] == "group"
    assert split.notes["shared_groups"] == 0
    assert "leak" not in split.notes


def test_grouped_without_groups_divides_images_and_notes_it():
    source = make_source([0] * 50 + [1] * 15)
    split = grouped(source, 0)
    assert_well_formed(source, split)
    assert split.notes["counts"] == {"train": [30, 9], "val": [10, 3], "test": [10, 3]}
    assert split.notes["split_by"] == "image"
    assert "images were divided" in split.notes["no_groups"]


def test_three_groups_of_any_sizes_go_to_three_parts():
    # A test of two small groups would come nearer to a fifth, and leave one group for two parts.
    source = make_source([0] * 50 + [1] * 12, [*range(50), *[90] * 10, 91, 92])
    for seed in range(10):
        split = grouped(source, seed)
        assert_groups_whole(source, split)
        assert min(counts[1] for counts in split.notes["counts"].values()) >= 1


@pytest.mark.parametrize("groups", [None, [*range(50), 90, 90, 91, 91]])
def test_too_few_for_three_parts_is_refused(groups):
    source = make_source([0] * 50 + [1] * 4, groups) if groups else make_source([0] * 50 + [1] * 2)
    with pytest.raises(UsageError, match=r"3 parts in all.*'beta' \(images: [24]"):
        grouped(source, 0)


# k_fold


@settings(max_examples=25, deadline=None)
@cases(st.integers(3, 7), st.booleans(), st.integers(0, 2**64 - 1))
def test_folds_cover_everything_once(num_folds, by_group, seed):
    source = long_tailed(counts=(90, 40, 21), images_a_group=2)
    if not by_group:
        source = make_source(source.targets)
    tests, vals = [], []
    for fold in range(num_folds):
        split = k_fold(source, seed, num_folds, fold)
        assert_well_formed(source, split)
        if by_group:
            assert_groups_whole(source, split)
        tests.append(split.test)
        vals.append(split.val)
        wanted = np.array([90, 40, 21]) / num_folds
        assert np.abs(np.array(counts_of(source, split.test)) - wanted).max() <= 4
    assert all(map(np.array_equal, vals, [*tests[1:], tests[0]]))
    assert np.array_equal(np.sort(np.concatenate(tests)), np.arange(len(source.targets)))


def test_as_many_groups_as_folds_give_each_fold_one():
    source = make_source([0] * 60 + [1] * 34, [*range(60), *[90] * 30, 91, 92, 93, 94])
    for seed in range(10):
        folds = [k_fold(source, seed, 5, fold).notes["counts"]["test"][1] for fold in range(5)]
        assert sorted(folds) == [1, 1, 1, 1, 30]


def test_folds_note_which_one_it_is():
    notes = k_fold(long_tailed(), 0, 5, 2).notes
    assert (notes["fold"], notes["split_by"], notes["shared_groups"]) == ("2 of 5", "group", 0)
    assert "no_groups" not in notes
    notes = k_fold(make_source([0, 1] * 9), 0, 3, 0).notes
    assert notes["split_by"] == "image"
    assert "images were divided" in notes["no_groups"]


def test_fewer_groups_than_folds_are_refused():
    source = make_source([0] * 60 + [1] * 8, [*range(60), 90, 90, 91, 91, 92, 92, 93, 93])
    with pytest.raises(UsageError, match=r"5 parts in all.*'beta' \(images: 8, groups: 4\)"):
        k_fold(source, 0, 5, 0)


@pytest.mark.parametrize(
    ("num_folds", "fold", "message"),
    [
        (2, 0, "Expected 3 to 100 folds.*got 2"),
        (101, 0, "got 101"),
        (5, 5, "from 0 to 4.*got 5"),
        (5, -1, "got -1"),
    ],
)
def test_fold_numbers_out_of_range_are_refused(num_folds, fold, message):
    with pytest.raises(UsageError, match=message):
        k_fold(long_tailed(), 0, num_folds, fold)


@settings(max_examples=40, deadline=None)
@cases(st.integers(1, 4), st.integers(0, 6), st.floats(0.05, 0.95), st.integers(0, 2**32))
def test_a_division_keeps_groups_for_later_parts(rest_parts, spare, fraction, seed):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 12, rest_parts + 1 + spare)
    groups = np.repeat(np.arange(len(sizes)), sizes)
    images = np.arange(len(sizes))
    for whole in (groups, images):
        source = make_source(np.zeros(len(whole)), None if whole is images else groups)
        everything = np.arange(len(whole))
        rest, carved = divide(
            source, everything, fraction, seed=seed, stream=1, rest_parts=rest_parts
        )
        assert len(set(whole[rest])) >= rest_parts
        assert len(carved)
        assert np.array_equal(np.sort(np.concatenate([rest, carved])), everything)


# given, official


def test_given_parts_are_taken_as_they_are():
    partition = np.array(["train", "val", "test"] * 8)
    source = make_source([0, 0, 0, 1, 1, 1] * 4, np.arange(24) // 2, partition)
    split = given(source, 0)
    assert_well_formed(source, split)
    for name, positions in parts_of(split).items():
        assert np.array_equal(positions, np.flatnonzero(partition == name))
    assert split.notes["split_by"] == "publisher"
    assert split.notes["shared_groups"] > 0
    assert split.notes["leak"].startswith("4 of 8 test images")
    assert "validation" not in split.notes


def test_given_without_validation_carves_it_by_group():
    groups = [*np.arange(80) // 2, *[900] * 10]
    source = make_source([0, 0, 1, 1] * 20 + [0, 1] * 5, groups, ["train"] * 80 + ["test"] * 10)
    split = given(source, 0)
    assert_well_formed(source, split)
    assert_groups_whole(source, split)
    assert np.array_equal(split.test, np.arange(80, 90))
    assert split.notes["counts"]["val"] == [8, 8]
    assert split.notes["validation"] == "1/5 of the training part, by group"
    assert not np.array_equal(given(source, 1).val, split.val)
    assert (
        given(make_source(source.targets, None, source.partition), 0)
        .notes["validation"]
        .endswith("image")
    )


def test_a_class_that_a_given_test_lacks_is_noted():
    source = make_source([0, 1, 0, 1, 0, 0], partition=["train"] * 2 + ["val"] * 2 + ["test"] * 2)
    assert given(source, 0).notes["absent_classes"] == {"test": ["beta"]}


def test_a_class_that_a_given_training_part_lacks_is_refused():
    source = make_source([0, 0, 0, 1, 0, 1], partition=["train"] * 2 + ["val"] * 2 + ["test"] * 2)
    with pytest.raises(UsageError, match="the train part has none of beta"):
        given(source, 0)


@pytest.mark.parametrize("protocol", [given, official])
def test_missing_parts_are_refused(protocol):
    with pytest.raises(UsageError, match="this data set has none"):
        protocol(make_source([0, 1]), 0)
    with pytest.raises(UsageError, match=r"'train' and 'test'.*found 'train' \(4 images\)"):
        protocol(make_source([0, 1] * 2, partition=["train"] * 4), 0)
    strange = ["train", "train", "test", "extra"]
    with pytest.raises(UsageError, match=r"'extra' \(1 images\)"):
        protocol(make_source([0, 1] * 2, partition=strange), 0)


def test_official_carves_validation_and_takes_no_published_one():
    partition = np.repeat(["train", "test"], [100, 20])
    source = make_source(np.tile([0, 1], 60), np.arange(120) // 4, partition)
    split = official(source, 4)
    assert_well_formed(source, split)
    assert_groups_whole(source, split)
    assert split.notes["counts"] == {"train": [40, 40], "val": [10, 10], "test": [10, 10]}
    assert not np.array_equal(split.val, given(source, 4).val)
    partition[:10] = "val"
    with pytest.raises(UsageError, match=r"'val' \(10 images\)"):
        official(make_source(source.targets, None, partition), 0)


def test_official_refuses_a_test_that_lacks_a_class():
    source = make_source([0, 1] * 20 + [0, 0], partition=["train"] * 40 + ["test"] * 2)
    with pytest.raises(UsageError, match="the test part has none of beta"):
        official(source, 0)


# listed


LISTS = {
    "train": [("i003", "beta"), ("i000", "alpha"), ("i001", "beta")],
    "val": [("i002", "alpha")],
    "test": [("i005", "beta"), ("i004", "alpha")],
}


def test_lists_are_read_by_name():
    source = make_source([0, 1] * 4)
    split = listed(source, LISTS)
    assert_well_formed(source, split, covers=False)
    assert {name: at.tolist() for name, at in parts_of(split).items()} == {
        "train": [0, 1, 3],
        "val": [2],
        "test": [4, 5],
    }
    assert split.notes["split_by"] == "list"
    assert split.notes["not_used"] == {"in no list": 2}
    assert split.notes["absent_classes"] == {"val": ["beta"]}
    without_val = listed(source, {"train": LISTS["train"], "test": LISTS["test"]})
    assert without_val.val is None


def test_whole_lists_leave_nothing_out():
    assert "not_used" not in listed(make_source([0, 1] * 3), LISTS).notes


@pytest.mark.parametrize(
    ("part", "row", "message"),
    [
        ("val", ("i009", "alpha"), "val row 2: 'i009' is not in the data"),
        (
            "val",
            ("i006", "beta"),
            "val row 2: 'i006' is 'beta' in the list and 'alpha' in the data",
        ),
        ("test", ("i003", "beta"), "test row 3: 'i003' is listed before, in train row 1"),
        ("train", ("i000", "alpha"), "train row 4: 'i000' is listed before, in train row 2"),
    ],
)
def test_rows_that_do_not_fit_are_named(part, row, message):
    with pytest.raises(VerificationError) as error:
        listed(make_source([0, 1] * 4), {**LISTS, part: [*LISTS[part], row]})
    assert message in str(error.value)


def test_many_wrong_rows_are_told_at_once():
    wrong = [(f"x{i}", "alpha") for i in range(14)]
    with pytest.raises(VerificationError, match=r"train row 1: 'x0'.*row 10: 'x9'.*and 4 more"):
        listed(make_source([0, 1] * 4), {**LISTS, "train": wrong})


@pytest.mark.parametrize("names", [("train",), ("test", "val"), ("train", "test", "extra"), ()])
def test_lists_of_other_parts_are_refused(names):
    with pytest.raises(UsageError, match="Expected a list for train, one for test and perhaps"):
        listed(make_source([0, 1] * 4), {name: [("i000", "alpha")] for name in names})


def test_lists_whose_training_part_lacks_a_class_are_refused():
    source = make_source([0, 1] * 4)
    with pytest.raises(UsageError, match="the train part has none of beta"):
        listed(source, {**LISTS, "train": [("i000", "alpha")]})
    assert (
        "beta"
        in listed(source, {**LISTS, "test": [("i004", "alpha")]}).notes["absent_classes"]["test"]
    )
    with pytest.raises(UsageError, match="the test part has none of alpha, beta"):
        listed(source, {**LISTS, "test": []})


# shifted


BY = np.array(["x", "y", "z", ""] * 30)
SHIFT = {"train": frozenset({"x", "y"}), "test": frozenset({"z"})}


def test_origins_are_kept_apart_and_the_others_counted():
    source = make_source(np.arange(120) % 8 // 4, np.arange(120) // 8)
    split = shifted(source, 0, BY, **SHIFT)
    assert_well_formed(source, split, covers=False)
    assert np.array_equal(split.test, np.flatnonzero(BY == "z"))
    learnt = np.sort(np.concatenate([split.train, split.val]))
    assert np.array_equal(learnt, np.flatnonzero((BY == "x") | (BY == "y")))
    assert len(split.val) == 12
    assert split.notes["not_used"] == {"unknown origin": 30}
    assert split.notes["origins"] == {"train": ["x", "y"], "test": ["z"]}
    assert split.notes["validation"] == "1/5 of the training part, by group"
    assert "leak" in split.notes


@pytest.mark.parametrize(
    ("train", "test"),
    [({"x"}, {"x"}), ({"x"}, {"w"}), ({"w"}, {"x"}), (set(), {"x"}), ({"x"}, set())],
)
def test_origins_that_cannot_be_are_refused(train, test):
    source = make_source(np.arange(120) % 2)
    with pytest.raises(UsageError, match="of these: '', 'x', 'y', 'z'; got train "):
        shifted(source, 0, BY, frozenset(train), frozenset(test))


def test_an_origin_without_a_class_is_refused():
    source = make_source(np.where(BY == "z", 0, np.arange(120) // 4 % 2))
    with pytest.raises(UsageError, match="the test part has none of beta"):
        shifted(source, 0, BY, **SHIFT)


# without_shared_groups, as_many_dropped


def leaky(seed=0):
    source = long_tailed(seed, counts=(300, 90, 40))
    return source, random_per_class(source, seed)


@pytest.mark.parametrize("seed", range(3))
def test_the_clean_split_drops_what_test_shares_and_nothing_else(seed):
    source, split = leaky(seed)
    clean = without_shared_groups(source, split)
    assert_well_formed(source, clean, covers=False)
    assert np.array_equal(clean.test, split.test)
    tested = set(source.groups[split.test].tolist())
    for part in ("train", "val"):
        before, after = getattr(split, part), getattr(clean, part)
        assert after.tolist() == [i for i in before if source.groups[i] not in tested]
        assert (
            clean.notes["dropped"][part]
            == (np.array(split.notes["counts"][part]) - counts_of(source, after)).tolist()
        )
    leak = group_leak(source, clean)
    assert not leak.leaks
    assert leak.val_in_train.images > 0
    assert "leak" not in clean.notes
    assert clean.notes["split_by"] == "image"


@pytest.mark.parametrize("seed", range(3))
def test_the_matched_split_drops_as_many_of_each_class(seed):
    source, split = leaky(seed)
    clean = without_shared_groups(source, split)
    matched = as_many_dropped(source, split, clean, seed)
    assert_well_formed(source, matched, covers=False)
    assert np.array_equal(matched.test, split.test)
    assert matched.notes["counts"] == clean.notes["counts"]
    assert matched.notes["dropped"] == clean.notes["dropped"]
    assert matched.notes["leak"] == group_leak(source, matched).sentence()
    for part in ("train", "val"):
        assert np.isin(getattr(matched, part), getattr(split, part)).all()
    other = as_many_dropped(source, split, clean, seed + 1)
    assert not np.array_equal(other.train, matched.train)
    assert not np.array_equal(other.val, matched.val)


def test_a_split_without_validation_is_made_clean_too():
    source = make_source([0, 0, 1, 1] * 3, [*"aabbccddeeff"])
    lists = {
        part: [(source.ids[i], NAMES[source.targets[i]]) for i in positions]
        for part, positions in {"train": [0, 2, 4, 5, 6, 7], "test": [1, 3, 8, 10]}.items()
    }
    split = listed(source, lists)
    clean = without_shared_groups(source, split)
    assert clean.val is None
    assert clean.train.tolist() == [4, 5, 6, 7]
    assert clean.notes["not_used"] == split.notes["not_used"]
    assert clean.notes["dropped"] == {"train": [1, 1]}
    assert as_many_dropped(source, split, clean, 0).val is None


def test_cleaning_needs_groups_and_leaves_every_class():
    with pytest.raises(UsageError, match="this data set has none"):
        without_shared_groups(make_source([0, 1]), random_per_class(make_source([0] * 9), 0))
    source = make_source([0] * 10 + [1] * 10, [*range(10), *[10] * 10])
    with pytest.raises(UsageError, match="the train part has none of beta"):
        without_shared_groups(source, random_per_class(source, 0))


def test_matching_needs_two_splits_of_one_test():
    source, split = leaky()
    other = without_shared_groups(source, random_per_class(source, 9))
    with pytest.raises(UsageError, match="the same test"):
        as_many_dropped(source, split, other, 0)


def test_choices_never_change():
    """Frozen: a change here would change the lists of every data set."""
    source = make_source([0, 1] * 8, np.arange(16) // 2, np.repeat(["train", "test"], [12, 4]))
    by = np.repeat(["x", "y"], [12, 4])
    larger = make_source([0, 1, 0] * 20, np.arange(60) // 2 % 13)
    leak = random_per_class(larger, 0)
    matched = as_many_dropped(larger, leak, without_shared_groups(larger, leak), 0)
    found = {
        "random": random_per_class(source, 0).test,
        "grouped test": grouped(source, 0).test,
        "grouped val": grouped(source, 0).val,
        "fold 0": k_fold(source, 0, 3, 0).test,
        "fold 1": k_fold(source, 0, 3, 1).test,
        "given": given(source, 0).val,
        "official": official(source, 0).val,
        "shifted": shifted(source, 0, by, frozenset({"x"}), frozenset({"y"})).val,
        "matched train": matched.train,
        "matched val": matched.val,
    }
    assert {name: positions.tolist() for name, positions in found.items()} == {
        "random": [0, 11, 14, 15],
        "grouped test": [0, 1, 14, 15],
        "grouped val": [4, 5],
        "fold 0": [2, 3, 4, 5, 12, 13],
        "fold 1": [10, 11, 14, 15],
        "given": [10, 11],
        "official": [10, 11],
        "shifted": [2, 3],
        "matched train": [5, 12, 13, 18, 20, 49, 56, 57],
        "matched val": [8, 24, 25, 34, 35, 50, 51, 54, 55, 59],
    }
