"""Full disks, read-only mounts, claims of the dead: told in a sentence, mended by a rerun."""

import json
import os
import subprocess
import time
from dataclasses import asdict

import pytest

from ltbench.owner import Owner
from ltbench.results import run_folders

pytestmark = pytest.mark.faults


@pytest.fixture
def mount(grid):
    """mount(options): a tmpfs as the results folder, or the same one with other options."""
    folder = grid.results
    folder.mkdir()
    mounted = []

    def call(options):
        again = ["-o", f"remount,{options}"] if mounted else ["-o", options]
        kind = [] if mounted else ["-t", "tmpfs", "tmpfs"]
        subprocess.run(["mount", *again, *kind, str(folder)], check=True)
        mounted.append(options)

    yield call
    grid.end()
    if mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.parametrize("size", ["64k", "400k", "1m", "2m", "3m"])
def test_full_disk(grid, mount, size):
    """The sweep stops with one message, nothing written is lost, and with space it ends well."""
    mount(f"size={size}")
    command = grid.start()
    assert command.exit_code() == 1, command.text()
    assert "is full" in command.text().splitlines()[-1]
    assert "Traceback" not in command.text()
    grid.note_records()
    mount("size=200m")
    grid.finish()
    grid.check()


def test_full_from_the_middle_on(grid, mount):
    mount("size=200m")
    command = grid.start()
    while not any(run.is_done() for run in run_folders(grid.results)):
        command.process.join(0.02)
    filler = grid.results / "filler"
    with filler.open("wb") as file:
        try:
            while True:
                file.write(bytes(1 << 16))
                file.flush()
        except OSError:
            pass
    grid.note_records()
    assert command.exit_code() == 1, command.text()
    filler.unlink()
    grid.finish()
    grid.check()


def test_read_only_mount(grid, mount):
    mount("size=200m,ro")
    command = grid.start()
    assert command.exit_code() == 2, command.text()
    assert "cannot be written to" in command.text()
    mount("rw")
    grid.finish()
    grid.check()


def test_read_only_after_some_are_done(grid, mount):
    mount("size=200m")
    assert grid.start("--seeds", "0").exit_code() == 0
    grid.note_records()
    mount("ro")
    command = grid.start()
    assert command.exit_code() == 2, command.text()
    assert "cannot be written to" in command.text()
    assert grid.start("--seeds", "0", "--status").exit_code() == 0
    mount("rw")
    grid.finish()
    grid.check()


def test_claims_of_the_dead_are_taken_over(grid):
    """Of a process of this machine that is gone, before its claim was written whole, and after."""
    assert grid.start("--seeds", "0").exit_code() == 0
    plan = grid.start("--status", "--json")
    assert plan.exit_code() == 0
    open_runs = [row["run"] for row in json.loads(plan.text()) if row["state"] == "missing"]
    folders = [run.path.parent for run in run_folders(grid.results)]
    gone = subprocess.Popen(["true"])
    gone.wait()
    for run in open_runs:
        key, seed = run.split("/")
        (folder,) = {folder for folder in folders if folder.name == key}
        (folder / seed).mkdir()
        claim = json.dumps({**asdict(Owner.here()), "pid": gone.pid, "started": "1"})
        (folder / seed / "claim-000007.json").write_text(claim)
    grid.finish()
    grid.check()


LIBFAKETIME = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1"


def test_clock_going_backwards(grid, chance):
    """The clock jumps by days, both ways, while a sweep runs and its workers are killed."""
    assert os.path.exists(LIBFAKETIME), "install it: apt-get install faketime"
    clock = grid.folder / "clock"
    clock.write_text("+0d")
    environment = {
        **os.environ,
        "LD_PRELOAD": LIBFAKETIME,
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    sweep = grid.start_as_program(environment)
    hits = 0
    while sweep.poll() is None:
        clock.write_text(f"{chance.randint(-9, 9):+d}d")
        time.sleep(chance.uniform(0.1, 0.5))
        hits += hits < 5 and grid.strike(chance, grid.busy())
        grid.note_records()
    assert sweep.returncode == 0, (grid.folder / "program.txt").read_text()
    assert hits == 5
    grid.finish()
    grid.check()
