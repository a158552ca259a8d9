"""The local launcher: slots, ends of every kind, and nothing left behind."""

import errno
import os
import signal
import subprocess
import sys
import time
from functools import partial

import pytest

from ltbench.errors import InterruptedRunError, UsageError
from ltbench.launchers import Job
from ltbench.launchers.carrying_out import carry_out
from ltbench.launchers.local import LocalLauncher
from ltbench.owner import process_state


def job(name, work, folder, *arguments):
    return Job(name, partial(work, *arguments), folder / f"{name}.log")


def raise_usage_error():
    print("before it failed")
    raise UsageError("expected another name")


def raise_interrupted():
    raise InterruptedRunError("saved", signal.SIGTERM)


def die_unless(file):
    """The first process that does this dies; the next does not."""
    if not file.exists():
        file.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "second"


def wait_for_sigusr1(started, told):
    signal.signal(signal.SIGUSR1, lambda *_: told.touch() or os._exit(0))
    started.write_text(str(os.getpid()))
    time.sleep(60)


def note_and_sleep(file, seconds):
    with file.open("a") as log:
        log.write("+")
    time.sleep(seconds)
    with file.open("a") as log:
        log.write("-")


def run(jobs, slots=({},), **options):
    return {ended.job.name: ended for ended in LocalLauncher(slots, **options).run(jobs)}


def test_ends_of_every_kind(tmp_path):
    told = []
    ends = run(
        [
            job("returns", os.getpid, tmp_path),
            job("refuses", raise_usage_error, tmp_path),
            job("breaks", int, tmp_path, "x"),
            job("stops", raise_interrupted, tmp_path),
            job("aborts", os.abort, tmp_path),
            job("dies_once", die_unless, tmp_path, tmp_path / "died"),
        ],
        [{}, {}],
        retries=1,
        say=told.append,
    )
    assert ends["returns"].state == "done"
    assert ends["returns"].value != os.getpid()
    refused = ends["refuses"]
    assert (refused.state, refused.kind, refused.exit_code) == ("failed", "UsageError", 2)
    assert refused.message == "expected another name"
    assert (tmp_path / "refuses.log").read_text().splitlines()[1:] == [
        "before it failed",
        "failed: expected another name",
    ]
    assert (ends["breaks"].state, ends["breaks"].exit_code) == ("failed", 1)
    assert "Traceback" in (tmp_path / "breaks.log").read_text()
    assert (ends["stops"].state, ends["stops"].exit_code) == ("interrupted", 143)
    died = ends["aborts"]
    assert (died.state, died.attempts) == ("died", 2)
    assert "SIGABRT, 2 times" in died.message
    again = ends["dies_once"]
    assert (again.state, again.value, again.attempts) == ("done", "second", 2)
    assert any("dies_once" in line and "SIGKILL" in line for line in told)


def test_each_slot_has_its_environment_and_one_job_at_a_time(tmp_path):
    slots = [{"PLACE": "a"}, {"PLACE": "b"}]
    jobs = [job(f"job{i}", os.getenv, tmp_path, "PLACE") for i in range(6)]
    ends = run(jobs, slots)
    assert {end.value for end in ends.values()} == {"a", "b"}
    file = tmp_path / "order"
    run([job(f"job{i}", note_and_sleep, tmp_path, file, 0.05) for i in range(4)])
    assert file.read_text() == "+-" * 4


def test_jobs_that_are_held_elsewhere_come_last(tmp_path):
    jobs = [job(name, int, tmp_path) for name in ("held", "free", "also_free")]
    launcher = LocalLauncher([{}], is_held=lambda one: one.name == "held")
    assert [ended.job.name for ended in launcher.run(jobs)] == ["free", "also_free", "held"]


def test_closing_tells_the_jobs_and_waits(tmp_path):
    started, told = tmp_path / "started", tmp_path / "told"
    jobs = [job("quick", int, tmp_path), job("slow", wait_for_sigusr1, tmp_path, started, told)]
    ends = LocalLauncher([{}, {}]).run(jobs)
    assert next(ends).job.name == "quick"
    deadline = time.monotonic() + 60
    while not started.exists() or not started.read_text():
        assert time.monotonic() < deadline, "the slow job never began"
        time.sleep(0.01)
    ends.close()
    assert told.exists()
    state = process_state(int(started.read_text()))
    assert state is None or state[0] in "ZX"


SERVES_TWO = """
import sys
from pathlib import Path
from functools import partial
from ltbench.launchers import Job
from ltbench.launchers.carrying_out import carry_out
log = Path(sys.argv[1])
assert carry_out(Job("here", partial(print, "into the log"), log)).state == "done"
print("to the terminal")
"""


def test_output_comes_back_where_a_process_serves_several(tmp_path):
    log = tmp_path / "here.log"
    done = subprocess.run(
        [sys.executable, "-c", SERVES_TWO, str(log)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "to the terminal\n"
    assert log.read_text().endswith("into the log\n")


def test_a_log_in_the_way_of_a_file(tmp_path):
    (tmp_path / "file").touch()
    report = carry_out(Job("x", int, tmp_path / "file" / "x.log"))
    assert (report.state, report.exit_code) == ("failed", 2)


@pytest.mark.parametrize(("number", "kind"), [
    (errno.EROFS, "StorageClosedError"), (errno.ENOSPC, "StorageFullError"),
])  # fmt: skip
def test_a_log_that_cannot_be_written_is_the_storages_fault(number, kind, tmp_path, monkeypatch):
    def refuse(*_arguments):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "open", refuse)
    assert carry_out(Job("x", int, tmp_path / "x.log")).kind == kind


def test_printing_that_finds_no_space_is_the_storages_fault(tmp_path):
    def work():
        raise OSError(errno.ENOSPC, "No space left on device")

    assert carry_out(Job("x", work, tmp_path / "x.log")).kind == "StorageFullError"
