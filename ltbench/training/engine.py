"""One optimizer step: loss under the run's precision, backward, clipping, stepping."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor

from ltbench.method import Batch, Method, Outputs, Progress
from ltbench.training.optimizers import ScheduledOptimizer


class StepEngine:
    """What `Method.update` sees of the trainer.

    Args:
        module: the method as Fabric wrapped it (DDP where there are several devices).
        accumulate: parts a batch is computed in; gradients are averaged over the parts.
        sam_rho: radius of sharpness-aware minimisation; 0 is off.
    """

    def __init__(
        self,
        fabric: Fabric,
        module: Any,
        optimizers: Sequence[ScheduledOptimizer],
        *,
        clip_norm: float | None,
        accumulate: int = 1,
        sam_rho: float = 0.0,
    ) -> None:
        self._fabric = fabric
        self._module = module
        self._per_batch = [o for o in optimizers if o.every == "batch"]
        self._clip_norm = clip_norm
        self._accumulate = accumulate
        self._sam_rho = sam_rho
        self._per_epoch = [o for o in optimizers if o.every == "epoch"]
        self._is_last_part = True
        self._below: list[tuple[Tensor, Tensor]] = []  # parameters that SAM moved, and from where

    def run(self, method: Method, batch: Batch, progress: Progress) -> Outputs:
        """The whole step: clear gradients, update, let the method look at the outcome."""
        self.zero_grad()
        if self._sam_rho:
            self._climb(batch, progress)
        if self._accumulate == 1:
            outputs = method.update(self, batch, progress)
        else:
            outputs = self._in_parts(method, batch, progress)
        with torch.no_grad():
            method.after_step(outputs, progress)
        return outputs

    def loss(self, batch: Batch, progress: Progress) -> Outputs:
        """`training_step` under the run's precision, as a dict with "loss"."""
        # Fabric's own precision wrapper is passed by on one device, so autocast is entered here.
        with self._fabric.autocast():
            outputs = self._module.training_step(batch, progress)
        return outputs if isinstance(outputs, dict) else {"loss": outputs}

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of `loss`."""
        self._fabric.backward(loss / self._accumulate if self._accumulate > 1 else loss)

    def zero_grad(self) -> None:
        """Clear the gradients of the optimizers that step after each batch, and only theirs."""
        for scheduled in self._per_batch:
            scheduled.optimizer.zero_grad(set_to_none=True)

    def step(self) -> None:
        """Clip and step, once all parts of the batch are in."""
        if self._is_last_part:
            self._descend()
            for scheduled in self._per_batch:
                scheduled.step(self._clip_norm)

    def _climb(self, batch: Batch, progress: Progress) -> None:
        """SAM's first pass: move to the worst point nearby; `step` comes back before it steps.

            w <- w + rho g / ||g||, one norm over all parameters that step after each batch

        Gradients that epoch-wise optimizers gather come from the second pass alone. BatchNorm's
        running statistics see both passes.

        Source: Foret et al., ICLR 2021, eq. 2; cool-xuan/Imbalanced_SAM@c65f41e, imbsam.py.
        """
        gathered = [(p, p.grad) for o in self._per_epoch for p in o.params]
        for parameter, gradient in gathered:
            parameter.grad = None if gradient is None else gradient.clone()
        self.backward(self.loss(batch, progress)["loss"])
        moved = [p for o in self._per_batch for p in o.params if p.grad is not None]
        gradients = [p.grad for p in moved if p.grad is not None]
        norm = torch.stack([gradient.norm() for gradient in gradients]).norm()
        scale = self._sam_rho / norm.clamp_min(1e-16)
        with torch.no_grad():
            self._below = [(p, p.detach().clone()) for p in moved]
            for parameter, gradient in zip(moved, gradients, strict=True):
                parameter.add_(gradient * scale)
        self.zero_grad()
        for parameter, gradient in gathered:
            parameter.grad = gradient

    @torch.no_grad()
    def _descend(self) -> None:
        for parameter, start in self._below:
            parameter.copy_(start)
        self._below = []

    def _in_parts(self, method: Method, batch: Batch, progress: Progress) -> Outputs:
        parts = [
            method.update(self._set_last(i == self._accumulate - 1), part, progress)
            for i, part in enumerate(split_batch(batch, self._accumulate))
        ]
        return {
            key: torch.stack([part[key].detach() for part in parts]).mean(0)
            for key in parts[0]
            if parts[0][key].ndim == 0
        }

    def _set_last(self, is_last: bool) -> StepEngine:
        self._is_last_part = is_last
        return self


def split_batch(batch: Batch, num_parts: int) -> list[Batch]:
    """Equal contiguous parts of a batch and of the batches beside it."""
    views = [view.chunk(num_parts) for view in batch.views]
    targets, indices = batch.targets.chunk(num_parts), batch.indices.chunk(num_parts)
    also = {name: split_batch(other, num_parts) for name, other in batch.also.items()}
    return [
        Batch(
            tuple(view[i] for view in views),
            targets[i],
            indices[i],
            {name: parts[i] for name, parts in also.items()},
        )
        for i in range(len(targets))
    ]


class LossWatch:
    """Means of what steps log, and where they first were not finite, kept on the device."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._sums: dict[str, Tensor] = {}
        self._first_bad: dict[str, Tensor] = {}
        self._count = 0

    def add(self, outputs: Outputs, step: int) -> None:
        """Take in the scalars of one step."""
        self._count += 1
        for name, value in outputs.items():
            if value.ndim:
                continue
            value = value.detach().float()
            if name not in self._sums:
                self._sums[name] = torch.zeros((), device=self._device)
                self._first_bad[name] = torch.full((), -1, dtype=torch.int64, device=self._device)
            self._sums[name] += value
            bad = self._first_bad[name]
            self._first_bad[name] = torch.where((bad < 0) & ~torch.isfinite(value), step, bad)

    def first_bad(self) -> tuple[int, str] | None:
        """(step, term) first not finite; a component before the total. Synchronises."""
        found = [(int(bad), name == "loss", name) for name, bad in self._first_bad.items()]
        bad_ones = sorted(item for item in found if item[0] >= 0)
        return (bad_ones[0][0], bad_ones[0][2]) if bad_ones else None

    def means(self) -> dict[str, float]:
        """Mean of each term so far. Synchronises."""
        return {name: float(total) / max(1, self._count) for name, total in self._sums.items()}

    def state(self) -> dict[str, Any]:
        """For a checkpoint inside an epoch."""
        return {"sums": {k: float(v) for k, v in self._sums.items()}, "count": self._count}

    def load(self, state: dict[str, Any]) -> None:
        """Back to where `state` was taken."""
        self._count = state["count"]
        for name, total in state["sums"].items():
            self._sums[name] = torch.tensor(total, dtype=torch.float32, device=self._device)
            self._first_bad[name] = torch.full((), -1, dtype=torch.int64, device=self._device)
