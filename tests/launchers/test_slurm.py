"""Sweeps on a Slurm of one node, as users and clusters treat them."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

from ltbench import claims
from ltbench.files import read_json
from ltbench.launchers import Job
from ltbench.launchers.slurm import SlurmLauncher
from ltbench.results import read_records, run_folders
from ltbench.testing import tiny_run
from ltbench.testing.tiny import TOY_BLOBS

sys.path.append(str(Path(__file__).parents[1] / "services"))
from one_node_slurm import MissingError, one_node_slurm

pytestmark = pytest.mark.services
ROOT = Path(__file__).parents[2]
TOY_SLOW = ROOT / "tests" / "plugins" / "toy_slow.py"
SECONDS = 180
EPOCHS, STEPS = 16, 16 * 5


@pytest.fixture(scope="module")
def slurm():
    """The environment of a Slurm that ends with the module."""
    if find_spec("submitit") is None:
        pytest.fail("submitit is not installed: pip install -e '.[slurm]'", pytrace=False)
    try:
        with one_node_slurm() as environment:
            yield environment
    except MissingError as error:
        pytest.fail(str(error), pytrace=False)


@pytest.fixture(scope="module")
def digests(tmp_path_factory):
    """Of the undisturbed runs, by seed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    settings = {"epochs": EPOCHS, "eval_batch_size": 256, "optimizer.lr": 0.1}
    return {
        seed: tiny_run("toy_slow", folder, {**settings, "seed": seed}, plugins=[TOY_SLOW]).record[
            "digest"
        ]
        for seed in (0, 1)
    }


class Sweep:
    """A sweep of two slow cells, and what becomes of it."""

    def __init__(self, folder, environment):
        self.results = folder / "runs"
        self._folder = folder
        self._slow = folder / "slow"
        self._slow.touch()
        self._environment = {**os.environ, **environment, "TOY_WHILE": str(self._slow)}
        self._processes = []

    def hurry(self):
        """From now on steps take no time, whatever a start has said."""
        self._slow.unlink()

    def words(self, *more):
        words = [
            *(sys.executable, ROOT / "bench.py", "sweep", "--methods", "toy_slow"),
            *("--datasets", "toy_blobs", "--seeds", "0-1"),
            *("--plugin", TOY_BLOBS, "--plugin", TOY_SLOW, "--results", self.results),
            *("--epochs", EPOCHS, "--batch-size", "8", "--backbone", "resnet8_cifar"),
            *("--set", "eval_batch_size=256", "--set", "optimizer.lr=0.1", *more),
        ]
        return [str(word) for word in words]

    def start(self, *more, step_s=0.5, start_s=0, launcher="slurm"):
        output = self._folder / f"output-{len(self._processes)}.txt"
        with output.open("wb") as file:
            process = subprocess.Popen(
                self.words("--launcher", launcher, *more),
                stdout=file,
                stderr=file,
                env={**self._environment, "TOY_STEP_S": f"{step_s}", "TOY_START_S": f"{start_s}"},
                start_new_session=True,
            )
        process.text = lambda: output.read_text(encoding="utf-8")
        self._processes.append(process)
        return process

    def end(self):
        for process in self._processes:
            process.kill()
            process.wait()
        self.ask("scancel", "--me")

    def ask(self, *command, step_s=0):
        environment = {**self._environment, "TOY_STEP_S": str(step_s)}
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, check=True
        ).stdout.strip()

    def jobs(self):
        """State of each job, by number."""
        told = self.ask("squeue", "--me", "--noheader", "--array", "--format=%i %T")
        return dict(line.split() for line in told.splitlines())

    def training(self, seed):
        """The process that trains a seed, once it has trained an epoch; else None."""
        for run in run_folders(self.results):
            if run.path.name == f"seed-{seed}" and run.epochs():
                for claim in run.path.glob("claim-*.json"):
                    if claims.holder(run.path) is not None:
                        return read_json(claim)["pid"]
        return None

    def number(self, seed):
        """The Slurm job of a seed."""
        for file in self.results.glob("slurm/*/jobs.json"):
            for number, log in json.loads(file.read_text("utf-8"))["logs"].items():
                if f"seed-{seed}/" in log:
                    return number
        return None

    def submissions(self):
        return list(self.results.glob("slurm/*/jobs.json"))

    def found(self):
        """The digest of each seed that is done."""
        records, messages = read_records(self.results)
        assert messages == []
        return {record["seed"]: record["digest"] for record in records}

    def starts(self, seed):
        """How often a process began with a seed."""
        (run,) = (run for run in run_folders(self.results) if run.path.name == f"seed-{seed}")
        return (run.path / "log.txt").read_text("utf-8").count("--- toy_slow")

    def has_each_step_once(self):
        return all(
            [row["epoch"] for row in run.epochs()] == list(range(EPOCHS))
            and run.record()["ledger"]["steps"] == STEPS
            for run in run_folders(self.results)
        )


@pytest.fixture
def sweep(tmp_path, slurm):
    under_test = Sweep(tmp_path, slurm)
    yield under_test
    under_test.end()


def wait_for(condition, seconds=SECONDS):
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
    return value


def test_a_grid_of_three_methods_and_seeds(slurm, tmp_path):
    """The command of the documents, in one epoch."""
    words = "sweep --methods ce,focal,ecl --datasets digits_lt --seeds 0-2 -j 2 --launcher slurm"
    done = subprocess.run(
        [sys.executable, ROOT / "bench.py", *words.split(), "--epochs", "1"],
        cwd=tmp_path,
        env={**os.environ, **slurm},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[9/9]" in done.stdout
    assert all(f"| {name} epochs=1" in done.stdout for name in ("ce", "focal", "ecl"))
    (script,) = tmp_path.glob("results/runs/slurm/*/*_submission.sh")
    assert "#SBATCH --array=0-8%2" in script.read_text("utf-8")
    assert len(list(tmp_path.rglob("record.json"))) == 9


def test_a_job_that_cannot_begin_says_why(slurm, tmp_path, monkeypatch):
    for name, value in slurm.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "only_here.py").write_text("def work(): pass\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    job = Job("a", import_module("only_here").work, tmp_path / "log.txt")
    (found,) = SlurmLauncher(tmp_path / "slurm", minutes=5).run([job])
    assert found.state == "failed"
    assert "could not begin: ModuleNotFoundError: No module named 'only_here'" in found.message


def test_a_killed_process_is_started_again(sweep, digests):
    process = sweep.start("-j", "2")
    os.kill(wait_for(lambda: sweep.training(0)), signal.SIGKILL)
    sweep.hurry()
    assert process.wait(SECONDS) == 0, process.text()
    assert "FAILED" in process.text()
    assert "it is submitted again" in process.text()
    assert "at attempt 2" in process.text()
    assert sweep.found() == digests
    assert sweep.has_each_step_once()
    assert (sweep.starts(0), sweep.starts(1)) == (2, 1)


def test_at_the_time_limit_a_run_saves_and_goes_on(sweep, digests):
    """Slurm looks for jobs near their limit twice a minute."""
    process = sweep.start("--time", "1", "--slurm", "signal_delay_s=5", step_s=0.8)
    assert process.wait(2 * SECONDS) == 0, process.text()
    assert sweep.found() == digests
    assert sweep.has_each_step_once()
    assert sweep.starts(0) >= 2
    assert len(sweep.submissions()) == 1, "requeued by itself, not by the launcher"


def test_told_before_it_could_save_it_is_requeued_by_submitit(sweep, digests):
    process = sweep.start(step_s=0, start_s=6)
    logs = wait_for(lambda: list(sweep.results.rglob("log.txt")))  # the work has begun
    seed = int(logs[0].parent.name.removeprefix("seed-"))
    sweep.ask("scancel", "--signal=USR2", sweep.number(seed))
    assert process.wait(SECONDS) == 0, process.text()
    assert sweep.found() == digests
    log = logs[0].read_text("utf-8")
    assert "Requeued job" in log
    assert "failed" not in log, "the signal came while a plugin was imported"
    assert sweep.starts(seed) == 2


def test_cancelled_jobs_are_told_and_not_started_again(sweep, digests):
    process = sweep.start()
    wait_for(lambda: sweep.training(1))
    sweep.ask("scancel", sweep.number(1))
    wait_for(lambda: sweep.training(1) is None)
    sweep.hurry()
    assert process.wait(SECONDS) == 5, process.text()
    assert "was cancelled" in process.text()
    assert set(sweep.found()) == {0}
    again = sweep.start()
    assert again.wait(SECONDS) == 0, again.text()
    assert sweep.found() == digests
    assert sweep.has_each_step_once(), "it had saved"


def test_jobs_outlive_a_killed_sweep_and_the_next_attaches(sweep, digests):
    first = sweep.start(step_s=2.0)
    wait_for(lambda: sweep.training(0) and sweep.training(1))
    first.kill()
    first.wait()
    others = [sweep.start(), sweep.start()]
    told = "2 jobs of an earlier command are in Slurm already"
    wait_for(lambda: all(told in one.text() for one in others))
    sweep.hurry()
    assert [one.wait(SECONDS) for one in others] == [0, 0], [one.text() for one in others]
    assert sweep.found() == digests
    assert (sweep.starts(0), sweep.starts(1)) == (1, 1)
    assert len(sweep.submissions()) == 1


def test_ctrl_c_says_that_jobs_go_on_and_how_to_end_them(sweep, digests):
    process = sweep.start(step_s=1.0)
    wait_for(lambda: sweep.training(0))
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(60) == 130, process.text()
    number = sweep.number(0).partition("_")[0]
    assert "2 jobs go on in Slurm" in process.text()
    assert f"scancel {number}" in process.text()
    assert sweep.jobs(), "they do"
    again = sweep.start()
    wait_for(lambda: "are in Slurm already" in again.text())
    sweep.hurry()
    assert again.wait(SECONDS) == 0, again.text()
    assert sweep.found() == digests
    assert len(sweep.submissions()) == 1


def test_a_preempted_run_saves_and_goes_on(sweep, digests):
    process = sweep.start()
    wait_for(lambda: sweep.training(0) and sweep.training(1))
    sweep.ask("srun", "--partition=urgent", "--cpus-per-task=2", "sleep", "1")
    sweep.hurry()
    assert process.wait(SECONDS) == 0, process.text()
    assert sweep.found() == digests
    assert sweep.has_each_step_once()
    assert len(sweep.submissions()) == 1
    assert (sweep.starts(0), sweep.starts(1)) == (2, 2)


def test_two_launchers_on_one_grid(sweep, digests):
    both = [sweep.start(launcher="local", step_s=0.1), sweep.start(step_s=0.1)]
    assert [one.wait(SECONDS) for one in both] == [0, 0], [one.text() for one in both]
    assert sweep.found() == digests
    assert sweep.has_each_step_once()


@pytest.mark.parametrize(
    ("order", "code"), [(["--signal=USR1"], 138), ([], 143)], ids=["time limit", "cancelled"]
)
def test_a_sweep_inside_a_job_saves_before_it_ends(sweep, digests, tmp_path, order, code):
    """Slurm sends signals to all processes: the sweep, its cells and what serves them."""
    file = tmp_path / "job.sh"
    words = shlex.join(["srun", "--cpus-per-task=2", *sweep.words("-j", "2")])
    file.write_text(f"#!/bin/sh\ntrap '' TERM\n{words}\necho ended with $?\n")
    output = tmp_path / "job.txt"
    number = sweep.ask(
        *("sbatch", "--parsable", "--cpus-per-task=2", "--time=10", f"--output={output}", file),
        step_s=1.0,
    )
    wait_for(lambda: sweep.training(0) and sweep.training(1))
    sweep.ask("scancel", *order, number)
    wait_for(lambda: "ended with" in output.read_text("utf-8"))
    sweep.hurry()
    assert "what was under way is saved" in output.read_text("utf-8")
    assert f"ended with {code}" in output.read_text("utf-8")
    again = sweep.start(launcher="local")
    assert again.wait(SECONDS) == 0, again.text()
    for log in sweep.results.rglob("log.txt"):
        assert "goes on from its checkpoint" in log.read_text("utf-8")
    assert sweep.found() == digests
    assert sweep.has_each_step_once()
