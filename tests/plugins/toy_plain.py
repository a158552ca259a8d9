"""Logistic regression on pixels: no BatchNorm, so what devices or parts compute adds up exactly."""

import torch.nn.functional as F
from torch import nn

from ltbench.method import METHODS, Method


@METHODS.register("toy_plain", paper="none", year=2026, source="toy", tags=())
class ToyPlain(Method):
    """A linear layer on the picture, in place of the backbone."""

    def __init__(self, config, task):
        nn.Module.__init__(self)
        self.config, self.task = config, task
        channels, height, width = task.input_shape
        self.head = nn.Linear(channels * height * width, task.num_classes)

    def logits(self, images):
        return self.head(images.flatten(1))

    def per_sample_loss(self, logits, targets, progress):
        return F.cross_entropy(logits, targets, reduction="none")
