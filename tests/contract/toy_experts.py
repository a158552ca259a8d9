"""Three toy experts on one trunk; the answer is their mean."""

import copy

import torch
import torch.nn.functional as F
from torch import nn

from ltbench.method import METHODS, Method


@METHODS.register(
    "toy_experts", paper="after Wang et al., ICLR 2021", year=2021, source="toy", tags=()
)
class ToyExperts(Method):
    """Each expert has a last block and a head of its own."""

    def __init__(self, config, task):
        super().__init__(config, task)
        self.trunk, block, self.pool = self.backbone.split_last_block()
        blocks = [block, copy.deepcopy(block), copy.deepcopy(block)]
        self.blocks = nn.ModuleList(blocks)

    def make_head(self, num_features):
        heads = [nn.Linear(num_features, self.task.num_classes) for _ in range(3)]
        return nn.ModuleList(heads)

    def expert_logits(self, images):
        trunk = self.trunk(images)
        pairs = zip(self.blocks, self.head, strict=True)
        return torch.stack([head(self.pool(block(trunk))) for block, head in pairs])

    def training_step(self, batch, progress):
        logits = self.expert_logits(batch.images).float()
        losses = [F.cross_entropy(expert, batch.targets) for expert in logits]
        return {"loss": sum(losses), "first": losses[0]}

    def predict(self, images):
        return self.expert_logits(images).mean(0)
