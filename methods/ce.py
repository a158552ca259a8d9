"""Cross-entropy: the baseline, and the smallest method there is."""

import torch.nn.functional as F
from torch import Tensor

from ltbench.method import METHODS, Method, Progress


@METHODS.register(
    "ce",
    paper="Softmax cross-entropy, the baseline of Zhang et al. (ECL), MICCAI 2023, Table 1",
    year=2023,
    source="pytorch/pytorch@v2.14.1 torch.nn.functional.cross_entropy",
    tags=("baseline",),
)
class CE(Method):
    """Backbone and linear head, trained with the plain mean of the cross-entropy.

    l_i = -log softmax(x_i)[y_i]
    """

    def per_sample_loss(self, logits: Tensor, targets: Tensor, progress: Progress) -> Tensor:
        """l_i (B,) of logits (B, C) and targets (B,)."""
        return F.cross_entropy(logits, targets, reduction="none")
