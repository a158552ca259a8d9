"""A method that does as it is told, and notes what the trainer does: for tests of the trainer.

Its validation accuracy is scripted: in epoch e it answers the first `script[e]` classes right and
the others wrong. Dropout makes its training depend on torch's generator.
"""

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field

from ltbench.method import METHODS, Method, MethodConfig, Stage


@METHODS.register("toy_probe", paper="none", year=2026, source="toy", tags=())
class ToyProbe(Method):
    """Cross-entropy with dropout; inference by script."""

    class Config(MethodConfig):
        script: tuple[int, ...] = Field((1, 2, 3, 4), description="classes right, by epoch")
        stages: int = Field(1, description="number of stages, each as long as the run")
        carry: Literal["last", "best"] = Field("last", description="of stages before the last")
        feedback: bool = Field(False, description="declare uses_validation")
        bad_loss_at: int = Field(-1, description="step of epoch 1 whose term 'odd' is NaN")
        bad_gradient_at: int = Field(-1, description="step of epoch 1 with a finite loss only")
        drift: bool = Field(False, description="change the script's answer in on_epoch_end")

    # (hook, what it saw), of all runs of this process since it was cleared
    seen: ClassVar[list] = []

    def __init__(self, config, task):
        super().__init__(config, task)
        self.register_buffer("num_right", torch.zeros((), dtype=torch.int64))
        self.register_buffer("epoch", torch.zeros((), dtype=torch.int64))

    @classmethod
    def uses_validation(cls, config):
        return config.feedback

    def stages(self):
        names = [f"stage{i}" for i in range(self.config.stages)]
        return [Stage(name, self.task.epochs, carry=self.config.carry) for name in names]

    def on_stage_start(self, stage, data):
        self.seen.append(("stage", (stage.name, int(self.epoch))))

    def on_epoch_start(self, progress, data):
        self.num_right.fill_(self.config.script[progress.epoch])
        self.epoch.fill_(progress.epoch)

    def logits(self, images):
        features = self.backbone(images)
        self.seen.append(("dtype", features.dtype))
        return self.head(F.dropout(features, 0.2, training=self.training))

    def training_step(self, batch, progress):
        logits = self.logits(batch.images).float()
        loss = F.cross_entropy(logits, batch.targets)
        odd = loss.detach()
        here = (progress.epoch, progress.step)
        if here == (1, self.config.bad_loss_at):
            odd = odd * float("nan")
            loss = loss + odd
        if here == (1, self.config.bad_gradient_at):
            loss = loss + (0 * self.head.bias.sum()).sqrt()  # value 0, gradient inf * 0
        return {"loss": loss, "odd": odd}

    def on_epoch_end(self, progress, report):
        self.seen.append(("report", report))
        if self.config.drift:
            self.num_right.fill_(0)

    def on_fit_end(self, validation):
        self.seen.append(("fit_end", validation))

    def predict(self, images):
        corners = [(1 + 2 * (c // 3), 1 + 2 * (c % 3)) for c in range(self.task.num_classes)]
        bright = [images[:, 0, r : r + 2, c : c + 2].sum((1, 2)) for r, c in corners]
        truth = torch.stack(bright, dim=1).argmax(1)
        wrong = (truth + 1) % self.task.num_classes
        answer = torch.where(truth < self.num_right, truth, wrong)
        # A trace of the weights, so that other weights are other predictions.
        trace = self.head(self.backbone(images)).float()
        return 4.0 * F.one_hot(answer, self.task.num_classes) + trace.tanh()
