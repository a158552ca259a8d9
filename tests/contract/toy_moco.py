"""A toy MoCo: momentum encoder and a queue of keys, both buffers, updated after the step."""

import copy

import torch
import torch.nn.functional as F

from ltbench.method import METHODS, Method, Stream


@METHODS.register("toy_moco", paper="after He et al., CVPR 2020", year=2020, source="toy", tags=())
class ToyMoCo(Method):
    """Cross-entropy and a queue of labelled keys."""

    def __init__(self, config, task):
        super().__init__(config, task)
        self.momentum_backbone = copy.deepcopy(self.backbone).requires_grad_(False)
        keys = F.normalize(torch.randn(32, self.backbone.num_features), dim=1)
        self.register_buffer("queue", keys)
        self.register_buffer("queue_targets", torch.full((32,), -1))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.int64))

    def streams(self, stage):
        return {"main": Stream(views=("classify", "contrast"))}

    def training_step(self, batch, progress):
        features = self.backbone(batch.images)
        with torch.no_grad():
            keys = F.normalize(self.momentum_backbone(batch.views[1]).float(), dim=1)
        queries = F.normalize(features.float(), dim=1)
        gather = self.task.collective.gather
        keys, targets = gather(keys), gather(batch.targets)
        similarity = queries @ torch.cat([keys, self.queue]).T / 0.2
        same = batch.targets[:, None] == torch.cat([targets, self.queue_targets])[None]
        log_p = similarity - similarity.logsumexp(dim=1, keepdim=True)
        contrast = -(log_p * same).sum(1).div(same.sum(1)).mean()
        loss = F.cross_entropy(self.head(features).float(), batch.targets) + 0.1 * contrast
        return {"loss": loss, "contrast": contrast, "keys": keys, "key_targets": targets}

    def after_step(self, outputs, progress):
        keys, size = outputs["keys"], self.queue.shape[0]
        slots = (self.pointer + torch.arange(len(keys), device=keys.device)) % size
        self.queue.index_copy_(0, slots, keys.float())
        self.queue_targets.index_copy_(0, slots, outputs["key_targets"])
        self.pointer.copy_((self.pointer + len(keys)) % size)
        pairs = zip(self.momentum_backbone.parameters(), self.backbone.parameters(), strict=True)
        for slow, fast in pairs:
            slow.lerp_(fast, 0.1)
