"""The whole state of a run at one step: taken for a checkpoint, put back to go on bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ltbench.method import Method
from ltbench.training.engine import LossWatch
from ltbench.training.optimizers import gathered_gradients
from ltbench.training.stage import StageRun

State = dict[str, Any]


@dataclass
class Best:
    """The best epoch of a stage so far; ties go to the latest."""

    epoch: int
    value: float
    state: dict[str, Tensor]


@dataclass
class Totals:
    """What the run has cost so far, over all its sessions."""

    train_time_s: float = 0.0
    wall_time_s: float = 0.0
    images: int = 0
    steps: int = 0
    forward_passes_per_step: dict[str, int] = field(default_factory=dict)
    forward_images_per_step: dict[str, int] = field(default_factory=dict)


@dataclass
class Log:
    """What has come of the run so far, beside the weights.

    Attributes:
        selected: one entry a finished stage: which epoch was taken, and its value.
        num_rows: rows written for finished epochs.
    """

    totals: Totals = field(default_factory=Totals)
    selected: list[dict[str, Any]] = field(default_factory=list)
    num_rows: int = 0


def take(
    run: StageRun,
    method: Method,
    log: Log,
    best: Best | None,
    *,
    epoch: int,
    step: int,
    devices: list[State],
) -> State:
    """Everything that going on from (epoch, step) needs; tensors and plain values only.

    Args:
        devices: `device_state` of every device, in rank order.
    """
    return {
        "stage": run.number,
        "epoch": epoch,
        "step": step,
        "method": method.state_dict(),
        "optimizers": [o.optimizer.state_dict() for o in run.optimizers],
        "gradients": gathered_gradients(method, run.optimizers) if step else {},
        "devices": devices,
        "best": None if best is None else vars(best),
        "totals": vars(log.totals),
        "selected": log.selected,
        "num_rows": log.num_rows,
    }


def put_back(
    state: State, run: StageRun, method: Method, watch: LossWatch | None, *, rank: int
) -> Best | None:
    """Put `take`'s state in place, after the method's hooks have had their say."""
    method.load_state_dict(state["method"])
    for scheduled, saved in zip(run.optimizers, state["optimizers"], strict=True):
        rates = [group["lr"] for group in scheduled.optimizer.param_groups]
        scheduled.optimizer.load_state_dict(saved)
        for group, rate in zip(scheduled.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
    parameters = dict(method.named_parameters())
    for name, gradient in state["gradients"].items():
        parameters[name].grad = gradient.to(parameters[name].device)
    mine = state["devices"][rank]
    if watch is not None:
        watch.load(mine["watch"])
    set_rng_state(mine["rng"])
    return None if state["best"] is None else Best(**state["best"])


def log_of(state: State) -> Log:
    """The log at the time of `take`."""
    return Log(Totals(**state["totals"]), list(state["selected"]), state["num_rows"])


def device_state(device: torch.device, watch: LossWatch | None) -> State:
    """What each device of a run has of its own."""
    return {"rng": rng_state(device), "watch": None if watch is None else watch.state()}


def rng_state(device: torch.device) -> dict[str, Tensor]:
    """States of torch's generators on this device; ltbench's own generator has none."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_rng_state(state: Mapping[str, Tensor]) -> None:
    """Put `rng_state` back."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"])
