"""Workers killed at any moment, commands stopped and killed: the budget is met exactly."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import sqlite3
import time

import pytest

from ltbench.testing.processes import command
from ltbench.testing.tiny import TOY_BLOBS
from ltbench.tuning import places
from ltbench.tuning.storage import open_storage, storage_url

TRIALS = 4


def words(tmp_path, *more, methods="ce"):
    return [
        *("tune", "--methods", methods, "--dataset", "toy_blobs", "--plugin", str(TOY_BLOBS)),
        *("--results", str(tmp_path / "runs"), "--out", str(tmp_path / "tuned")),
        *("--epochs", "8", "--batch-size", "8", "--backbone", "resnet8_cifar"),
        *("--set", "machine.checkpoint_every_s=0", "--trials", str(TRIALS), *more),
    ]


@pytest.fixture
def start(tmp_path):
    """start(words) -> (process, its output); what still runs at the end is killed."""
    begun = []

    def begin(arguments):
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["ltbench.testing.processes", "ltbench.console", "timm"])
        output = tmp_path / f"output-{len(begun)}.txt"
        process = context.Process(target=command, args=(arguments, output))
        process.start()
        begun.append(process)
        return process, output

    yield begin
    for process in begun:
        process.kill()
        process.join()


class Look:
    """What the database says, read without Optuna, which is slow to open."""

    def __init__(self, tmp_path):
        self.file = tmp_path / "runs" / "tuning" / "studies.db"

    def rows(self, query):
        try:
            with sqlite3.connect(f"file:{self.file}?mode=ro", uri=True, timeout=30) as base:
                return base.execute(query).fetchall()
        except sqlite3.OperationalError:
            return []  # not made yet

    def ended(self):
        return len(self.rows("select 1 from trials where state in ('COMPLETE', 'PRUNED')"))

    def owners(self):
        """Process ids of the workers of running trials."""
        found = self.rows(
            "select a.value_json from trials t join trial_user_attributes a using (trial_id) "
            "where t.state = 'RUNNING' and a.key = 'owner'"
        )
        return [json.loads(text)["pid"] for (text,) in found]


def wait_for(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def check_whole(tmp_path, methods=1):
    """Exactly the budget, each draw once, no checkpoint left."""
    import optuna

    storage = open_storage(storage_url(None, tmp_path / "runs" / "tuning"))
    summaries = optuna.get_all_study_summaries(storage, include_best_trial=False)
    assert len(summaries) == methods
    for one in summaries:
        trials = optuna.load_study(study_name=one.study_name, storage=storage).trials
        ended = places.finished(trials)
        assert len(ended) == TRIALS
        assert sorted(t.user_attrs[places.POSITION] for t in ended) == list(range(TRIALS))
        assert places.FACTS in one.user_attrs
        assert "frozen" in one.user_attrs
    assert list((tmp_path / "runs" / "tuning").rglob("checkpoint.pt")) == []


@pytest.mark.slow
def test_workers_killed_at_random_moments(start, tmp_path):
    chance, look = random.Random(5), Look(tmp_path)
    process, output = start(words(tmp_path, "-j", "2", methods="ecl,ce"))
    for kill in range(4):
        wait_for(lambda kill=kill: look.ended() >= kill)
        time.sleep(chance.uniform(0, 0.5))
        wait_for(look.owners)
        for pid in chance.sample(look.owners(), k=1):
            os.kill(pid, signal.SIGKILL)
    process.join(180)
    assert process.exitcode == 0, output.read_text()
    assert "it is started again" in output.read_text()
    check_whole(tmp_path, methods=2)


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [1, 2])
def test_the_command_killed_and_given_again(start, tmp_path, num_workers):
    look = Look(tmp_path)
    arguments = words(tmp_path, "-j", str(num_workers))
    for ended in (0, 2):
        process, _ = start(arguments)
        wait_for(lambda ended=ended: look.ended() >= ended and look.owners())
        pids = look.owners()
        process.kill()
        process.join()
        wait_for(lambda pids=pids: not any(alive(pid) for pid in pids))
    process, output = start(arguments)
    process.join(180)
    assert process.exitcode == 0, output.read_text()
    check_whole(tmp_path)


@pytest.mark.parametrize("num_workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_the_command_stopped_by_a_signal_saves_and_goes_on(start, tmp_path, num_workers):
    look = Look(tmp_path)
    arguments = words(tmp_path, "-j", str(num_workers))
    process, output = start(arguments)
    wait_for(lambda: look.ended() >= 1 and look.owners())
    os.kill(process.pid, signal.SIGTERM)
    process.join(120)
    assert process.exitcode == 128 + signal.SIGTERM, output.read_text()
    assert "Run the same command again" in output.read_text()
    assert look.owners() == []
    process, output = start(arguments)
    process.join(180)
    assert process.exitcode == 0, output.read_text()
    check_whole(tmp_path)


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
        return file.read().rpartition(")")[2].split()[0] not in "ZX"
