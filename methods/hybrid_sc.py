"""Hybrid-SC and Hybrid-PSC: contrastive and classifier learning at once (Wang et al., CVPR 2021).

One backbone with a contrastive branch and a classifier branch; the weight slides from the first to
the second. The authors published no code: formulas are the paper's (arXiv 2103.14267), what it
leaves open is said in `departures`, and the supervised contrastive term follows
HobbitLong/SupContrast at commit 66a8fe53880d6a1084b2e4e0db0a019024d6d41a.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from optuna.distributions import FloatDistribution
from pydantic import Field
from torch import Tensor, nn

from ltbench.errors import UsageError
from ltbench.functional import (
    at_least_float32,
    masked_logsumexp,
    parabolic_weight,
    similarity_logits,
    supervised_contrastive_loss,
    unit_rows,
)
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


def prototypical_contrastive_loss(
    embeddings: Tensor, targets: Tensor, prototypes: Tensor, temperature: float
) -> Tensor:
    """L_PSC: each embedding is drawn to its class's prototype and pushed from the others'.

        s_ic = z_i . p_c / tau
        l_i = log sum_{c != y_i} exp(s_ic) - s_{i, y_i};    L_PSC = mean of l_i

    The denominator leaves the positive out, so this is no softmax cross-entropy and can be
    negative: for unit vectors it is at least log(C - 1) - 2 / tau. Vectors are used as given.

    Args:
        embeddings: z, (N, d), any float dtype.
        targets: int64 (N,), in [0, C).
        prototypes: p, (C, d), C >= 2.
        temperature: tau > 0.

    Returns:
        Scalar, float32 or wider.

    Source: Wang et al., section 3.3, without the sum's dependence on the batch size: a mean.
    """
    logits = similarity_logits(embeddings, prototypes, temperature)
    own = targets[:, None] == torch.arange(len(prototypes), device=targets.device)
    similarity = torch.where(own, logits, 0.0).sum(dim=1)
    return (masked_logsumexp(logits, ~own) - similarity).mean()


def curriculum_loss(contrast: Tensor, classifier: Tensor, alpha: float) -> Tensor:
    """L = alpha L_CL + (1 - alpha) L_CE.

    Args:
        contrast: L_CL, scalar.
        classifier: L_CE, scalar.
        alpha: in [0, 1].

    Source: Wang et al., section 3.1.
    """
    return alpha * contrast + (1 - alpha) * classifier


@METHODS.register(
    "hybrid_sc",
    paper="Wang, Han, Wei, Zhang, Wang: Contrastive Learning based Hybrid Networks for Long-Tailed "
    "Image Classification, CVPR 2021",
    year=2021,
    source="no official code; arXiv 2103.14267, and for its contrastive term "
    "HobbitLong/SupContrast@66a8fe53880d6a1084b2e4e0db0a019024d6d41a",
    tags=("contrastive", "curriculum"),
)
class HybridSC(Method):
    """Loss = alpha L_CL + (1 - alpha) L_CE, alpha = 1 - (T / T_max)^2; inference is the classifier.

    L_CL is the supervised contrastive loss of both views' embeddings (`contrast=sc`), or compares
    each of them with one learned prototype a class (`contrast=psc`), whose direction alone counts.
    The embedding head has one hidden layer as wide as the features, and its output is made unit.

    Both views pass through the network in one call: in calls of their own BatchNorm would shift
    each view by its own statistics, which tells the contrast which view an embedding comes from.
    The classifier is trained on the first view, or, with `classifier_sampler`, on a batch of its
    own, which passes after the views in a call of its own because its mixture of classes differs.

    T counts epochs from 0 and T_max is the run's length, so alpha is 1 in the first epoch, in which
    the classifier only decays, and never 0; with `first_epoch=1` it is 0 in the last.

    Source: section 3 of the paper.
    Departures: see `departures`.
    """

    class Config(MethodConfig):
        """Settings of Hybrid-SC."""

        contrast: Literal["sc", "psc"] = Field(
            "sc", description="contrast with samples (sc) or with learned prototypes (psc)"
        )
        temperature: float = Field(0.1, ge=0.001, le=10, description="tau")
        embedding_dim: int = Field(128, ge=2, le=4096, description="width of the embeddings")
        first_epoch: Literal[0, 1] = Field(0, description="number T of the first epoch")
        classifier_sampler: (
            Literal["instance", "balanced", "sqrt", "progressive", "reversed"] | None
        ) = Field(None, description="sampler of a batch for the classifier alone; None: one batch")

    search_space: ClassVar = {"temperature": FloatDistribution(0.05, 1.0, log=True)}
    presets: ClassVar = {
        # 1 on CIFAR-10 and 0.1 on CIFAR-100, as a reproduction by others reports.
        "psc": Preset(
            "Hybrid-PSC: prototypes, at the temperature for about ten classes",
            {"method.contrast": "psc", "method.temperature": 1.0},
        ),
        "balanced_classifier": Preset(
            "the classifier sees a batch of its own, all classes drawn alike",
            {"method.classifier_sampler": "balanced"},
        ),
    }
    departures: ClassVar = (
        "contrastive losses are means over the anchors; the paper prints sums, which would grow "
        "with the batch",
        "the paper leaves open where T starts, how wide the embedding is, how the prototypes start "
        "and which batch each branch takes; here 0, 128, Xavier-uniform, and one batch for both",
        "in Hybrid-PSC both views enter the contrast, so that `contrast` changes the loss alone",
    )

    @classmethod
    def check(cls, config: Any, task: Task) -> None:
        """Refuse prototypes that have none to be compared with.

        Raises:
            UsageError: psc with fewer than two classes.
        """
        if config.contrast == "psc" and task.num_classes < 2:
            raise UsageError(
                f"method.contrast=psc compares prototypes of different classes, and there is "
                f"{task.num_classes} class. Use method.contrast=sc, or data with more classes."
            )

    def __init__(self, config: MethodConfig, task: Task) -> None:
        super().__init__(config, task)
        features, width = self.backbone.num_features, self.config.embedding_dim
        self.embedding = nn.Sequential(
            nn.Linear(features, features), nn.ReLU(), nn.Linear(features, width)
        )
        if self.config.contrast == "psc":
            raw = nn.init.xavier_uniform_(torch.empty(task.num_classes, width))
            self.prototypes = nn.Parameter(raw)

    def streams(self, stage: Stage) -> dict[str, Stream]:
        """Two views, and where asked a batch for the classifier alone."""
        main = Stream(views=("classify", "contrast"))
        if self.config.classifier_sampler is None:
            return {"main": main}
        return {"main": main, "classifier": Stream(sampler=self.config.classifier_sampler)}

    def training_step(self, batch: Batch, progress: Progress) -> Outputs:
        """Alpha L_CL + (1 - alpha) L_CE, with "contrast", "classifier" and "alpha" to log."""
        alpha = parabolic_weight(progress.epoch + self.config.first_epoch, progress.epochs)
        features = self.backbone(torch.cat(batch.views))
        contrast = self._contrast(features, batch.targets)
        if self.config.classifier_sampler is None:
            logits, targets = self.head(features[: len(batch.targets)]), batch.targets
        else:
            own = batch.also["classifier"]
            logits, targets = self.logits(own.images), own.targets
        classifier = F.cross_entropy(at_least_float32(logits), targets)
        return {
            "loss": curriculum_loss(contrast, classifier, alpha),
            "contrast": contrast.detach(),
            "classifier": classifier.detach(),
            "alpha": torch.full_like(classifier.detach(), alpha),
        }

    def _contrast(self, features: Tensor, targets: Tensor) -> Tensor:
        """L_CL of backbone features (2B, f), view-major; L_SC over the batch of all devices."""
        embeddings, temperature = unit_rows(self.embedding(features)), self.config.temperature
        if self.config.contrast == "psc":
            prototypes = unit_rows(self.prototypes)
            return prototypical_contrastive_loss(
                embeddings, targets.repeat(2), prototypes, temperature
            )
        gather = self.task.collective.gather
        # Each view is gathered by itself, so that the global batch is view-major as one process's.
        views = [gather(view, grad=True) for view in embeddings.chunk(2)]
        return supervised_contrastive_loss(torch.stack(views, dim=1), gather(targets), temperature)
