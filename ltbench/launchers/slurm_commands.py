"""What Slurm's commands are asked and answer."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from ltbench.errors import DataMissingError, UsageError
from ltbench.registry import nearest

__all__ = ["Standing", "asks_for_gpus", "check_options", "outside_of_jobs", "queue", "requeue"]

_COMMANDS = ("sbatch", "squeue", "scancel", "srun")
# `sbatch` waits a minute for a missing slurm.conf, others for a controller that is away.
_PATIENCE_S = 120.0

# Options of ours that are none of sbatch's.
_OURS = {
    "setup": "shell commands before the run, such as 'module load cuda'",
    "signal_delay_s": "seconds before the time limit at which a run is told to save",
}
_SET_ELSEWHERE = {
    "time": "--time MINUTES",
    "array": "-j N",
    "signal": "--slurm signal_delay_s=SECONDS",
    **dict.fromkeys(("nodes", "ntasks", "ntasks_per_node"), "--devices N, on one node"),
}
# Each job is one process that must find its files, be found by its name and be requeued.
_NOT_TO_CHOOSE = {
    *("chdir", "clusters", "error", "help", "input", "job_name", "no_requeue", "output"),
    *("parsable", "quiet", "requeue", "uid", "gid", "usage", "version", "wait", "wrap"),
}
_GPU_OPTIONS = {"gpus", "gpus_per_node", "gpus_per_socket", "gpus_per_task"}

_ENDED = {
    *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL"),
    *("OUT_OF_MEMORY", "PREEMPTED", "TIMEOUT"),
}


class Standing(NamedTuple):
    """How a job stands, in Slurm's words, and the name it was given."""

    state: str
    reason: str
    name: str

    @property
    def is_under_way(self) -> bool:
        """Waits, runs, or is about to; states that we do not know count."""
        return self.state not in _ENDED


def check_options(options: Mapping[str, str]) -> dict[str, Any]:
    """Options for `sbatch` by name, as it takes them; "true" stands for an option without a value.

    Raises:
        DataMissingError: Slurm's commands are not here, or have no cluster to talk to.
        UsageError: an option that sbatch does not know, or that is not the user's to set.
    """
    known = _known_options()
    checked: dict[str, Any] = {}
    for given, value in options.items():
        name = given.lstrip("-").replace("-", "_")
        if name in _SET_ELSEWHERE:
            raise UsageError(f"--slurm {given}={value}: this is set with {_SET_ELSEWHERE[name]}.")
        if name in _NOT_TO_CHOOSE:
            raise UsageError(f"--slurm {given}={value}: the launcher needs this as it sets it.")
        if name not in known:
            near = nearest(name, known)
            hint = f" Did you mean '{near}'?" if near else ""
            ours = ", ".join(f"{key} ({what})" for key, what in _OURS.items())
            raise UsageError(
                f"--slurm {given}={value}: sbatch has no option '{given}'.{hint} Expected a long "
                f"option of `sbatch --help`, or {ours}."
            )
        checked[name] = True if value == "true" else value
    if not str(checked.get("signal_delay_s", "0")).isdigit():
        raise UsageError(
            f"--slurm signal_delay_s={checked['signal_delay_s']}: expected whole seconds."
        )
    return checked


def asks_for_gpus(options: Mapping[str, Any]) -> bool:
    """Whether checked options name GPUs."""
    return bool(_GPU_OPTIONS & set(options)) or "gpu" in str(options.get("gres", ""))


def _known_options() -> set[str]:
    missing = [name for name in _COMMANDS if shutil.which(name) is None]
    if missing:
        raise DataMissingError(
            f"The launcher 'slurm' needs Slurm's commands; not found: {', '.join(missing)}. Run on "
            "a login node of the cluster, or install them (Debian: apt-get install slurm-client)."
        )
    told = _ask("sbatch", "--help")
    if told is None or told.returncode:
        last = (told.stderr.strip().splitlines() if told else []) or ["no answer"]
        raise DataMissingError(
            f"Slurm's sbatch does not work on this machine: {last[-1]}. Run on a login node of the "
            "cluster, or say in SLURM_CONF where its slurm.conf lies."
        )
    names = re.findall(r"^ .*?--([a-z][a-z-]*)", told.stdout, re.M)
    return {name.replace("-", "_") for name in names} | set(_OURS)


def queue() -> dict[str, Standing] | None:
    """All jobs of this user that Slurm knows, by id; None where it does not answer.

    Jobs that have ended are in it for some minutes (Slurm's MinJobAge) and then forgotten.
    """
    told = _ask(
        *("squeue", "--me", "--noheader", "--array", "--states=all", "--format=%i|%T|%r|%j")
    )
    if told is None or told.returncode:
        return None
    rows = [line.split("|", 3) for line in told.stdout.splitlines() if line.count("|") >= 3]
    return {number: Standing(*words) for number, *words in rows}


def requeue(number: str) -> bool:
    """Put a job back into the queue, which also ends its processes; False where Slurm refuses."""
    told = _ask("scontrol", "requeue", number)
    return told is not None and not told.returncode


def _ask(*command: str) -> subprocess.CompletedProcess[str] | None:
    """Run a command; None where it is not there or does not come back."""
    try:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=_PATIENCE_S, check=False
        )
    except (subprocess.TimeoutExpired, FileNotFoundError):
        return None


@contextmanager
def outside_of_jobs() -> Iterator[None]:
    """Hide what a job around this process says of itself: sbatch would take it for its options."""
    kept = {}
    if "SLURM_JOB_ID" in os.environ:
        theirs = [name for name in os.environ if name.startswith(("SLURM_", "SRUN_", "SUBMITIT_"))]
        kept = {name: os.environ.pop(name) for name in theirs if name != "SLURM_CONF"}
    try:
        yield
    finally:
        os.environ.update(kept)
