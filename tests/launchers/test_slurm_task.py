"""What a job does when it is told to stop; needs neither Slurm nor submitit."""

import signal

import pytest

from ltbench.errors import InterruptedRunError
from ltbench.launchers import Job, slurm_task
from ltbench.launchers.slurm_commands import Standing
from ltbench.launchers.slurm_task import Task


class Stopped:
    """Work that a signal stops."""

    def __init__(self, number):
        self.number = number

    def __call__(self):
        raise InterruptedRunError("saved", self.number)


@pytest.fixture
def carry_out(tmp_path, monkeypatch):
    """carry_out(work, state, ...) -> numbers that were requeued, and the result or exit code."""
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "5")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")

    def call(work, state="RUNNING", refuses=False):
        requeued = []
        monkeypatch.setattr(slurm_task, "queue", lambda: {"5_3": Standing(state, "None", "")})
        monkeypatch.setattr(
            slurm_task, "requeue", lambda number: requeued.append(number) or not refuses
        )
        try:
            return requeued, Task(Job("a", work, tmp_path / "log.txt"))()
        except SystemExit as left:
            return requeued, left.code

    return call


def test_what_is_done_comes_back(carry_out):
    requeued, result = carry_out(int)
    assert (requeued, result.report.state, result.report.value) == ([], "done", 0)
    assert result.restarts == 2


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2])
def test_at_the_time_limit_it_is_requeued(carry_out, number):
    assert carry_out(Stopped(number)) == (["5_3"], 128 + number)


def test_where_slurm_refuses_the_launcher_is_told(carry_out):
    requeued, result = carry_out(Stopped(signal.SIGUSR2), refuses=True)
    assert (requeued, result.report.state, result.report.exit_code) == (["5_3"], "interrupted", 140)


def test_preempted_it_is_requeued(carry_out):
    """It has ended before Slurm would requeue it, which then counts it as failed."""
    assert carry_out(Stopped(signal.SIGTERM)) == (["5_3"], 143)


@pytest.mark.parametrize("state", ["COMPLETING", "CANCELLED", "PENDING"])
def test_cancelled_it_leaves_no_result_and_does_not_come_back(carry_out, state):
    assert carry_out(Stopped(signal.SIGTERM), state) == ([], 143)


def test_a_job_of_its_own_has_a_plain_number(carry_out, monkeypatch):
    monkeypatch.delenv("SLURM_ARRAY_JOB_ID")
    monkeypatch.setenv("SLURM_JOB_ID", "8")
    assert carry_out(Stopped(signal.SIGUSR2)) == (["8"], 140)


def test_other_signals_are_told(carry_out):
    requeued, result = carry_out(Stopped(signal.SIGINT))
    assert (requeued, result.report.exit_code) == ([], 130)
