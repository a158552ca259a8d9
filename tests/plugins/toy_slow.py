"""Cross-entropy that takes its time: $TOY_START_S before it begins, $TOY_STEP_S each step.

What it waits is no part of a run's key or result, so a slow run must end as a quick one does.
"""

import os
import time

import torch.nn.functional as F

from ltbench.method import METHODS, Method

time.sleep(float(os.environ.get("TOY_START_S", "0")))


@METHODS.register("toy_slow", paper="none", year=2026, source="toy", tags=())
class ToySlow(Method):
    """A backbone and a linear layer, with dropout, so that torch's generator matters."""

    def logits(self, images):
        return self.head(F.dropout(self.backbone(images), 0.2, training=self.training))

    def per_sample_loss(self, logits, targets, progress):
        time.sleep(float(os.environ.get("TOY_STEP_S", "0")))
        return F.cross_entropy(logits, targets, reduction="none")
