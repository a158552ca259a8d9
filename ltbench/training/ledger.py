"""What a run cost: passes, images, time, memory. Kept beside its result."""

from __future__ import annotations

import resource
from typing import Any

import torch
from torch import nn

from ltbench.models import Backbone


class StemCounter:
    """Counts what enters the first convolution of a method's backbones in one training step.

    A method may run parts of a backbone itself (BBN's trunk), so the backbone's own calls would
    miss some; its first convolution sees every picture exactly once a pass. Copies of the backbone
    (momentum encoders) count too.
    """

    def __init__(self, method: nn.Module) -> None:
        self.passes = 0
        self.images = 0
        stems = [_stem(module) for module in method.modules() if isinstance(module, Backbone)]
        unique = {id(stem): stem for stem in stems if stem is not None}
        self._handles = [s.register_forward_pre_hook(self._count) for s in unique.values()]

    def _count(self, _module: nn.Module, inputs: tuple[Any, ...]) -> None:
        self.passes += 1
        self.images += inputs[0].shape[0]

    def remove(self) -> None:
        """Stop counting."""
        for handle in self._handles:
            handle.remove()


def _stem(backbone: nn.Module) -> nn.Module | None:
    layers = (module for module in backbone.modules() if isinstance(module, nn.Conv2d | nn.Linear))
    return next(layers, None)


def peak_memory_mb(device: torch.device) -> float:
    """Largest memory of this process so far: on the device for CUDA, resident otherwise."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device)) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
