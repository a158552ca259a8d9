"""What the Slurm launcher asks for, and what it refuses before anything starts; needs no Slurm."""

import os
import sys
from types import SimpleNamespace

import pytest

from ltbench.errors import DataMissingError, UsageError
from ltbench.launchers import Job
from ltbench.launchers import slurm as slurm_module
from ltbench.launchers.slurm import SlurmLauncher
from ltbench.launchers.slurm_commands import outside_of_jobs, queue

HELP = """
Parallel run options:
  -a, --array=indexes         job array index values
  -A, --account=name          charge job to specified account
  -c, --cpus-per-task=ncpus   number of cpus required per task
      --gres=list             required generic resources
  -p, --partition=partition   partition requested
      --exclusive[=user]      allocate nodes in exclusive mode
      --gpus-per-node=n       number of GPUs required per allocated node
"""
SQUEUE = "12_0|RUNNING|None|ltbench-1\n12_1|CANCELLED|None|ltbench-1\n7|NEW_STATE|Odd|a|b\n"


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """A folder that is the whole path, holding commands that answer as Slurm's do."""
    answers = {"sbatch": HELP, "squeue": SQUEUE, "scancel": "", "srun": ""}
    for name, answer in answers.items():
        file = tmp_path / name
        file.write_text(f"#!/bin/sh\n/bin/cat <<'END'\n{answer}END\n", encoding="utf-8")
        file.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


@pytest.fixture
def launcher_of(commands, monkeypatch, tmp_path):
    """launcher_of(options, ...): a launcher; submitit need not be installed."""
    monkeypatch.setattr(slurm_module, "_imported", SimpleNamespace)
    return lambda options=None, **more: SlurmLauncher(tmp_path, options=options, **more)


def parameters(launcher, jobs):
    return launcher._parameters("ltbench-1", jobs, 2)


def job(tmp_path, **needs):
    return Job("a", int, tmp_path / "log.txt", **needs)


@pytest.mark.parametrize(("options", "words"), [
    ({"partiton": "gpu"}, "Did you mean 'partition'"),
    ({"nonsense-option": "1"}, "a long option of `sbatch --help`, or setup"),
    ({"time": "10"}, "set with --time MINUTES"),
    ({"array": "0-3"}, "set with -j N"),
    ({"signal": "USR1@60"}, "signal_delay_s=SECONDS"),
    ({"--ntasks-per-node": "2"}, "set with --devices N"),
    ({"output": "x"}, "the launcher needs this as it sets it"),
    ({"signal_delay_s": "90s"}, "expected whole seconds"),
])  # fmt: skip
def test_options_that_are_refused(launcher_of, options, words):
    with pytest.raises(UsageError, match=words):
        launcher_of(options)


def test_options_reach_sbatch_as_they_are(launcher_of, tmp_path):
    options = {
        "partition": "long",
        "--exclusive": "true",
        "cpus-per-task": "6",
        "setup": "module load python",
        "signal_delay_s": "200",
    }
    asked = parameters(launcher_of(options, minutes=30), [job(tmp_path, num_cpus=2)])
    assert asked["additional_parameters"] == {
        "requeue": True,
        "partition": "long",
        "exclusive": True,
    }
    assert (asked["cpus_per_task"], asked["srun_args"]) == ("6", ["--cpus-per-task=6"])
    assert (asked["setup"], asked["signal_delay_s"]) == (["module load python"], 200)
    assert (asked["time"], asked["array_parallelism"]) == (30, 2)


def test_the_largest_job_says_what_all_get(launcher_of, tmp_path):
    launcher = launcher_of(minutes=2)
    jobs = [job(tmp_path, num_cpus=1), job(tmp_path, num_cpus=4, num_gpus=0.5)]
    asked = parameters(launcher, jobs)
    assert (asked["cpus_per_task"], asked["gpus_per_node"]) == (4, 1)
    assert asked["signal_delay_s"] == 30, "not more than a quarter of the time"
    assert "gpus_per_node" not in parameters(launcher, jobs[:1])


@pytest.mark.parametrize(("options", "kind"), [
    ({}, "cpu"), ({"gres": "gpu:a100:1"}, "cuda"), ({"gpus-per-node": "1"}, "cuda"),
    ({"gres": "craynetwork:1"}, "cpu"),
])  # fmt: skip
def test_devices_are_what_the_options_ask_for(launcher_of, options, kind, tmp_path):
    launcher = launcher_of(options)
    assert launcher.device_kind() == kind
    asked = parameters(launcher, [job(tmp_path, num_gpus=1)])
    assert ("gpus_per_node" in asked) == (kind == "cpu"), "the user's own request stands"


def test_missing_commands_are_named(commands, monkeypatch):
    monkeypatch.setattr(slurm_module, "_imported", SimpleNamespace)
    (commands / "squeue").unlink()
    with pytest.raises(DataMissingError, match=r"not found: squeue.*apt-get"):
        SlurmLauncher(commands)


def test_sbatch_without_a_cluster(commands, launcher_of):
    (commands / "sbatch").write_text("#!/bin/sh\necho 'sbatch: fatal: no source' >&2\nexit 1\n")
    with pytest.raises(DataMissingError, match=r"sbatch: fatal: no source. Run on a login node"):
        launcher_of()


def test_missing_submitit_says_how_to_get_it(commands, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(DataMissingError, match=r"pip install 'ltbench\[slurm\]'"):
        SlurmLauncher(commands)


def test_what_squeue_says(commands):
    found = queue()
    assert {number: one.is_under_way for number, one in found.items()} == {
        "12_0": True, "12_1": False, "7": True,
    }  # fmt: skip
    assert found["7"].name == "a|b"
    (commands / "squeue").write_text("#!/bin/sh\nexit 1\n")
    assert queue() is None
    (commands / "squeue").unlink()
    assert queue() is None


def test_what_a_job_around_us_says_does_not_reach_sbatch(monkeypatch):
    for name in ("SLURM_JOB_ID", "SLURM_CPUS_PER_TASK", "SLURM_CONF"):
        monkeypatch.setenv(name, "1")
    before = dict(os.environ)
    with outside_of_jobs():
        assert [name for name in os.environ if name.startswith("SLURM")] == ["SLURM_CONF"]
    assert dict(os.environ) == before
