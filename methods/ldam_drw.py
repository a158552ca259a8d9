"""LDAM-DRW (Cao et al., NeurIPS 2019): margins by class size, then deferred re-weighting.

The margin loss and its cosine head are here; the deferred re-weighting is the harness's setting
`reweight`, switched on by `defaults`. "The authors' code" is kaidic/LDAM-DRW at commit
2536330f2afdaa65618323cb5a5850efccce762a.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from optuna.distributions import FloatDistribution
from pydantic import Field
from torch import Tensor, nn

from ltbench.functional import at_least_float32, similarity_logits, unit_rows
from ltbench.method import METHODS, Method, MethodConfig, Preset, Progress, Task


def class_margins(class_counts: Sequence[int], max_margin: float) -> Tensor:
    """m_c: the rarer a class, the larger its margin; the rarest has exactly `max_margin`.

        m_c = m_max (N_min / N_c)^(1/4)

    Args:
        class_counts: N_c > 0, images of each class in the training split actually used.
        max_margin: m_max >= 0.

    Returns:
        (C,), float64.

    Source: losses.py, LDAMLoss. The paper's m_c = K / N_c^(1/4) (unverified) has
        K = m_max N_min^(1/4).
    """
    counts = torch.tensor(class_counts, dtype=torch.float64)
    return max_margin * (counts.min() / counts) ** 0.25


def ldam_losses(cosines: Tensor, targets: Tensor, margins: Tensor, scale: float) -> Tensor:
    """Cross-entropy of scaled cosines, the true class's own lowered by its margin.

        z_ic = s (u_ic - m_{y_i} [c = y_i]),    l_i = -log softmax(z_i)[y_i]

    Args:
        cosines: u in [-1, 1], unscaled, (B, C), any float dtype.
        targets: int64 (B,).
        margins: m_c, (C,).
        scale: s > 0.

    Returns:
        (B,), float32 or wider.

    Source: losses.py, LDAMLoss. By the author's word the paper's equation has no s, and 10 to 30
        does as well (issue 2); without s a loss of cosines stays near ln C.
    """
    cosines = at_least_float32(cosines)
    own = margins.to(cosines.dtype)[targets][:, None]
    return F.cross_entropy(
        scale * cosines.scatter_add(1, targets[:, None], -own), targets, reduction="none"
    )


class CosineHead(nn.Module):
    """Cosines of features h and class vectors v, without bias.

        u_ic = (h_i . v_c) / (max(||h_i||, 1e-12) max(||v_c||, 1e-12))

    Computed in float32 outside autocast: in float16 the floor is 0, and a feature of zeros is NaN.
    Class vectors start on the unit sphere, in the direction of a uniform draw from a cube.

    Source: models/resnet_cifar.py, NormedLinear, which stores the transposed weight.
    """

    def __init__(self, num_features: int, num_classes: int) -> None:
        super().__init__()
        start = torch.empty(num_classes, num_features).uniform_(-1, 1)
        self.weight = nn.Parameter(F.normalize(start, dim=1))

    def forward(self, features: Tensor) -> Tensor:
        """Cosines (B, C), float32 or wider, of features (B, f)."""
        return similarity_logits(unit_rows(features), unit_rows(self.weight), temperature=1.0)


@METHODS.register(
    "ldam_drw",
    paper="Cao, Wei, Gaidon, Arechiga, Ma: Learning Imbalanced Datasets with "
    "Label-Distribution-Aware Margin Loss, NeurIPS 2019",
    year=2019,
    source="kaidic/LDAM-DRW@2536330f2afdaa65618323cb5a5850efccce762a",
    tags=("margin", "re-weighting", "cosine"),
)
class LDAMDRW(Method):
    """Cosine head and margin loss; class weights in the last fifth of the run.

    Before: the plain mean of l_i. From epoch round(0.8 T), 0-based: sum_i w_i l_i / sum_i w_i with
    the effective-number weight, beta 0.9999, of class y_i. This is 160 of the 200 epochs in the
    authors' code, and 80 of 100. Runs of one or two epochs end before it.

    The code's switch is `epoch // 160`: in a run of 100 epochs as released it never fires, and what
    is called LDAM-DRW is LDAM. Whether that holds for published tables of 100 epochs, ECL's among
    them, is not known: preset `no_drw` is that row. The learning rates of the code's CIFAR runs are
    those of the recipe `cifar_lt`.

    Inference logits: the unscaled cosines, without margins, as in the authors' code. Accuracy and
    the AUC of raw logits do not depend on a common scale. The soft-max does: of cosines, which lie
    in [-1, 1], it is nearly uniform, so that confidences are low and the AUC of probabilities is
    another number. With `scaled_inference` they are s u, whose soft-max is that of training.

    Source: cifar_train.py, losses.py, models/resnet_cifar.py. The paper's text was not at hand:
        unverified are the second stage's division by B, its start at 160 of 200 epochs and the
        tuned constant K. That its weights were inverse frequencies is the author's word (issue 3).
    Departures: see `departures`.
    """

    class Config(MethodConfig):
        """Settings of LDAM; the re-weighting's are `reweight.*`. Defaults are the code's."""

        max_margin: float = Field(0.5, ge=0, le=2, description="margin of the rarest class, m_max")
        scale: float = Field(30.0, gt=0, le=200, description="s, the inverse temperature")
        scaled_inference: bool = Field(
            False, description="inference logits s u instead of u; changes probabilities alone"
        )

    search_space: ClassVar = {
        "max_margin": FloatDistribution(0.1, 1.0),
        "scale": FloatDistribution(10.0, 60.0, log=True),
    }
    defaults: ClassVar = {
        "reweight.name": "effective",
        "reweight.beta": 0.9999,
        "reweight.start": 0.8,
    }
    presets: ClassVar = {
        "paper": Preset(
            "inverse-frequency weights in the second stage", {"reweight.name": "inverse"}
        ),
        "authors": Preset("the defaults, which are the released code's", {}),
        "no_drw": Preset(
            "LDAM alone: the released code in runs of fewer than 161 epochs",
            {"reweight.name": "none"},
        ),
        "inaturalist": Preset(
            "margin 0.3, the author's advice for iNaturalist (issue 2)", {"method.max_margin": 0.3}
        ),
        "scaled": Preset(
            "inference logits scaled as in training", {"method.scaled_inference": True}
        ),
    }
    departures: ClassVar = (
        "re-weighting starts at a part of the run (0.8); the code's epoch 160 is absolute, never "
        "reached in shorter runs, and it stops with an error at epoch 320",
        "with preset paper, the second stage divides by the batch's sum of weights, as the code "
        "does, not by B; the paper's constant K is set through max_margin",
    )

    margins: Tensor

    def __init__(self, config: MethodConfig, task: Task) -> None:
        super().__init__(config, task)
        margins = class_margins(task.class_counts, self.config.max_margin)
        self.register_buffer("margins", margins, persistent=False)

    def make_head(self, num_features: int) -> nn.Module:
        """The cosine head."""
        return CosineHead(num_features, self.task.num_classes)

    def per_sample_loss(self, logits: Tensor, targets: Tensor, progress: Progress) -> Tensor:
        """l_i (B,) of unscaled cosines (B, C) and targets (B,)."""
        return ldam_losses(logits, targets, self.margins, self.config.scale)

    def predict(self, images: Tensor) -> Tensor:
        """Cosines (B, C), times s with `scaled_inference`; no margin."""
        cosines = self.logits(images)
        return self.config.scale * cosines if self.config.scaled_inference else cosines
