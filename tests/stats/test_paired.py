"""Rows against the best, from run folders with made predictions."""

import json
import os
import shutil
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from ltbench.errors import UsageError, VerificationError
from ltbench.metrics import METRICS, evaluate
from ltbench.results import RunFolder, run_folders
from ltbench.stats import board as boards
from ltbench.stats.board import Board
from ltbench.stats.holm import holm
from ltbench.stats.means import intervals
from ltbench.stats.paired import against_best, differences
from ltbench.testing.made_runs import made_predictions, made_run

NAMES = ("mel", "nv", "df")
TARGETS = np.repeat([0, 1, 2], [60, 120, 12])
GROUPS = np.array([f"lesion-{c}-{i // 2}" for c, n in enumerate((60, 120, 12)) for i in range(n)])


@pytest.fixture(autouse=True)
def _nothing_remembered():
    boards._REMEMBERED.clear()


def predictions(strength, seed, **more):
    given = {"groups": GROUPS} | more
    return made_predictions(TARGETS, NAMES, strength=strength, seed=seed, **given)


def row(root, label, strength, seeds=range(3), **more):
    facts = {"key": label.encode().hex().ljust(16, "0")[:16]}
    return [
        made_run(root, label, s, predictions(strength, [s, *label.encode()], **more), **facts)
        for s in seeds
    ]


def made_rows(root, strengths, **more):
    return {label: row(root, label, strength, **more) for label, strength in strengths.items()}


def without_words(paired):
    return replace(paired, estimator="")


def test_equality_with_the_records(tmp_path):
    """Points are those of the records, bit for bit."""
    rows = made_rows(tmp_path, {"a": 1.0, "b": 2.0})
    for metric in METRICS.values():
        found = against_best(rows, metric.name)
        means = {
            name: np.mean([metric.read(run.record()["metrics"]["test"]) for run in runs])
            for name, runs in rows.items()
            if metric.read(runs[0].record()["metrics"]["test"]) is not None
        }
        if not means:
            assert {one.difference for one in found.values()} == {None}
            continue
        best = (max if metric.higher_is_better else min)(means, key=means.get)
        (other,) = set(rows) - {best}
        assert found[best].difference == 0.0
        assert found[other].difference == pytest.approx(means[other] - means[best], abs=1e-15)


def test_a_clear_difference_and_none(tmp_path):
    rows = made_rows(tmp_path, {"strong": 3.0, "as strong": 3.0, "weak": 0.5})
    found = against_best(rows, "macro_f1")
    best = max(found, key=lambda name: found[name].difference)
    assert best != "weak"
    assert found["weak"].separable
    assert found["weak"].high < 0
    assert found["weak"].p_adjusted < 0.05
    assert not found["weak"].may_be_best
    assert found["strong"].may_be_best
    assert found["as strong"].may_be_best
    assert found[best].low == found[best].high == 0.0
    one = found["weak"]
    assert (one.num_seeds, one.num_images, one.num_groups) == (3, 192, 96)
    assert one.num_comparisons == 3, "all pairs: the best was chosen by the same numbers"
    assert "lesions resampled within class, 2000 times, random seed 0" in one.estimator
    assert "Holm over 3 comparisons (all pairs of 3 rows)" in one.estimator
    assert one.standard_error_seeds > 0
    assert one.standard_error_sampling > 0


def test_interval_and_adjusted_p_agree(tmp_path):
    rows = made_rows(tmp_path, {"a": 1.0, "b": 1.2, "c": 1.4, "d": 2.0})
    for metric in ("accuracy", "macro_f1", "macro_auc", "nll"):
        for one in against_best(rows, metric).values():
            assert one.separable == (one.p_adjusted < 0.05), metric


def test_lower_is_better_for_some(tmp_path):
    rows = made_rows(tmp_path, {"sharp": 3.0, "blunt": 0.5})
    found = against_best(rows, "nll")
    assert found["sharp"].difference == 0.0
    assert found["blunt"].difference > 0


def test_one_row_only(tmp_path):
    (found,) = against_best(made_rows(tmp_path, {"a": 1.0}), "accuracy").values()
    assert (found.difference, found.low, found.high, found.p_adjusted) == (0.0, 0.0, 0.0, 1.0)
    assert found.may_be_best
    assert found.num_comparisons == 0


def test_ties(tmp_path):
    """Two rows with the same predictions are both best."""
    twins = {
        name: [made_run(tmp_path, name, s, predictions(2.0, s), key=key) for s in range(3)]
        for name, key in (("a", "a" * 16), ("b", "b" * 16))
    }
    found = against_best(twins, "macro_f1")
    for one in found.values():
        assert (one.difference, one.low, one.high, one.p_adjusted) == (0.0, 0.0, 0.0, 1.0)
        assert one.may_be_best


def test_an_undefined_metric(tmp_path):
    """No class of these has fewer than 20 training images."""
    found = against_best(made_rows(tmp_path, {"a": 1.0, "b": 2.0}), "tail_sensitivity")
    for one in found.values():
        assert one.difference is None
        assert not one.separable
        assert not one.may_be_best


def test_the_order_of_rows_runs_and_images_does_not_matter(tmp_path):
    rows = made_rows(tmp_path / "one", {"a": 1.0, "b": 1.5, "c": 2.0})
    expected = against_best(rows, "macro_f1")
    turned = {name: runs[::-1] for name, runs in reversed(rows.items())}
    assert against_best(turned, "macro_f1") == expected

    order = np.random.default_rng(0).permutation(len(TARGETS))
    shuffled = {}
    for name, runs in rows.items():
        shuffled[name] = []
        for run in runs:
            stored, record = run.read_predictions("test"), run.record()
            moved = replace(
                stored,
                **{f: getattr(stored, f)[order] for f in ("ids", "targets", "logits", "groups")},
            )
            del record["schema_version"]
            shuffled[name].append(
                made_run(
                    tmp_path / "two", record["label"], record["seed"], moved, key=record["key"]
                )
            )
    assert against_best(shuffled, "macro_f1") == expected


def test_seeds_are_only_names(tmp_path):
    rows = made_rows(tmp_path / "one", {"a": 1.0, "b": 1.5})
    renamed = {
        name: [
            made_run(
                tmp_path / "two", name, 40 - 3 * s, run.read_predictions("test"), key=run.name[:16]
            )
            for s, run in enumerate(runs)
        ]
        for name, runs in rows.items()
    }
    one, two = (against_best(r, "accuracy") for r in (rows, renamed))
    for name in rows:
        for field in ("difference", "low", "high", "p_adjusted"):
            assert getattr(one[name], field) == pytest.approx(getattr(two[name], field), rel=1e-9)


def test_seeds_that_one_row_lacks(tmp_path):
    a = row(tmp_path, "a", 2.0, seeds=range(5))
    b = row(tmp_path, "b", 1.0, seeds=(1, 3, 9))
    found = against_best({"a": a, "b": b}, "accuracy")["b"]
    assert found.num_seeds == 2
    assert "crossed with 2 seeds, paired by number" in found.estimator
    common = [
        b[i].record()["metrics"]["test"]["accuracy"] - a[s].record()["metrics"]["test"]["accuracy"]
        for i, s in ((0, 1), (1, 3))
    ]
    assert found.difference == pytest.approx(np.mean(common), abs=1e-15)


def test_no_seed_in_common(tmp_path):
    a = row(tmp_path, "a", 2.0, seeds=(0, 1, 2))
    b = row(tmp_path, "b", 1.0, seeds=(3, 4))
    found = against_best({"a": a, "b": b}, "accuracy")["b"]
    assert not found.seeds_paired
    assert "fewer than two are in both" in found.estimator
    assert found.low < found.difference < found.high
    values = [[r.record()["metrics"]["test"]["accuracy"] for r in runs] for runs in (a, b)]
    variance = sum(np.var(v, ddof=1) / len(v) for v in values)
    assert found.standard_error_seeds == pytest.approx(variance**0.5)


def test_one_seed_in_common_of_several(tmp_path):
    """One pair knows nothing of what seeds do; all seeds of both rows do."""
    a = row(tmp_path, "a", 2.0, seeds=(0, 1, 2))
    b = row(tmp_path, "b", 1.0, seeds=(2, 3, 4))
    found = against_best({"a": a, "b": b}, "accuracy")["b"]
    values = [[r.record()["metrics"]["test"]["accuracy"] for r in runs] for runs in (a, b)]
    assert found.difference == pytest.approx(np.mean(values[1]) - np.mean(values[0]))
    assert found.standard_error_seeds is not None
    assert not found.seeds_paired


def test_one_seed_says_what_it_does_not_cover(tmp_path):
    rows = made_rows(tmp_path, {"a": 2.0, "b": 1.0}, seeds=[0])
    found = against_best(rows, "accuracy")["b"]
    assert found.standard_error_seeds is None
    assert "not other seeds" in found.estimator
    assert found.low < found.difference < found.high


def test_images_without_groups(tmp_path):
    rows = made_rows(tmp_path, {"a": 2.0, "b": 1.0}, groups=None)
    found = against_best(rows, "accuracy")["b"]
    assert found.num_groups == found.num_images == 192
    assert "images resampled within class" in found.estimator


def test_groups_make_intervals_wider(tmp_path):
    """Ten like images of one lesion are no ten lesions."""
    lesions = np.array([f"{c}-{i // 10}" for c, n in enumerate((60, 120, 12)) for i in range(n)])
    _, codes = np.unique(lesions, return_inverse=True)
    hard = np.random.default_rng(5).normal(size=(codes.max() + 1, 3))[codes] * 3
    apart = np.random.default_rng(6).normal(size=(codes.max() + 1, 3))[codes] * 3
    widths = {}
    for groups in (lesions, None):
        root = tmp_path / str(groups is None)
        a = [made_run(root, "a", s, predictions(2, s, groups=groups, shared=hard)) for s in (0, 1)]
        b = [made_run(root, "b", s, predictions(2, s, groups=groups, shared=apart)) for s in (0, 1)]
        board = Board({"a": a, "b": b})
        (one,) = differences(board, [("a", "b", "accuracy", None)])
        widths[groups is None] = one.standard_error_sampling
    assert widths[False] > 1.5 * widths[True]


def test_a_class_with_one_image_tells_nothing_by_itself(tmp_path):
    targets = np.repeat([0, 1, 2], [60, 60, 1])
    rows = {
        name: [
            made_run(tmp_path, name, s, made_predictions(targets, NAMES, strength=st, seed=s + k))
            for s in range(3)
        ]
        for k, (name, st) in enumerate({"a": 1.0, "b": 2.0}.items())
    }
    board = Board(rows)
    one, other = differences(board, [("b", "a", "class.sensitivity", c) for c in (0, 2)])
    assert one.low is not None
    assert (other.low, other.high, other.detectable) == (None, None, None)
    assert not other.separable
    assert "too few" in other.estimator
    assert against_best(rows, "macro_f1")["a"].low is not None


def test_corrections_are_over_what_is_asked(tmp_path):
    board = Board(made_rows(tmp_path, {"a": 1.0, "b": 1.6}))
    asked = [("b", "a", "class.f1", c) for c in range(3)]
    together = differences(board, asked)
    alone = [differences(board, [one])[0] for one in asked]
    assert [one.p_adjusted for one in together] == holm([one.p_value for one in alone])
    assert [one.difference for one in together] == [one.difference for one in alone]
    assert "a single comparison" in alone[0].estimator


def test_rates_differ_by_no_more_than_they_can(tmp_path):
    """Two seeds and many comparisons: Student's t would say more than 100 points."""
    board = Board(made_rows(tmp_path, {"a": 1.0, "b": 1.6}, seeds=range(2)))
    asked = [("b", "a", f"class.{name}", 2) for name in ("f1", "sensitivity", "auc")]
    for one in differences(board, asked, 0.999):
        assert -1 <= one.low <= one.difference <= one.high <= 1
        assert not one.separable


def test_every_metric_has_an_interval(tmp_path):
    board = Board(made_rows(tmp_path, {"a": 1.0, "b": 1.6}))
    for name in set(METRICS) - {"tail_sensitivity", "medium_sensitivity"}:
        (one,) = differences(board, [("b", "a", name, None)])
        assert one.low < one.difference < one.high, name


def test_means_have_intervals_of_their_own(tmp_path):
    rows = made_rows(tmp_path, {"a": 1.0, "b": 3.0})
    found = intervals(rows, "accuracy")
    values = [run.record()["metrics"]["test"]["accuracy"] for run in rows["a"]]
    assert found["a"].value == pytest.approx(np.mean(values))
    assert found["a"].standard_error_seeds == pytest.approx(np.std(values, ddof=1) / 3**0.5)
    assert found["a"].low < found["a"].value < found["a"].high
    assert found["b"].value < found["b"].high <= 1.0
    assert intervals(rows, "tail_sensitivity")["a"].value is None
    single = intervals({"a": rows["a"][:1]}, "accuracy")["a"]
    assert single.standard_error_seeds is None
    assert single.low < single.value


def test_it_is_kept_and_read_again(tmp_path, monkeypatch):
    rows = made_rows(tmp_path, {"a": 1.0, "b": 1.5})
    first = against_best(rows, "macro_f1")
    (file,) = (tmp_path / "derived" / "pairs").iterdir()
    assert json.loads(file.read_text())
    assert {run.path.parts[-5] for run in run_folders(tmp_path)} == {"made"}
    boards._REMEMBERED.clear()

    def never(*_):
        raise AssertionError("predictions are not read again")

    monkeypatch.setattr(RunFolder, "read_predictions", never)
    assert against_best(rows, "macro_f1") == first


def test_other_predictions_are_computed_again(tmp_path):
    rows = made_rows(tmp_path, {"a": 1.0, "b": 1.5})
    first = against_best(rows, "macro_f1")
    shutil.rmtree(rows["a"][0].path)
    made_run(tmp_path, "a", 0, predictions(3.0, 99), key=rows["a"][0].path.parent.name)
    assert against_best(rows, "macro_f1")["a"] != first["a"]


def test_nan_names_the_file(tmp_path):
    rows = made_rows(tmp_path, {"a": 1.0, "b": 1.5})
    broken = predictions(1.0, 0)
    broken.logits[7, 1] = np.nan
    rows["b"][1].write_predictions({"test": broken})
    with pytest.raises(VerificationError, match=r"predictions\.npz: 1 of 192 images .*NaN") as e:
        against_best(rows, "macro_f1")
    assert str(rows["b"][1].path) in str(e.value)


def changed(**changes):
    return lambda stored: replace(stored, **{k: f(stored) for k, f in changes.items()})


@pytest.mark.parametrize(("change", "message"), [
    (changed(ids=lambda p: np.char.replace(p.ids, "image-00000", "picture-")),
     r"10 only in .*\(image-000000, image-000001, image-000002, \.\.\.\), 10 only in .*\(pict"),
    (changed(targets=lambda p: np.where(np.arange(192) == 5, 1, p.targets)),
     "1 images have another class in one than in the other, first 'image-000005'"),
    (changed(groups=lambda p: p.ids), "other groups in one than in the other"),
    (changed(groups=lambda p: None), "other groups in one than in the other"),
    (changed(class_names=lambda p: ("nv", "mel", "df")), "classes are mel, nv, df in one"),
    (changed(ids=lambda p: np.where(np.arange(192) == 5, p.ids[4], p.ids)), "more than once"),
])  # fmt: skip
def test_other_images_are_refused(tmp_path, change, message):
    rows = made_rows(tmp_path, {"a": 1.0, "b": 1.5})
    rows["b"][2].write_predictions({"test": change(rows["b"][2].read_predictions("test"))})
    with pytest.raises(VerificationError, match=message):
        against_best(rows, "accuracy")


def test_names_and_rows_that_cannot_be(tmp_path):
    rows = made_rows(tmp_path, {"a": 1.0})
    with pytest.raises(UsageError, match=r"Unknown metric 'acuracy'\. Did you mean 'accuracy'"):
        against_best(rows, "acuracy")
    with pytest.raises(UsageError, match="at least one row"):
        against_best({}, "accuracy")
    with pytest.raises(UsageError, match="a finished run in each"):
        against_best({"a": []}, "accuracy")
    with pytest.raises(VerificationError, match="Two runs of one seed in row 'a'"):
        against_best({"a": [*rows["a"], rows["a"][0]]}, "accuracy")


def test_a_record_that_says_another_number_is_refused(tmp_path):
    """Tables print the record's, and bold is of the predictions."""
    rows = made_rows(tmp_path, {"a": 1.0, "b": 1.5})
    record = rows["a"][0].record() | {"metrics": {"test": {"accuracy": 1.0}, "val": None}}
    (rows["a"][0].path / "record.json").write_text(json.dumps(record))
    with pytest.raises(VerificationError, match=r"the record says accuracy 1\.0, its pred.* 0\.6"):
        against_best(rows, "accuracy")
    stored = evaluate(rows["a"][0].read_predictions("test"), record["train_counts"])
    assert Board(rows).values("a", "macro_f1")[0] == stored["macro_f1"], "which it does not say"


def test_classes_are_rare_by_the_whole_training_part(tmp_path):
    """Images that a method set aside for feedback make no class rarer than others' records say."""
    rows = made_rows(tmp_path, {"a": 1.0, "b": 1.5})
    for run in rows["a"]:
        record = run.record()
        carved = [count * 9 // 10 for count in record["train_counts"]]
        record["train_counts"] = [
            n - c for n, c in zip(record["train_counts"], carved, strict=True)
        ]
        record |= {"feedback_split": "inner", "feedback_counts": carved}
        (run.path / "record.json").write_text(json.dumps(record))
    found = Board(rows).values("a", "head_sensitivity")[0]
    stored = rows["a"][0].record()["metrics"]["test"]
    assert found == METRICS["head_sensitivity"].read(stored)
    assert against_best(rows, "head_sensitivity")["a"].difference is not None


def test_what_was_kept_does_not_hide_a_changed_record(tmp_path):
    rows = made_rows(tmp_path, {"a": 1.0, "b": 1.5})
    against_best(rows, "accuracy")
    record = rows["a"][0].record()
    record["metrics"]["test"]["accuracy"] += 1e-6
    (rows["a"][0].path / "record.json").write_text(json.dumps(record))
    with pytest.raises(VerificationError, match="the record says"):
        against_best(rows, "accuracy")


def test_results_that_cannot_be_written_to(tmp_path, monkeypatch):
    rows = made_rows(tmp_path, {"a": 1.0, "b": 1.5})
    monkeypatch.setattr("os.replace", partial(_refuse, os.replace))
    assert against_best(rows, "accuracy")["b"].difference == 0.0


def _refuse(replace_file, source, target):
    if "derived" in str(target):
        raise PermissionError(13, "Permission denied", str(target))
    replace_file(source, target)
