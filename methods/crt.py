"""cRT: classifier re-training (Kang et al., ICLR 2020).

The whole network is trained on the data as they are; then a new classifier is trained on its
frozen features, all classes drawn alike. "The authors' code" is
facebookresearch/classifier-balancing at commit f162adef63fdf592d0b8a0f6e52bc481fc08785f.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import torch.nn.functional as F
from optuna.distributions import FloatDistribution
from pydantic import Field
from torch import Tensor

from ltbench.method import (
    METHODS,
    Method,
    MethodConfig,
    OptimizerSpec,
    Preset,
    Progress,
    Stage,
    Stream,
    TrainingData,
)


def cosine_factor(epoch: int, epochs: int) -> float:
    """Factor on a learning rate: (1 + cos(pi e / E)) / 2, from 1 to just above 0.

    Args:
        epoch: e, 0-based.
        epochs: E >= 1, of the stage.

    Source: config/ImageNet_LT/cls_crt.yaml (coslr, endlr 0).
    """
    return (1 + math.cos(math.pi * epoch / epochs)) / 2


@METHODS.register(
    "crt",
    paper="Kang, Xie, Rohrbach, Yan, Gordo, Feng, Kalantidis: Decoupling Representation and "
    "Classifier for Long-Tailed Recognition, ICLR 2020",
    year=2020,
    source="facebookresearch/classifier-balancing@f162adef63fdf592d0b8a0f6e52bc481fc08785f",
    tags=("two-stage", "re-sampling", "decoupled"),
)
class CRT(Method):
    """Stage "features": cross-entropy on the whole network. Stage "classifier": a new linear head.

    In the second stage the backbone is frozen, its BatchNorm included (eval mode), the head is
    drawn anew and images come from `classifier_sampler`. The second stage comes on top of the run's
    epochs: T, then round(`classifier_epochs` T), at least one; 90, then 10 in the paper. Its rate
    falls by a cosine from `classifier_lr_factor` times the recipe's to zero; the recipe's warm-up
    and milestones are the first stage's alone.

    The second stage starts from the first one's last weights, or with `carry=best` from the epoch
    that the run's selection rule prefers; where nothing is selected (no validation split, or
    `select=last`) the two are the same. The reported model is the second stage's.

    Source: section 4.2; run_networks.py, data/ClassAwareSampler.py, config/ImageNet_LT.
    Departures: see `departures`.
    """

    class Config(MethodConfig):
        """Settings of cRT."""

        classifier_epochs: float = Field(
            1 / 9, gt=0, le=10, description="length of stage two as a part of the run's epochs"
        )
        classifier_lr_factor: float = Field(
            1.0, gt=0, le=1000, description="rate of stage two over the recipe's"
        )
        classifier_sampler: Literal["balanced", "sqrt", "progressive", "reversed", "instance"] = (
            Field("balanced", description="sampler of stage two")
        )
        carry: Literal["last", "best"] = Field(
            "last", description="weights of stage one that stage two starts from"
        )
        frozen_batchnorm: bool = Field(
            True, description="BatchNorm keeps stage one's statistics; the code's go on changing"
        )

    search_space: ClassVar = {
        "classifier_epochs": FloatDistribution(0.05, 0.5),
        "classifier_lr_factor": FloatDistribution(0.01, 10.0, log=True),
    }
    presets: ClassVar = {
        "authors": Preset(
            "the authors' code: from the best epoch of stage one, BatchNorm in training mode",
            {"method.carry": "best", "method.frozen_batchnorm": False},
        )
    }
    stage_settings: ClassVar = {
        "classifier": (
            "method.classifier_epochs",
            "method.classifier_lr_factor",
            "method.classifier_sampler",
            "method.frozen_batchnorm",
        )
    }
    departures: ClassVar = (
        "the class of each image is drawn by itself; the code's sampler goes round the shuffled "
        "classes and takes 4 images of each in a row, which a sampler of class probabilities "
        "cannot say",
        "the backbone's BatchNorm is frozen in stage two; the code freezes its parameters only, so "
        "batches and running statistics are those of re-balanced images (preset authors)",
        "stage two starts from the last weights of stage one, which needs no validation split; the "
        "code starts from its best epoch (preset authors)",
    )

    def stages(self) -> list[Stage]:
        """The run's epochs on the whole network, and the classifier's own."""
        carry, epochs = self.config.carry, self.task.epochs
        length = max(1, round(self.config.classifier_epochs * epochs))
        first = Stage("features", epochs, select=carry == "best", carry=carry)
        return [first, Stage("classifier", length)]

    def streams(self, stage: Stage) -> dict[str, Stream]:
        """The run's sampler (each image once unless set), then the classifier's."""
        sampler = self.config.classifier_sampler if stage.name == "classifier" else None
        return {"main": Stream(sampler=sampler)}

    def optimizers(self, stage: Stage) -> list[OptimizerSpec] | None:
        """The recipe's, then one with a schedule of its own over the classifier."""
        if stage.name == "features":
            return None
        factor: float = self.config.classifier_lr_factor

        def schedule(epoch: int, epochs: int) -> float:
            return factor * cosine_factor(epoch, epochs)

        return [OptimizerSpec(self.head.parameters(), schedule=schedule)]

    def on_stage_start(self, stage: Stage, data: TrainingData) -> None:
        """Freeze the backbone and draw the classifier anew."""
        if stage.name == "classifier":
            head: Any = self.head
            self.backbone.requires_grad_(False)
            head.reset_parameters()

    def on_epoch_start(self, progress: Progress, data: TrainingData) -> None:
        """Keep the frozen backbone's BatchNorm statistics."""
        if progress.stage == "classifier" and self.config.frozen_batchnorm:
            self.backbone.eval()

    def per_sample_loss(self, logits: Tensor, targets: Tensor, progress: Progress) -> Tensor:
        """Cross-entropies (B,) of logits (B, C) and targets (B,), in both stages."""
        return F.cross_entropy(logits, targets, reduction="none")
