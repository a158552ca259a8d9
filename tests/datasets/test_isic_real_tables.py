"""The real tables of ISIC 2018 and 2019 and the lists of ECL: what is known of them, measured anew.

Run with the folder that holds isic_tables/ and ecl_splits/:
LTBENCH_REAL_TABLES=DIR python -m pytest -m real_tables
"""

import os
import time
from pathlib import Path

import numpy as np
import pytest

from ltbench.data.leaks import group_leak
from ltbench.data.lists import make_lists
from ltbench.data.protocols import (
    as_many_dropped,
    grouped,
    k_fold,
    listed,
    official,
    random_per_class,
    shifted,
    without_shared_groups,
)
from ltbench.dataset import Source
from ltbench.datasets._isic import (
    CLASSES,
    isic2018_test,
    isic2018_training,
    isic2019_training,
    read_ecl_lists,
    refuse_changed_ecl_lists,
    with_test_part,
)

pytestmark = pytest.mark.real_tables

SETS = ("ISIC2018", "ISIC2019")
READERS = {"ISIC2018": isic2018_training, "ISIC2019": isic2019_training}
COUNTS = {
    "ISIC2018": [1113, 6705, 514, 327, 1099, 115, 142],
    "ISIC2019": [4522, 12875, 3323, 867, 2624, 239, 253, 628],
}
GROUPS = {
    "ISIC2018": [614, 5403, 327, 228, 727, 73, 98],
    "ISIC2019": [1676, 8644, 1310, 324, 1467, 113, 135, 262],
}
# Of the lists that the protocol `grouped` makes with seed 0: a change is a change of the benchmark.
GROUPED_DIGESTS = {
    "ISIC2018": "07acbef253e1b66030765888954cc28f698778b9108e133368f2b0ca2a0d4753",
    "ISIC2019": "0fedf7586e79ff6f469ff48fd19339d5f51e046fc6713732eaa380f09d31cff0",
}
ECL_COUNTS = {
    "ISIC2018": {
        "train": [667, 4023, 308, 195, 659, 69, 84],
        "test": [223, 1341, 103, 66, 220, 23, 29],
    },
    "ISIC2019": {
        "train": [2712, 7725, 1993, 519, 1574, 143, 151, 376],
        "test": [905, 2575, 665, 174, 525, 48, 51, 126],
    },
}
LEAKS = {
    "ISIC2018": {
        "test_in_train": (630, 2005, 31.4),
        "with_val": 39.4,
        "classes": {
            **{"VASC": 48.3, "AKIEC": 40.9, "DF": 47.8, "NV": 22.9},
            **{"BCC": 44.7, "BKL": 46.4, "MEL": 55.2},
        },
    },
    "ISIC2019": {
        "test_in_train": (2812, 5069, 55.5),
        "with_val": 61.8,
        "classes": {
            **{"AK": 82.2, "BCC": 76.4, "BKL": 55.2, "DF": 68.8},
            **{"MEL": 75.2, "NV": 40.6, "SCC": 66.7, "VASC": 54.9},
        },
    },
}


class NoImages:
    pass


def real_folder() -> Path:
    given = os.environ.get("LTBENCH_REAL_TABLES")
    if not given:
        pytest.fail(
            "LTBENCH_REAL_TABLES is not set: expected the folder with isic_tables/ and ecl_splits/"
        )
    folder = Path(given)
    missing = [name for name in ("isic_tables", "ecl_splits") if not (folder / name).is_dir()]
    if missing:
        pytest.fail(f"LTBENCH_REAL_TABLES={folder} holds no {' and no '.join(missing)}")
    return folder


@pytest.fixture(scope="module")
def folder() -> Path:
    return real_folder()


def source_of(table) -> Source:
    return Source(
        images=NoImages(),
        ids=table.ids,
        targets=table.targets,
        class_names=table.class_names,
        groups=table.groups,
        partition=table.partition,
        groups_note=table.groups_note,
        metadata=table.metadata,
        notes=table.notes,
    )


@pytest.fixture(scope="module")
def sources(folder):
    return {name: source_of(read(folder / "isic_tables", {})) for name, read in READERS.items()}


@pytest.fixture(scope="module")
def papers(folder, sources):
    """The split that ECL released."""
    return {
        name: listed(source, read_ecl_lists(folder / "ecl_splits", name))
        for name, source in sources.items()
    }


def parts_of(split):
    return {"train": split.train, "val": split.val, "test": split.test}


def percent(pair):
    return round(100 * pair[0] / pair[1], 1)


@pytest.mark.parametrize("name", SETS)
def test_counts_of_classes_and_lesions(sources, name):
    source = sources[name]
    assert source.class_names == CLASSES[name]
    assert np.bincount(source.targets).tolist() == COUNTS[name]
    groups = [len(np.unique(source.groups[source.targets == c])) for c in range(len(COUNTS[name]))]
    assert groups == GROUPS[name]


def test_groups_of_2019_and_their_sources(sources):
    source = sources["ISIC2019"]
    assert len(np.unique(source.groups)) == 13_931
    alone = np.char.startswith(source.groups, "img:")
    assert alone.sum() == 2084
    assert np.array_equal(alone, source.metadata["lesion"] == "")
    names, counts = np.unique(source.metadata["source"], return_counts=True)
    found = dict(zip(names.tolist(), counts.tolist(), strict=True))
    assert found == {"": 2084, "BCN": 12_413, "HAM": 10_015, "MSK": 819}
    missing = {fact: int((values == "").sum()) for fact, values in source.metadata.items()}
    assert missing == {"age": 437, "lesion": 2084, "sex": 384, "site": 2631, "source": 2084}
    assert "2084 images" in source.groups_note


def test_ham10000_lies_in_2019_whole_with_the_same_lesions(sources):
    older, newer = sources["ISIC2018"], sources["ISIC2019"]
    position_of = {name: i for i, name in enumerate(newer.ids.tolist())}
    same = np.array([position_of[name] for name in older.ids.tolist()])
    assert np.array_equal(newer.groups[same], older.groups)
    is_akiec = older.targets == CLASSES["ISIC2018"].index("AKIEC")
    became = np.bincount(newer.targets[same[is_akiec]], minlength=8)
    assert dict(zip(CLASSES["ISIC2019"], became.tolist(), strict=True)) == {
        **dict.fromkeys(CLASSES["ISIC2019"], 0),
        "AK": 130,
        "SCC": 197,
    }
    values, counts = np.unique(older.metadata["confirmation"], return_counts=True)
    assert dict(zip(values.tolist(), counts.tolist(), strict=True)) == {
        "histopathology": 5340,
        "serial imaging showing no change": 3704,
        "single image expert consensus": 902,
        "confocal microscopy with consensus dermoscopy": 69,
    }


def test_test_set_of_2018(folder):
    test = isic2018_test(folder / "isic_tables", {})
    assert len(test) == 1511
    assert "ISIC_0035068" not in test.ids
    assert "ISIC_0035068" in test.notes["not_scored"]
    assert np.bincount(test.targets).tolist() == [171, 908, 93, 43, 217, 44, 35]
    assert len(np.unique(test.groups)) == 1511


def test_official_split_of_2018(folder, sources):
    tables = folder / "isic_tables"
    joined = source_of(with_test_part(isic2018_training(tables, {}), isic2018_test(tables, {})))
    split = official(joined, 0)
    assert split.notes["counts"]["test"] == [171, 908, 93, 43, 217, 44, 35]
    assert len(split.train) + len(split.val) == 10_015
    off = np.array(split.notes["counts"]["val"]) - np.array(COUNTS["ISIC2018"]) / 5
    assert np.abs(off).max() <= 2
    assert split.notes["shared_groups"] == 0


@pytest.mark.parametrize("name", SETS)
def test_ecl_lists_are_the_released_ones_and_cover_the_set(folder, sources, papers, name):
    refuse_changed_ecl_lists(folder / "ecl_splits", name)
    split = papers[name]
    joined = np.sort(np.concatenate(list(parts_of(split).values())))
    assert np.array_equal(joined, np.arange(len(sources[name].ids)))
    assert split.notes["counts"]["train"] == ECL_COUNTS[name]["train"]
    assert split.notes["counts"]["test"] == ECL_COUNTS[name]["test"]
    assert split.notes["counts"]["val"] == ECL_COUNTS[name]["test"]
    imbalance = {"ISIC2018": 58.30, "ISIC2019": 54.02}[name]
    assert split.notes["measured_imbalance"]["train"] == pytest.approx(imbalance, abs=0.005)


@pytest.mark.parametrize("name", SETS)
def test_leak_of_the_paper_split(sources, papers, name):
    leak, known = group_leak(sources[name], papers[name]), LEAKS[name]
    found = leak.test_in_train
    assert (found.images, found.of, percent((found.images, found.of))) == known["test_in_train"]
    more = leak.test_in_train_and_val
    assert percent((more.images, more.of)) == known["with_val"]
    assert {c: percent(pair) for c, pair in leak.classes.items()} == known["classes"]
    assert f"({known['test_in_train'][2]} %)" in papers[name].notes["leak"]


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("seed", range(5))
def test_random_split_has_the_counts_of_ecl(sources, name, seed):
    split = random_per_class(sources[name], seed)
    counts = split.notes["counts"]
    assert counts["train"] == ECL_COUNTS[name]["train"]
    assert counts["val"] == counts["test"] == ECL_COUNTS[name]["test"]
    leak = group_leak(sources[name], split).test_in_train
    typical = {"ISIC2018": 32.0, "ISIC2019": 53.8}[name]
    assert percent((leak.images, leak.of)) == pytest.approx(typical, abs=2)


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("seed", range(5))
def test_grouped_split_is_near_three_to_one_to_one(sources, name, seed):
    source = sources[name]
    began = time.monotonic()
    split = grouped(source, seed)
    assert time.monotonic() - began < 10
    for part, share in (("train", 3 / 5), ("val", 1 / 5), ("test", 1 / 5)):
        off = np.array(split.notes["counts"][part]) - share * np.array(COUNTS[name])
        assert np.abs(off).max() <= 2, (part, off)
    assert split.notes["shared_groups"] == 0
    assert sum(map(len, parts_of(split).values())) == len(source.ids)
    low, high = {"ISIC2018": (58.2, 58.4), "ISIC2019": (53.5, 54.1)}[name]
    assert low < split.notes["measured_imbalance"]["train"] < high


@pytest.mark.parametrize("name", SETS)
def test_grouped_lists_never_change(sources, name):
    lists = make_lists(
        grouped(sources[name], 0),
        sources[name],
        dataset=name,
        protocol="group",
        seed=0,
        settings={},
    )
    assert lists.digest == GROUPED_DIGESTS[name]


@pytest.mark.parametrize("name", SETS)
def test_clean_and_matched_forms_of_the_paper_split(sources, papers, name):
    source, paper = sources[name], papers[name]
    clean = without_shared_groups(source, paper)
    matched = as_many_dropped(source, paper, clean, 0)
    leak = group_leak(source, clean)
    assert leak.test_in_train_and_val.images == 0
    assert np.array_equal(clean.test, paper.test)
    assert np.array_equal(matched.test, paper.test)
    assert matched.notes["counts"] == clean.notes["counts"]
    assert min(clean.notes["dropped"]["train"]) > 0
    assert group_leak(source, matched).test_in_train.images > 0.8 * (
        group_leak(source, paper).test_in_train.images * len(clean.train) / len(paper.train)
    )


@pytest.mark.parametrize("name", SETS)
def test_folds_cover_everything_with_whole_lesions(sources, name):
    source = sources[name]
    splits = [k_fold(source, 0, 5, fold) for fold in range(5)]
    joined = np.sort(np.concatenate([split.test for split in splits]))
    assert np.array_equal(joined, np.arange(len(source.ids)))
    for split in splits:
        assert split.notes["shared_groups"] == 0
        off = np.array(split.notes["counts"]["test"]) - np.array(COUNTS[name]) / 5
        assert np.abs(off).max() <= 2


def test_shift_of_sources_in_2019(sources):
    source = sources["ISIC2019"]
    by = source.metadata["source"]
    split = shifted(source, 0, by, frozenset({"HAM", "MSK"}), frozenset({"BCN"}))
    assert len(split.test) == 12_413
    assert len(split.train) + len(split.val) == 10_015 + 819
    assert split.notes["not_used"] == {"unknown origin": 2084}
    assert split.notes["shared_groups"] == 0
    assert min(split.notes["counts"]["val"]) > 0
