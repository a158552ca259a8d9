from __future__ import annotations

import errno
import logging
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ltbench.errors import DataMissingError, RunFailedError, UsageError, VerificationError
from ltbench.predictions import Predictions
from ltbench.results import (
    SCHEMA_VERSION,
    RunFolder,
    find_run,
    find_runs,
    read_records,
    run_folders,
)
from ltbench.stored_predictions import predictions_digest


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return _run(tmp_path)


def _run(root: Path, **names: object) -> RunFolder:
    place = {"dataset": "digits_lt", "protocol": "imb100", "method": "ce", "key": "a1b2", "seed": 0}
    folder = RunFolder.at(root, **{**place, **names})  # type: ignore[arg-type]
    folder.create()
    return folder


def _predictions(*, groups: bool = True, num_images: int = 5) -> Predictions:
    random = np.random.default_rng(0)
    return Predictions(
        ids=np.array([f"ISIC_{number:07d}_ä" for number in range(num_images)]),
        targets=random.integers(0, 3, num_images),
        logits=random.normal(size=(num_images, 3)).astype(np.float32),
        class_names=("nævus", "melanoma", "x"),
        groups=np.array([f"lesion {number // 2}" for number in range(num_images)])
        if groups
        else None,
    )


def _assert_same(got: Predictions, expected: Predictions) -> None:
    np.testing.assert_array_equal(got.ids, expected.ids)
    np.testing.assert_array_equal(got.targets, expected.targets)
    np.testing.assert_array_equal(got.logits, expected.logits)
    assert got.logits.dtype == np.float32
    assert got.targets.dtype == np.int64
    assert got.class_names == expected.class_names
    assert (got.groups is None) == (expected.groups is None)
    if expected.groups is not None:
        np.testing.assert_array_equal(got.groups, expected.groups)


def test_the_layout_and_the_name(tmp_path: Path) -> None:
    run = _run(tmp_path, seed=12)
    assert run.path == tmp_path / "digits_lt" / "imb100" / "ce" / "a1b2" / "seed-12"
    assert run.name == "a1b2/seed-12"
    run.create()
    assert list(run.path.iterdir()) == []


@pytest.mark.parametrize(
    "names", [{"protocol": "../x"}, {"method": ""}, {"key": ".hidden"}, {"seed": -1}]
)
def test_names_that_cannot_be_folders_are_refused(tmp_path: Path, names: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="Expected"):
        _run(tmp_path, **names)


@pytest.mark.parametrize(
    ("number", "kind"), [(errno.EROFS, UsageError), (errno.ENOSPC, RunFailedError)]
)
@pytest.mark.parametrize("step", ["mkdir", "fsync"])
def test_a_full_or_read_only_folder_fails_at_the_start(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    number: int,
    kind: type[Exception],
) -> None:
    def fail(*_args: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(kind, match="digits_lt"):
        _run(tmp_path)
    monkeypatch.undo()
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_record_is_the_mark_that_a_run_is_done(run: RunFolder) -> None:
    assert not run.is_done()
    with pytest.raises(DataMissingError):
        run.record()
    run.write_record({"method": "ce", "metrics": {"accuracy": 0.5}})
    assert run.is_done()
    assert run.record() == {
        "schema_version": SCHEMA_VERSION,
        "method": "ce",
        "metrics": {"accuracy": 0.5},
    }


def test_damaged_records_are_kept_aside(run: RunFolder, caplog: pytest.LogCaptureFixture) -> None:
    for number, data in enumerate([b"", b'{"schema_version": 1, "met', b"[1]"], start=1):
        (run.path / "record.json").write_bytes(data)
        with caplog.at_level(logging.WARNING):
            assert not run.is_done()
        assert f"record.json.damaged-{number}" in caplog.text
        assert (run.path / f"record.json.damaged-{number}").read_bytes() == data
        assert not (run.path / "record.json").exists()
    (run.path / "record.json").write_bytes(b"torn")
    run.write_record({})
    assert run.is_done()
    assert (run.path / "record.json.damaged-4").read_bytes() == b"torn"


def test_a_damaged_record_in_a_read_only_folder_is_not_done_either(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_args: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    (run.path / "record.json").write_bytes(b"torn")
    monkeypatch.setattr(os, "rename", fail)
    assert not run.is_done()
    assert (run.path / "record.json").read_bytes() == b"torn"


def test_a_record_that_cannot_be_read_now_is_left_alone(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_args: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    run.write_record({})
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", fail)
        with pytest.raises(RunFailedError, match="could not be read"):
            run.is_done()
    assert run.is_done()


def test_config_round_trip(run: RunFolder) -> None:
    run.write_config({"method": {"temperature": 0.1}, "seed": 0})
    assert run.config() == {"method": {"temperature": 0.1}, "seed": 0}
    (run.path / "config.json").write_text("[]")
    with pytest.raises(VerificationError, match="damaged"):
        run.config()


def test_epochs_survive_a_torn_line(run: RunFolder) -> None:
    assert run.epochs() == []
    assert run.truncate_epochs(0) == 0
    for epoch in range(4):
        run.append_epoch({"epoch": epoch, "loss": 1 / (epoch + 1)})
    with (run.path / "epochs.jsonl").open("a") as file:
        file.write('{"epoch": 4, "lo')
    assert [line["epoch"] for line in run.epochs()] == [0, 1, 2, 3]
    assert run.truncate_epochs(3) == 3
    run.append_epoch({"epoch": 3})
    assert [line["epoch"] for line in run.epochs()] == [0, 1, 2, 3]
    assert run.epochs()[2]["loss"] == 1 / 3


def test_a_short_history_is_said_and_a_damaged_one_refused(
    run: RunFolder, caplog: pytest.LogCaptureFixture
) -> None:
    run.append_epoch({"epoch": 0})
    assert run.truncate_epochs(5) == 1
    assert "expected 5 epochs, found 1" in caplog.text
    (run.path / "epochs.jsonl").write_bytes(b'{"epoch": 0}\n\xff{\n{"epoch": 2}\n')
    with pytest.raises(VerificationError, match="line 2"):
        run.epochs()


@pytest.mark.parametrize("groups", [True, False])
def test_predictions_round_trip(run: RunFolder, groups: bool) -> None:
    val = _predictions(groups=groups)
    test = replace(_predictions(groups=groups, num_images=9), logits=np.full((9, 3), -0.0))
    run.write_predictions({"val": val, "test": test})
    _assert_same(run.read_predictions("val"), val)
    _assert_same(run.read_predictions("test"), replace(test, logits=np.full((9, 3), -0.0, "f4")))
    stored = (run.path / "predictions.npz").read_bytes()
    run.write_predictions({"val": val, "test": test})
    assert (run.path / "predictions.npz").read_bytes() == stored


def test_predictions_hold_no_pickles(run: RunFolder) -> None:
    objects = replace(_predictions(), ids=np.array(list("abcde"), dtype=object))
    run.write_predictions({"val": None, "test": objects})
    assert run.read_predictions("test").ids.dtype.kind == "U"
    with pytest.raises(DataMissingError, match="only of: test"):
        run.read_predictions("val")


def test_predictions_of_no_images(run: RunFolder) -> None:
    empty = _predictions(num_images=0)
    run.write_predictions({"test": empty})
    _assert_same(run.read_predictions("test"), empty)


def test_predictions_that_do_not_fit_together_are_refused(run: RunFolder) -> None:
    with pytest.raises(ValueError, match="'test' do not fit together: expected targets"):
        run.write_predictions({"test": replace(_predictions(), targets=np.zeros(4))})
    with pytest.raises(ValueError, match="expected logits"):
        run.write_predictions({"test": replace(_predictions(), class_names=("a", "b"))})
    with pytest.raises(DataMissingError, match=r"predictions\.npz"):
        run.read_predictions("test")


def test_damaged_predictions_are_refused(run: RunFolder) -> None:
    run.write_predictions({"test": _predictions()})
    path = run.path / "predictions.npz"
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 4] ^= 0xFF
    arrays: dict[str, Any] = {"test/ids": np.array([{}], dtype=object)}
    np.savez(path, **arrays)
    pickled = path.read_bytes()
    arrays = {"test/ids": np.array(["a"])}
    np.savez(path, **arrays)
    partial = path.read_bytes()
    for data in (b"", whole[: len(whole) // 2], bytes(flipped), b"\x80\x04.", pickled, partial):
        path.write_bytes(data)
        with pytest.raises(VerificationError, match=r"predictions\.npz is damaged"):
            run.read_predictions("test")


def test_a_digest_names_what_metrics_depend_on(run: RunFolder) -> None:
    given = _predictions()
    digest = predictions_digest(given)
    assert len(digest) == 64
    assert predictions_digest(replace(given, logits=given.logits.astype(np.float64))) == digest
    assert predictions_digest(replace(given, logits=np.asfortranarray(given.logits))) == digest
    run.write_predictions({"test": given})
    assert predictions_digest(run.read_predictions("test")) == digest
    nudged = given.logits.copy()
    nudged[0, 0] = np.nextafter(nudged[0, 0], np.float32(9))
    others = [
        replace(given, logits=nudged),
        replace(given, ids=given.ids[::-1]),
        replace(given, targets=(given.targets + 1) % 3),
        replace(given, class_names=("a", "b", "c")),
    ]
    assert len({digest, *(predictions_digest(other) for other in others)}) == 5


def test_records_are_read_with_word_of_those_left_out(tmp_path: Path) -> None:
    for method in ("ce", "ldam_drw"):
        for seed in (0, 2, 10):
            run = _run(tmp_path, method=method, key=f"k{method}", seed=seed)
            run.write_record({"method": method, "seed": seed})
    _run(tmp_path, dataset="other").write_record({"method": "ce", "seed": 0})
    _run(tmp_path, key="unfinished").write_config({})
    newer = _run(tmp_path, key="newer")
    newer.write_record({"schema_version": SCHEMA_VERSION + 1})
    damaged = _run(tmp_path, key="torn")
    (damaged.path / "record.json").write_bytes(b"{")
    (tmp_path / "notes.txt").write_text("not a run")

    records, messages = read_records(tmp_path, dataset="digits-lt")
    assert [(record["method"], record["seed"]) for record in records] == [
        (method, seed) for method in ("ce", "ldam_drw") for seed in (0, 2, 10)
    ]
    assert RunFolder(Path(records[0]["folder"])).name == "kce/seed-0"
    assert len(messages) == 2
    assert f"schema version {SCHEMA_VERSION + 1}" in messages[0]
    assert str(newer.path) in messages[0]
    assert str(damaged.path) in messages[1]
    assert (damaged.path / "record.json").exists()

    assert len(read_records(tmp_path)[0]) == 7
    assert len(read_records(tmp_path, methods=["LDAM-DRW".lower()])[0]) == 3
    assert len(read_records(tmp_path, methods=[])[0]) == 0
    assert read_records(tmp_path, protocol="none") == ([], [])
    assert read_records(tmp_path / "nowhere") == ([], [])


def test_a_thousand_records_are_read_at_once(tmp_path: Path) -> None:
    first = _run(tmp_path)
    first.write_record({"metrics": {"per_class": [0.5] * 100}})
    for number in range(1, 1000):
        folder = first.path.parent.parent / f"k{number}" / "seed-0"
        folder.mkdir(parents=True)
        shutil.copyfile(first.path / "record.json", folder / "record.json")
    start = time.process_time()
    records, messages = read_records(tmp_path)
    assert (len(records), messages) == (1000, [])
    assert time.process_time() - start < 2.0


def test_a_run_is_found_by_folder_name_and_beginning(tmp_path: Path) -> None:
    one = _run(tmp_path, key="a1b2c3")
    two = [_run(tmp_path, key="a1ff00", seed=seed) for seed in (0, 1)]
    short = _run(tmp_path, key="a1", method="ecl")
    one.write_config({})
    assert find_run(tmp_path, str(one.path)) == one
    assert find_run(tmp_path, "a1b2c3/seed-0") == one
    assert find_run(tmp_path, "a1b") == one
    assert find_run(tmp_path, "a1f/seed-1") == two[1]
    assert find_run(tmp_path, "a1") == short
    assert find_runs(tmp_path, "a1f") == two
    assert find_runs(tmp_path, "a1b") == [one]
    with pytest.raises(UsageError, match="several configurations"):
        find_runs(tmp_path, "a")
    with pytest.raises(UsageError, match="means 2 runs") as caught:
        find_run(tmp_path, "a1ff00")
    assert "a1ff00/seed-0" in str(caught.value)
    assert "a1ff00/seed-1" in str(caught.value)
    assert "a1b2c3" not in str(caught.value)
    for unknown in ("zzz", "", "a1b2c3/seed-9", "/"):
        with pytest.raises(UsageError, match="No run") as caught:
            find_run(tmp_path, unknown)
        assert "a1b2c3/seed-0" in str(caught.value)
    with pytest.raises(UsageError, match="none yet"):
        find_run(tmp_path / "nowhere", "a1")


def test_a_folder_that_cannot_be_listed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_args: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "scandir", fail)
    with pytest.raises(UsageError, match="cannot be listed"):
        list(run_folders(tmp_path))
