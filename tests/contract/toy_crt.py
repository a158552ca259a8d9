"""A toy cRT: a second stage with a new head, a frozen backbone and a balanced sampler."""

import torch.nn.functional as F

from ltbench.method import METHODS, Method, OptimizerSpec, Stage, Stream


@METHODS.register("toy_crt", paper="after Kang et al., ICLR 2020", year=2020, source="toy", tags=())
class ToyCRT(Method):
    """Representation first, classifier afterwards."""

    def stages(self):
        return [
            Stage("features", self.task.epochs, carry="best"),
            Stage("classifier", max(1, self.task.epochs // 2)),
        ]

    def streams(self, stage):
        return {"main": Stream(sampler="balanced" if stage.name == "classifier" else None)}

    def on_stage_start(self, stage, data):
        if stage.name == "classifier":
            self.backbone.requires_grad_(False)
            self.head.reset_parameters()

    def on_epoch_start(self, progress, data):
        if progress.stage == "classifier":
            self.backbone.eval()

    def optimizers(self, stage):
        if stage.name == "classifier":
            return [OptimizerSpec(self.head.parameters(), lr=0.1, weight_decay=0.0)]
        return None

    def per_sample_loss(self, logits, targets, progress):
        return F.cross_entropy(logits, targets, reduction="none")
