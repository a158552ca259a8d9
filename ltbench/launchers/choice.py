"""From what a user says to a launcher."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ltbench.errors import UsageError
from ltbench.launchers import Job, Launcher
from ltbench.registry import suggest

__all__ = ["LAUNCHERS", "LaunchOptions", "check_options", "launcher_of"]

LAUNCHERS = ("local", "ray", "slurm")


@dataclass(frozen=True)
class LaunchOptions:
    """What a launcher may be told.

    Attributes:
        num_at_once: jobs that run side by side; None for what the machine or cluster has room for.
        slots_per_device: jobs that share a CUDA device.
        cpus, devices: cores and CUDA devices that one job uses.
        on_cuda: whether jobs use CUDA; None for the machine's to decide.
        retries: how often a job is started again whose process died.
        minutes: time limit of a job on Slurm.
        slurm: further options of `sbatch`, by name.
    """

    num_at_once: int | None = None
    slots_per_device: int = 1
    cpus: int = 1
    devices: int = 1
    on_cuda: bool | None = None
    retries: int = 3
    minutes: int | None = None
    slurm: Mapping[str, str] = field(default_factory=dict)


def launcher_of(
    name: str,
    options: LaunchOptions,
    *,
    folder: Path,
    is_held: Callable[[Job], bool] = lambda job: False,
    say: Callable[[str], None] = lambda text: None,
) -> Launcher:
    """The launcher of a name.

    Args:
        folder: where a cluster's scheduler keeps its own files; every node sees it.
        is_held: whether another process is at a job already.

    Raises:
        UsageError, DataMissingError: an unknown name, or what the launcher needs is not here.
    """
    check_options(name, options)
    if name == "local":
        from ltbench.launchers.local import LocalLauncher

        return LocalLauncher(
            _local_slots(options), retries=options.retries, is_held=is_held, say=say
        )
    if name == "ray":
        from ltbench.launchers.ray import RayLauncher

        return RayLauncher(num_at_once=options.num_at_once, retries=options.retries, say=say)
    if name == "slurm":
        from ltbench.launchers.slurm import SlurmLauncher

        return SlurmLauncher(
            folder,
            num_at_once=options.num_at_once,
            minutes=options.minutes,
            options=options.slurm,
            retries=options.retries,
            is_held=is_held,
            say=say,
        )
    raise UsageError(suggest("launcher", name, list(LAUNCHERS)))


def check_options(name: str, options: LaunchOptions) -> None:
    """Refuse what a launcher has no use for, before a grid is planned.

    Raises:
        UsageError: an option of another launcher.
    """
    if name != "slurm" and (options.minutes is not None or options.slurm):
        raise UsageError(f"--time and --slurm are for --launcher slurm; got --launcher {name}.")


def _local_slots(options: LaunchOptions) -> list[dict[str, str]]:
    """The environment of each place for a job on this machine."""
    import torch

    on_cuda = torch.cuda.is_available() if options.on_cuda is None else options.on_cuda
    if not on_cuda:
        room = max(1, len(os.sched_getaffinity(0)) // (options.cpus * options.devices))
        return [{}] * (options.num_at_once or room)
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = given.split(",") if given else [str(i) for i in range(torch.cuda.device_count())]
    groups = [
        ",".join(names[first : first + options.devices])
        for first in range(0, len(names) - options.devices + 1, options.devices)
    ]
    if not groups:
        raise UsageError(
            f"A cell uses {options.devices} CUDA devices, and {len(names)} are visible here. "
            "Lower --devices."
        )
    # Every device gets its first job before any gets its second.
    slots = [{"CUDA_VISIBLE_DEVICES": group} for group in groups * options.slots_per_device]
    return slots[: options.num_at_once or len(slots)]
