"""cRT: classifier re-training (Kang et al., ICLR 2020).

The whole network is trained on the data as they are; then a new classifier is trained on its
frozen features, all classes drawn alike. "The authors' code" is
facebookresearch/classifier-balancing at commit f162adef.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Literal

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


def class_aware_ratio(class_counts: Sequence[int]) -> float:
    """Images an epoch of the authors' class-aware sampler draws, over the training images.

        n_max C / sum_c n_c >= 1

    Args:
        class_counts: n_c > 0, (C,).

    Source: data/ClassAwareSampler.py.
    """
    return max(class_counts) * len(class_counts) / sum(class_counts)


@METHODS.register(
    "crt",
    paper="Kang, Xie, Rohrbach, Yan, Gordo, Feng, Kalantidis: Decoupling Representation and "
    "Classifier for Long-Tailed Recognition, ICLR 2020",
    year=2020,
    source="facebookresearch/classifier-balancing@f162adef",
    tags=("two-stage", "re-sampling", "decoupled"),
)
class CRT(Method):
    """Stage "features": cross-entropy on the whole network. Stage "classifier": a new linear head.

    In the second stage the backbone is frozen, its BatchNorm included (eval mode), the head is
    drawn anew and images come from `classifier_sampler`. The second stage comes on top of the run's
    epochs: T, then round(`classifier_epochs` T), at least one; in the paper 90, then 10. Its rate
    falls by a cosine from `classifier_lr_factor` times the recipe's to zero; the recipe's warm-up
    and milestones are the first stage's alone.

    The second stage starts from the first one's last weights, as in the authors' code, or with
    `carry=best` from the epoch that the run's selection rule prefers; where nothing is selected
    (no validation split, `select=last`) the two are the same. The reported model is the second
    stage's.

    Source: section 4.2; config/ImageNet_LT/cls_crt.yaml, data/ClassAwareSampler.py.
    Departures: see `departures`.
    """

    class Config(MethodConfig):
        """Settings of cRT."""

        classifier_epochs: float = Field(
            1 / 9, gt=0, le=10, description="length of stage two as a part of the run's epochs"
        )
        class_aware_length: bool = Field(
            False, description="stage two n_max C / N times as long, as class-aware epochs are"
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

    search_space: ClassVar = {
        "classifier_epochs": FloatDistribution(0.05, 0.5),
        "classifier_lr_factor": FloatDistribution(0.01, 10.0, log=True),
    }
    presets: ClassVar = {
        "authors": Preset(
            "stage two draws as many images as the authors' class-aware epochs",
            {"method.class_aware_length": True},
        )
    }
    departures: ClassVar = (
        "each image's class is drawn by itself; the code's sampler goes round the shuffled classes "
        "and takes 4 images of each in a row",
        "an epoch of stage two has as many images as the training set; in the code n_max C "
        "(preset authors)",
        "the second stage's epoch is selected on validation; the code reports the last",
    )

    def stages(self) -> list[Stage]:
        """The run's epochs on the whole network, and the classifier's own."""
        config, epochs = self.config, self.task.epochs
        ratio = class_aware_ratio(self.task.class_counts) if config.class_aware_length else 1.0
        length = max(1, round(config.classifier_epochs * ratio * epochs))
        first = Stage("features", epochs, select=config.carry == "best", carry=config.carry)
        return [first, Stage("classifier", length)]

    def streams(self, stage: Stage) -> dict[str, Stream]:
        """The run's sampler (all images once unless set), then the classifier's."""
        sampler = self.config.classifier_sampler if stage.name == "classifier" else None
        return {"main": Stream(sampler=sampler)}

    def optimizers(self, stage: Stage) -> list[OptimizerSpec] | None:
        """The recipe's, then one with a schedule of its own over the classifier."""
        if stage.name == "features":
            return None
        return [OptimizerSpec(self.head.parameters(), schedule=self.classifier_schedule)]

    def classifier_schedule(self, epoch: int, epochs: int) -> float:
        """Factor on the recipe's rate: f (1 + cos(pi e / E)) / 2, e from 0."""
        factor: float = self.config.classifier_lr_factor
        return factor * (1 + math.cos(math.pi * epoch / epochs)) / 2

    def on_stage_start(self, stage: Stage, data: TrainingData) -> None:
        """Freeze the backbone and draw the classifier anew."""
        if stage.name == "classifier":
            self.backbone.requires_grad_(False)
            self.head.reset_parameters()

    def on_epoch_start(self, progress: Progress, data: TrainingData) -> None:
        """Keep the frozen backbone's BatchNorm statistics."""
        if progress.stage == "classifier":
            self.backbone.eval()

    def per_sample_loss(self, logits: Tensor, targets: Tensor, progress: Progress) -> Tensor:
        """Cross-entropies (B,) of logits (B, C) and targets (B,), in both stages."""
        return F.cross_entropy(logits, targets, reduction="none")
