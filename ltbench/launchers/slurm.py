"""Jobs on a Slurm cluster: arrays through submitit, that go on without this process.

Slurm's word decides little. What a job returned counts; where it returned nothing, whether `squeue`
still knows it as under way. A job of which neither holds has died, whatever became of it, and is
given to Slurm again. So the launcher needs no accounting (`sacct`), which submitit waits for.

Jobs outlive the launcher. It notes what it submitted, and a later one that is given the same jobs
attaches to those that are still in the queue.
"""

from __future__ import annotations

import io
import math
import os
import re
import shutil
import signal
import time
from collections.abc import Callable, Generator, Mapping, Sequence, Set
from contextlib import redirect_stderr, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

from ltbench.errors import DataMissingError, RunFailedError, UsageError
from ltbench.files import read_json, storage_errors, write_json
from ltbench.launchers import Ended, Job
from ltbench.launchers.carrying_out import Report
from ltbench.launchers.slurm_commands import (
    Standing,
    asks_for_gpus,
    check_options,
    outside_of_jobs,
    queue,
)
from ltbench.launchers.slurm_task import Result, Task
from ltbench.spawning import ASKED_BY_SCHEDULERS, signals_blocked

__all__ = ["SlurmLauncher"]

MINUTES: Final = 240
# Before the time limit; and tries of a job that had not begun to train by then.
_SIGNAL_DELAY_S, _FRUITLESS = 90, 3
# Slurm's own limit, where the administrator has not changed it (MaxArraySize).
_LONGEST_ARRAY = 1000
# Of the time since something was submitted, this part passes between two questions to squeue.
_MOST_SELDOM_S, _SELDOM = 30.0, 0.1
# How long after the end of a job its result may still be on its way through a shared folder.
_GRACE_S = 10.0
_JOBS = "jobs.json"
# Reasons to wait that are nobody's business.
_ORDINARY = {"None", "Priority", "Resources", "JobArrayTaskLimit", "BeginTime", "Cleaning"}


@dataclass
class _UnderWay:
    """A job in Slurm's hands; `handle` is submitit's, `gone_at` when squeue did not know it."""

    job: Job
    handle: Any
    attempts: int = 1
    deaths: int = 0
    gone_at: float | None = None


@dataclass
class _Waiting:
    """A job to be submitted, and what was tried before."""

    job: Job
    attempts: int = 0
    deaths: int = 0


class SlurmLauncher:
    """One array job for all jobs, one task each.

    Args:
        folder: for submitit's and our own files; every node sees it.
        num_at_once: tasks that Slurm may run side by side; None for no limit of ours.
        minutes: time limit of a task, after which it saves, is requeued and goes on.
        options: further ones for `sbatch`, by name.
        retries: how often a job is submitted again that ended without a result.
        is_held: whether another process is at a job already; such jobs are not submitted until it
            is not, since they would wait on a node they keep from others.
        say: told in one line what a person should know at once.
        look_s: pause between two looks for results.

    Raises:
        DataMissingError: submitit or Slurm's commands are not here.
        UsageError: an option that sbatch does not know.
    """

    def __init__(
        self,
        folder: Path,
        *,
        num_at_once: int | None = None,
        minutes: int | None = None,
        options: Mapping[str, str] | None = None,
        retries: int = 3,
        is_held: Callable[[Job], bool] = lambda job: False,
        say: Callable[[str], None] = lambda text: None,
        look_s: float = 2.0,
    ) -> None:
        self._submitit = _imported()
        self._options = check_options(options or {})
        self._folder = folder
        self._num_at_once = num_at_once
        self._minutes = minutes or MINUTES
        self._retries = retries
        self._is_held = is_held
        self._say = say
        self._look_s = look_s
        self._under_way: list[_UnderWay] = []
        self._told: set[str] = set()
        self._submitted_at: float | None = None

    def device_kind(self) -> Literal["cpu", "cuda"]:
        """What the options ask for: nothing else tells what nodes have."""
        return "cuda" if asks_for_gpus(self._options) else "cpu"

    def room(self, jobs: Sequence[Job]) -> int:
        """As many as may run side by side, if Slurm has the nodes."""
        return max(1, min(self._num_at_once or len(jobs), len(jobs)))

    def when_closed(self) -> str:
        """Jobs go on, as a cluster's users expect; how to end them."""
        if not self._under_way:
            return "nothing was under way"
        numbers = sorted({one.handle.job_id.partition("_")[0] for one in self._under_way}, key=int)
        return (
            f"{len(self._under_way)} jobs go on in Slurm (`squeue --me` shows them; "
            f"`scancel {' '.join(numbers)}` has them save and ends them)"
        )

    def run(self, jobs: Sequence[Job]) -> Generator[Ended, None, None]:
        """See `Launcher.run`; but once closed, or when this process ends, jobs go on."""
        waiting = [_Waiting(job) for job in jobs]
        self._attach(waiting)
        ask_at = -math.inf
        while waiting or self._under_way:
            standings = None
            if time.monotonic() >= ask_at:
                self._submit_those_that_may(waiting)
                standings = queue()
                if self._under_way:
                    self._tell_what_is_odd(standings)
                ask_at = time.monotonic() + self._pause_s()
            there = self._files()
            for one in list(self._under_way):
                result = self._result(one, there) or self._verdict(one, standings)
                if result is None:
                    continue
                self._under_way.remove(one)
                again = self._again(one, result)
                if again is None:
                    yield _ended(one, result)
                else:
                    waiting.append(again)
            if self._under_way or waiting:
                time.sleep(self._look_s)

    def _pause_s(self) -> float:
        """Until squeue is asked again: the more seldom the longer nothing was submitted."""
        if self._submitted_at is None:
            return _MOST_SELDOM_S
        return min(_MOST_SELDOM_S, (time.monotonic() - self._submitted_at) * _SELDOM)

    def _attach(self, waiting: list[_Waiting]) -> None:
        """Take over those of these jobs that an earlier launcher submitted and Slurm still has."""
        notes = sorted(self._folder.glob(f"*/{_JOBS}"), reverse=True)
        if not notes:
            return
        known = queue()
        if known is None:
            raise RunFailedError(
                "Slurm does not answer (`squeue --me`), so that nobody knows which jobs of an "
                "earlier command still run. Run the same command again when it does."
            )
        by_log = {os.path.abspath(one.job.log): one for one in waiting}
        for file in notes:
            noted = read_json(file)
            for number, log in noted["logs"].items():
                standing = known.get(number)
                # A Slurm that was set up anew counts from 1 again; names are never the same.
                if standing is None or standing.name != noted["name"] or log not in by_log:
                    continue
                if standing.is_under_way:
                    one = by_log.pop(log)
                    waiting.remove(one)
                    handle = self._submitit.SlurmJob(file.parent, number)
                    self._under_way.append(_UnderWay(one.job, handle))
        if self._under_way:
            self._submitted_at = time.monotonic()
            self._say(f"{len(self._under_way)} jobs of an earlier command are in Slurm already.")

    def _submit_those_that_may(self, waiting: list[_Waiting]) -> None:
        """Submit as many as keep to the limit: tasks that Slurm has, even waiting ones, count."""
        room = len(waiting)
        if self._num_at_once is not None:
            room = self._num_at_once - len(self._under_way)
        if room <= 0 or not waiting:
            return
        free = [one for one in waiting if not self._is_held(one.job)][:_LONGEST_ARRAY]
        if not free:
            if not self._under_way:
                self._say_once(f"Other processes are at {len(waiting)} jobs; waiting for them.")
            return
        try:
            self._submit(free, min(room, len(free)))
        except _RefusedError as error:
            if self._submitted_at is None:  # a mistake, and the user's to mend
                raise UsageError(f"Slurm's sbatch refuses the jobs: {error}") from error
            self._say_once(f"Slurm's sbatch refuses jobs ({error}); trying again.")
            return
        waiting[:] = [one for one in waiting if one not in free]

    def _submit(self, free: Sequence[_Waiting], at_once: int) -> None:
        name = f"ltbench-{os.urandom(4).hex()}"
        folder = self._folder / f"{datetime.now(UTC):%Y-%m-%d_%H-%M-%S}_{name}"
        executor = self._submitit.SlurmExecutor(folder.absolute(), max_num_timeout=_FRUITLESS)
        executor.update_parameters(**self._parameters(name, [one.job for one in free], at_once))
        # Half a submission would be jobs that nobody knows of.
        with (
            storage_errors(folder),
            signals_blocked(),
            outside_of_jobs(),
            redirect_stderr(io.StringIO()),
        ):
            folder.mkdir(parents=True)
            try:
                handles = executor.submit_array([Task(one.job) for one in free])
            except self._submitit.core.utils.FailedJobError as error:
                shutil.rmtree(folder)
                raise _RefusedError(_reason(str(error))) from error
            logs = {
                handle.job_id: os.path.abspath(one.job.log)
                for handle, one in zip(handles, free, strict=True)
            }
            write_json(folder / _JOBS, {"name": name, "logs": logs})
            for one, handle in zip(free, handles, strict=True):
                self._under_way.append(_UnderWay(one.job, handle, one.attempts + 1, one.deaths))
        self._submitted_at = time.monotonic()
        number = handles[0].job_id.partition("_")[0]
        self._say_once(
            f"Slurm job {number}: {len(free)} to run, {at_once} at once, {self._minutes} minutes "
            "each before they save and are requeued."
        )

    def _parameters(self, name: str, jobs: Sequence[Job], at_once: int) -> dict[str, Any]:
        """What submitit is told; further options go to sbatch as they are, and win."""
        options = dict(self._options)
        setup, delay_s = options.pop("setup", None), options.pop("signal_delay_s", None)
        cpus = options.pop("cpus_per_task", max(job.num_cpus for job in jobs))
        gpus = math.ceil(max(job.num_gpus for job in jobs))
        parameters: dict[str, Any] = {
            "job_name": name,
            "time": self._minutes,
            "array_parallelism": at_once,
            "cpus_per_task": cpus,
            # Since Slurm 22.05 srun does not take this from sbatch, and would get one core.
            "srun_args": [f"--cpus-per-task={cpus}"],
            "signal_delay_s": int(delay_s or min(_SIGNAL_DELAY_S, self._minutes * 60 // 4)),
            "stderr_to_stdout": True,
            "setup": [setup] if setup else None,
            "additional_parameters": {"requeue": True, **options},
        }
        if gpus and not asks_for_gpus(options):
            parameters["gpus_per_node"] = gpus
        return parameters

    def _files(self) -> set[Path]:
        """What lies in the folders of jobs under way: one question a folder, not one a job."""
        folders = {one.handle.paths.folder for one in self._under_way}
        return {folder / name for folder in folders for name in os.listdir(folder)}

    def _result(self, one: _UnderWay, there: Set[Path]) -> Result | None:
        """What a job has returned, if it has."""
        paths = one.handle.paths
        if paths.result_pickle not in there:
            return None
        try:
            result: Result = one.handle.result()
        except self._submitit.core.utils.FailedJobError as error:
            text = f"its Slurm job {one.handle.job_id} could not begin: {_trace_end(str(error))}"
            report = Report("failed", message=f"{text} ({paths.stdout})", exit_code=1)
            return Result(report, 0.0, 0)
        return result

    def _verdict(self, one: _UnderWay, standings: Mapping[str, Standing] | None) -> Result | None:
        """How a job without a result ended; None where it has not, or where nobody knows yet.

        Args:
            standings: what squeue has just said; None where it was not asked or did not answer.
        """
        if standings is None:
            return None
        standing = standings.get(one.handle.job_id)
        if standing is not None and standing.is_under_way:
            one.gone_at = None
            return None
        if one.gone_at is None:
            one.gone_at = time.monotonic()
        if time.monotonic() - one.gone_at < _GRACE_S:
            _refresh(one.handle.paths.folder)
            return None
        return Result(_report_of(one, standing), 0.0, 0)

    def _again(self, one: _UnderWay, result: Result) -> _Waiting | None:
        """The job once more, where it is to be submitted again."""
        report = result.report
        if report.state == "interrupted" and report.exit_code - 128 in ASKED_BY_SCHEDULERS:
            # It saved at the time limit, but Slurm would not requeue it.
            return _Waiting(one.job, one.attempts, one.deaths)
        if report.state == "died" and one.deaths < self._retries:
            self._say(f"{one.job.name}: {report.message}; it is submitted again")
            return _Waiting(one.job, one.attempts, one.deaths + 1)
        return None

    def _tell_what_is_odd(self, standings: Mapping[str, Standing] | None) -> None:
        if standings is None:
            self._say_once("Slurm does not answer (squeue); waiting for it.")
            return
        for one in self._under_way:
            standing = standings.get(one.handle.job_id)
            if standing and standing.state == "PENDING" and standing.reason not in _ORDINARY:
                self._say_once(f"Slurm holds jobs back: {standing.reason}")

    def _say_once(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            self._say(text)


class _RefusedError(Exception):
    """What sbatch answered instead of a number."""


def _imported() -> Any:
    try:
        import submitit
        import submitit.core.utils
    except ModuleNotFoundError as error:
        raise DataMissingError(
            "The launcher 'slurm' needs the package submitit, which is not installed. Install it: "
            "pip install 'ltbench[slurm]'"
        ) from error
    return submitit


def _ended(one: _UnderWay, result: Result) -> Ended:
    attempts = one.attempts + result.restarts
    return result.report.of(one.job, wall_time_s=result.wall_time_s, attempts=attempts)


def _report_of(one: _UnderWay, standing: Standing | None) -> Report:
    """What is said of a job that left no result: here Slurm's word is all there is."""
    number, log = one.handle.job_id, one.handle.paths.stdout
    if standing is None:
        return Report("died", message=f"its Slurm job {number} is gone ({log})", exit_code=1)
    if standing.state == "CANCELLED":
        text = f"its Slurm job {number} was cancelled"
        return Report("interrupted", message=text, exit_code=128 + signal.SIGTERM)
    hint = "; ask for more with --slurm mem=SIZE" if standing.state == "OUT_OF_MEMORY" else ""
    text = f"its Slurm job {number} ended without a result: {standing.state}{hint} ({log})"
    return Report("died", message=text, exit_code=1)


def _trace_end(told: str) -> str:
    """The last line of the traceback that submitit puts between two rules."""
    _, _, rest = f"\n{told}".partition("\n-----")
    trace = rest.partition("\n-----")[0] or told
    return trace.strip().splitlines()[-1]


def _reason(told: str) -> str:
    """What sbatch means, of "sbatch: error: Batch job submission failed: what it means"."""
    lines = told.strip().splitlines() or ["no reason given"]
    return re.sub(r"^(sbatch: error: )?(Batch job submission failed: )?", "", lines[-1])


def _refresh(folder: Path) -> None:
    """Have a network file system look at a folder again, as a change of it does."""
    with suppress(OSError):
        folder.chmod(folder.stat().st_mode)
