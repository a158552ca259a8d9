"""A toy SAM: two passes a step, through the escape hatch `update`."""

import torch
import torch.nn.functional as F

from ltbench.method import METHODS, Method


@METHODS.register("toy_sam", paper="Foret et al., ICLR 2021", year=2021, source="toy", tags=())
class ToySAM(Method):
    """Step with the gradient at the worst point nearby."""

    def per_sample_loss(self, logits, targets, progress):
        return F.cross_entropy(logits, targets, reduction="none")

    def update(self, engine, batch, progress):
        engine.backward(engine.loss(batch, progress)["loss"])
        params = [p for p in self.parameters() if p.grad is not None]
        with torch.no_grad():
            norm = torch.stack([p.grad.norm() for p in params]).norm()
            moves = [0.05 * p.grad / (norm + 1e-12) for p in params]
            torch._foreach_add_(params, moves)
        engine.zero_grad()
        outputs = engine.loss(batch, progress)
        engine.backward(outputs["loss"])
        with torch.no_grad():
            torch._foreach_sub_(params, moves)
        engine.step()
        return outputs
