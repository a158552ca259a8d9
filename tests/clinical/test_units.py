"""One decision a lesion."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from made_runs import predictions, shuffled

from ltbench.clinical.probabilities import log_odds, log_softmax
from ltbench.clinical.units import one_a_unit, unit_names
from ltbench.errors import UsageError, VerificationError


def uneven(seed=0):
    """Lesions of one to four images."""
    part = predictions(120, seed=seed, images_a_lesion=4)
    kept = np.random.default_rng(seed).random(120) < 0.6
    return replace(
        part,
        ids=part.ids[kept],
        targets=part.targets[kept],
        logits=part.logits[kept],
        groups=part.groups[kept],
        metadata={name: values[kept] for name, values in part.metadata.items()},
    )


def test_mean_by_hand():
    part = uneven()
    got, told = one_a_unit(part, "lesion")
    probabilities = log_softmax(part)[0]
    assert got.ids.tolist() == sorted(set(part.groups.tolist()))
    for i, name in enumerate(got.ids):
        mine = part.groups == name
        assert log_softmax(got)[0][i] == pytest.approx(probabilities[mine].mean(axis=0))
        assert got.targets[i] == part.targets[mine][0]
    sizes = np.unique(part.groups, return_counts=True)[1]
    assert (told.num_images, told.num_units) == (len(part.ids), len(sizes))
    assert (told.num_several, told.largest) == ((sizes > 1).sum(), sizes.max())


def test_max_takes_the_most_suspect_image():
    part = uneven()
    got, told = one_a_unit(part, "lesion", rule="max", positive=(0, 2))
    odds = log_odds(part, (0, 2))
    for i, name in enumerate(got.ids):
        mine = np.flatnonzero(part.groups == name)
        assert log_odds(got, (0, 2))[i] == pytest.approx(odds[mine].max())
    assert "most" in told.rule


def test_max_needs_to_know_what_is_suspect():
    with pytest.raises(UsageError, match="--positive"):
        one_a_unit(uneven(), rule="max")


@pytest.mark.parametrize("rule", ["mean", "max"])
def test_order_decides_nothing(rule):
    part = uneven()
    one, _ = one_a_unit(part, rule=rule, positive=(0,))
    two, _ = one_a_unit(shuffled(part), rule=rule, positive=(0,))
    assert np.array_equal(one.logits, two.logits)
    assert np.array_equal(one.targets, two.targets)
    assert all(np.array_equal(one.metadata[k], two.metadata[k]) for k in one.metadata)


def test_one_image_a_lesion_changes_no_probability():
    part = predictions(40, images_a_lesion=1)
    got, told = one_a_unit(part)
    assert told.num_several == 0
    assert log_softmax(got)[0] == pytest.approx(log_softmax(part)[0], abs=1e-15)


def test_lesions_in_the_metadata_go_before_groups():
    """Patients are groups, and have several lesions of several classes."""
    part = predictions(40)
    patients = np.array([f"p{i // 8}" for i in range(40)])
    lesions = part.groups.copy()
    lesions[:2] = ""
    part = replace(part, groups=patients, metadata={"lesion": lesions})
    names, noun = unit_names(part, "patient")
    assert noun == "lesion"
    assert names[:2].tolist() == ["img:image-00000", "img:image-00001"]
    got, _ = one_a_unit(part, "patient")
    assert len(got.ids) == len(set(lesions.tolist()) - {""}) + 2
    # Intervals go on to be by patient.
    assert set(got.groups.tolist()) == set(patients.tolist())


def test_groups_of_several_classes_are_refused():
    part = predictions(40)
    part = replace(part, groups=np.array([f"p{i // 10}" for i in range(40)]))
    with pytest.raises(UsageError, match=r"patients have images of several classes \(as p0"):
        one_a_unit(part, "patient")


def test_no_groups_are_refused():
    with pytest.raises(UsageError, match="know no groups and no lesions"):
        one_a_unit(predictions(groups=False))


def test_facts_that_differ_within_a_lesion_are_not_known():
    part = predictions(4, class_names=("a", "b"))
    site = np.array(["arm", "arm", "leg", "arm"])
    got, _ = one_a_unit(replace(part, targets=np.zeros(4, np.int64), metadata={"site": site}))
    assert got.metadata["site"].tolist() == ["arm", ""]


def test_nan_is_refused():
    part = predictions(10)
    part.logits[3, 1] = np.nan
    with pytest.raises(VerificationError, match="image-00003"):
        one_a_unit(part)
