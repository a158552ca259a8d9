"""Balanced soft-max (Ren et al., NeurIPS 2020): the class counts inside the soft-max.

The loss of BALMS without its meta-learned sampler. "The authors' code" is
jiawei-ren/BalancedMetaSoftmax-Classification at commit 34a61e432881816c2da14d577d6ed63501288f5f.
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ltbench.functional import at_least_float32
from ltbench.method import METHODS, Method, MethodConfig, Progress, Task


def balanced_softmax_losses(logits: Tensor, targets: Tensor, class_counts: Tensor) -> Tensor:
    """Cross-entropy of logits raised by the log of the class counts.

        l_i = -log( N_{y_i} exp(x_{i y_i}) / sum_c N_c exp(x_ic) )

    A class with N_c = 0 drops out of the sum: its logit gets no gradient.

    Args:
        logits: x, (B, C), any float dtype.
        targets: int64 (B,), of classes with N_c > 0; the loss of another is infinite.
        class_counts: N_c >= 0, (C,), float64.

    Returns:
        (B,), float32 or wider.

    Source: loss/BalancedSoftmaxLoss.py, balanced_softmax_loss.
    """
    logits = at_least_float32(logits)
    return F.cross_entropy(logits + class_counts.log().to(logits.dtype), targets, reduction="none")


@METHODS.register(
    "balanced_softmax",
    paper="Ren, Yu, Sheng, Ma, Zhao, Yi, Li: Balanced Meta-Softmax for Long-Tailed Visual "
    "Recognition, NeurIPS 2020",
    year=2020,
    source="jiawei-ren/BalancedMetaSoftmax-Classification@34a61e432881816c2da14d577d6ed63501288f5f",
    tags=("logit-adjustment", "loss"),
)
class BalancedSoftmax(Method):
    """Linear head, counts in the loss, none at inference; equal counts give cross-entropy.

    It equals `logit_adjust` with temperature tau = 1 but for that method's floor of 1e-12, and has
    no settings.

    Inference logits: the head's output, with nothing subtracted; its soft-max estimates the
    probabilities under equal class sizes. Subtracting the prior too would count it twice.

    The authors' CIFAR runs (13,000 iterations, batch 512, cosine after 800 iterations of warm-up)
    count iterations; they are no preset.

    Source: loss/BalancedSoftmaxLoss.py. The paper's text was not at hand.
    Departures: see `departures`.
    """

    departures: ClassVar = ("BALMS' meta sampler is left out: this is its loss alone",)

    class_counts: Tensor

    def __init__(self, config: MethodConfig, task: Task) -> None:
        super().__init__(config, task)
        counts = torch.tensor(task.class_counts, dtype=torch.float64)
        self.register_buffer("class_counts", counts, persistent=False)

    def per_sample_loss(self, logits: Tensor, targets: Tensor, progress: Progress) -> Tensor:
        """l_i (B,) of logits (B, C) and targets (B,)."""
        return balanced_softmax_losses(logits, targets, self.class_counts)
