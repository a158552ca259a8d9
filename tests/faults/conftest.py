"""A grid of seconds, what it gives undisturbed, and what must hold after every fault."""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress

import pytest

from ltbench import claims
from ltbench.errors import LtbenchError
from ltbench.files import read_json
from ltbench.results import run_folders
from ltbench.testing.processes import Command
from ltbench.testing.tiny import TOY_BLOBS

# One stage and two; a method that trains on validation feedback.
METHODS = "ce,crt,ecl"
NUM_CELLS = 6
# Long enough that most moments to kill lie inside training, and a checkpoint a step or so.
SETTINGS = ["machine.checkpoint_every_s=0.1", "dataset.train_counts=[40, 20, 10, 4]"]


class GridUnderTest:
    """The sweep as a command on one results folder after the other, and a look at what it left."""

    def __init__(self, folder, expected=None):
        self.folder, self.expected = folder, expected
        self._commands = []
        self._number = 0
        self.begin_anew()

    def begin_anew(self):
        """Another results folder, still empty."""
        self._number += 1
        self._records = {}
        self.results = self.folder / f"runs-{self._number}"

    def words(self, *more):
        words = [
            *("sweep", "--methods", METHODS, "--datasets", "toy_blobs", "--seeds", "0-1"),
            *("--plugin", TOY_BLOBS, "--results", self.results, "-j", "2", "--retries", "1000"),
            *("--epochs", "6", "--batch-size", "8", "--backbone", "resnet8_cifar"),
            *(word for setting in SETTINGS for word in ("--set", setting)),
            *more,
        ]
        return [str(word) for word in words]

    def start(self, *more):
        """The sweep, in a process forked from one that has imported torch."""
        output = self.folder / f"output-{len(self._commands)}.txt"
        self._commands.append(Command(self.words(*more), output))
        return self._commands[-1]

    def start_as_program(self, environment):
        """The sweep as a program of its own, from the interpreter on."""
        program = [sys.executable, "-c", "from ltbench.cli import main; main()", *self.words()]
        with (self.folder / "program.txt").open("w") as output:
            return subprocess.Popen(program, env=environment, stdout=output, stderr=output)

    def finish(self, *more):
        """Run the same command until its end, as a user would after a fault."""
        command = self.start(*more)
        assert command.exit_code(300) == 0, command.text()
        return command.text()

    def end(self):
        for command in self._commands:
            command.process.kill()
            command.process.join()

    def busy(self):
        """Process numbers that hold a claim and live."""
        found = []
        for run in run_folders(self.results):
            for file in run.path.glob("claim-*.json"):
                if claims.holder(run.path) is not None:
                    with suppress(LtbenchError):  # gone, or half written
                        found.append(read_json(file)["pid"])
        return found

    def strike(self, chance, processes, number=signal.SIGKILL):
        """Send one of some processes a signal; whether it met one."""
        with suppress(ProcessLookupError):
            if processes:
                os.kill(chance.choice(processes), number)
                return True
        return False

    def note_records(self):
        """Records that are there now must be there, unchanged, for ever."""
        for run in run_folders(self.results):
            path = run.path / "record.json"
            if path.exists():
                self._records.setdefault(path, path.read_bytes())

    def is_done(self):
        """Whether every cell has its record."""
        runs = list(run_folders(self.results))
        return len(runs) == NUM_CELLS and all((run.path / "record.json").exists() for run in runs)

    def digests(self):
        records = [(run, run.record()) for run in run_folders(self.results)]
        return {
            (record["method"], record["seed"]): (
                record["digest"],
                [(row["stage"], row["epoch"]) for row in run.epochs()],
            )
            for run, record in records
        }

    def check(self):
        """All cells done, with the bits of the undisturbed grid; nothing lost, nothing doubled."""
        self.note_records()
        for path, content in self._records.items():
            assert path.read_bytes() == content, f"{path} was written twice"
        found = self.digests()
        assert len(found) == len(list(run_folders(self.results))) == NUM_CELLS
        if self.expected is not None:
            assert found == self.expected
        for _, epochs in found.values():
            assert max(Counter(epochs).values()) == 1
        kinds = (".", "claim-", "checkpoint.pt", "failure")
        files = (file for run in run_folders(self.results) for file in run.path.iterdir())
        left = [file.name for file in files if file.name.startswith(kinds)]
        assert left == []


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory):
    grid = GridUnderTest(tmp_path_factory.mktemp("undisturbed"))
    grid.finish()
    grid.check()
    yield grid.digests()
    grid.end()


@pytest.fixture
def grid(tmp_path, undisturbed):
    under_test = GridUnderTest(tmp_path, undisturbed)
    yield under_test
    under_test.end()


@pytest.fixture
def chance(request):
    """Random moments that a failure names, so that they can be had again."""
    seed = int(os.environ.get("LTBENCH_FAULT_SEED", time.time_ns() % 2**32))
    print(f"LTBENCH_FAULT_SEED={seed} repeats {request.node.name}")
    return random.Random(seed)
