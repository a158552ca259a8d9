"""Fabric for the run's devices, and what methods may ask of the others."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.strategies.ddp import DDPStrategy
from torch import Tensor, nn
from torch.distributed import FileStore  # type: ignore[attr-defined]
from torch.nn.modules.batchnorm import _BatchNorm

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
    """Fabric on the one device of a run, in this process."""
    return Fabric(
        accelerator=device_kind(config.machine),
        devices=1,
        precision=FABRIC_PRECISION[resolved_precision(config)],
        # Else Fabric takes a Slurm or torchrun job around us for its own launcher.
        plugins=[LightningEnvironment()],
    )


class Seat(NamedTuple):
    """The place of one device, and of the process that serves it, among those of a run."""

    rank: int
    num_devices: int
    kind: str
    precision: str

    @classmethod
    def all_of(cls, config: RunConfig) -> list[Seat]:
        """A seat for each of the run's devices, in rank order."""
        number = config.machine.devices
        kind, precision = device_kind(config.machine), resolved_precision(config)
        return [cls(rank, number, kind, precision) for rank in range(number)]


class _Seated(LightningEnvironment):
    """What Fabric asks of a launcher, answered by the seat alone.

    Variables that an outer launcher has set (Slurm's, torchrun's) mean nothing here.
    """

    creates_processes_externally = True

    def __init__(self, seat: Seat) -> None:
        super().__init__()
        self._seat = seat

    def local_rank(self) -> int:
        """Of the process, which has its machine to itself."""
        return self._seat.rank

    def node_rank(self) -> int:
        """There is one machine."""
        return 0


def join_fabric(seat: Seat, meeting: Path) -> Fabric:
    """Fabric with DDP in one of several processes, once all of them have come to `meeting`.

    They meet at a file and not at a port: which port is free now, another run, or any program, may
    have taken by the time it is opened.
    """
    on_cuda = seat.kind == "cuda"
    device = torch.device("cuda", seat.rank) if on_cuda else None
    if device is not None:
        torch.cuda.set_device(device)
    torch.distributed.init_process_group(
        "nccl" if on_cuda else "gloo",
        store=FileStore(str(meeting), seat.num_devices),
        rank=seat.rank,
        world_size=seat.num_devices,
        # Also NCCL's: the others wait while the first device's process writes what it has made.
        timeout=torch.distributed.default_pg_timeout,
        device_id=device,
    )
    fabric = Fabric(
        accelerator=seat.kind,
        devices=seat.num_devices,
        # A method may leave parameters without a gradient in some steps (BBN's second branch).
        strategy=DDPStrategy(find_unused_parameters=True),
        precision=FABRIC_PRECISION[seat.precision],
        plugins=[_Seated(seat)],
    )
    fabric.launch()
    return fabric


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
    x = x.contiguous()  # memory is gathered as it lies, and pictures may be in channels_last
    shares = [torch.empty_like(x) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(shares, x)
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


def has_batchnorm(module: nn.Module) -> bool:
    """Whether any layer normalises by the statistics of the batch, synchronised or not."""
    return any(isinstance(layer, _BatchNorm) for layer in module.modules())


def resolved_workers(machine: MachineConfig) -> int:
    """Processes that make views on the CPU for one device of the run."""
    if machine.workers is not None:
        return machine.workers
    if device_kind(machine) == "cpu":
        return 0  # training needs every core, and views are the smaller part of the work
    return min(8, max(1, len(os.sched_getaffinity(0)) // machine.devices - 1))
