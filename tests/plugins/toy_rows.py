"""A toy with an ablation of three rows, one of which cannot be trained."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field

from ltbench.method import METHODS, Method, MethodConfig, Preset


@METHODS.register("toy_rows", paper="none", year=2026, source="toy", tags=())
class ToyRows(Method):
    """Smoothed cross-entropy."""

    class Config(MethodConfig):
        smoothing: float = Field(0.1, ge=0, le=1, description="part spread over the classes")
        broken: bool = Field(False, description="give a loss that is not a number")

    presets: ClassVar = {"authors": Preset("more of it", {"method.smoothing": 0.3, "epochs": 1})}
    ablations: ClassVar = {
        "plain": Preset("Without smoothing", {"method.smoothing": 0.0}),
        "broken": Preset("Broken | on purpose", {"method.broken": True}),
        "full": Preset("Whole", {}),
    }

    def per_sample_loss(self, logits, targets, progress):
        smoothing = self.config.smoothing
        losses = F.cross_entropy(logits, targets, reduction="none", label_smoothing=smoothing)
        return losses * torch.nan if self.config.broken else losses
