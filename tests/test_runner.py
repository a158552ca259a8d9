"""Runs as users meet them: killed, stopped, repeated, doubled, damaged, and what they leave."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ltbench import claims, evaluator, runner
from ltbench.cell import plugin_digest, prepare
from ltbench.config import resolve
from ltbench.data.feed import Part
from ltbench.errors import InterruptedRunError, UsageError, VerificationError
from ltbench.files import sha256_hex
from ltbench.method import Collective
from ltbench.metrics import evaluate
from ltbench.models import state_digest
from ltbench.owner import process_state
from ltbench.registry import add_plugins
from ltbench.results import BEST_WEIGHTS, RunFolder, run_folders
from ltbench.runner import LAST_WEIGHTS, Place, build_method, folder_of
from ltbench.stored_predictions import predictions_digest
from ltbench.testing import tiny_run
from ltbench.testing.processes import Command
from ltbench.testing.tiny import TOY_BLOBS, tiny_request
from ltbench.training.checkpoint import CHECKPOINT, load_checkpoint
from ltbench.training.devices import make_fabric

ROOT = Path(__file__).parents[1]
PLUGINS, CONTRACT = ROOT / "tests" / "plugins", ROOT / "tests" / "contract"
PROBE = PLUGINS / "toy_probe.py"


def words_of(results, *more, method="ecl", epochs=16):
    return [
        *("run", "--method", method, "--dataset", "toy_blobs", "--plugin", str(TOY_BLOBS)),
        *("--results", str(results), "--threads", "1", "--epochs", str(epochs)),
        *("--batch-size", "8", "--backbone", "resnet8_cifar"),
        *("--set", "machine.checkpoint_every_s=0", *more),
    ]


@pytest.fixture
def start(tmp_path):
    """start(words) -> Command; whatever still runs at the end is killed."""
    commands = []

    def begin(words):
        commands.append(Command(words, tmp_path / f"output-{len(commands)}.txt"))
        return commands[-1]

    yield begin
    for one in commands:
        one.process.kill()
        one.process.join()


def wait_for(condition, seconds=90):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


def num_epochs(results):
    return sum(len(run.epochs()) for run in run_folders(results))


def record_in(results):
    (run,) = run_folders(results)
    return run.record()


@pytest.fixture(scope="module")
def digest(tmp_path_factory):
    """Of the undisturbed run."""
    folder = tmp_path_factory.mktemp("undisturbed")
    whole = Command(words_of(folder / "runs"), folder / "output.txt")
    assert whole.exit_code() == 0, whole.text()
    return record_in(folder / "runs")["digest"]


def test_killed_at_random_moments(start, digest, tmp_path):
    chance = random.Random(20)
    for epochs in (0, 3, 7, 11):
        victim = start(words_of(tmp_path))
        wait_for(lambda at=epochs: num_epochs(tmp_path) > at)
        time.sleep(chance.uniform(0, 0.05))
        assert victim.signal(signal.SIGKILL).exit_code() == -signal.SIGKILL
        assert not list(tmp_path.rglob("record.json")), "killed too late to tell anything"
    last = start(words_of(tmp_path))
    assert last.exit_code() == 0, last.text()
    assert "goes on from its checkpoint" in last.text()
    record = record_in(tmp_path)
    assert record["digest"] == digest
    assert record["ledger"]["steps"] == 16 * 5
    (run,) = run_folders(tmp_path)
    assert [row["epoch"] for row in run.epochs()] == list(range(16))
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2])
def test_a_scheduler_s_signal_saves_and_says_how_to_go_on(start, digest, tmp_path, number):
    stopped = start(words_of(tmp_path))
    wait_for(lambda: num_epochs(tmp_path) > 2)
    assert stopped.signal(number).exit_code() == 128 + number
    assert f"error: Stopped by signal {number.value} at stage 'train'" in stopped.text()
    assert "Run the same command again to go on from there." in stopped.text()
    (checkpoint,) = tmp_path.rglob(CHECKPOINT)
    assert str(checkpoint) in stopped.text()
    again = start(words_of(tmp_path))
    assert again.exit_code() == 0, again.text()
    assert record_in(tmp_path)["digest"] == digest


def test_ctrl_c_in_a_true_command(start, digest, tmp_path):
    """`python bench.py` itself, told by its process group as a terminal tells it."""
    words = [sys.executable, str(ROOT / "bench.py"), *words_of(tmp_path)]
    stopped = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    wait_for(lambda: num_epochs(tmp_path) > 0)
    os.killpg(stopped.pid, signal.SIGINT)
    text, _ = stopped.communicate(timeout=60)
    assert stopped.returncode == 130, text
    assert "Stopped by signal 2" in text
    assert "Traceback" not in text
    again = start(words_of(tmp_path))
    assert again.exit_code() == 0, again.text()
    assert record_in(tmp_path)["digest"] == digest


def test_two_at_once_train_once(start, digest, tmp_path):
    both = [start(words_of(tmp_path)) for _ in range(2)]
    assert [one.exit_code() for one in both] == [0, 0], [one.text() for one in both]
    waited = [one.text() for one in both if "already done, nothing was trained" in one.text()]
    assert len(waited) == 1
    assert re.search(r"process \d+ on ", waited[0]), "it says for whom it waits"
    assert len(list(tmp_path.rglob("record.json"))) == 1
    assert record_in(tmp_path)["digest"] == digest
    assert not list(tmp_path.rglob("claim-*"))


def test_an_edited_plugin_is_another_run(start, tmp_path):
    plugin = tmp_path / "toy_edited.py"
    source = (ROOT / "methods" / "ce.py").read_text("utf-8").replace('"ce"', '"toy_edited"')
    words = words_of(tmp_path / "runs", "--plugin", str(plugin), method="toy_edited", epochs=1)
    texts = []
    for text in (source, source, source + "\n# another thought\n"):
        plugin.write_text(text, encoding="utf-8")
        ran = start(words)
        assert ran.exit_code() == 0, ran.text()
        texts.append(ran.text())
    assert ["already done" in text for text in texts] == [False, True, False]
    records = [run.record() for run in run_folders(tmp_path / "runs")]
    assert len({record["key_parts"]["method_digest"] for record in records}) == 2
    assert len({record["digest"] for record in records}) == 1, "only a comment was changed"


TWO = ("--devices", "2")


@pytest.fixture(scope="module")
def digest_of_two(tmp_path_factory):
    """Of the undisturbed run on two devices."""
    folder = tmp_path_factory.mktemp("undisturbed")
    whole = Command(words_of(folder / "runs", *TWO, epochs=30), folder / "output.txt")
    assert whole.exit_code() == 0, whole.text()
    assert "cpu x 2 (BatchNorm per device), precision 32" in whole.text()
    # The lines of one device: the first epoch's, and one every third.
    line = r"  train epoch (\d+)/30: loss \d+\.\d+, val accuracy [01]\.\d+, balanced [01]\.\d+\n"
    assert re.findall(line, whole.text()) == [str(n) for n in (1, *range(3, 31, 3))]
    record = record_in(folder / "runs")
    assert record["batchnorm"] == "per device"
    return record["digest"]


def workers_of(command):
    """Process numbers of a command's workers; its resource tracker is none."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            status = (folder / "status").read_text("utf-8")
            words = (folder / "cmdline").read_bytes()
        except OSError:
            continue  # it has ended since
        if f"PPid:\t{command.process.pid}\n" in status and b"spawn_main" in words:
            found.append(int(folder.name))
    return sorted(found)


def lives(pid):
    state = process_state(pid)
    return state is not None and state[0] not in "ZX"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 138)],
)
def test_two_devices_stopped_with_their_process_group(number, code, digest_of_two, tmp_path):
    """Terminals and schedulers signal the workers too, and the parent passes its own on."""
    words = [sys.executable, str(ROOT / "bench.py"), *words_of(tmp_path, *TWO, epochs=30)]
    stopped = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    wait_for(lambda: num_epochs(tmp_path) > 1)
    os.killpg(stopped.pid, number)
    text, _ = stopped.communicate(timeout=60)
    assert stopped.returncode == code, text
    assert f"Stopped by signal {number.value} at stage 'train'" in text
    subprocess.run(words, check=True, capture_output=True)
    assert record_in(tmp_path)["digest"] == digest_of_two


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_two_devices_one_of_them_killed(rank, start, digest_of_two, tmp_path):
    """It ends the run within seconds, nobody is left at work, and the next run goes on."""
    victim = start(words_of(tmp_path, *TWO, epochs=30))
    wait_for(lambda: "train epoch 3/30: " in victim.text())
    workers = workers_of(victim)
    assert len(workers) == 2
    os.kill(workers[rank], signal.SIGKILL)
    wait_for(lambda: not victim.process.is_alive(), seconds=15)
    assert victim.exit_code() == 1
    assert f"error: A worker process, device {rank} of 2 (counted from 0), was" in victim.text()
    assert "killed by SIGKILL" in victim.text()
    assert not any(lives(pid) for pid in workers)
    (run,) = run_folders(tmp_path)
    assert claims.holder(run.path) is None
    again = start(words_of(tmp_path, *TWO, epochs=30))
    assert again.exit_code() == 0, again.text()
    assert "goes on from its checkpoint" in again.text()
    assert [row["epoch"] for row in run.epochs()] == list(range(30))
    assert record_in(tmp_path)["digest"] == digest_of_two


@pytest.mark.slow
def test_two_devices_killed_leave_no_orphan_at_work(start, digest_of_two, tmp_path):
    """kill -9 of the parent: the workers stop by themselves, and the run goes on."""
    parent = start(words_of(tmp_path, *TWO, epochs=30))
    wait_for(lambda: num_epochs(tmp_path) > 1)
    workers = workers_of(parent)
    assert len(workers) == 2
    parent.signal(signal.SIGKILL).exit_code()
    wait_for(lambda: not any(lives(pid) for pid in workers), seconds=5)
    again = start(words_of(tmp_path, *TWO, epochs=30))
    assert again.exit_code() == 0, again.text()
    (run,) = run_folders(tmp_path)
    assert [row["epoch"] for row in run.epochs()] == list(range(30))
    assert record_in(tmp_path)["digest"] == digest_of_two


@pytest.mark.slow
def test_two_devices_twice_at_once(start, digest_of_two, tmp_path):
    both = [start(words_of(tmp_path, *TWO, "--seed", s, epochs=30)) for s in ("0", "1")]
    assert [one.exit_code() for one in both] == [0, 0], [one.text() for one in both]
    digests = {run.record()["seed"]: run.record()["digest"] for run in run_folders(tmp_path)}
    assert digests[0] == digest_of_two != digests[1]


def cell_of(results, method="ecl", settings=None):
    return prepare(resolve(tiny_request(method, settings)), results=results, data_root=None)


def test_signal_after_training_lets_the_run_finish_and_stops_those_after_it(tmp_path, monkeypatch):
    """Else `--seeds 0-4` would go on with the next seed as if nothing had been asked."""
    original = runner.make_record

    def late(*args):
        os.kill(os.getpid(), signal.SIGTERM)
        return original(*args)

    monkeypatch.setattr(runner, "make_record", late)
    with pytest.raises(InterruptedRunError, match="this run was complete") as caught:
        tiny_run("ce", tmp_path, {"epochs": 1})
    assert caught.value.exit_code == 143
    assert tiny_run("ce", tmp_path, {"epochs": 1}).status == "already done"


def test_done_cells_are_skipped_and_not_touched(tmp_path):
    first = tiny_run("ce", tmp_path, {"epochs": 1})
    times = {f: f.stat().st_mtime_ns for f in first.folder.path.iterdir()}
    second = tiny_run("ce", tmp_path, {"epochs": 1}, on_epoch=lambda row: pytest.fail("trained"))
    assert (first.status, second.status) == ("ran", "already done")
    assert second.record == first.record
    assert {f: f.stat().st_mtime_ns for f in first.folder.path.iterdir()} == times


@pytest.mark.parametrize("settings", [
    {"optimizer.lr": 0.06}, {"epochs": 5}, {"method.temperature": 0.2}, {"precision": "bf16"},
    {"dataset.noise": 0.16}, {"dataset.train_counts": [24, 11, 4, 2]}, {"machine.threads": 2},
    {"machine.devices": 2}, {"split_seed": 1}, {"views.eval": [{"hflip": {"p": 0.0}}]},
    {"select": "last"}, {"eval_batch_size": 17},
])  # fmt: skip
def test_what_decides_a_result_changes_the_key(settings, tmp_path):
    assert cell_of(tmp_path, settings=settings).key != cell_of(tmp_path).key


@pytest.mark.parametrize(
    "settings", [{"seed": 3}, {"machine.checkpoint_every_s": 7}, {"optimizer.lr": 5e-2}]
)
def test_what_does_not_leaves_the_key(settings, tmp_path):
    assert cell_of(tmp_path, settings=settings).key == cell_of(tmp_path).key


def test_seeds_have_folders_of_their_own(tmp_path):
    folders = [folder_of(cell_of(tmp_path, settings={"seed": s}), tmp_path).path for s in (0, 3)]
    assert [f.name for f in folders] == ["seed-0", "seed-3"]
    assert folders[0].parent == folders[1].parent


def test_a_class_keeps_the_digest_of_the_source_it_was_made_from(tmp_path):
    """An edit in the life of a process is not the code that runs in it."""
    file = tmp_path / "toy_digest.py"
    file.write_text("first = 1\n")
    loaded, reloaded = (
        type("Plugin", (), {"info": type("Info", (), {"file": file})}) for _ in range(2)
    )
    before = plugin_digest(loaded)
    file.write_text("first = 2\n")
    assert plugin_digest(loaded) == before
    assert plugin_digest(reloaded) != before


def test_devices_count_in_what_a_method_is_told(tmp_path):
    """40 images in batches of 36: four more make a batch for one device, not for two times two."""
    settings = {"batch_size": 38, "drop_last": False}
    for devices, steps in [(1, 2), (2, 1)]:
        cell = cell_of(tmp_path, "ce", settings | {"machine.devices": devices})
        assert cell.task().collective.world_size == devices
        assert cell.task().steps_per_epoch == steps


@pytest.mark.parametrize(("method", "settings", "message"), [
    ("ecl", {}, "`training_step` of its own"),
    ("ce", {"reweight.name": "inverse"}, "divides by the weights of the whole batch"),
])  # fmt: skip
def test_parts_of_a_batch_only_where_they_add_up(method, settings, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        cell_of(tmp_path, method, settings | {"optimizer.accumulate": 2})


class TestDamagedCheckpoint:
    @pytest.fixture
    def path(self, tmp_path):
        with pytest.raises(InterruptedRunError):
            tiny_run("ce", tmp_path, stop_signal=iter([None] * 7 + [15]).__next__)
        (path,) = tmp_path.rglob(CHECKPOINT)
        return path

    @pytest.mark.parametrize("where", [0, 30, 60, -1], ids=["magic", "digest", "body", "end"])
    def test_a_flipped_byte_is_noticed(self, path, where, tmp_path):
        damaged = bytearray(path.read_bytes())
        damaged[where] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(VerificationError) as caught:
            tiny_run("ce", tmp_path)
        assert caught.value.exit_code == 4
        assert str(path) in str(caught.value)
        assert "--resume never" in str(caught.value)
        assert path.read_bytes() == damaged, "it is left as it is"

    def test_cut_short(self, path):
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(VerificationError, match="damaged"):
            load_checkpoint(path)

    def test_resume_never_trains_anew(self, path, tmp_path):
        path.write_bytes(b"nothing of ours")
        request, place = tiny_request("ce"), Place(tmp_path, plugins=(TOY_BLOBS,))
        told = []
        place = replace(place, resume="never", on_start=lambda *given: told.append(given[2]))
        anew = runner.run(request, place)
        assert told == [""]
        assert anew.record["ledger"]["steps"] == 20
        assert anew.record["digest"] == tiny_run("ce", tmp_path / "whole").record["digest"]
        assert not list(path.parent.glob("checkpoint*"))

    def test_resume_never_outlives_the_process(self, path, tmp_path):
        """Stopped before its first checkpoint, it has set the old one aside all the same."""
        path.write_bytes(b"nothing of ours")
        place = Place(tmp_path, resume="never", plugins=(TOY_BLOBS,), stop_signal=lambda: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            runner.run(tiny_request("ce"), place)
        assert tiny_run("ce", tmp_path).status == "ran"


class TestRecord:
    @pytest.fixture(scope="class")
    @classmethod
    def outcome(cls, tmp_path_factory):
        return tiny_run("ecl", tmp_path_factory.mktemp("record"))

    def test_metrics_can_be_recomputed_from_predictions(self, outcome):
        record = outcome.record
        for part in ("val", "test"):
            predictions = outcome.folder.read_predictions(part)
            again = json.loads(json.dumps(evaluate(predictions, record["train_counts"])))
            assert again == record["metrics"][part]
            assert predictions_digest(predictions) == record["digests"][part]

    def test_digest_is_over_the_digests(self, outcome):
        digests = outcome.record["digests"]
        assert sorted(digests) == ["test", "val", "weights"]
        joined = digests["test"] + digests["val"] + digests["weights"]
        assert outcome.record["digest"] == sha256_hex(joined.encode())
        state = torch.load(outcome.folder.path / BEST_WEIGHTS, weights_only=True)
        assert digests["weights"] == state_digest(state)

    def test_everything_needed_is_there(self, outcome):
        record = outcome.record
        given = {
            "method": "ecl", "preset": None, "dataset": "toy_blobs", "protocol": "held_out",
            "recipe": "digits", "seed": 0, "split_seed": 0, "precision": "32", "threads": 1,
            "device": "cpu", "num_devices": 1, "select": "val.accuracy", "uses_validation": True,
            "batchnorm": "one device",
            "feedback_split": "validation", "train_counts": [24, 11, 4, 1],
            "feedback_counts": [6, 6, 6, 6], "weights": {"name": "none", "digest": None},
            "protocol_notes": {"synthetic": True}, "schema_version": 1,
        }  # fmt: skip
        assert {key: record[key] for key in given} == given
        assert record["name"] == f"{record['key']}/seed-0" == outcome.folder.name
        assert {"torch", "timm", "numpy", "python"} <= set(record["versions"])
        assert record["git"] is None or set(record["git"]) == {"commit", "dirty"}
        assert record["started_at"] <= record["finished_at"]
        assert record["split_digest"] == record["key_parts"]["split_digest"]
        assert outcome.folder.config()["epochs"] == 4

    @pytest.mark.parametrize(
        ("method", "passes"),
        [("ce", 1), ("ecl", 2), ("toy_bbn", 2), ("toy_moco", 2), ("toy_sam", 2)],
    )
    def test_ledger(self, method, passes, tmp_path):
        """Forward passes count what the trunk and copies of the backbone see, and second passes."""
        add_plugins(sorted(CONTRACT.glob("toy_*.py")))
        ledger = tiny_run(method, tmp_path, {"epochs": 2}).record["ledger"]
        assert ledger["forward_passes_per_step"] == {"train": passes}
        assert ledger["forward_images_per_step"] == {"train": 8 * passes}
        assert (ledger["steps"], ledger["images_seen"]) == (10, 80)
        assert 0 < ledger["train_time_s"] <= ledger["wall_time_s"]
        assert ledger["peak_memory_mb"] > 10

    def test_two_stages_have_a_ledger_each(self, tmp_path):
        add_plugins([PROBE])
        ledger = tiny_run("toy_probe", tmp_path, {"method.stages": 2}).record["ledger"]
        assert ledger["forward_passes_per_step"] == {"stage0": 1, "stage1": 1}
        assert ledger["num_parameters"] == sum(
            p.numel() for p in build(cell_of(tmp_path, "toy_probe")).parameters()
        )

    @pytest.mark.parametrize("precision", ["32", "bf16"])
    def test_weights_reproduce_the_predictions(self, precision, tmp_path):
        outcome = tiny_run("ecl", tmp_path, {"precision": precision})
        cell = cell_of(tmp_path, settings={"precision": precision})
        for part, positions in (("val", cell.split.val), ("test", cell.split.test)):
            again = predicted(cell, outcome.folder.path / BEST_WEIGHTS, positions)
            stored = outcome.folder.read_predictions(part)
            assert np.array_equal(again.logits, stored.logits)
            assert np.array_equal(again.ids, stored.ids)
            assert np.array_equal(again.targets, stored.targets)

    def test_last_weights_are_those_of_the_last_epoch(self, tmp_path):
        """`last.pt` is what `best.pt` would be under the rule `last`."""
        add_plugins([PROBE])
        script = {"method.script": [2, 4, 1, 3]}
        best = tiny_run("toy_probe", tmp_path, script)
        last = tiny_run("toy_probe", tmp_path, {**script, "select": "last"})
        states = [
            torch.load(run.folder.path / file, weights_only=True)
            for run, file in ((best, LAST_WEIGHTS), (last, BEST_WEIGHTS), (best, BEST_WEIGHTS))
        ]
        assert state_digest(states[0]) == state_digest(states[1]) != state_digest(states[2])


def build(cell):
    return build_method(cell, make_fabric(cell.config))


def predicted(cell, file, positions):
    method, fabric = build(cell), make_fabric(cell.config)
    method.load_state_dict(torch.load(file, weights_only=True))
    renderer = runner._renderer(cell, fabric)(Part.of(cell.source, positions))
    return evaluator.predict(
        method, renderer, batch_size=16, collective=Collective(), autocast=fabric.autocast
    )


def test_nothing_is_written_in_a_folder_before_it_is_claimed(tmp_path, monkeypatch):
    """Its owner removes what killed processes left, and would take our probe for it."""
    real, seen = RunFolder.create, []

    def create(self):
        seen.extend(path.name for path in self.path.glob("claim-*.json"))
        real(self)

    monkeypatch.setattr(RunFolder, "create", create)
    tiny_run("ce", tmp_path, {"epochs": 1})
    assert seen == ["claim-000001.json"]
