from __future__ import annotations

import dataclasses
import errno
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ltbench import claims
from ltbench.claims import Claim, acquire, dead_claims, holder
from ltbench.errors import InterruptedRunError, RunFailedError, UsageError
from ltbench.owner import Owner, machine
from ltbench.results import RunFolder

QUICK: dict[str, Any] = {"poll_s": 0.02, "heartbeat_s": 0.05, "dead_after_s": 0.2}

needs_proc = pytest.mark.skipif(
    machine()[1] is None, reason="processes are told apart through Linux's /proc"
)

# Takes the claim, says so, and then does what it was told.
CHILD = """
import os, sys, time
from pathlib import Path
from ltbench.claims import acquire

folder, task = Path(sys.argv[1]), sys.argv[2]
claim = acquire(folder, wait=True, poll_s=0.02, heartbeat_s=0.05, dead_after_s=5.0)
if task == "hold":
    print("held", flush=True)
    time.sleep(60)
inside = folder / "inside"
os.close(os.open(inside, os.O_CREAT | os.O_EXCL))
claim.check()
time.sleep(0.02)
with (folder / "log").open("a") as log:
    log.write(f"{os.getpid()} {claim.generation}\\n")
inside.unlink()
claim.check()
if task == "release":
    claim.release()
else:
    os.kill(os.getpid(), 9)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def start(folder: Path) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []

    def start_one(task: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", CHILD, str(folder), task]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        started.append(process)
        return process

    yield start_one
    for process in started:
        process.kill()
        process.communicate()


def _take(folder: Path, **settings: Any) -> Claim:
    claim = acquire(folder, **{"wait": False, **QUICK, **settings})
    assert claim is not None
    return claim


def _claim_by_hand(folder: Path, generation: int = 1, **changes: Any) -> Path:
    """A claim as another process would have made it."""
    folder.mkdir(parents=True, exist_ok=True)
    owner = dataclasses.asdict(Owner.here())
    path = folder / f"claim-{generation:06d}.json"
    path.write_text(json.dumps({**owner, **changes}))
    return path


def _claim_files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("claim-"))


def _await(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def test_one_holds_and_another_gets_none(folder: Path) -> None:
    assert holder(folder) is None
    with _take(folder) as claim:
        claim.check()
        assert acquire(folder, wait=False) is None
        assert f"process {os.getpid()} on" in (holder(folder) or "")
        assert not claim.lost
    assert holder(folder) is None
    with _take(folder) as again:
        assert again.generation == claim.generation + 1
        assert _claim_files(folder) == ["claim-000002.json"]


def test_a_released_claim_does_not_come_back(folder: Path) -> None:
    claim = _take(folder)
    claim.release()
    claim.release()
    assert _claim_files(folder) == ["claim-000001.released"]
    with pytest.raises(RunFailedError, match="was lost"):
        claim.check()


def test_an_exception_releases(folder: Path) -> None:
    with pytest.raises(ZeroDivisionError), _take(folder):
        raise ZeroDivisionError
    assert holder(folder) is None


def test_nothing_is_left_of_the_claim_on_a_run_that_is_done(folder: Path) -> None:
    run = RunFolder(folder)
    _take(folder, done=run.is_done).release()
    with _take(folder, done=run.is_done) as claim:
        claim.check()
        run.write_record({})
    assert _claim_files(folder) == []
    assert acquire(folder, wait=True, done=run.is_done) is None
    assert _claim_files(folder) == []


def test_a_waiter_is_told_once_and_gets_the_claim_at_release(folder: Path) -> None:
    told: list[str] = []
    first = _take(folder)
    timer = threading.Timer(0.2, first.release)
    timer.start()
    with _take(folder, wait=True, on_wait=told.append) as second:
        second.check()
    timer.join()
    assert len(told) == 1
    assert str(os.getpid()) in told[0]


def test_a_waiter_stops_when_the_work_is_done(folder: Path) -> None:
    done = threading.Event()
    with _take(folder):
        timer = threading.Timer(0.2, done.set)
        timer.start()
        assert acquire(folder, wait=True, done=done.is_set, **QUICK) is None
        timer.join()


def test_work_that_was_done_while_claiming_is_not_done_again(folder: Path) -> None:
    answers = iter([False, True, True, True])
    assert acquire(folder, wait=False, done=lambda: next(answers)) is None
    assert _claim_files(folder) == []


@needs_proc
def test_eight_processes_work_one_at_a_time(
    folder: Path, start: Callable[[str], subprocess.Popen[str]]
) -> None:
    # Every second one dies with the claim in its hands, in the middle of the crowd.
    processes = [start("release" if number % 2 else "die") for number in range(8)]
    codes = [process.wait(timeout=30) for process in processes]
    assert codes == [-signal.SIGKILL, 0] * 4
    lines = [line.split() for line in (folder / "log").read_text().splitlines()]
    assert {int(pid) for pid, _ in lines} == {process.pid for process in processes}
    assert [int(generation) for _, generation in lines] == list(range(1, 9))
    assert len(_claim_files(folder)) == 1


@needs_proc
def test_a_killed_holder_is_followed_at_once(
    folder: Path, start: Callable[[str], subprocess.Popen[str]]
) -> None:
    process = start("hold")
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    assert acquire(folder, wait=False) is None
    process.send_signal(signal.SIGKILL)
    # Not waited for: until its parent asks, what is left of it is a zombie that still has a number.
    _await(lambda: holder(folder) is None)
    with _take(folder, dead_after_s=1000.0) as claim:
        assert claim.generation == 2
        assert _claim_files(folder) == ["claim-000002.json"]


@needs_proc
@pytest.mark.parametrize(
    "changes",
    [{"started": "1"}, {"pid": 2**22 + 1, "started": None}],
    ids=["another process has its number", "no process has its number"],
)
def test_a_process_that_is_gone_is_dead_at_once(folder: Path, changes: dict[str, Any]) -> None:
    _claim_by_hand(folder, **changes)
    assert holder(folder) is None
    _take(folder, dead_after_s=1000.0).release()


@pytest.mark.parametrize(
    "changes",
    [
        {"host": "elsewhere"},
        {"boot": "before"},
        {"boot": None},
        {"namespace": "pid:[1]"},
        {"started": None},
    ],
)
def test_a_claim_from_elsewhere_is_dead_only_after_standing_still(
    folder: Path, changes: dict[str, Any]
) -> None:
    _claim_by_hand(folder, **changes)
    begun = time.monotonic()
    assert acquire(folder, wait=False, **QUICK) is None
    with _take(folder, wait=True):
        assert time.monotonic() - begun >= QUICK["dead_after_s"]


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"pid": -1}', b'{"host": "x", "pid": 1}'])
def test_a_damaged_claim_is_dead_only_after_standing_still(folder: Path, data: bytes) -> None:
    _claim_by_hand(folder).write_bytes(data)
    told: list[str] = []
    begun = time.monotonic()
    with _take(folder, wait=True, on_wait=told.append):
        assert time.monotonic() - begun >= QUICK["dead_after_s"]
    assert "claim-000001.json" in told[0]


def test_a_heartbeat_keeps_a_claim_alive_whatever_the_clock_says(folder: Path) -> None:
    path = _claim_by_hand(folder, host="elsewhere")
    # Each beat of the other machine, whose clock jumps to the future and to the past.
    for hours in (0, 9000, -9000, 1, -1, 9000, -9000, 1, -1, 0):
        stamp = time.time() + 3600 * hours
        os.utime(path, (stamp, stamp))
        assert acquire(folder, wait=False, **QUICK) is None
        time.sleep(0.06)
        assert acquire(folder, wait=False, **QUICK) is None
    with _take(folder, wait=True):
        assert not path.exists()


def test_a_clock_far_ahead_does_not_make_a_dead_claim_live(folder: Path) -> None:
    path = _claim_by_hand(folder, host="elsewhere")
    os.utime(path, (time.time() + 1e8, time.time() + 1e8))
    _take(folder, wait=True).release()


def test_time_slept_through_does_not_count_against_the_owner(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    _claim_by_hand(folder, host="elsewhere")
    assert acquire(folder, wait=False) is None
    for seconds in (3600.0, 29.0, 29.0, 29.0):  # the first gap counts for 30
        now[0] += seconds
        assert acquire(folder, wait=False) is None
    now[0] += 29.0
    _take(folder).release()


def test_the_heartbeat_touches_the_file(folder: Path) -> None:
    with _take(folder) as claim:
        os.utime(claim.path, ns=(0, 0))
        _await(lambda: claim.path.stat().st_mtime_ns > 0)


def test_an_owner_that_was_taken_for_dead_notices_and_stops(folder: Path) -> None:
    claim = _take(folder)
    other = _claim_by_hand(folder, generation=2)
    with pytest.raises(RunFailedError, match="was lost"):
        claim.check()
    claim.release()
    assert other.exists()

    third = _take(folder / "b")
    _claim_by_hand(folder / "b", generation=2)
    _await(lambda: third.lost)
    third.release()
    assert _claim_files(folder / "b") == ["claim-000001.json", "claim-000002.json"]


def test_a_claim_of_the_same_number_by_another_is_not_ours(folder: Path) -> None:
    claim = _take(folder, heartbeat_s=60.0)
    _claim_by_hand(folder, generation=1, token="another")
    with pytest.raises(RunFailedError, match="was lost"):
        claim.check()
    claim.release()
    assert _claim_files(folder) == ["claim-000001.json"]


def test_a_folder_that_was_removed_is_lost(folder: Path) -> None:
    claim = _take(folder)
    claim.path.unlink()
    folder.rmdir()
    _await(lambda: claim.lost)
    claim.release()


def test_a_taker_that_slept_does_not_get_a_number_that_was_used(folder: Path) -> None:
    # It had seen generation 1 dead; since then 2 and 3 were made, and 3 was released.
    _claim_by_hand(folder, generation=3).rename(folder / "claim-000003.released")
    for generation in (2, 3):
        assert claims._make(folder, generation, 15.0, None) is None
    assert _claim_files(folder) == ["claim-000003.released"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_does_not_own_the_claim(folder: Path) -> None:
    with _take(folder) as claim:
        child = os.fork()
        if child == 0:
            try:
                claim.check()
                claim.release()
                os._exit(0)
            except BaseException:  # noqa: BLE001  (a child must never return into pytest)
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        claim.check()
        assert acquire(folder, wait=False) is None


def test_storage_that_is_away_for_a_moment_costs_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_args: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with _take(folder) as claim:
        with monkeypatch.context() as patch:
            patch.setattr(os, "listdir", fail)
            time.sleep(0.12)
            with pytest.raises(RunFailedError, match="Input/output"):
                claim.check()
        claim.check()
        assert not claim.lost


@pytest.mark.parametrize(
    ("number", "kind"), [(errno.EROFS, UsageError), (errno.ENOSPC, RunFailedError)]
)
@pytest.mark.parametrize("step", ["open", "fsync"])
def test_a_full_or_read_only_folder_is_said(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    number: int,
    kind: type[Exception],
) -> None:
    def fail(*_args: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, step, fail)
        with pytest.raises(kind, match="run"):
            acquire(folder, wait=True)
    assert _claim_files(folder) == []


def test_who_is_told_to_stop_does_not_wait_on(folder: Path) -> None:
    told = threading.Event()
    timer = threading.Timer(0.2, told.set)
    with _take(folder) as claim:
        timer.start()
        start = time.monotonic()
        with pytest.raises(
            InterruptedRunError, match=r"waiting for process .*again to go on"
        ) as why:
            acquire(
                folder,
                wait=True,
                poll_s=60,
                stop=lambda: signal.SIGTERM if told.is_set() else None,
            )
        assert time.monotonic() - start < 1.2
        assert why.value.exit_code == 128 + signal.SIGTERM
        claim.check()


def test_waiting_leaves_the_random_numbers_of_training_alone(folder: Path) -> None:
    state = random.getstate()
    with _take(folder):
        timer = threading.Timer(0.1, lambda: None)
        timer.start()
        acquire(folder, wait=True, done=lambda: not timer.is_alive(), **QUICK)
    assert random.getstate() == state


@needs_proc
def test_dead_claims_are_found_and_cleared(tmp_path: Path) -> None:
    runs = [
        RunFolder.at(tmp_path, dataset="d", protocol="p", method="m", key="k", seed=seed)
        for seed in range(5)
    ]
    live, gone, far, released, _ = (run.path for run in runs)
    runs[4].create()
    _claim_by_hand(gone, started="1")
    _claim_by_hand(far, host="elsewhere")
    _take(released).release()
    with _take(live):
        found = {dead.folder: dead.description for dead in dead_claims(tmp_path)}
        assert list(found) == [gone]
        assert str(os.getpid()) in found[gone]
        watched = dead_claims(tmp_path, observe_s=0.6, dead_after_s=0.2)
        found = {dead.folder: dead.description for dead in watched}
        assert set(found) == {gone, far}
        assert "elsewhere" in found[far]
        for dead in found:
            _take(dead).release()
        assert list(dead_claims(tmp_path)) == []
