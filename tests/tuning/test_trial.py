"""A trial trains and validates as a run does, and never sees a picture of the test part."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from ltbench import claims
from ltbench.errors import InterruptedRunError, UsageError
from ltbench.metrics import validation_summary
from ltbench.registry import DATASETS
from ltbench.results import read_records, run_folders
from ltbench.runner import run
from ltbench.stage_reuse import STAGES
from ltbench.testing.tiny import tiny_request
from ltbench.training.checkpoint import CHECKPOINT
from ltbench.tuning import trial
from ltbench.tuning.trial import FOLDER, try_settings

SEED = 1_000_000


class Forbidding:
    """Pictures of which some may not be read."""

    def __init__(self, images, forbidden):
        self._images = images
        self._forbidden = set(forbidden.tolist())

    def _check(self, positions):
        read = self._forbidden & {int(one) for one in np.atleast_1d(positions)}
        assert not read, f"test pictures {sorted(read)} were read"

    def picture(self, position):
        self._check(position)
        return self._images.picture(position)

    def take(self, positions):
        self._check(positions)
        return self._images.take(positions)

    def subset(self, positions):
        self._check(positions)
        return self._images.subset(positions)

    def soon(self, positions):
        self._check(positions)

    def digest(self):
        return self._images.digest()  # tells nothing of a picture

    def __len__(self):
        return len(self._images)

    def __getattr__(self, name):
        assert name in ("channels", "sizes", "on_disk", "shape"), f"images.{name} may hold any"
        return getattr(self._images, name)


@pytest.fixture
def no_test_pictures(monkeypatch):
    """Every test picture of toy blobs raises when it is read."""
    tiny_request("ce")  # makes the plugin known
    blobs = DATASETS["toy_blobs"]
    load = blobs.load

    def guarded(self, protocol):
        source = load(self, protocol)
        test = np.flatnonzero(source.partition == "test")
        assert len(test) == 24
        return replace(source, images=Forbidding(source.images, test))

    monkeypatch.setattr(blobs, "load", guarded)


def tried(place, method="ce", report=lambda step, summary: False, stop=lambda: None, **settings):
    request = tiny_request(method, {"seed": SEED, **settings})
    return try_settings(request, place, report, stop_signal=stop)


def folder_of(place):
    (folder,) = (place.results / FOLDER).glob("*/*/*/*/seed-*")
    return folder


def test_no_test_picture_is_read_in_a_trial(no_test_pictures, place):
    """Of a method that validates, one that trains on validation, one in stages."""
    for method in ("ce", "ecl", "crt"):
        assert tried(place, method, epochs=3).state == "complete"


def test_a_run_reads_them(no_test_pictures, place):
    with pytest.raises(AssertionError, match="test pictures"):
        run(tiny_request("ce", {"epochs": 1}), place)


def test_a_trial_is_a_run_without_its_test_part(place):
    for method in ("ecl", "crt", "logit_adjust"):
        settings = {"seed": SEED, "epochs": 3}
        outcome = run(tiny_request(method, settings), place)
        val = outcome.folder.read_predictions("val")
        one = tried(place, method, epochs=3)
        assert one.summary == validation_summary(val)
        assert one.folder == outcome.folder.name
        assert one.epochs == len(outcome.folder.epochs())


def test_it_is_no_run_in_any_table(place):
    tried(place, epochs=1)
    assert list(run_folders(place.results)) == []
    assert read_records(place.results) == ([], [])


def test_what_stays_is_small(place):
    tried(place, "crt", epochs=3)
    names = {file.name for file in folder_of(place).iterdir()}
    assert names == {"config.json", "epochs.jsonl", "trial.json"}


def test_the_same_settings_are_found_again(place, monkeypatch):
    told = []
    first = tried(place, report=lambda step, summary: told.append((step, summary["macro_f1"])))
    monkeypatch.setattr(trial, "fit", None)  # nothing may train any more
    again = []
    second = tried(place, report=lambda step, summary: again.append((step, summary["macro_f1"])))
    assert second == first
    assert again == told
    assert [step for step, _ in told] == [1, 2, 3, 4]


def test_stopped_and_gone_on_with_it_is_the_same(place, tmp_path):
    whole = tried(replace(place, results=tmp_path / "whole"), epochs=4)
    looks = iter([None] * 6 + [15])
    told = []
    with pytest.raises(InterruptedRunError):
        tried(place, epochs=4, stop=lambda: next(looks))
    assert (folder_of(place) / CHECKPOINT).exists()
    second = tried(place, epochs=4, report=lambda step, summary: told.append(step))
    assert (second.summary, second.folder) == (whole.summary, whole.folder)
    assert told == [1, 2, 3, 4], "the epochs before the stop are told too"


def test_told_to_stop_while_another_process_trains_the_same(place):
    told = []
    request = tiny_request("ce", {"seed": SEED})
    folder = trial.trial_folder(trial.trial_cell(request, place), place)
    with claims.acquire(folder.path, wait=False), pytest.raises(InterruptedRunError):
        try_settings(
            request,
            replace(place, on_wait=told.append),
            lambda step, summary: False,
            stop_signal=lambda: 15,
        )
    (line,) = told
    assert line.startswith(
        f"waits for {folder.name}: the same settings are being trained by process "
    )
    assert not (folder.path / CHECKPOINT).exists()


def test_died_between_its_last_epoch_and_its_mark(place, monkeypatch):
    monkeypatch.setattr(trial, "_close", lambda folder, outcome: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        tried(place, epochs=2)
    monkeypatch.undo()
    told = []
    one = tried(place, epochs=2, report=lambda step, summary: told.append(step))
    assert (one.state, one.epochs, told) == ("complete", 2, [1, 2])


def test_pruned_with_what_it_had_reached(place):
    history = []

    def report(step, summary):
        history.append(summary)
        return step == 2

    one = tried(place, report=report, epochs=5)
    assert (one.state, one.epochs) == ("pruned", 2)
    best = max(reversed(history), key=lambda summary: summary["accuracy"])
    assert one.summary == best
    assert one.wall_time_s > 0
    assert not (folder_of(place) / CHECKPOINT).exists()
    assert tried(place, report=lambda step, summary: step == 2, epochs=5) == one


def test_a_study_that_prunes_earlier_or_not_at_all(place):
    whole = tried(place, epochs=4)
    assert tried(place, report=lambda step, summary: step == 3, epochs=4).epochs == 3
    assert tried(place, epochs=4) == whole, "what was complete stays so"
    tried(place, report=lambda step, summary: step == 1, epochs=4, batch_size=12)
    one = tried(place, epochs=4, batch_size=12)
    assert (one.state, one.epochs) == ("complete", 4)


def test_diverged_is_a_result_of_the_settings(place, monkeypatch):
    settings = {"epochs": 3, "optimizer.lr": 1e9}
    one = tried(place, **settings)
    assert (one.state, one.summary, one.value("val.macro_f1")) == ("diverged", None, 0.0)
    assert one.wall_time_s > 0
    monkeypatch.setattr(trial, "fit", None)
    assert tried(place, **settings) == one


def test_a_damaged_mark_is_trained_anew(place):
    one = tried(place, epochs=1)
    mark = folder_of(place) / "trial.json"
    mark.write_text(mark.read_text()[:40])
    assert tried(place, epochs=1).summary == one.summary
    assert json.loads(mark.read_text())["outcome"]["state"] == "complete"


def test_first_stages_are_shared_where_the_search_is_after_them(place, plan):
    later = plan("crt", {"optimizer.lr": 0.1, "optimizer.weight_decay": 0})
    mixed = plan("crt", {"optimizer.lr": 0.1})
    assert later.trial_request({}, SEED).settings["machine.keep_stages"] is True
    assert mixed.trial_request({}, SEED).settings["machine.keep_stages"] is False
    for factor in (0.5, 2.0):
        request = later.trial_request({"method.classifier_lr_factor": factor}, SEED)
        try_settings(request, place, lambda step, summary: False, stop_signal=lambda: None)
    assert len(list((place.results / STAGES).iterdir())) == 1


def test_refused_settings_are_refused_as_in_a_run(place):
    with pytest.raises(UsageError, match="stage_three_start"):
        tried(place, "ecl", **{"method.stage_two_start": 0.9, "method.stage_three_start": 0.5})
