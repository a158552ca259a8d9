"""One optimizer step: loss under the run's precision, backward, clipping, stepping."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from lightning_fabric import Fabric
from torch import Tensor

from ltbench.errors import UsageError
from ltbench.method import Batch, Method, Outputs, Progress
from ltbench.training.optimizers import ScheduledOptimizer


class StepEngine:
    """What `Method.update` sees of the trainer.

    Args:
        module: the method as Fabric wrapped it (DDP where there are several devices).
        accumulate: parts a batch is computed in. Each part's loss counts by its share of the
            images, so that a loss which is a mean over images has the whole batch's gradient.
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
        self._share = 1.0  # of the batch that the part at hand holds
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
            outputs = self._in_parts(method, split_batch(batch, self._accumulate), progress)
        with torch.no_grad():
            method.after_step(outputs, progress)
        return outputs

    def loss(self, batch: Batch, progress: Progress) -> Outputs:
        """`training_step` under the run's precision, as a dict with "loss"."""
        # Fabric's own precision wrapper is passed by on one device, so autocast is entered here.
        with self._fabric.autocast():
            outputs = self._module.training_step(batch, progress)
        return _checked(outputs if isinstance(outputs, dict) else {"loss": outputs})

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of `loss`."""
        self._fabric.backward(loss if self._share == 1.0 else loss * self._share)

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

    def _in_parts(self, method: Method, parts: Sequence[Batch], progress: Progress) -> Outputs:
        num_images = sum(len(part.targets) for part in parts)
        total: Outputs = {}
        for number, part in enumerate(parts, start=1):
            self._share = len(part.targets) / num_images
            self._is_last_part = number == len(parts)
            for key, value in method.update(self, part, progress).items():
                if value.ndim == 0:
                    mine = value.detach() * self._share
                    total[key] = total[key] + mine if key in total else mine
        self._share = 1.0
        return total


def _checked(outputs: Outputs) -> Outputs:
    """What `training_step` gave, if the trainer can use it; looks at shapes alone."""
    odd = [name for name, value in outputs.items() if not isinstance(value, Tensor)]
    loss = outputs.get("loss")
    if odd or loss is None or loss.ndim:
        found = odd or (list(outputs) if loss is None else f"a loss of shape {tuple(loss.shape)}")
        raise UsageError(
            "Expected `training_step` to return a scalar tensor, or a dict of tensors of which "
            f"'loss' is a scalar; got {'no tensor for ' if odd else ''}{found}."
        )
    return outputs


def split_batch(batch: Batch, num_parts: int) -> list[Batch]:
    """Contiguous parts of a batch and of those beside it, of sizes that differ by one at most.

    Fewer than asked where a part would have less than two images, which BatchNorm cannot train on.
    """
    smallest = min(len(b.targets) for b in (batch, *batch.also.values()))
    num_parts = max(1, min(num_parts, smallest // 2))
    views = [view.tensor_split(num_parts) for view in batch.views]
    targets, indices = batch.targets.tensor_split(num_parts), batch.indices.tensor_split(num_parts)
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


class Bad(NamedTuple):
    """Where a term was not finite. The smallest of several tells most: a component, not the sum."""

    step: int
    is_total: bool
    term: str


class LossWatch:
    """Means of what steps log, and where they first were not finite, kept on the device."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._sums: dict[str, Tensor] = {}
        self._first_bad: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, outputs: Outputs, step: int) -> None:
        """Take in the scalars of one step."""
        for name, value in outputs.items():
            if value.ndim:
                continue
            value = value.detach().float()
            if name not in self._sums:
                self._begin(name, 0.0, 0)
            self._counts[name] += 1
            self._sums[name] += value
            bad = self._first_bad[name]
            self._first_bad[name] = torch.where((bad < 0) & ~torch.isfinite(value), step, bad)

    def first_bad(self) -> Bad | None:
        """The first step and term that were not finite. Synchronises."""
        found = [Bad(int(bad), name == "loss", name) for name, bad in self._first_bad.items()]
        return min((bad for bad in found if bad.step >= 0), default=None)

    def means(self) -> dict[str, float]:
        """Mean of each term over the steps that logged it. Synchronises."""
        return {name: float(total) / self._counts[name] for name, total in self._sums.items()}

    def state(self) -> dict[str, Any]:
        """For a checkpoint inside an epoch."""
        return {"sums": {k: float(v) for k, v in self._sums.items()}, "counts": dict(self._counts)}

    def load(self, state: dict[str, Any]) -> None:
        """Back to where `state` was taken."""
        for name, total in state["sums"].items():
            self._begin(name, total, state["counts"][name])

    def _begin(self, name: str, total: float, count: int) -> None:
        self._sums[name] = torch.tensor(total, dtype=torch.float32, device=self._device)
        self._first_bad[name] = torch.full((), -1, dtype=torch.int64, device=self._device)
        self._counts[name] = count
