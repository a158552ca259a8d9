"""Grids: planned whole, run cell by cell, failed cells kept, looked at, tried again."""

import json
from dataclasses import replace
from functools import partial

import pytest

from ltbench import claims
from ltbench.cell import prepare
from ltbench.config import resolve
from ltbench.errors import (
    ClaimLostError,
    DataMissingError,
    GridFailedError,
    InterruptedRunError,
    ReplannedError,
    RunFailedError,
    StorageFullError,
    UsageError,
)
from ltbench.grid import running as grid_module
from ltbench.grid.cells import plan, run_cell, standing
from ltbench.grid.running import check_whole, run_grid, status_rows
from ltbench.grid.spec import read_grid
from ltbench.grid.time_left import TimeLeft, in_words
from ltbench.launchers.carrying_out import carry_out
from ltbench.runner import Place
from ltbench.testing.tiny import TINY, TOY_BLOBS, tiny_request
from ltbench.tuned import DIGEST, digest_of

SETTINGS = {**TINY, "epochs": 1}


class Here:
    """A launcher that does everything in this process, one after the other."""

    def __init__(self):
        self.ran = []

    def device_kind(self):
        return "cpu"

    def room(self, jobs):
        return 1

    def run(self, jobs):
        for job in jobs:
            self.ran.append(job.name)
            yield carry_out(job).of(job, wall_time_s=1.0, attempts=1)


@pytest.fixture
def place(tmp_path):
    return Place(results=tmp_path / "runs", plugins=(TOY_BLOBS,))


@pytest.fixture(autouse=True)
def toy_blobs(own_registries):
    from ltbench.registry import add_plugins

    add_plugins([TOY_BLOBS])


def planned(place, methods="ce,focal", seeds="0-1", **settings):
    flags = {"methods": methods, "datasets": "toy_blobs", "seeds": seeds}
    spec = read_grid(None, {**flags, "settings": {**SETTINGS, **settings}})
    return plan(spec, place)


def test_a_grid_runs_once(place):
    lines = []
    whole = planned(place)
    assert [(cell.label.split()[0], cell.seed) for cell in whole.cells] == [
        ("ce", 0), ("focal", 0), ("ce", 1), ("focal", 1),
    ]  # fmt: skip
    grid = run_grid(whole, Here(), place, say=lines.append)
    assert [cell.seed for cell in grid.done] == [0, 0, 1, 1]
    assert {record["seed"] for record in grid.records()} == {0, 1}
    assert lines[0] == "4 cells, 0 done, 4 to run"
    assert "[4/4]" in lines[-1]
    assert "balanced accuracy" in lines[-1]
    again = Here()
    assert len(run_grid(whole, again, place).done) == 4
    assert again.ran == []


def test_a_record_repeats_itself(place):
    grid = run_grid(planned(place, "ce", "0"), Here(), place)
    (record,) = grid.records()
    assert record["command"].startswith("python bench.py run --method ce --dataset toy_blobs")
    assert "--seed 0" in record["command"]


def test_cells_without_chosen_threads_train_on_one(place):
    settings = {key: value for key, value in SETTINGS.items() if key != "machine.threads"}
    flags = {"methods": "ce", "datasets": "toy_blobs", "seeds": "0", "recipe": "fashion"}
    spec = read_grid(None, {**flags, "settings": settings})
    (cell,) = plan(spec, place).cells
    assert cell.machine.threads == 1
    (chosen,) = planned(place, "ce", "0", **{"machine.threads": 2}).cells
    assert chosen.machine.threads == 2


def test_a_failed_cell_is_kept_with_its_reason_and_the_others_run(place, monkeypatch):
    real = grid_module.run_cell

    def breaks(cell, *rest):
        if cell.label.startswith("focal") and cell.seed == 0:
            monkeypatch.setattr("ltbench.grid.cells.run", refuse)
        try:
            return real(cell, *rest)
        finally:
            monkeypatch.undo()

    def refuse(request, place):
        raise RunFailedError("the loss is not finite")

    whole = planned(place)
    grid = run_grid(whole, wrapped(breaks), place)
    assert len(grid.done) == 3
    (failure,) = grid.failures
    assert "focal" in failure.cell.name
    assert "seed 0" in failure.cell.name
    assert failure.is_kept
    bad = whole.cells[1]
    assert standing(bad) == ("failed", "the loss is not finite")
    with pytest.raises(GridFailedError, match="1 of 4 cells") as failed:
        check_whole(grid)
    assert failed.value.exit_code == 5
    # Without being asked, what failed is not tried again.
    once_more = Here()
    grid = run_grid(whole, once_more, place)
    assert once_more.ran == []
    assert [(one.cell, one.why) for one in grid.failures] == [
        (bad, "failed before: the loss is not finite")
    ]
    grid = run_grid(whole, Here(), place, retry_failed=True)
    assert (len(grid.done), grid.failures) == (4, [])
    assert standing(bad).state == "done"
    assert not (bad.folder.path / "failure.json").exists()


def wrapped(work):
    """`Here`, with other work in place of `run_cell`."""

    class Wrapped(Here):
        def run(self, jobs):
            for job in jobs:
                inner = partial(work, *job.work.args)
                other = type(job)(job.name, inner, job.log)
                yield carry_out(other).of(job, wall_time_s=1.0, attempts=1)

    return Wrapped()


def raising(error):
    def work(*_arguments):
        raise error

    return work


def test_full_storage_ends_the_grid_and_marks_no_cell(place):
    whole = planned(place)
    launcher = wrapped(raising(StorageFullError("The folder is full")))
    lines = []
    with pytest.raises(StorageFullError, match="is full"):
        run_grid(whole, launcher, place, say=lines.append)
    assert len([line for line in lines if "FAILED" in line]) == 1
    assert {standing(cell).state for cell in whole.cells} == {"missing"}


def test_a_stopped_cell_is_not_failed(place):
    whole = planned(place, "ce", "0")
    grid = run_grid(whole, wrapped(raising(InterruptedRunError("saved", 15))), place)
    assert [(one.why, one.is_kept) for one in grid.failures] == [("stopped, saved: saved", False)]
    assert standing(whole.cells[0]).state == "missing"


def test_an_unexpected_error_is_stored_too(place, monkeypatch):
    def breaks(*_arguments, **_more):
        raise ZeroDivisionError("oh")

    (cell,) = planned(place, "ce", "0").cells
    monkeypatch.setattr("ltbench.grid.cells.run", breaks)
    with pytest.raises(ZeroDivisionError):
        run_cell(cell, place.results, None, (), "auto")
    failure = cell.folder.failure()
    assert (failure["kind"], failure["message"]) == ("ZeroDivisionError", "oh")


def test_a_cell_that_became_another_while_it_waited_is_not_trained(place):
    """As when a plugin is edited while a job waits in a cluster's queue."""
    (cell,) = planned(place, "ce", "0").cells
    now = replace(cell, request=replace(cell.request, settings={**SETTINGS, "epochs": 2}))
    with pytest.raises(ReplannedError, match=r"Nothing was trained\. Start the sweep"):
        run_cell(now, place.results, None, (), "auto")
    assert cell.folder.failure() is None
    assert not list(place.results.rglob("epochs.jsonl"))


def test_all_refusals_at_once_and_before_anything_trains(place):
    with pytest.raises(UsageError, match=r"2 of the grid are refused"):
        planned(place, "ce,focal,nosuch,noother")
    with pytest.raises(UsageError, match=r"Unknown method 'nosuch'"):
        planned(place, "ce,nosuch")
    assert not list(place.results.rglob("record.json"))


def test_devices_are_asked_for_where_cells_run(place, monkeypatch):
    """Here, unless a launcher says what is elsewhere."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(UsageError, match="no CUDA device here"):
        planned(place, "ce", "0", **{"machine.device": "cuda"})
    flags = {"methods": "ce", "datasets": "toy_blobs", "seeds": "0", "settings": SETTINGS}
    (here,) = plan(read_grid(None, flags), place).cells
    (there,) = plan(read_grid(None, flags), place, device="cuda").cells
    assert there.machine.device == "cuda"
    assert there.folder.path != here.folder.path


def test_a_seed_that_settings_were_tuned_with_is_refused_with_the_plan(place, tmp_path):
    digest = prepare(
        resolve(tiny_request("ce")), results=place.results, data_root=None
    ).split_digest
    file = tmp_path / "ce.yaml"
    names = "method: ce, preset: null, dataset: toy_blobs, protocol: held_out"
    file.write_text(
        f"tuning: {{{names}, study: s, trial: 1, best: true, seeds: [1], split_digest: {digest}, "
        f"{DIGEST}: {digest_of({})}}}\n"
    )
    flags = {"methods": "ce", "datasets": "toy_blobs", "settings": SETTINGS, "tuned": file}
    assert len(plan(read_grid(None, {**flags, "seeds": "0,2"}), place).cells) == 2
    with pytest.raises(UsageError, match="seed 1 is one of those the settings were tuned with"):
        plan(read_grid(None, {**flags, "seeds": "0-1"}), place)


def test_of_all_methods_those_that_do_not_fit_are_left_out(place):
    """`published` of this data set has no validation, which some methods cannot do without."""
    whole = planned(place, "all", "0", **{"mix.name": "mixup"})
    assert whole.left_out
    assert all("mix.name is 'mixup'" in text for text in whole.left_out)
    assert {cell.label.split()[0] for cell in whole.cells} >= {"ce", "focal"}


def test_states(place):
    whole = planned(place, "ce", "0-1")
    run_grid(planned(place, "ce", "0"), Here(), place)
    rows = status_rows(whole)
    assert [row["state"] for row in rows] == ["done", "missing"]
    folder = whole.cells[1].folder
    folder.create()
    folder.append_epoch({"stage": "train", "epoch": 0, "epochs": 3})
    assert standing(whole.cells[1]) == ("stopped", "after train 1/3")
    (whole.cells[0].folder.path / "record.json").write_text("{")
    assert standing(whole.cells[0]).state == "stopped"
    (folder.path / "failure.json").write_text("{")
    assert standing(whole.cells[1]).state == "failed"


def test_cells_of_one_key_are_one_cell(place):
    assert len(planned(place, "logit_adjust,logit-adjust,logit_adjust").cells) == 2


def test_time_left(place):
    ce, focal, ce_too, focal_too = planned(place).cells
    clock = TimeLeft()
    clock.expect([ce, focal, ce_too, focal_too], 2)
    assert clock.seconds() is None
    assert clock.in_words() == ""
    clock.ended(ce, 10.0)
    assert clock.seconds() == 15.0  # three cells of ten seconds, two side by side
    clock.ended(focal, 30.0)
    assert clock.seconds() == 30.0  # ten beside thirty: the longest decides
    clock.ended(focal_too, 30.0)
    assert clock.seconds() == 10.0
    clock.ended(ce_too, 10.0)
    assert clock.seconds() is None


@pytest.mark.parametrize(("seconds", "words"), [
    (0.4, "0 s"), (99, "99 s"), (100, "2 min"), (3600, "60 min"), (7500, "2 h 5 min"),
])  # fmt: skip
def test_durations_in_words(seconds, words):
    assert in_words(seconds) == words


WORDS = (
    *("sweep", "--methods", "ce,focal", "--datasets", "toy_blobs", "--seeds", "0"),
    *("--plugin", TOY_BLOBS, "--epochs", "1", "--batch-size", "8", "--backbone", "resnet8_cifar"),
)


def test_command(bench, tmp_path):
    words = (*WORDS, "--results", tmp_path)
    looked = bench(*words, "--status", "--json")
    assert looked.code == 0, looked.err
    assert [row["state"] for row in json.loads(looked.out)] == ["missing", "missing"]
    done = bench(*words, "-j", "2")
    assert done.code == 0, done.err
    assert "2 cells, 0 done, 2 to run" in done.out
    assert "| method" in done.out
    looked = bench(*words, "--status")
    assert "2 cells: 2 done" in looked.out
    again = bench(*words)
    assert "2 cells, 2 done, 0 to run" in again.out


@pytest.mark.parametrize(("more", "words"), [
    (("--time", "10"), "are for --launcher slurm"),
    (("--slurm", "partition=gpu"), "are for --launcher slurm"),
    (("--json",), "goes with --status"),
    (("--set", "nosuch=1"), "nosuch"),
    (("--tuned", "nosuch.yaml"), "nosuch.yaml"),
    (("nosuch.yaml",), "nosuch.yaml"),
])  # fmt: skip
def test_wrong_usage(more, words, bench, tmp_path):
    answer = bench(*WORDS, "--results", tmp_path, *more)
    assert answer.code == 2
    assert words in answer.err


def test_a_grid_file_and_a_failing_cell(bench, tmp_path):
    file = tmp_path / "grid.yaml"
    file.write_text(
        "methods: [ce]\ndatasets: toy_blobs\nseeds: 0-1\n"
        "settings: {epochs: 1, batch_size: 8, backbone: resnet8_cifar, optimizer.lr: 1.0e+30}\n"
    )
    words = ("sweep", file, "--plugin", TOY_BLOBS, "--results", tmp_path / "runs")
    answer = bench(*words, "-j", "1")
    assert answer.code == 5, answer.err
    assert "2 of 2 cells are not done" in answer.err
    assert "not finite" in answer.err
    assert "2 failed before" in bench(*words).out
    mended = bench(*words, "--set", "optimizer.lr=0.05")
    assert mended.code == 0, mended.err


def test_from_python(tmp_path):
    import ltbench

    grid = ltbench.sweep(
        "ce", "toy_blobs", seeds=[0], settings=SETTINGS, results=tmp_path, plugins=[TOY_BLOBS],
        say=lambda text: None,
    )  # fmt: skip
    assert len(grid.done) == 1
    assert isinstance(grid.records()[0]["digest"], str)


def test_cells_that_differ_in_data_alone_have_names_of_their_own(place, tmp_path):
    file = tmp_path / "grid.yaml"
    file.write_text("vary: {dataset.noise: [0.1, 0.2], machine.threads: [1, 2]}\n")
    flags = {"methods": "ce", "datasets": "toy_blobs", "seeds": "0", "settings": SETTINGS}
    flags["settings"] = {k: v for k, v in SETTINGS.items() if k != "machine.threads"}
    whole = plan(read_grid(file, flags), place)
    assert len({cell.name for cell in whole.cells}) == 4
    assert {row["details"] for row in status_rows(whole)} >= {
        "dataset.noise=0.1 machine.threads=1",
        "dataset.noise=0.2 machine.threads=2",
    }
    grid = run_grid(whole, wrapped(raising(RunFailedError("no"))), place)
    assert len(grid.failures) == 4


@pytest.mark.parametrize("error", [ClaimLostError("taken"), ReplannedError("another")])
def test_what_is_not_the_cells_fault_is_not_stored_as_its_failure(error, place, monkeypatch):
    (cell,) = planned(place, "ce", "0").cells
    monkeypatch.setattr("ltbench.grid.cells.run", raising_with(error))
    with pytest.raises(type(error)):
        run_cell(cell, place.results, None, (), "auto")
    assert cell.folder.failure() is None


def test_no_failure_is_written_beside_a_live_holder(place, monkeypatch):
    (cell,) = planned(place, "ce", "0").cells
    monkeypatch.setattr("ltbench.grid.cells.run", raising_with(RunFailedError("before its claim")))
    with claims.acquire(cell.folder.path, wait=False), pytest.raises(RunFailedError):
        run_cell(cell, place.results, None, (), "auto")
    assert cell.folder.failure() is None


def raising_with(error):
    def work(*_arguments, **_more):
        raise error

    return work


def test_a_mistake_is_never_left_out(place, tmp_path):
    """Of all methods only those that do not fit; a typing error or missing data end the plan."""
    file = tmp_path / "grid.yaml"
    file.write_text("overrides: [{methods: mwnl, settings: {optimizer.lrr: 1}}]\n")
    flags = {"methods": "all", "datasets": "toy_blobs", "seeds": "0", "settings": SETTINGS}
    with pytest.raises(UsageError, match="lrr"):
        plan(read_grid(file, flags), place)
    with pytest.raises(DataMissingError):
        plan(read_grid(None, {**flags, "datasets": "toy_blobs,isic2018"}), place)
