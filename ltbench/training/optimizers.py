"""The optimizers of one stage: which parameters each steps, when, and at what rate."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ltbench.errors import UsageError
from ltbench.method import Method, OptimizerSpec, ScheduleFn, Stage
from ltbench.run_config import OptimizerConfig, ScheduleConfig
from ltbench.training.schedules import lr_factor


@dataclass
class ScheduledOptimizer:
    """One torch optimizer with its cadence and its learning rate by epoch."""

    optimizer: Any
    every: str
    base_lr: float
    schedule: ScheduleFn
    params: tuple[nn.Parameter, ...]

    def set_epoch(self, epoch: int, epochs: int) -> float:
        """Set and return the learning rate of an epoch."""
        lr = self.base_lr * self.schedule(epoch, epochs)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        return lr

    def step(self, clip_norm: float | None) -> None:
        """Clip this optimizer's gradients, and only these, then step."""
        if clip_norm is not None:
            nn.utils.clip_grad_norm_(self.params, clip_norm)
        self.optimizer.step()


def make_optimizers(
    method: Method, stage: Stage, config: OptimizerConfig, schedule: ScheduleConfig
) -> list[ScheduledOptimizer]:
    """The stage's optimizers, checked: every trainable parameter in exactly one of them."""
    trainable = {name: p for name, p in method.named_parameters() if p.requires_grad}
    specs = method.optimizers(stage)
    if specs is None:
        specs = [OptimizerSpec(trainable.values())]
    _check_cover(method, stage, trainable, specs)

    def recipe_schedule(epoch: int, epochs: int) -> float:
        return lr_factor(schedule, epoch, epochs)

    return [
        ScheduledOptimizer(
            optimizer=_torch_optimizer(spec, config),
            every=spec.every,
            base_lr=config.lr if spec.lr is None else spec.lr,
            schedule=spec.schedule or recipe_schedule,
            params=spec.params_list,
        )
        for spec in specs
        if spec.params_list
    ]


def _torch_optimizer(spec: OptimizerSpec, config: OptimizerConfig) -> torch.optim.Optimizer:
    lr = config.lr if spec.lr is None else spec.lr
    weight_decay = config.weight_decay if spec.weight_decay is None else spec.weight_decay
    if config.name == "adamw":
        return torch.optim.AdamW(spec.params_list, lr=lr, weight_decay=weight_decay)
    momentum = config.momentum if spec.momentum is None else spec.momentum
    return torch.optim.SGD(
        spec.params_list,
        lr=lr,
        momentum=momentum,
        weight_decay=weight_decay,
        nesterov=config.nesterov and momentum > 0,
    )


def _check_cover(
    method: Method, stage: Stage, trainable: dict[str, nn.Parameter], specs: Iterable[OptimizerSpec]
) -> None:
    where = f"{type(method).__name__}.optimizers('{stage.name}')"
    given = [parameter for spec in specs for parameter in spec.params_list]
    counts = Counter(id(parameter) for parameter in given)
    wrong = [name for name, p in trainable.items() if counts[id(p)] != 1]
    if wrong:
        raise UsageError(
            f"{where}: each trainable parameter must be in exactly one optimizer; these are in "
            f"none or in several: {', '.join(wrong[:5])}. Freeze what the stage does not train "
            "(requires_grad_(False) in on_stage_start)."
        )
    strangers = set(counts) - {id(parameter) for parameter in method.parameters()}
    if strangers:
        shapes = [tuple(p.shape) for p in given if id(p) in strangers]
        raise UsageError(
            f"{where}: parameters that are not the method's own cannot be saved and resumed; "
            f"found some of shape {', '.join(map(str, shapes[:5]))}. Assign them to the method as "
            "nn.Parameter or within a submodule."
        )


def gathered_gradients(
    method: Method, optimizers: Iterable[ScheduledOptimizer]
) -> dict[str, Tensor]:
    """Gradients that epoch-wise optimizers have added up so far, by parameter name."""
    mine = {id(p) for o in optimizers if o.every == "epoch" for p in o.params}
    return {
        name: p.grad.detach().clone()
        for name, p in method.named_parameters()
        if id(p) in mine and p.grad is not None
    }
