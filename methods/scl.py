"""SCL: supervised contrastive learning (Khosla et al., NeurIPS 2020), in two stages.

Views of images of one class attract each other and repel all others; afterwards a linear layer is
trained on the frozen features. "The authors' code" is HobbitLong/SupContrast at commit
66a8fe53880d6a1084b2e4e0db0a019024d6d41a; Marrakchi et al. (MICCAI 2021) brought the method to skin
images, YMarrakchi/CICL at commit adc1c8e.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from optuna.distributions import FloatDistribution
from pydantic import Field
from torch import nn

from ltbench.functional import at_least_float32, supervised_contrastive_loss, unit_rows
from ltbench.method import (
    METHODS,
    Batch,
    Method,
    MethodConfig,
    OptimizerSpec,
    Outputs,
    Preset,
    Progress,
    Stage,
    Stream,
    Task,
    TrainingData,
)

_MILESTONES, _GAMMA = (0.6, 0.75, 0.9), 0.2
_LR_BATCH = 256


def linear_lr_factor(epoch: int, epochs: int) -> float:
    """Factor on the linear layer's rate: 0.2 for each of 60, 75 and 90 % of its epochs passed.

    Args:
        epoch: 0-based.
        epochs: of the stage.

    Source: main_linear.py (60, 75 and 90 of 100), also of the medical code.
    """
    return float(_GAMMA ** sum(epoch >= round(part * epochs) for part in _MILESTONES))


def temperature_factor(temperature: float, base_temperature: float | None) -> float:
    """Factor tau / tau_0 on the loss; 1 without a base temperature.

    Args:
        temperature: tau > 0.
        base_temperature: tau_0 > 0, or None.

    Source: losses.py, class SupConLoss (tau_0 = 0.07); not in the paper's eq. 2.
    """
    return 1.0 if base_temperature is None else temperature / base_temperature


@METHODS.register(
    "scl",
    paper="Khosla et al.: Supervised Contrastive Learning, NeurIPS 2020; on skin images Marrakchi, "
    "Makansi, Brox: Fighting Class Imbalance with Contrastive Learning, MICCAI 2021",
    year=2020,
    source="HobbitLong/SupContrast@66a8fe53880d6a1084b2e4e0db0a019024d6d41a",
    tags=("contrastive", "two-stage", "decoupled"),
)
class SCL(Method):
    """Stage "contrast": (tau / tau_0) L_SC on two views. Stage "linear": CE on frozen features.

    Both views pass through the network in one call, so BatchNorm's statistics are shared. The
    projection head, two linear layers with a ReLU between and no BatchNorm, serves the first stage
    alone. In the second the encoder is frozen and in eval mode, and a linear layer is trained on
    its features.

    The first stage takes the run's epochs T and its sampler; the linear stage comes on top with
    round(`linear_epochs` T) epochs, at least one. Its rate is `linear_lr` B / 256 for batches of B
    images, with drops of its own. It is meant for SGD, whatever the backbone's rate.

    Source: section 3; losses.py, main_supcon.py, main_linear.py, networks/resnet_big.py.
    Departures: see `departures`.
    """

    class Config(MethodConfig):
        """Settings of SCL."""

        temperature: float = Field(0.1, ge=0.001, le=10, description="tau")
        base_temperature: float | None = Field(
            None, ge=0.001, le=10, description="tau_0 in the factor tau / tau_0; None: no factor"
        )
        contrast_mode: Literal["all", "one"] = Field(
            "all", description="anchors: both views, or the first alone"
        )
        embedding_dim: int = Field(128, ge=2, le=4096, description="width of the embeddings")
        linear_epochs: float = Field(
            0.1, gt=0, le=10, description="length of the linear stage as a part of the run's epochs"
        )
        linear_lr: float = Field(
            5.0, gt=0, le=1000, description="rate of the linear stage for batches of 256"
        )
        linear_weight_decay: float = Field(
            0.0, ge=0, le=1, description="weight decay of the linear stage"
        )
        linear_sampler: Literal["instance", "balanced", "sqrt", "progressive", "reversed"] = Field(
            "instance", description="sampler of the linear stage"
        )

    search_space: ClassVar = {
        "temperature": FloatDistribution(0.05, 0.5, log=True),
        "linear_lr": FloatDistribution(0.05, 10.0, log=True),
        "linear_epochs": FloatDistribution(0.05, 0.5),
    }
    presets: ClassVar = {
        "authors": Preset(
            "the authors' code: the loss carries the factor tau / 0.07",
            {"method.base_temperature": 0.07},
        ),
        "medical": Preset(
            "Marrakchi et al.: classes drawn alike in the contrastive stage; 100 linear epochs "
            "after 250",
            {
                "sampler": "balanced",
                "method.base_temperature": 0.07,
                "method.linear_epochs": 0.4,
                "method.linear_lr": 0.5,
                "method.linear_weight_decay": 1e-4,
            },
        ),
    }
    stage_settings: ClassVar = {
        "linear": (
            "method.linear_epochs",
            "method.linear_lr",
            "method.linear_weight_decay",
            "method.linear_sampler",
            "select",
        )
    }
    departures: ClassVar = (
        "the loss has no factor tau / tau_0 (preset authors has it)",
        "the maximum in the log-sum-exp leaves out self; the code underflows at small temperatures",
        "views, epochs, optimizer and schedule of the contrastive stage are the recipe's",
        "the linear stage's epoch is selected on validation",
    )

    def __init__(self, config: MethodConfig, task: Task) -> None:
        super().__init__(config, task)
        features = self.backbone.num_features
        self.projection = nn.Sequential(
            nn.Linear(features, features),
            nn.ReLU(),
            nn.Linear(features, self.config.embedding_dim),
        )

    def stages(self) -> list[Stage]:
        """The run's epochs of contrast, without a classifier to validate, and the linear stage."""
        epochs = self.task.epochs
        length = max(1, round(self.config.linear_epochs * epochs))
        return [Stage("contrast", epochs, validate=False, select=False), Stage("linear", length)]

    def streams(self, stage: Stage) -> dict[str, Stream]:
        """Two contrastive views, then the classifier's."""
        if stage.name == "contrast":
            return {"main": Stream(views=("contrast", "contrast"))}
        return {"main": Stream(sampler=self.config.linear_sampler)}

    def optimizers(self, stage: Stage) -> list[OptimizerSpec] | None:
        """The recipe's, then one for the linear layer."""
        if stage.name == "contrast":
            return None
        linear = OptimizerSpec(
            self.head.parameters(),
            lr=self.config.linear_lr * self.task.batch_size / _LR_BATCH,
            weight_decay=self.config.linear_weight_decay,
            schedule=linear_lr_factor,
        )
        return [linear]

    def on_stage_start(self, stage: Stage, data: TrainingData) -> None:
        """Train encoder and projection, then the linear layer alone."""
        contrast = stage.name == "contrast"
        self.backbone.requires_grad_(contrast)
        self.projection.requires_grad_(contrast)
        self.head.requires_grad_(not contrast)

    def on_epoch_start(self, progress: Progress, data: TrainingData) -> None:
        """Keep the frozen encoder's BatchNorm statistics."""
        if progress.stage == "linear":
            self.backbone.eval()

    def training_step(self, batch: Batch, progress: Progress) -> Outputs:
        """The stage's loss."""
        if progress.stage == "linear":
            logits = at_least_float32(self.logits(batch.images))
            return {"loss": F.cross_entropy(logits, batch.targets)}
        config, gather = self.config, self.task.collective.gather
        embeddings = unit_rows(self.projection(self.backbone(torch.cat(batch.views))))
        # Each view is gathered by itself, so that the global batch is view-major as one process's.
        views = [gather(view, grad=True) for view in embeddings.chunk(len(batch.views))]
        loss = supervised_contrastive_loss(
            torch.stack(views, dim=1),
            gather(batch.targets),
            config.temperature,
            config.contrast_mode,
        )
        return {"loss": temperature_factor(config.temperature, config.base_temperature) * loss}
