"""Workers of several devices: what they tell, how they fail, and that none of them lives on."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest

from ltbench.config import resolve
from ltbench.errors import RunFailedError, VerificationError
from ltbench.owner import process_state
from ltbench.testing.tiny import tiny_request
from ltbench.training.devices import Seat
from ltbench.workers import _Worker, on_devices

HERE = Path(__file__).parent


@pytest.fixture
def errands(monkeypatch):
    """The module, which workers find by its name too."""
    monkeypatch.syspath_prepend(HERE)
    return importlib.import_module("errands")


@pytest.fixture
def config():
    return resolve(tiny_request("ce", {"machine.devices": 2}))


def lives(pid):
    state = process_state(pid)
    return state is not None and state[0] not in "ZX"


def wait_for(condition, seconds):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def test_a_killed_worker_ends_the_run_at_once(errands, config):
    heard = []
    with pytest.raises(RunFailedError) as caught:
        on_devices(config, partial(errands.be_killed, 0), heard.append)
    ended = time.monotonic()
    message = str(caught.value)
    assert "device 0 of 2 (counted from 0), was killed by SIGKILL" in message
    assert "lower batch_size" in message
    assert "run the same command again" in message
    *here, killed = heard
    assert sorted(rank for _, rank, _ in here) == [0, 1]
    assert killed[:2] == ("killed at", 0)
    assert ended - killed[2] < 10
    assert not any(lives(pid) for _, _, pid in here)
    assert not multiprocessing.active_children()


@pytest.mark.slow
def test_a_failed_worker_is_not_waited_for_by_one_that_hangs(errands, config):
    """Its error comes as it was raised, and the other one is killed after the grace."""
    times = []
    with pytest.raises(VerificationError, match="The second device will not") as caught:
        on_devices(config, errands.hang, lambda _: times.append(time.monotonic()))
    assert caught.value.exit_code == 4
    assert 4 < time.monotonic() - times[0] < 15
    assert not multiprocessing.active_children()


@pytest.mark.slow
def test_of_two_failures_the_first_is_told(errands, config):
    with pytest.raises(RunFailedError) as caught:
        on_devices(config, errands.be_at_fault)
    assert "ValueError: a fault of the plugin (add --debug" in str(caught.value)
    (note,) = caught.value.__notes__
    assert "in be_at_fault" in note
    assert "in two lines" in note


@pytest.mark.slow
def test_two_runs_at_once_do_not_meet(errands, config, tmp_path, monkeypatch):
    """Even where an outer launcher has named an address for all of them."""
    outer = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500", "RANK": "5", "LOCAL_RANK": "1"}
    for name, value in {**outer, "WORLD_SIZE": "8", "NODE_RANK": "3"}.items():
        monkeypatch.setenv(name, value)
    found = {1: [], 2: []}
    runs = [
        threading.Thread(
            target=on_devices, args=(config, partial(errands.meet, token, tmp_path), told.append)
        )
        for token, told in found.items()
    ]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert found == {1: [[1, 1]] * 2, 2: [[2, 2]] * 2}


@pytest.mark.slow
def test_much_news_arrives_in_order(errands, config):
    heard = []
    on_devices(config, errands.tell_much, heard.append)
    for rank in (0, 1):
        assert [number for r, number, _ in heard if r == rank] == list(range(20))
    assert {len(text) for *_, text in heard} == {100_000}


@pytest.mark.slow
def test_who_cannot_hear_the_news_ends_the_workers(errands, config):
    pids = []

    def refuse(pid):
        pids.append(pid)
        raise OSError("the terminal is gone")

    with pytest.raises(OSError, match="the terminal is gone"):
        on_devices(config, errands.sleep, refuse)
    assert not lives(pids[0])
    assert not multiprocessing.active_children()


@pytest.mark.slow
def test_workers_end_within_seconds_of_their_parent():
    """Killed, it cannot tell them; what they do takes minutes."""
    parent = subprocess.Popen(
        [sys.executable, str(HERE / "orphans.py")], stdout=subprocess.PIPE, text=True
    )
    pids = [int(parent.stdout.readline()) for _ in range(2)]
    assert all(lives(pid) for pid in pids)
    parent.kill()
    parent.wait()
    wait_for(lambda: not any(lives(pid) for pid in pids), seconds=5)


@pytest.mark.parametrize("written", [b"", b"\x00\x00", b"\x00\x00\x03\xe8half of a message"])
def test_a_message_cut_short_is_the_end_of_all(written):
    """Killed while it writes: the length may promise more than will ever come."""
    ours, theirs = multiprocessing.Pipe(duplex=False)
    os.write(theirs.fileno(), written)
    theirs.close()
    worker = _Worker(Seat(0, 2, "cpu", "32"), multiprocessing.Process(), ours)
    assert worker.hear(lambda value: pytest.fail(f"heard {value}")) is False
    ours.close()


def test_signals_are_named_that_have_no_name_in_python():
    from ltbench.workers import _killed

    worker = _Worker(Seat(1, 2, "cpu", "32"), multiprocessing.Process(), None)
    worker.exit_code = -signal.SIGSEGV
    assert "killed by SIGSEGV, and" in str(_killed(worker))
    assert "memory" not in str(_killed(worker))
    worker.exit_code = -(signal.SIGRTMIN + 3)
    assert f"killed by signal {signal.SIGRTMIN + 3}" in str(_killed(worker))
