"""A toy BBN: the last block doubled, two samplers, two trunk passes, a sliding weight."""

import copy

import torch
import torch.nn.functional as F
from torch import nn

from ltbench.method import METHODS, Method, Stream


@METHODS.register("toy_bbn", paper="after Zhou et al., CVPR 2020", year=2020, source="toy", tags=())
class ToyBBN(Method):
    """Two branches after a shared trunk."""

    def __init__(self, config, task):
        super().__init__(config, task)
        self.trunk, block, self.pool = self.backbone.split_last_block()
        self.branches = nn.ModuleList([block, copy.deepcopy(block)])

    def make_head(self, num_features):
        return nn.Linear(2 * num_features, self.task.num_classes)

    def streams(self, stage):
        return {"main": Stream(), "reversed": Stream(sampler="reversed")}

    def training_step(self, batch, progress):
        alpha = 1 - (progress.epoch / progress.epochs) ** 2
        other = batch.also["reversed"]
        first = self.pool(self.branches[0](self.trunk(batch.images)))
        second = self.pool(self.branches[1](self.trunk(other.images)))
        logits = self.head(torch.cat([2 * alpha * first, 2 * (1 - alpha) * second], dim=1))
        loss_c = F.cross_entropy(logits, batch.targets)
        loss_r = F.cross_entropy(logits, other.targets)
        return {"loss": alpha * loss_c + (1 - alpha) * loss_r, "conventional": loss_c}

    def predict(self, images):
        trunk = self.trunk(images)
        return self.head(torch.cat([self.pool(branch(trunk)) for branch in self.branches], dim=1))
