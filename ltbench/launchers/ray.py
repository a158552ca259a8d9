"""Jobs as tasks of a Ray cluster: the one that runs here, or one started for them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from ltbench.errors import DataMissingError, RunFailedError, UsageError
from ltbench.launchers import Ended, Job
from ltbench.launchers.carrying_out import Report, carry_out

__all__ = ["RayLauncher"]

_SAVING_S = 120.0  # how long a task that was told to stop has, to save
_MEGABYTE = 2**20


@dataclass
class _UnderWay:
    job: Job
    started: float
    attempts: int


class RayLauncher:
    """One task a job, with as many cores and CUDA devices, or a part of one, as the job says.

    Ray's own retries stay off: a task whose process or node died is given to the cluster again
    here, where it can be counted and told.

    Args:
        num_at_once: tasks given to the cluster at once; None for all, which it queues.
        retries: how often a job is started again whose process or node died.
        say: told in one line what a person should know at once.
    """

    def __init__(
        self,
        *,
        num_at_once: int | None = None,
        retries: int = 3,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._ray = _imported()
        self._num_at_once = num_at_once
        self._retries = retries
        self._say = say
        self._is_ours = _connect(self._ray, say)

    def device_kind(self) -> Literal["cpu", "cuda"]:
        """What the cluster has."""
        return "cuda" if self._ray.cluster_resources().get("GPU", 0) else "cpu"

    def room(self, jobs: Sequence[Job]) -> int:
        """As many as the cluster has cores and devices for."""
        there = self._ray.cluster_resources()
        cpus = max((job.num_cpus for job in jobs), default=1)
        gpus = max((job.num_gpus for job in jobs), default=0.0)
        fit = [self._num_at_once or len(jobs), int(there.get("CPU", 1) // cpus)]
        if gpus:
            fit.append(int(there.get("GPU", 0) // gpus))
        return max(1, min(*fit, len(jobs)))

    def when_closed(self) -> str:
        """They are told to save and stop."""
        return "what was under way is saved"

    def run(self, jobs: Sequence[Job]) -> Generator[Ended, None, None]:
        """See `Launcher.run`."""
        waiting = [(job, 1) for job in jobs]
        under_way: dict[Any, _UnderWay] = {}
        self._warn_of_what_is_missing(jobs)
        try:
            while waiting or under_way:
                while waiting and len(under_way) < (self._num_at_once or len(jobs)):
                    job, attempts = waiting.pop(0)
                    under_way[self._submit(job)] = _UnderWay(job, time.monotonic(), attempts)
                ready, _ = self._ray.wait(list(under_way), num_returns=1)
                for reference in ready:
                    one = under_way.pop(reference)
                    ended = self._end_of(reference, one)
                    if ended is None:
                        waiting.insert(0, (one.job, one.attempts + 1))
                    else:
                        yield ended
        finally:
            self._stop(list(under_way))

    def _submit(self, job: Job) -> Any:
        options = {"num_cpus": job.num_cpus, "num_gpus": job.num_gpus, "max_retries": 0}
        if job.num_gpus:
            options["max_calls"] = 1  # the next job gets a CUDA context of its own
        task = self._ray.remote(**options)(_in_task)
        return task.options(name=job.name).remote(partial(carry_out, job), os.getcwd())

    def _end_of(self, reference: Any, one: _UnderWay) -> Ended | None:
        """How it ended; None where it is to be started again."""
        wall_time_s = time.monotonic() - one.started
        lost = self._ray.exceptions
        try:
            report, wall_time_s = self._ray.get(reference)
        except (lost.LocalRayletDiedError, lost.RaySystemError) as error:
            raise RunFailedError(
                f"The Ray cluster is gone ({type(error).__name__}). What cells had saved is kept; "
                "start the cluster and run the same command again."
            ) from error
        except lost.RayError as error:
            how = f"its process or node died ({type(error).__name__})"
            if one.attempts <= self._retries:
                self._say(f"{one.job.name}: {how}; it is started again")
                return None
            report = Report("died", message=f"{how}, {one.attempts} times", exit_code=1)
        ended: Ended = report.of(one.job, wall_time_s=wall_time_s, attempts=one.attempts)
        return ended

    def _warn_of_what_is_missing(self, jobs: Sequence[Job]) -> None:
        there = self._ray.cluster_resources()
        needs = {
            "CPU": max((job.num_cpus for job in jobs), default=0),
            "GPU": max((job.num_gpus for job in jobs), default=0),
        }
        for resource, needed in needs.items():
            if needed > there.get(resource, 0):
                self._say(
                    f"A job needs {needed:g} {resource}, the Ray cluster has "
                    f"{there.get(resource, 0):g}: it waits until there are enough."
                )

    def _stop(self, references: list[Any]) -> None:
        """Tell the tasks to save and stop, wait for them, and end a cluster that we started."""
        for reference in references:
            self._ray.cancel(reference)  # as Ctrl-C in the task's process, which saves
        if references:
            self._ray.wait(references, num_returns=len(references), timeout=_SAVING_S)
        if self._is_ours:
            self._ray.shutdown()


def _in_task(work: Callable[[], Report], folder: str) -> tuple[Report, float]:
    """In the task's process, which starts elsewhere than relative paths are meant from."""
    started = time.monotonic()
    os.chdir(folder)
    return work(), time.monotonic() - started


def _imported() -> Any:
    # Ray asks its makers' servers about itself otherwise, and prints warnings of versions to come.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ModuleNotFoundError as error:
        raise DataMissingError(
            "The launcher 'ray' needs the package ray, which is not installed. Install it: "
            "pip install 'ltbench[ray]'"
        ) from error
    return ray


def _connect(ray: Any, say: Callable[[str], None]) -> bool:
    """Join the cluster that RAY_ADDRESS or `ray start` made known, or start one.

    Returns:
        Whether it was started here, and ends with us.
    """
    if ray.is_initialized():
        return False
    quiet = {"log_to_driver": False, "logging_level": "warning"}
    try:
        ray.init(address="auto", **quiet)
    except ConnectionError as error:
        named = os.environ.get("RAY_ADDRESS")
        if named:
            raise UsageError(
                f"RAY_ADDRESS is {named}, but no Ray cluster answers there ({error}). Start one "
                "with `ray start --head`, set RAY_AUTH_MODE=token if that cluster asks for a "
                "token, or unset RAY_ADDRESS to have a cluster started for this sweep."
            ) from error
        cores = len(os.sched_getaffinity(0))
        # Jobs hand each other nothing: the smallest object store does.
        ray.init(
            address="local",
            num_cpus=cores,
            include_dashboard=False,
            object_store_memory=100 * _MEGABYTE,
            **quiet,
        )
        say(f"No Ray cluster was found: one was started here, with {cores} cores.")
        return True
    say(f"Joined the Ray cluster at {ray.get_runtime_context().gcs_address}.")
    return False
