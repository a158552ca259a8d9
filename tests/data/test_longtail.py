import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from ltbench.data import longtail
from ltbench.data.images import ArrayImages
from ltbench.data.longtail import (
    carve,
    exponential_counts,
    held_out,
    measured_imbalance,
    published,
    step_counts,
    take_counts,
)
from ltbench.dataset import Source
from ltbench.errors import UsageError, VerificationError

GOLDEN = json.loads(
    (Path(__file__).parents[1] / "golden" / "cifar_lt_counts.json").read_text(encoding="utf-8")
)


def make_source(targets, groups=None, partition=None) -> Source:
    targets = np.asarray(targets, dtype=np.int64)
    return Source(
        images=ArrayImages(np.zeros((len(targets), 1, 1, 1), dtype=np.uint8)),
        ids=np.array([f"img-{i:04d}" for i in range(len(targets))]),
        targets=targets,
        class_names=tuple(f"kind {c}" for c in range(int(targets.max()) + 1)),
        groups=None if groups is None else np.asarray(groups).astype(str),
        partition=None if partition is None else np.asarray(partition),
    )


def counts_of(source: Source, positions: np.ndarray) -> list[int]:
    return np.bincount(source.targets[positions], minlength=len(source.class_names)).tolist()


def groups_of(source: Source, positions: np.ndarray) -> set[str]:
    assert source.groups is not None
    return set(source.groups[positions].tolist())


def assert_positions(positions: np.ndarray) -> None:
    assert positions.dtype == np.int64
    assert (np.diff(positions) > 0).all()


@pytest.mark.parametrize(
    ("setting", "counts"),
    list(zip(GOLDEN["inputs"]["settings"], GOLDEN["outputs"]["counts"], strict=True)),
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else "",
)
def test_cifar_counts_of_the_authors_code(setting, counts):
    head, num_classes = {"cifar10": (5000, 10), "cifar100": (500, 100)}[setting["dataset"]]
    profile = {"exp": exponential_counts, "step": step_counts}[setting["imb_type"]]
    assert profile(head, num_classes, 1 / setting["imb_factor"]) == counts


@pytest.mark.parametrize(
    ("head", "num_classes", "imbalance", "total", "smallest"),
    [
        (5000, 10, 20, 17_023, 250),
        (500, 100, 20, 15_907, 25),
        (6000, 10, 10, 24_516, 600),
        (6000, 10, 20, 20_428, 300),
        (6000, 10, 50, 16_796, 120),
        (6000, 10, 100, 14_886, 60),
    ],
)
def test_published_totals(head, num_classes, imbalance, total, smallest):
    counts = exponential_counts(head, num_classes, imbalance)
    assert (sum(counts), counts[0], counts[-1]) == (total, head, smallest)


def test_profiles_of_few_classes():
    assert exponential_counts(7, 1, 100) == step_counts(7, 1, 100) == [7]
    assert exponential_counts(7, 3, 1) == step_counts(7, 3, 1) == [7, 7, 7]
    assert exponential_counts(100, 2, 10) == step_counts(100, 2, 10) == [100, 10]
    assert step_counts(100, 5, 10) == [100, 100, 10, 10, 10]


@pytest.mark.parametrize("profile", [exponential_counts, step_counts])
def test_a_factor_is_refused_with_the_ratio_to_write(profile):
    with pytest.raises(UsageError) as error:
        profile(5000, 10, 0.01)
    assert str(error.value) == (
        "imbalance is the ratio of the largest to the smallest class, at least 1; "
        "got 0.01 (a factor): write 100"
    )


@pytest.mark.parametrize("imbalance", [0, -3, float("nan"), float("inf")])
def test_imbalance_out_of_range_is_refused(imbalance):
    with pytest.raises(UsageError, match="at least 1; got"):
        exponential_counts(5000, 10, imbalance)


@pytest.mark.parametrize(("profile", "first"), [(exponential_counts, 3), (step_counts, 2)])
def test_a_class_without_images_is_named(profile, first):
    message = rf"Class {first} \({first + 1} of 4\).*Set dataset.imbalance below 5"
    with pytest.raises(UsageError, match=message):
        profile(5, 4, 10)
    names = ("ant", "bee", "moth", "wasp")
    with pytest.raises(UsageError, match=f"Class '{names[first]}'"):
        profile(5, 4, 10, class_names=names)
    with pytest.raises(UsageError, match="at least one class and one image"):
        profile(0, 3, 1)


def test_measured_imbalance():
    assert measured_imbalance([104, 50, 5]) == 20.8
    assert measured_imbalance(np.array([3, 3])) == 1.0
    for empty in ([], [4, 0]):
        with pytest.raises(UsageError, match="at least one image of every class"):
            measured_imbalance(empty)


def test_the_setting_refuses_a_factor_and_reads_text():
    class Config(BaseModel):
        imbalance: longtail.Imbalance = 20

    assert Config(imbalance="1e2").imbalance == 100  # PyYAML reads 1e2 as text
    with pytest.raises(ValidationError, match=r"for the factor 0\.01 write 100"):
        Config(imbalance=0.01)
    for wrong in (-1, 0, 1e6, "many", None):
        with pytest.raises(ValidationError):
            Config(imbalance=wrong)


def test_take_counts_is_exact_deterministic_and_nested():
    targets = np.tile(np.arange(4), 25)
    pool = np.flatnonzero(np.arange(100) % 10 != 0)
    few = take_counts(targets, pool, [9, 5, 2, 0], seed=3)
    assert_positions(few)
    assert np.bincount(targets[few], minlength=4).tolist() == [9, 5, 2, 0]
    assert np.isin(few, pool).all()
    np.testing.assert_array_equal(few, take_counts(targets, pool[::-1], [9, 5, 2, 0], seed=3))
    more = take_counts(targets, pool, [9, 7, 20, 3], seed=3)
    assert np.isin(few, more).all()
    assert not np.array_equal(few, take_counts(targets, pool, [9, 5, 2, 0], seed=4))
    assert not np.array_equal(few, take_counts(targets, pool, [9, 5, 2, 0], seed=3, stream=9))


def test_take_counts_refuses_more_than_there_is():
    with pytest.raises(UsageError, match="Expected 3 images of class 1, the pool holds 2"):
        take_counts(np.array([0, 1, 1]), np.arange(3), [1, 3], seed=0)


@st.composite
def sources(draw, *, one_class_a_group: bool):
    num_classes = draw(st.integers(1, 5))
    num_groups = draw(st.integers(2, 30))
    num_images = draw(st.integers(2 * num_classes, 150))
    # Drawn by a generator: lists drawn one by one are mostly too poor to be divided at all.
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    groups = rng.integers(0, num_groups, num_images)
    targets = groups if one_class_a_group else rng.integers(0, 2**30, num_images)
    _, targets = np.unique(targets % num_classes, return_inverse=True)
    return make_source(targets, groups)


FRACTIONS = st.floats(0.05, 0.95)
SEEDS = st.integers(0, 2**64 - 1)
# Images of each class: none, or enough to divide; the last class has some.
COUNTS = st.lists(st.sampled_from([0, *range(2, 26)]), max_size=3).map(lambda few: [*few, 5])
small = settings(max_examples=60, deadline=None)


def assert_division(source: Source, positions, rest, carved) -> None:
    assert_positions(rest)
    assert_positions(carved)
    np.testing.assert_array_equal(np.sort(np.concatenate([rest, carved])), np.sort(positions))
    present = set(source.targets[positions].tolist())
    assert set(source.targets[rest].tolist()) == present
    assert set(source.targets[carved].tolist()) == present
    if source.groups is not None:
        assert not groups_of(source, rest) & groups_of(source, carved)


@small
@given(sources(one_class_a_group=True), FRACTIONS, SEEDS)
def test_carve_divides_whenever_each_class_has_two_groups(source, fraction, seed):
    everything = np.arange(len(source.targets))
    num_groups = [
        len(groups_of(source, np.flatnonzero(source.targets == c)))
        for c in range(len(source.class_names))
    ]
    if min(num_groups) < 2:
        with pytest.raises(UsageError, match=f"'kind {np.argmin(num_groups)}'"):
            carve(source, everything, fraction, seed)
    else:
        rest, carved = carve(source, everything, fraction, seed)
        assert_division(source, everything, rest, carved)
        again = carve(source, everything[::-1], fraction, seed)
        np.testing.assert_array_equal(again[1], carved)


@small
@given(sources(one_class_a_group=False), FRACTIONS, SEEDS)
def test_carve_keeps_mixed_groups_whole_or_refuses(source, fraction, seed):
    positions = np.flatnonzero(np.arange(len(source.targets)) % 7 != 3)
    try:
        rest, carved = carve(source, positions, fraction, seed)
    except UsageError as error:
        assert "found no way for 'kind" in str(error)  # noqa: PT017  (either outcome is right)
    else:
        assert_division(source, positions, rest, carved)


@small
@given(COUNTS, st.randoms(), FRACTIONS, SEEDS)
def test_carve_by_image_is_near_the_fraction(counts, shuffler, fraction, seed):
    targets = [label for label, count in enumerate(counts) for _ in range(count)]
    shuffler.shuffle(targets)
    source = make_source(targets)
    everything = np.arange(len(targets))
    counts = np.array(counts_of(source, everything))
    rest, carved = carve(source, everything, fraction, seed)
    assert_division(source, everything, rest, carved)
    wanted = np.clip(fraction * counts, np.minimum(counts, 1), np.maximum(counts - 1, 0))
    assert np.abs(np.array(counts_of(source, carved)) - wanted).max() <= 0.5


def test_carve_by_group_is_near_the_fraction_of_every_class():
    rng = np.random.default_rng(0)
    sizes = (900, 300, 100, 40)
    targets = np.repeat(np.arange(4), sizes)
    groups = np.concatenate([c * 1000 + rng.integers(0, n // 2, n) for c, n in enumerate(sizes)])
    source = make_source(targets, groups)
    for seed in range(5):
        _, carved = carve(source, np.arange(len(targets)), 0.2, seed)
        assert np.abs(np.array(counts_of(source, carved)) - np.array(sizes) * 0.2).max() <= 1


def test_carve_depends_on_the_seed():
    source = make_source(np.tile(np.arange(3), 40), np.arange(120) // 4)
    lists = {carve(source, np.arange(120), 0.25, seed)[1].tobytes() for seed in range(8)}
    assert len(lists) == 8


def test_choices_never_change():
    """Frozen, ties included: a change here would change the lists of every data set."""
    targets, everything = np.tile(np.arange(3), 12), np.arange(36)
    _, carved = carve(make_source(targets, everything // 3), everything, 0.5, 0)
    assert sorted(set((carved // 3).tolist())) == [0, 2, 4, 5, 6, 11]
    _, carved = carve(make_source(targets), everything, 0.25, 0)
    assert carved.tolist() == [0, 1, 11, 13, 17, 18, 19, 24, 26]
    assert take_counts(targets, everything, [4, 2, 1], seed=0).tolist() == [
        *(3, 4, 9, 12, 19, 29, 33)
    ]


@pytest.mark.parametrize("groups", [None, [0, 1, 2, 3, 4]])
def test_a_class_with_one_image_cannot_be_carved(groups):
    source = make_source([0, 0, 1, 0, 0], groups)
    with pytest.raises(UsageError, match=r"'kind 1' \(images: 1\b"):
        carve(source, np.arange(5), 0.3, 0)


def test_a_class_in_one_group_cannot_be_carved():
    source = make_source([0, 0, 1, 1, 1], [0, 1, 2, 2, 2])
    with pytest.raises(UsageError, match=r"'kind 1' \(images: 3, groups: 1\)"):
        carve(source, np.arange(5), 0.3, 0)


@pytest.mark.parametrize("fraction", [0, 1, -0.2, 20, float("nan")])
def test_a_fraction_out_of_range_is_refused(fraction):
    with pytest.raises(UsageError, match="fraction above 0 and below 1"):
        carve(make_source([0, 0]), np.arange(2), fraction, 0)


def split_parts(split):
    parts = {"train": split.train, "val": split.val, "test": split.test}
    return {name: positions for name, positions in parts.items() if positions is not None}


def assert_disjoint(source: Source, split) -> None:
    parts = list(split_parts(split).values())
    for positions in parts:
        assert_positions(positions)
    assert len(np.unique(np.concatenate(parts))) == sum(map(len, parts))
    if source.groups is not None:
        held = [groups_of(source, positions) for positions in parts]
        assert sum(map(len, held)) == len(set.union(*held))


@small
@given(
    sources(one_class_a_group=False),
    st.sampled_from([1, 1.5, 3]),
    st.booleans(),
    SEEDS,
)
def test_held_out_on_random_groups(source, imbalance, balanced, seed):
    def make():
        return held_out(
            source,
            imbalance=imbalance,
            seed=seed,
            val_fraction=0.3,
            balanced_validation=balanced,
            test_fraction=0.3,
        )

    try:
        split = make()
    except UsageError:
        return
    assert_disjoint(source, split)
    train, val, test = (counts_of(source, part) for part in split_parts(split).values())
    assert train == exponential_counts(train[0], len(train), imbalance)
    assert len(set(test)) == 1
    assert min(val) >= 1
    assert val == sorted(val, reverse=True)
    assert not balanced or len(set(val)) == 1
    assert split.notes["counts"] == {"train": train, "val": val, "test": test}
    assert split.notes["shared_groups"] == 0
    json.dumps(dict(split.notes), allow_nan=False)
    np.testing.assert_array_equal(make().train, split.train)


def test_held_out_by_image():
    source = make_source(np.tile(np.arange(4), 100))
    split = held_out(source, imbalance=10, seed=1, val_fraction=0.25, test_fraction=0.2)
    assert_disjoint(source, split)
    assert split.notes == {
        "nominal_imbalance": 10.0,
        "measured_imbalance": {"train": 10.0, "val": 10.0},
        "counts": {"train": [60, 27, 12, 6], "val": [20, 9, 4, 2], "test": [20, 20, 20, 20]},
        "split_by": "image",
    }


def test_held_out_takes_the_official_test_and_balances_it():
    targets = np.tile(np.arange(2), 60)
    partition = np.where(np.arange(120) < 100, "train", "test")
    targets[119] = 0
    source = make_source(targets, partition=partition)
    split = held_out(source, imbalance=2, seed=0, val_fraction=0.2, balanced_validation=True)
    assert set(source.partition[split.test]) == {"test"}
    assert set(source.partition[np.concatenate([split.train, split.val])]) == {"train"}
    assert split.notes["counts"] == {"train": [40, 20], "val": [10, 10], "test": [9, 9]}


def test_the_long_tail_does_not_move_test_or_the_validation_pool():
    source = make_source(np.tile(np.arange(3), 100), np.arange(300) // 5)
    mild, steep = (
        held_out(source, imbalance=imbalance, seed=5, val_fraction=0.2) for imbalance in (2, 20)
    )
    np.testing.assert_array_equal(mild.test, steep.test)
    assert np.isin(steep.train, mild.train).all()
    assert np.isin(steep.val, mild.val).all()


def test_an_official_test_that_shares_a_group_is_refused():
    source = make_source(
        np.tile(np.arange(2), 20), np.arange(40) // 6, np.repeat(["train", "test"], 20)
    )
    with pytest.raises(VerificationError, match=r"train and test share groups: 1 \(first: '3'\)"):
        held_out(source, imbalance=1, seed=0, val_fraction=0.3)


def test_a_class_missing_from_the_official_test_is_named():
    source = make_source([0, 1] * 10, partition=["train"] * 18 + ["test", "train"])
    with pytest.raises(UsageError, match="'kind 1' has no image among the 1 to be divided, and 10"):
        held_out(source, imbalance=1, seed=0, val_fraction=0.3)


def test_too_steep_a_profile_names_the_class():
    source = make_source(np.tile(np.arange(3), 10))
    with pytest.raises(UsageError, match="Class 'kind 2'"):
        held_out(source, imbalance=7, seed=0, val_fraction=0.2)


def test_published_has_no_validation_and_the_whole_test():
    targets = np.tile(np.arange(3), 40)
    source = make_source(
        targets, groups=np.arange(120) // 7, partition=np.repeat(["train", "test"], [90, 30])
    )
    split = published(source, imbalance=10, seed=0)
    assert split.val is None
    np.testing.assert_array_equal(split.test, np.arange(90, 120))
    assert counts_of(source, split.train) == exponential_counts(30, 3, 10)
    assert split.train.max() < 90
    assert split.notes["shared_groups"] in (0, 1)
    assert set(split.notes["counts"]) == {"train", "test"}


def test_published_needs_an_official_test():
    with pytest.raises(UsageError, match="held_out"):
        published(make_source([0, 1]), imbalance=1, seed=0)
