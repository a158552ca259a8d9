"""What a run cost: passes, images, time, memory. Kept beside its result."""

from __future__ import annotations

import resource
from typing import Any

import torch
from torch import nn


class StemCounter:
    """Counts what enters the backbone's first convolution in one training step.

    A method may run parts of the backbone itself (BBN's trunk), so the backbone's own calls would
    miss some; its first convolution sees every picture exactly once a pass.
    """

    def __init__(self, backbone: nn.Module) -> None:
        self.passes = 0
        self.images = 0
        leaves = [m for m in backbone.modules() if not list(m.children())]
        stem = next((m for m in leaves if isinstance(m, nn.Conv2d | nn.Linear)), None)
        self._handle = stem.register_forward_pre_hook(self._count) if stem is not None else None

    def _count(self, _module: nn.Module, inputs: tuple[Any, ...]) -> None:
        self.passes += 1
        self.images += inputs[0].shape[0]

    def remove(self) -> None:
        """Stop counting."""
        if self._handle is not None:
            self._handle.remove()


def peak_memory_mb(device: torch.device) -> float:
    """Largest memory of this process so far: on the device for CUDA, resident otherwise."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device)) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
