"""Fabric for the run's devices, and what methods may ask of the others."""

from __future__ import annotations

import os
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from ltbench.errors import UsageError
from ltbench.method import Collective
from ltbench.run_config import MachineConfig, RunConfig

FABRIC_PRECISION: dict[str, Any] = {"32": "32-true", "bf16": "bf16-mixed"}


def device_kind(machine: MachineConfig) -> str:
    """The kind, "cuda" or "cpu": what was asked for, or with "auto" what is here."""
    if machine.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return machine.device


def check_devices(machine: MachineConfig) -> None:
    """Refuse a run for devices that this machine lacks; a grid may be planned without them.

    Raises:
        UsageError: no CUDA device, or fewer than asked for.
    """
    if device_kind(machine) != "cuda":
        return
    if not torch.cuda.is_available():
        raise UsageError(
            "machine.device is 'cuda', but torch sees no CUDA device here. Use --device cpu, or "
            "check the driver with `nvidia-smi`."
        )
    if machine.devices > torch.cuda.device_count():
        raise UsageError(
            f"machine.devices is {machine.devices}, but torch sees {torch.cuda.device_count()} "
            "CUDA devices. Lower --devices."
        )


def resolved_precision(config: RunConfig) -> str:
    """Either "32" or "bf16": "auto" is resolved for the device."""
    if config.precision == "auto":
        return "bf16" if device_kind(config.machine) == "cuda" else "32"
    return config.precision


def resolved_threads(machine: MachineConfig) -> int:
    """CPU threads a process uses; fixed, because their number changes the order of float sums."""
    return machine.threads or max(1, len(os.sched_getaffinity(0)) // machine.devices)


def make_fabric(config: RunConfig) -> Fabric:
    """Fabric on the run's devices; DDP, in spawned processes, where there are several."""
    from lightning_fabric.plugins.environments.lightning import LightningEnvironment

    strategy: Any = "auto"
    if config.machine.devices > 1:
        from lightning_fabric.strategies.ddp import DDPStrategy

        # A method may leave parameters without a gradient in some steps (BBN's second branch).
        strategy = DDPStrategy(start_method="spawn", find_unused_parameters=True)
    return Fabric(
        accelerator=device_kind(config.machine),
        devices=config.machine.devices,
        strategy=strategy,
        precision=FABRIC_PRECISION[resolved_precision(config)],
        # Else Fabric takes a Slurm or torchrun job around us for its own launcher.
        plugins=[LightningEnvironment()],
    )


def settle(config: RunConfig) -> None:
    """Fix threads and kernels in this process, so that the same run gives the same bits.

    Raises:
        UsageError: the run's devices are not here.
    """
    check_devices(config.machine)
    torch.set_num_threads(resolved_threads(config.machine))
    torch.backends.cudnn.allow_tf32 = False  # precision 32 means float32, also in convolutions
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True


def _gather_rows(x: Tensor) -> Tensor:
    shares = [torch.empty_like(x) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(shares, x.contiguous())
    return torch.cat(shares)


class _GatherRows(torch.autograd.Function):
    """Rows of all devices; the gradient of a row is the sum of what every device asks of it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.num_rows = x.shape[0]
        return _gather_rows(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        total = grad.contiguous().clone()
        torch.distributed.all_reduce(total)
        first = torch.distributed.get_rank() * ctx.num_rows
        return total[first : first + ctx.num_rows]


class FabricCollective(Collective):
    """All devices of a Fabric run."""

    def __init__(self, fabric: Fabric) -> None:
        self._fabric = fabric
        self.world_size = fabric.world_size
        self.rank = fabric.global_rank

    def gather(self, x: Tensor, *, grad: bool = False) -> Tensor:
        """Rows of all devices, in rank order; with `grad`, gradients flow back to their device."""
        if self.world_size == 1:
            return x
        if grad:
            rows: Tensor = _GatherRows.apply(x)
            return rows
        return _gather_rows(x)

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any device."""
        if self.world_size == 1:
            return flag
        return any(self.gather_object(flag))

    def gather_object(self, value: Any) -> list[Any]:
        """A picklable value of every device, in rank order."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        torch.distributed.all_gather_object(values, value)
        return values

    def sync_buffers(self, module: nn.Module) -> None:
        """Give every device rank 0's buffers (BatchNorm's running statistics differ by device)."""
        if self.world_size > 1:
            for buffer in module.buffers():
                torch.distributed.broadcast(buffer, src=0)


def resolved_workers(machine: MachineConfig) -> int:
    """Processes that make views on the CPU for one device of the run."""
    if machine.workers is not None:
        return machine.workers
    if device_kind(machine) == "cpu":
        return 0  # training needs every core, and views are the smaller part of the work
    return min(8, max(1, len(os.sched_getaffinity(0)) // machine.devices - 1))
