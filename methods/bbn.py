"""BBN: bilateral-branch network with cumulative learning (Zhou et al., CVPR 2020).

Two branches share all of the network but its last residual block. One sees images as they come,
the other rare classes more often than frequent ones; the weight slides from the first to the
second. "The authors' code" is Megvii-Nanjing/BBN at commit
7992e908842f5934f0d1ee3f430d796621e81975.
"""

from __future__ import annotations

import copy
from typing import Annotated, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from optuna.distributions import FloatDistribution
from pydantic import Field
from torch import Tensor, nn

from ltbench.functional import at_least_float32, parabolic_weight
from ltbench.method import (
    METHODS,
    Batch,
    Method,
    MethodConfig,
    Outputs,
    Preset,
    Progress,
    Stage,
    Stream,
    Task,
)

Horizon = Literal["authors"] | float
_AUTHORS_LENGTHS = {90: 100, 180: 200}


def schedule_length(epochs: int, horizon: Horizon) -> float:
    """D, the epochs after which the schedule would reach zero.

        number h:   D = h T
        "authors":  D = 100 for T = 90, 200 for T = 180, else T

    Args:
        epochs: T >= 1, of the run.
        horizon: h >= 1, or "authors".

    Source: lib/core/combiner.py, Combiner.initilize_all_parameters (so spelt).
    """
    if horizon == "authors":
        return _AUTHORS_LENGTHS.get(epochs, epochs)
    return horizon * epochs


def mixed_features(
    conventional: Tensor, rebalancing: Tensor, alpha: float, branch_factor: float
) -> Tensor:
    """Both branches' features side by side, weighted: s (alpha f_c, (1 - alpha) f_r).

    A linear layer with weights (W_c, W_r) and bias b then gives
    z = s (alpha W_c f_c + (1 - alpha) W_r f_r) + b.

    Args:
        conventional: f_c, (B, d), any float dtype.
        rebalancing: f_r, (B, d).
        alpha: in [0, 1].
        branch_factor: s > 0.

    Returns:
        (B, 2d).

    Source: eq. 1; lib/core/combiner.py, Combiner.bbn_mix (s = 2).
    """
    weighted = (branch_factor * alpha * conventional, branch_factor * (1 - alpha) * rebalancing)
    return torch.cat(weighted, dim=1)


def bilateral_cross_entropy(
    logits: Tensor, targets: Tensor, reversed_targets: Tensor, alpha: float
) -> tuple[Tensor, Tensor, Tensor]:
    """L = alpha CE(z, y^c) + (1 - alpha) CE(z, y^r), each the plain mean over the batch.

    Args:
        logits: z of the pairs, (B, C), any float dtype.
        targets: y^c, classes of the images drawn as they come, int64 (B,).
        reversed_targets: y^r, of those drawn by the reversed sampler, int64 (B,).
        alpha: in [0, 1].

    Returns:
        L, and its two cross-entropies; float32 or wider.

    Source: eq. 3; lib/core/combiner.py, Combiner.bbn_mix.
    """
    wide = at_least_float32(logits)
    conventional = F.cross_entropy(wide, targets)
    rebalancing = F.cross_entropy(wide, reversed_targets)
    return alpha * conventional + (1 - alpha) * rebalancing, conventional, rebalancing


_AUTHORS = {"optimizer.nesterov": True}
_CIFAR = {
    "optimizer.name": "sgd",
    "optimizer.lr": 0.1,
    "optimizer.momentum": 0.9,
    "optimizer.weight_decay": 2e-4,
    "schedule.name": "step",
    "schedule.warmup": 0.025,
    # Epochs 120 and 160 of 200, counted from 1.
    "schedule.milestones": [0.595, 0.795],
    "schedule.gamma": 0.01,
}


@METHODS.register(
    "bbn",
    paper="Zhou, Cui, Wei, Chen: BBN: Bilateral-Branch Network with Cumulative Learning for "
    "Long-Tailed Visual Recognition, CVPR 2020",
    year=2020,
    source="Megvii-Nanjing/BBN@7992e908842f5934f0d1ee3f430d796621e81975",
    tags=("two-branch", "re-sampling", "curriculum"),
)
class BBN(Method):
    """Loss = alpha CE(z, y^c) + (1 - alpha) CE(z, y^r) of the mixed logits z of a pair of images.

        z = s (alpha W_c f_c + (1 - alpha) W_r f_r) + b,    alpha = 1 - ((e - 1) / D)^2, e from 1

    Training takes as many pairs an epoch as there are images: one image of each from the run's own
    sampler, one from the reversed sampler, drawn independently. The two batches pass through the
    trunk one after the other, the run's own first, so its BatchNorm statistics are updated twice a
    step. Inference sends one image through both branches with alpha = 1/2; the trunk runs once.

    The backbone's last block is the conventional branch and a copy of it the re-balancing branch,
    so both start from the same weights, pre-trained or not. In epoch 1 the second branch gets a
    gradient of zero: weight decay and its BatchNorm statistics still move it.

    Source: sections 4.2 and 4.3; lib/net/network.py, lib/backbone/resnet.py,
        lib/core/combiner.py.
    Departures: see `departures`.
    """

    class Config(MethodConfig):
        """Settings of BBN; defaults are the authors' code's."""

        horizon: Literal["authors"] | Annotated[float, Field(ge=1, le=10)] = Field(
            "authors",
            description="D as a multiple of the run's epochs T; 'authors': 100 for 90, 200 for 180",
        )
        branch_factor: float = Field(
            2.0, ge=1, le=2, description="s, on both branches; 1 in the paper"
        )
        bias: bool = Field(True, description="b, one for both classifiers; none in the paper")

    search_space: ClassVar = {"horizon": FloatDistribution(1.0, 2.0)}
    presets: ClassVar = {
        "paper": Preset(
            "two classifiers without bias, their logits not doubled; D = T",
            {"method.branch_factor": 1.0, "method.bias": False, "method.horizon": 1.0},
        ),
        "authors": Preset(
            "the authors' code: Nesterov momentum",
            _AUTHORS,
        ),
        "authors_cifar": Preset(
            "authors, and the optimizer and schedule of their CIFAR runs",
            _AUTHORS | _CIFAR,
        ),
    }
    departures: ClassVar = (
        "both branches start from the same weights, pre-trained ones where there are any; the code "
        "draws both blocks anew",
        "an incomplete last batch is left out as the recipe says; the code always leaves it out",
        "the epoch is selected on validation; the code selects on the test set",
        "with preset authors_cifar, warm-up starts at a fifth of the rate; at 0.47 in the code",
    )

    @classmethod
    def check(cls, config: Any, task: Task) -> None:
        """Refuse a backbone whose last block cannot be doubled.

        Raises:
            UsageError: as `Backbone.split_last_block` does, naming the setting.
        """
        task.make_backbone().split_last_block()

    def __init__(self, config: MethodConfig, task: Task) -> None:
        super().__init__(config, task)
        _, block, _ = self.backbone.split_last_block()
        self.rebalancing = copy.deepcopy(block)

    def make_head(self, num_features: int) -> nn.Module:
        """Both classifiers in one layer of double width."""
        return nn.Linear(2 * num_features, self.task.num_classes, bias=self.config.bias)

    def streams(self, stage: Stage) -> dict[str, Stream]:
        """The run's own sampler (uniform over images unless set), and the reversed one."""
        return {"main": Stream(), "reversed": Stream(sampler="reversed")}

    def training_step(self, batch: Batch, progress: Progress) -> Outputs:
        """L, with "conventional" and "rebalancing" (their cross-entropies) and "alpha" to log."""
        other = batch.also["reversed"]
        alpha = parabolic_weight(
            progress.epoch, schedule_length(progress.epochs, self.config.horizon)
        )
        # Split at each use: parts held under second names would be stored twice, and would miss
        # what replaces them in the backbone, such as synchronised BatchNorm.
        trunk, block, pool = self.backbone.split_last_block()
        features = pool(block(trunk(batch.images)))
        reversed_features = pool(self.rebalancing(trunk(other.images)))
        logits = self.head(
            mixed_features(features, reversed_features, alpha, self.config.branch_factor)
        )
        loss, conventional, rebalancing = bilateral_cross_entropy(
            logits, batch.targets, other.targets, alpha
        )
        return {
            "loss": loss,
            "conventional": conventional.detach(),
            "rebalancing": rebalancing.detach(),
            "alpha": torch.full_like(conventional.detach(), alpha),
        }

    def logits(self, images: Tensor) -> Tensor:
        """Logits z (B, C) at alpha = 1/2, one image in both branches."""
        trunk, block, pool = self.backbone.split_last_block()
        shared = trunk(images)
        # The blocks' last activation works in place, on their own output alone.
        features, others = pool(block(shared)), pool(self.rebalancing(shared))
        logits: Tensor = self.head(mixed_features(features, others, 0.5, self.config.branch_factor))
        return logits
