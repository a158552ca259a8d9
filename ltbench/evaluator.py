"""A method and a part of the data to predictions."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import numpy as np
import torch
from torch import Tensor

from ltbench.data.feed import Renderer
from ltbench.method import Collective, Method
from ltbench.predictions import Predictions


@torch.no_grad()
def predict(
    method: Method,
    renderer: Renderer,
    *,
    batch_size: int,
    collective: Collective,
    autocast: Callable[[], AbstractContextManager[None]],
) -> Predictions:
    """Inference logits of every image, in stored order, averaged over `method.eval_views`.

    Each device predicts a contiguous share; all of them return the whole. Every module is left in
    the mode (train or eval) it came in: a method may hold parts of itself in eval.
    """
    part = renderer.part
    share = -(-len(part) // collective.world_size)
    first = min(collective.rank * share, len(part))
    last = min(first + share, len(part))
    modes = [(module, module.training) for module in method.modules()]
    method.eval()
    per_view = [
        _logits(method, renderer, name, batch_size, first, last, autocast)
        for name in method.eval_views
    ]
    for module, training in modes:
        module.training = training
    logits = torch.stack(per_view).mean(0) if len(per_view) > 1 else per_view[0]
    if collective.world_size > 1:
        padding = logits.new_zeros(share - logits.shape[0], logits.shape[1])
        logits = collective.gather(torch.cat([logits, padding]))[: len(part)]
    return Predictions(
        ids=part.ids,
        targets=part.targets,
        logits=logits.cpu().numpy(),
        class_names=part.class_names,
        groups=part.groups,
        metadata=part.metadata,
    )


def _logits(
    method: Method,
    renderer: Renderer,
    view: str,
    batch_size: int,
    first: int,
    last: int,
    autocast: Callable[[], AbstractContextManager[None]],
) -> Tensor:
    num_classes = len(renderer.part.class_names)
    logits = torch.zeros(last - first, num_classes, device=renderer.device)
    for batch in renderer.in_order(view, batch_size, first, last):
        with autocast():
            rows = method.predict(batch.images).float()
        # Pictures of different sizes do not come in stored order.
        logits[batch.indices - first] = rows
    return logits


def predicted_classes(logits: np.ndarray) -> np.ndarray:
    """The class with the largest logit; the first of equals."""
    classes: np.ndarray = logits.argmax(axis=1)
    return classes
