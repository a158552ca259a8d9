"""Toy proxies stepped once an epoch, and validation feedback: what ECL asks of the trainer."""

import torch
import torch.nn.functional as F
from torch import nn

from ltbench.functional import weighted_mean
from ltbench.method import METHODS, Method, OptimizerSpec


@METHODS.register(
    "toy_proxies", paper="after Zhang et al., MICCAI 2023", year=2023, source="toy", tags=()
)
class ToyProxies(Method):
    """Cross-entropy weighted by validation F1, plus a pull to epoch-wise proxies."""

    def __init__(self, config, task):
        super().__init__(config, task)
        self.proxies = nn.Parameter(torch.randn(task.num_classes, self.backbone.num_features))
        self.register_buffer("f1", torch.ones(task.num_classes))

    @classmethod
    def uses_validation(cls, config):
        return True

    def optimizers(self, stage):
        rest = [p for p in self.parameters() if p is not self.proxies]
        return [OptimizerSpec(rest), OptimizerSpec([self.proxies], every="epoch", lr=0.01)]

    def training_step(self, batch, progress):
        features = self.backbone(batch.images)
        weights = 1 / self.f1.clamp_min(0.05)
        losses = F.cross_entropy(self.head(features).float(), batch.targets, reduction="none")
        loss = weighted_mean(losses, weights[batch.targets], self.task.collective.gather)
        near = F.normalize(features.float(), dim=1) @ F.normalize(self.proxies, dim=1).T
        pull = F.cross_entropy(near / 0.2, batch.targets)
        return {"loss": loss + 0.5 * pull, "pull": pull}

    def on_epoch_end(self, progress, report):
        self.f1.copy_(report.f1.float())
