"""Cross-entropy that takes its time: $TOY_START_S before it begins, $TOY_STEP_S each step.

Steps are slow as long as the file $TOY_WHILE is there, so that a test decides when a run may end.
What it waits is no part of a run's key or result, so a slow run must end as a quick one does.
"""

import os
import time
from pathlib import Path

import torch.nn.functional as F

from ltbench.method import METHODS, Method

time.sleep(float(os.environ.get("TOY_START_S", "0")))


@METHODS.register("toy_slow", paper="none", year=2026, source="toy", tags=())
class ToySlow(Method):
    """A backbone and a linear layer, with dropout, so that torch's generator matters."""

    def logits(self, images):
        return self.head(F.dropout(self.backbone(images), 0.2, training=self.training))

    def per_sample_loss(self, logits, targets, progress):
        if Path(os.environ.get("TOY_WHILE", "")).is_file():
            time.sleep(float(os.environ["TOY_STEP_S"]))
        return F.cross_entropy(logits, targets, reduction="none")
