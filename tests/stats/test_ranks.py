"""Ranks over data sets, and which data sets may be counted."""

from pathlib import Path

import numpy as np
import pytest

from ltbench.errors import UsageError
from ltbench.stats.ranks import critical_difference, image_origins

ROOT = Path(__file__).parents[2]
SETS = [f"set {i}" for i in range(6)]


def records(scores, *, protocol="held_out", num_images=100, metric="accuracy"):
    """{data set: {label: value, or several seeds' values}}."""
    made = []
    for dataset, by_label in scores.items():
        for label, values in by_label.items():
            for seed, value in enumerate(np.atleast_1d(values).tolist()):
                metrics = {metric: value, "num_images": num_images}
                made.append(
                    {
                        "dataset": dataset, "protocol": protocol, "label": label, "seed": seed,
                        "key": f"{label} {dataset}", "metrics": {"test": metrics, "val": None},
                    }
                )  # fmt: skip
    return made


def by_name(dataset):
    return frozenset({dataset})


def better_each_time(sets=SETS):
    return {name: {"a": 0.9 + i / 100, "b": 0.8, "c": 0.7} for i, name in enumerate(sets)}


@pytest.mark.services
def test_ranks_tests_and_cliques():
    found = critical_difference(records(better_each_time()), "accuracy", origins=by_name)
    assert found.average_ranks == {"a": 1.0, "b": 2.0, "c": 3.0}
    assert found.p_friedman == pytest.approx(np.exp(-6), rel=1e-6)  # chi^2 = 12, 2 degrees
    # Demsar 2006, table 5: q = 2.343 for three methods.
    assert found.critical_difference == pytest.approx(2.343 * (3 * 4 / (6 * 6)) ** 0.5, abs=1e-3)
    assert found.cliques == (("a", "b"), ("b", "c"))
    assert found.p_nemenyi["a", "c"] < 0.05 < found.p_nemenyi["a", "b"]
    assert [dataset for dataset, _ in found.data_sets] == SETS
    assert "6 independent data sets and 3 methods" in found.estimator


@pytest.mark.services
def test_ties_share_a_rank_and_lower_may_be_better():
    scores = {name: {"a": 0.1, "b": 0.1, "c": 0.7} for name in SETS}
    found = critical_difference(records(scores, metric="nll"), "nll", origins=by_name)
    assert found.average_ranks == {"a": 1.5, "b": 1.5, "c": 3.0}
    equal = {name: dict.fromkeys("abc", 0.5) for name in SETS}
    found = critical_difference(records(equal), "accuracy", origins=by_name)
    assert found.p_friedman == 1.0
    assert found.cliques == (("a", "b", "c"),)


@pytest.mark.services
def test_seeds_are_averaged():
    scores = {name: {"a": [0.9, 0.1], "b": [0.6, 0.6], "c": [0.3, 0.4]} for name in SETS}
    found = critical_difference(records(scores), "accuracy", origins=by_name)
    assert list(found.average_ranks) == ["b", "a", "c"]


def test_shared_pictures_count_once():
    """Two of six sets share pictures: the larger counts, and five are too few."""

    def origins(dataset):
        return frozenset({"common"}) if dataset in SETS[:2] else by_name(dataset)

    made = records(better_each_time())
    for record in made:
        if record["dataset"] == SETS[1]:
            record["metrics"]["test"]["num_images"] = 500
    with pytest.raises(UsageError, match=r"6 or more independent .*; there are 5") as error:
        critical_difference(made, "accuracy", origins=origins)
    assert "set 0, held_out: shares common with set 1, which counts already" in str(error.value)


def test_isic_2018_lies_inside_2019():
    assert "HAM10000" in image_origins("isic2018") & image_origins("isic2019")
    assert image_origins("isic2018") & image_origins("dermamnist")
    assert not image_origins("cifar10_lt") & image_origins("cifar100_lt")
    assert image_origins("organamnist") == image_origins("organsmnist")


def test_every_data_set_of_ours_says_where_its_pictures_are_from():
    own_files = {"csv", "folder", "npz", "lists"}
    ours = {file.stem for file in (ROOT / "datasets").glob("[!_]*.py")}
    unknown = {name for name in ours if not image_origins(name)}
    assert unknown == own_files, "say image_origins"


@pytest.mark.services
def test_two_protocols_of_a_set_and_unknown_pictures():
    made = records(better_each_time()) + records(
        better_each_time(SETS[:1]), protocol="random", num_images=50
    )
    found = critical_difference(made, "accuracy", origins=by_name)
    assert "shares set 0 with set 0" in found.left_out["set 0", "random"]
    with pytest.raises(UsageError, match="does not say where its pictures are from"):
        critical_difference(made, "accuracy", origins=lambda dataset: frozenset())


def test_a_plugin_that_is_not_here_says_nothing():
    assert image_origins("a_set_of_another_machine") == frozenset()


def test_what_is_refused():
    scores = better_each_time()
    del scores[SETS[2]]["b"]
    with pytest.raises(UsageError, match="set 2, held_out: no result of b"):
        critical_difference(records(scores), "accuracy", origins=by_name)
    two = {name: {"a": 0.9, "b": 0.8} for name in SETS}
    with pytest.raises(UsageError, match="needs 3 or more methods; these runs are of 2"):
        critical_difference(records(two), "accuracy", origins=by_name)
    several = records(better_each_time())
    several[0] = several[0] | {"key": "another", "seed": 1}
    several.append(several[0] | {"key": "one more"})
    with pytest.raises(UsageError, match="'a' has 2 configurations on set 0, held_out"):
        critical_difference(several, "accuracy", origins=by_name)
