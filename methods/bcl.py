"""BCL: balanced contrastive learning (Zhu et al., CVPR 2022).

Supervised contrast in which each class counts once in the denominator and one learned centre a
class stands beside the samples, next to a cosine classifier trained with logit compensation. "The
authors' code" is FlamieZhu/Balanced-Contrastive-Learning at commit
f72d0703794bcec8b00da86774c9d780dc721701.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from optuna.distributions import FloatDistribution
from pydantic import Field
from torch import Tensor, nn

from ltbench.errors import UsageError
from ltbench.functional import (
    at_least_float32,
    class_averaged_log_denominator,
    masked_logsumexp,
    positive_pair_losses,
    similarity_logits,
    unit_rows,
    view_major,
)
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
)

Denominator = Literal["code", "paper"]


def paper_log_denominator(logits: Tensor, labels: Tensor) -> Tensor:
    """Log of the denominator as the paper prints it: whole classes, the anchor included.

        D_i = log sum_c (1 / n_c) sum_{j in c} exp(s_ij)

    Args:
        logits: s_ij, (A, M).
        labels: int64 (M,).

    Returns:
        (A,).
    """
    class_sizes = (labels[:, None] == labels).sum(dim=0)
    return masked_logsumexp(logits, torch.ones_like(logits, dtype=torch.bool), class_sizes)


def balanced_contrastive_loss(
    features: Tensor,
    targets: Tensor,
    centres: Tensor,
    temperature: float,
    denominator: Denominator = "code",
) -> Tensor:
    """L_BCL: samples attract their class and its centre, and repel the others class by class.

        entries: z_1..z_VB, g_1..g_C, M = VB + C;  anchors: z_1..z_VB alone
        s_ij = z_i . entry_j / tau
        l_i = (1 / (n_{y_i} - 1)) sum_{p in P(i)} (D_i - s_ip),    P(i) = {p != i : y_p = y_i}
        D_i = log sum_c (1 / (n_c - [c = y_i])) sum_{j in c, j != i} exp(s_ij)
        L_BCL = (1 / VB) sum_i l_i

    n_c counts samples and centre of class c. Every class has a centre, so P(i) is never empty and
    no class is missing. Vectors are used as given: the caller makes them unit, and gathers z from
    all devices.

    Args:
        features: embeddings z, (B, V, d), any float dtype.
        targets: int64 (B,), in [0, C).
        centres: g, (C, d); row c is the centre of class c.
        temperature: tau > 0.
        denominator: "code" for D_i as above, "paper" for `paper_log_denominator`.

    Returns:
        Scalar, float32 or wider.

    Source: the paper's class averaging and class complement; loss/contrastive.py, class BalSCL.
    Departures: the paper divides every class, the anchor's too, by its number of entries, and
        keeps the anchor; the default follows the authors' code. The maximum in the log-sum-exp
        leaves out self, with which the code underflows at small temperatures.
    """
    anchors = at_least_float32(view_major(features))
    entries = torch.cat([anchors, at_least_float32(centres)])
    classes = torch.arange(len(centres), device=targets.device)
    labels = torch.cat([targets.repeat(features.shape[1]), classes])
    logits = similarity_logits(anchors, entries, temperature)
    log_denominator = {"code": class_averaged_log_denominator, "paper": paper_log_denominator}
    losses, _ = positive_pair_losses(logits, log_denominator[denominator](logits, labels), labels)
    return losses.mean()


def cosine_logits(features: Tensor, weight: Tensor, scale: float) -> Tensor:
    """x_ic = scale cos(h_i, w_c); no bias.

    Args:
        features: h, (B, f), any float dtype.
        weight: columns w_c, (f, C).
        scale: > 0.

    Returns:
        (B, C), float32 or wider.

    Source: models/resnext.py, class NormedLinear, and its scale.
    """
    return scale * similarity_logits(unit_rows(features), unit_rows(weight.T), 1.0)


def compensated_cross_entropy(logits: Tensor, targets: Tensor, class_counts: Tensor) -> Tensor:
    """Mean cross-entropy of logits + log prior, prior_c = N_c / sum_k N_k.

    Args:
        logits: (B, C), any float dtype.
        targets: int64 (B,).
        class_counts: N_c > 0 of the training split, (C,), float64.

    Returns:
        Scalar, float32 or wider.

    Source: loss/logitadjust.py, class LogitAdjust, with its tau at 1 (Menon et al., ICLR 2021).
    """
    logits = at_least_float32(logits)
    log_prior = (class_counts / class_counts.sum()).log().to(logits.dtype)
    return F.cross_entropy(logits + log_prior, targets)


def authors_lr_factor(epoch: int, epochs: int, warmup_epochs: int = 0) -> float:
    """Factor on the learning rate: a cosine one step ahead, which never reaches 0.

        e < W:  (e + 1) / W
        else:   (1 + cos(pi (e - W + 1) / (E - W + 1))) / 2

    Args:
        epoch: e, 0-based.
        epochs: E.
        warmup_epochs: W in [0, E).

    Source: main.py, function adjust_lr.
    """
    if epoch < warmup_epochs:
        return (epoch + 1) / warmup_epochs
    fraction = (epoch - warmup_epochs + 1) / (epochs - warmup_epochs + 1)
    return (1 + math.cos(math.pi * fraction)) / 2


class CosineClassifier(nn.Module):
    """`cosine_logits` with learned weights (f, C), drawn from U(-1, 1), columns made unit."""

    def __init__(self, num_features: int, num_classes: int, scale: float) -> None:
        super().__init__()
        self.scale = scale
        columns = torch.empty(num_features, num_classes).uniform_(-1, 1)
        self.weight = nn.Parameter(F.normalize(columns, dim=0))

    def forward(self, features: Tensor) -> Tensor:
        """Logits (B, C) of features (B, f)."""
        return cosine_logits(features, self.weight, self.scale)


_FLIP = {"hflip": {"p": 0.5}}
_CROP = {"random_resized_crop": {"size": 224, "scale": [0.08, 1.0]}}
_STRONG = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.0}
_SIMPLE = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1, "p": 0.8}
_RANDOM = {"rand_augment": {"num_ops": 2, "magnitude": 10}}
_AUTHORS = {
    "method.temperature": 0.07,
    "method.embedding_dim": 1024,
    "method.lr_schedule": "authors",
}
_AUTHORS_VIEWS = {
    "views.strong": [_CROP, _FLIP, {"color_jitter": _STRONG}, _RANDOM],
    "views.contrast": [_CROP, _FLIP, {"color_jitter": _SIMPLE}, {"grayscale": {"p": 0.2}}],
}
_PAPER_CIFAR = {
    "method.denominator": "paper",
    "method.classifier_weight": 2.0,
    "method.contrastive_weight": 0.6,
    "method.hidden_dim": 512,
    "epochs": 200,
    "batch_size": 256,
    "optimizer.lr": 0.15,
    "optimizer.weight_decay": 5e-4,
    "schedule.name": "step",
    "schedule.warmup": 0.025,
    "schedule.milestones": (0.8, 0.9),
    "schedule.gamma": 0.1,
}


@METHODS.register(
    "bcl",
    paper="Zhu, Wang, Chen, Chen, Jiang: Balanced Contrastive Learning for Long-Tailed Visual "
    "Recognition, CVPR 2022",
    year=2022,
    source="FlamieZhu/Balanced-Contrastive-Learning@f72d0703794bcec8b00da86774c9d780dc721701",
    tags=("contrastive", "logit-adjustment"),
)
class BCL(Method):
    """Loss = lambda CE(logits + log prior) + mu L_BCL; inference is the cosine logits alone.

    Three views of each image pass through the network in one call, so BatchNorm sees them
    together: a strong one for the classifier, two for the contrast. The strong view passes through
    the embedding head too, and is left out of the contrast after it.

    The class centres are made from the classifier's weights, g_c = L2(MLP(w_c)), of the raw w_c.
    The contrast thus moves the classifier. The BatchNorm in this MLP runs over the C classes.

    Source: the paper; models/resnext.py, main.py.
    Departures: see `departures`, each explained at the function that makes it. Widths and weights
        are those of the comparison in ECL (d = 128); the code's are in preset `authors`, the
        paper's CIFAR setting in `paper_cifar`.
    """

    class Config(MethodConfig):
        """Settings of BCL; the loss is the authors' code's."""

        temperature: float = Field(0.1, ge=0.001, le=10, description="tau; 0.07 in the code")
        classifier_weight: float = Field(1.0, gt=0, le=100, description="lambda, of CE")
        contrastive_weight: float = Field(0.35, gt=0, le=100, description="mu, of L_BCL")
        scale: float = Field(30.0, gt=0, le=1000, description="factor on the classifier's cosines")
        embedding_dim: int = Field(128, ge=2, le=4096, description="width d of the contrast")
        hidden_dim: int | None = Field(
            None, ge=1, le=8192, description="hidden width of both MLPs; None: the backbone's"
        )
        denominator: Denominator = Field("code", description="of L_BCL: the code's, or as printed")
        lr_schedule: Literal["recipe", "authors"] = Field(
            "recipe", description="'authors': the code's cosine instead of the recipe's schedule"
        )
        warmup: float = Field(
            0.0, ge=0, lt=1, description="lr_schedule=authors only: part of the epochs lr rises in"
        )

    search_space: ClassVar = {
        "temperature": FloatDistribution(0.03, 1.0, log=True),
        "classifier_weight": FloatDistribution(0.5, 4.0, log=True),
        "contrastive_weight": FloatDistribution(0.05, 2.0, log=True),
    }
    presets: ClassVar = {
        "paper": Preset("the denominator as printed", {"method.denominator": "paper"}),
        "paper_cifar": Preset("paper, and its setting for CIFAR-LT", _PAPER_CIFAR),
        "authors": Preset("the authors' code for ImageNet-LT: tau, d, cosine", _AUTHORS),
        "authors_views": Preset("authors, and its views at 224 pixels", _AUTHORS | _AUTHORS_VIEWS),
    }
    departures: ClassVar = (
        "the log-sum-exp's maximum leaves out self; the code underflows at small temperatures",
        "over several devices the contrast is that of the whole batch; the code's is each device's",
    )

    @classmethod
    def check(cls, config: Any, task: Task) -> None:
        """Refuse classes without a training image.

        Raises:
            UsageError: such a class has the prior 0, and its logit would be minus infinity.
        """
        counts = zip(task.class_names, task.class_counts, strict=True)
        missing = ", ".join(name for name, count in counts if count == 0)
        if missing:
            raise UsageError(
                f"Classes without a training image: {missing}. BCL adds the log of the class prior "
                "to the logits; leave these classes out of the data set, or choose another split."
            )

    class_counts: Tensor

    def __init__(self, config: MethodConfig, task: Task) -> None:
        super().__init__(config, task)
        counts = torch.tensor(task.class_counts, dtype=torch.float64)
        self.register_buffer("class_counts", counts, persistent=False)
        self.embedding = self._make_mlp()
        self.centre_embedding = self._make_mlp()

    def make_head(self, num_features: int) -> CosineClassifier:
        """The cosine classifier."""
        return CosineClassifier(num_features, self.task.num_classes, self.config.scale)

    def streams(self, stage: Stage) -> dict[str, Stream]:
        """One view for the classifier, two for the contrast."""
        return {"main": Stream(views=("strong", "contrast", "contrast"))}

    def optimizers(self, stage: Stage) -> list[OptimizerSpec] | None:
        """The recipe's, or one with the code's schedule."""
        if self.config.lr_schedule == "recipe":
            return None
        return [OptimizerSpec(self.parameters(), schedule=self._lr_factor)]

    def training_step(self, batch: Batch, progress: Progress) -> Outputs:
        """Lambda CE + mu L_BCL, with "ce" and "bcl" to log."""
        features = self.backbone(torch.cat(batch.views))
        logits = self.head(features[: len(batch.targets)])
        ce = compensated_cross_entropy(logits, batch.targets, self.class_counts)
        bcl = self._contrast(features, batch.targets)
        loss = self.config.classifier_weight * ce + self.config.contrastive_weight * bcl
        return {"loss": loss, "ce": ce.detach(), "bcl": bcl.detach()}

    def _contrast(self, features: Tensor, targets: Tensor) -> Tensor:
        """L_BCL of the batch of all devices, from the backbone features (3B, f) of all views."""
        gather = self.task.collective.gather
        _, *views = unit_rows(self.embedding(features)).chunk(3)
        # Each view is gathered by itself, so that the global batch is view-major as one process's.
        embeddings = torch.stack([gather(view, grad=True) for view in views], dim=1)
        centres = unit_rows(self.centre_embedding(self.head.weight.T))
        config = self.config
        return balanced_contrastive_loss(
            embeddings, gather(targets), centres, config.temperature, config.denominator
        )

    def _make_mlp(self) -> nn.Sequential:
        features = self.backbone.num_features
        hidden = self.config.hidden_dim or features
        return nn.Sequential(
            nn.Linear(features, hidden),
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
            nn.Linear(hidden, self.config.embedding_dim),
        )

    def _lr_factor(self, epoch: int, epochs: int) -> float:
        return authors_lr_factor(epoch, epochs, round(self.config.warmup * epochs))
