"""Focal loss (Lin et al., ICCV 2017): well-classified samples weigh less.

Two families go by this name, with different numbers and different heads: the paper's one-vs-rest
form on sigmoids, and the soft-max form that most long-tail code means. Both are here, with the
class-balanced weights of Cui et al. (CVPR 2019) as an option. "CB" is richardaecn/
class-balanced-loss at commit 1d7857208a2abc03d84e35a9d5383af8225d4b4d, "LDAM-DRW" is
kaidic/LDAM-DRW at commit 2536330f2afdaa65618323cb5a5850efccce762a.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from optuna.distributions import FloatDistribution
from pydantic import Field, model_validator
from torch import Tensor, nn

from ltbench.errors import UsageError
from ltbench.functional import at_least_float32, effective_number_weights
from ltbench.method import (
    METHODS,
    Method,
    MethodConfig,
    OptimizerSpec,
    Preset,
    Progress,
    Stage,
    Task,
)


def focal_modulated(cross_entropy: Tensor, gamma: float) -> Tensor:
    """Losses of the soft-max form, from the cross-entropy.

        (1 - p_i)^gamma CE_i,    p_i = exp(-CE_i)

    Args:
        cross_entropy: CE_i >= 0, (B,), float32 or wider.
        gamma: >= 0; 0 leaves the cross-entropy.

    Returns:
        (B,), in [0, CE_i].

    Departures: 1 - p is computed as -expm1(-CE) and bounded below by the least normal number. As
        published, where p rounds to 1 and gamma < 1, the gradient is infinity times 0.
    """
    wrong = (-torch.expm1(-cross_entropy)).clamp(min=torch.finfo(cross_entropy.dtype).tiny)
    return wrong.pow(gamma) * cross_entropy


def one_vs_rest(logits: Tensor, targets: Tensor) -> Tensor:
    """t_ic: the logit of each class's binary question, signed so that larger is more right.

        t_ic = x_ic if c = y_i else -x_ic

    Args:
        logits: x, (B, C), any float dtype.
        targets: int64 (B,), in 0..C-1.

    Returns:
        (B, C), float32 or wider.
    """
    logits = at_least_float32(logits)
    own = targets[:, None] == torch.arange(logits.shape[1], device=logits.device)
    return torch.where(own, logits, -logits)


def sigmoid_focal_losses(logits: Tensor, targets: Tensor, gamma: float) -> Tensor:
    """Losses of the one-vs-rest form.

        l_i = sum_c (1 - q_ic)^gamma (-log q_ic),    q = sigmoid(t)

    Args:
        logits: (B, C), any float dtype.
        targets: int64 (B,).
        gamma: >= 0; 0 leaves the sum of C binary cross-entropies.

    Returns:
        (B,), float32 or wider.

    Source: CB, src/cifar_main.py, focal_loss.
    Departures: the modulator is exp(gamma log sigmoid(-t)). Written through exp(-x) it overflows
        in float32 below x = -88, and the hardest positives get a loss of 0 or NaN.
    """
    t = one_vs_rest(logits, targets)
    return ((gamma * F.logsigmoid(-t)).exp() * -F.logsigmoid(t)).sum(dim=1)


_CB = {"method.alpha": "effective", "method.beta": 0.9999}


@METHODS.register(
    "focal",
    paper="Lin, Goyal, Girshick, He, Dollar: Focal Loss for Dense Object Detection, ICCV 2017; "
    "Cui, Jia, Lin, Song, Belongie: Class-Balanced Loss Based on Effective Number of Samples, "
    "CVPR 2019",
    year=2017,
    source="kaidic/LDAM-DRW@2536330f2afdaa65618323cb5a5850efccce762a",
    tags=("re-weighting", "loss"),
)
class Focal(Method):
    """Linear head and focal loss, divided by the batch size B whatever the class weights.

        form=softmax:  l_i = a_i (1 - p_i)^gamma CE_i             (weight_position=outside)
                       l_i = (1 - p_i^a_i)^gamma a_i CE_i         (weight_position=inside)
        form=sigmoid:  l_i = a_i sum_c (1 - q_ic)^gamma (-log q_ic)

    a_i is 1, or with alpha=effective the weight of class y_i, (1 - beta)/(1 - beta^N_c) scaled to
    mean one. In the sigmoid form the head's bias starts at -ln(C - 1), so that every class starts
    with probability 1/C, and has no weight decay.

    Inference logits: the head's output. Under form=sigmoid its arg-max is that of the sigmoids, but
    its soft-max is no estimate of probabilities: read the AUC of the raw logits.

    Source: LDAM-DRW, losses.py, FocalLoss; CB, src/cifar_main.py, model_base.
        The paper's text was not at hand: its gamma 2, alpha 0.25, division by the number of
        positives and initial bias are unverified.
    Departures: see `departures`, and the functions above.
    """

    class Config(MethodConfig):
        """Settings of the focal loss; defaults are the usual soft-max form."""

        form: Literal["softmax", "sigmoid"] = Field(
            "softmax", description="cross-entropy of the soft-max, or one question a class"
        )
        gamma: float = Field(2.0, ge=0, le=10, description="exponent; 0 is no focus")
        alpha: Literal["none", "effective"] = Field(
            "none", description="class weights: none, or by effective number (class-balanced)"
        )
        beta: float = Field(0.9999, ge=0, lt=1, description="of alpha=effective; 0 is no weights")
        weight_position: Literal["outside", "inside"] = Field(
            "outside", description="inside: the weight enters the modulator too (LDAM-DRW's code)"
        )
        probability_floor: float = Field(
            0.0, ge=0, le=0.5, description="samples with a smaller p_i get no gradient; 0 is off"
        )

        @model_validator(mode="after")
        def _options_of_the_form(self) -> Focal.Config:
            if self.form == "sigmoid" and self.weight_position == "inside":
                raise ValueError("weight_position=inside needs form=softmax")
            if self.form == "sigmoid" and self.probability_floor > 0:
                raise ValueError("probability_floor needs form=softmax")
            return self

    search_space: ClassVar = {"gamma": FloatDistribution(0.5, 4.0)}
    presets: ClassVar = {
        "paper": Preset("one-vs-rest on sigmoids, gamma 2", {"method.form": "sigmoid"}),
        "authors": Preset(
            "the code of LDAM-DRW: gamma 1, effective-number weights inside the modulator",
            _CB | {"method.gamma": 1.0, "method.weight_position": "inside"},
        ),
        "class_balanced": Preset(
            "CB focal on CIFAR: sigmoids, gamma 1, effective-number weights",
            _CB | {"method.form": "sigmoid", "method.gamma": 1.0},
        ),
        "class_balanced_large": Preset(
            "CB focal on ImageNet and iNaturalist: gamma 0.5, beta 0.999",
            {
                "method.form": "sigmoid",
                "method.gamma": 0.5,
                "method.alpha": "effective",
                "method.beta": 0.999,
            },
        ),
        "class_balanced_softmax": Preset(
            "CB soft-max: weighted cross-entropy, divided by B",
            _CB | {"method.gamma": 0.0},
        ),
        "tformer": Preset(
            "probabilities floored at 1e-4, as in zylbuaa/TFormer@abaac38 by ECL's first author",
            {"method.probability_floor": 1e-4},
        ),
    }
    departures: ClassVar = (
        "1 - p is bounded below, and modulators are computed from log-sigmoids: the published "
        "forms give NaN for p = 1 with gamma < 1, and for logits below -88 in float32",
        "preset paper leaves out alpha 0.25 of the positive side and the bias for a prior of 0.01, "
        "which are for boxes against a background; the bias is that of CB, -ln(C - 1)",
    )

    @classmethod
    def check(cls, config: Any, task: Task) -> None:
        """Refuse the sigmoid form of one class, whose bias would be -ln 0.

        Raises:
            UsageError: fewer than two classes with form=sigmoid.
        """
        if config.form == "sigmoid" and task.num_classes < 2:
            raise UsageError(
                f"method.form=sigmoid needs 2 or more classes, and the data set has "
                f"{task.num_classes}. Set method.form=softmax."
            )

    class_weights: Tensor

    def __init__(self, config: MethodConfig, task: Task) -> None:
        super().__init__(config, task)
        counts = torch.tensor(task.class_counts, dtype=torch.float64)
        beta = self.config.beta if self.config.alpha == "effective" else 0.0
        weights = effective_number_weights(counts, beta)
        self.register_buffer("class_weights", weights, persistent=False)
        if self.config.form == "sigmoid":
            nn.init.constant_(self._bias, -math.log(task.num_classes - 1))

    def optimizers(self, stage: Stage) -> list[OptimizerSpec] | None:
        """The recipe's; in the sigmoid form one more, without weight decay, for the bias."""
        if self.config.form == "softmax":
            return None
        rest = [p for p in self.parameters() if p is not self._bias and p.requires_grad]
        return [OptimizerSpec(rest), OptimizerSpec([self._bias], weight_decay=0.0)]

    def per_sample_loss(self, logits: Tensor, targets: Tensor, progress: Progress) -> Tensor:
        """l_i (B,) of logits (B, C) and targets (B,)."""
        config, logits = self.config, at_least_float32(logits)
        weights = self.class_weights.to(logits.dtype)[targets]
        if config.form == "sigmoid":
            return weights * sigmoid_focal_losses(logits, targets, config.gamma)
        cross_entropy = F.cross_entropy(logits, targets, reduction="none")
        if config.probability_floor:
            cross_entropy = cross_entropy.clamp(max=-math.log(config.probability_floor))
        if config.weight_position == "inside":
            return focal_modulated(weights * cross_entropy, config.gamma)
        return weights * focal_modulated(cross_entropy, config.gamma)

    @property
    def _bias(self) -> nn.Parameter:
        bias: nn.Parameter = self.get_parameter("head.bias")
        return bias
