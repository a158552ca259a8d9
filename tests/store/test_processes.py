from __future__ import annotations

import fcntl
import json
import logging
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from itertools import count

import pytest

from ltbench.errors import RunFailedError
from ltbench.owner import process_state
from ltbench.store import build, plan
from ltbench.store.crew import Crew
from ltbench.store.layout import StoreSettings
from ltbench.store.lock import alone
from ltbench.store.writer import write_store

SETTINGS = StoreSettings(short_side=32, squares=(16,))
FORK = multiprocessing.get_context("fork")
CALLS = {os: ["pwrite", "fsync", "replace", "rename", "ftruncate", "unlink"], build: ["_datasync"]}


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(plan, "_CHUNK_PICTURES", 3)


def counted(monkeypatch, act):
    """`act(number)` comes before each call that changes the disk; of writes half is done then."""
    numbers = count(1)

    def watched(really):
        def call(*arguments):
            if really is os_pwrite:
                descriptor, data, start = arguments
                os_pwrite(descriptor, data[: len(data) // 2], start)
            act(next(numbers))
            return really(*arguments)

        return call

    os_pwrite = os.pwrite
    for module, names in CALLS.items():
        for name in names:
            monkeypatch.setattr(module, name, watched(getattr(module, name)))


def write_and_die(last_call, monkeypatch, *arguments):
    def act(number):
        if number == last_call:
            os.kill(os.getpid(), signal.SIGKILL)

    counted(monkeypatch, act)
    write_store(*arguments)


def exit_code(target, *arguments):
    process = FORK.Process(target=target, args=arguments)
    process.start()
    process.join(30)
    return process.exitcode


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.parametrize("replaces", [False, True])
def test_killed_at_each_moment_it_goes_on_to_the_same_bytes(
    make_files, tmp_path, monkeypatch, replaces
):
    ids, files = make_files(5)
    whole = contents(write_store(tmp_path / "whole", ids, files, SETTINGS).folder)
    numbers = []
    with monkeypatch.context() as patch:
        counted(patch, numbers.append)
        write_store(tmp_path / "counted", ids, files, SETTINGS)
    assert len(numbers) > 30
    for last_call in numbers[replaces::3]:
        folder = tmp_path / f"store{last_call}"
        if replaces:
            write_store(folder, ids[:2], files[:2], SETTINGS)
        arguments = (monkeypatch, folder, ids, files, SETTINGS)
        assert exit_code(write_and_die, last_call, *arguments) == -signal.SIGKILL
        write_store(folder, ids, files, SETTINGS)
        assert contents(folder) == whole, last_call
        assert not list(tmp_path.glob(f"*store{last_call}?*"))


def test_killed_again_and_again(make_files, tmp_path):
    ids, files = make_files(60)
    whole = contents(write_store(tmp_path / "whole", ids, files, SETTINGS).folder)
    folder, rng, num_kills = tmp_path / "store", random.Random(0), 0
    arguments = (tmp_path / "log", folder, ids, files, SETTINGS)
    lengths = []
    while num_kills < 6:
        process = FORK.Process(target=log_and_write, args=arguments)
        process.start()
        time.sleep(rng.uniform(0.02, 0.08))
        process.kill()
        process.join(30)
        assert process.exitcode in (0, -signal.SIGKILL)
        num_kills += process.exitcode != 0
        if process.exitcode == 0:
            break
        journal = tmp_path / "store.partial" / "journal"
        if journal.exists():
            lengths.append(journal.read_bytes().count(b"\n"))  # one killed early keeps the tail
            with journal.open("ab") as file:
                file.write(b'0badc0de {"chunk":')
    write_store(folder, ids, files, SETTINGS).verify()
    assert contents(folder) == whole
    assert num_kills >= 5
    assert lengths == sorted(lengths)


def log_and_write(log, *arguments):
    def write(chunk, really=build.write_chunk):
        with log.open("a") as file:
            file.write(f"{chunk.number}\n")
        time.sleep(0.02)
        return really(chunk)

    build.write_chunk = write
    write_store(*arguments)


def test_two_preparations_at_once_do_the_work_once(make_files, tmp_path):
    ids, files = make_files(12)
    whole = contents(write_store(tmp_path / "whole", ids, files, SETTINGS).folder)
    log, folder = tmp_path / "log", tmp_path / "stores" / "one"
    arguments = (log, folder, ids, files, SETTINGS)
    both = [FORK.Process(target=log_and_write, args=arguments) for _ in range(3)]
    for process in both:
        process.start()
    for process in both:
        process.join(30)
    assert [process.exitcode for process in both] == [0, 0, 0]
    assert log.read_text().split() == ["0", "1", "2", "3"]
    assert contents(folder) == whole
    assert os.listdir(folder.parent) == ["one"]


def hold(lock, seconds, connection):
    with alone(lock):
        connection.send("held")
        time.sleep(seconds)


def test_the_second_waits_and_says_so(tmp_path, caplog):
    lock = tmp_path / ".lock"
    ours, theirs = FORK.Pipe()
    process = FORK.Process(target=hold, args=(lock, 0.3, theirs))
    process.start()
    assert ours.recv() == "held"
    start = time.perf_counter()
    with caplog.at_level(logging.WARNING), alone(lock):
        assert time.perf_counter() - start > 0.2
    process.join(30)
    assert "Another process is preparing the same pictures" in caplog.text
    assert not lock.exists()


def locked(path):
    file = path.open("w")
    fcntl.flock(file, fcntl.LOCK_EX)
    return file


def test_a_lock_file_that_was_removed_meanwhile_counts_for_nothing(tmp_path):
    lock = tmp_path / ".lock"
    ours, theirs = FORK.Pipe()
    with locked(lock) as first:
        process = FORK.Process(target=hold, args=(lock, 0, theirs))
        process.start()
        time.sleep(0.1)
        lock.unlink()
        with locked(lock):
            fcntl.flock(first, fcntl.LOCK_UN)  # the child has this file open too
            assert not ours.poll(0.3)
        assert ours.poll(10)
    process.join(30)


def test_a_lock_goes_with_its_process(tmp_path):
    lock = tmp_path / ".lock"
    ours, theirs = FORK.Pipe()
    process = FORK.Process(target=hold, args=(lock, 60, theirs))
    process.start()
    assert ours.recv() == "held"
    process.kill()
    process.join(30)
    with alone(lock):
        pass


def test_a_process_that_dies_is_told_with_what_to_do():
    with Crew(2) as crew, pytest.raises(RunFailedError) as caught:
        list(crew.run(os._exit, [3]))
    assert "--workers 1" in str(caught.value)


def test_errors_of_processes_come_back_as_they_are(tmp_path):
    jobs = ["1 + 1", "__import__('ltbench.errors').errors.RunFailedError('disk on fire')"]
    with Crew(2) as crew:
        told = dict(crew.run(eval, jobs))
    assert told["1 + 1"] == 2
    assert str(told[jobs[1]]) == "disk on fire"
    assert dict(Crew(1).run(abs, [-1, -2])) == {-1: 1, -2: 2}


def test_a_script_without_a_guard_is_not_run_again_by_its_workers(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from pathlib import Path\n"
        "from ltbench.store.crew import Crew\n"
        "from ltbench.store.lock import alone\n"
        f"with alone(Path({str(tmp_path / '.lock')!r})), Crew(2) as crew:\n"
        "    print(list(crew.run(abs, [-1])))\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[(-1, 1)]\n", "")


def start_crew(connection):
    with Crew(2) as crew:
        pid_and_sleep = "(__import__('time').sleep(0.2), __import__('os').getpid())[1]"
        connection.send([pid for _, pid in crew.run(eval, [pid_and_sleep, pid_and_sleep + " "])])
        list(crew.run(time.sleep, [60, 61]))


def test_workers_end_with_the_process_that_was_killed():
    ours, theirs = FORK.Pipe()
    process = FORK.Process(target=start_crew, args=(theirs,))
    process.start()
    pids = ours.recv()
    assert len(set(pids)) == 2
    process.kill()
    process.join(30)
    until = time.monotonic() + 10
    while time.monotonic() < until and any(map(lives, pids)):
        time.sleep(0.02)
    assert not any(map(lives, pids))


def lives(pid):
    state = process_state(pid)
    return state is not None and state[0] not in "ZX"


def test_the_journal_has_a_checksum_in_every_line(make_files, tmp_path, monkeypatch):
    ids, files = make_files(9)
    monkeypatch.setattr(build, "_finish", lambda *arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_store(tmp_path / "store", ids, files, SETTINGS)
    lines = (tmp_path / "store.partial" / "journal").read_text().splitlines()
    assert [json.loads(line[9:]).get("chunk") for line in lines] == [None, 0, 1, 2]
    assert all(int(line[:8], 16) for line in lines)
