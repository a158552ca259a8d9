"""A trained run's predictions for any pictures, made as the run itself made them."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch

from ltbench import evaluator
from ltbench.data.feed import Part, Renderer
from ltbench.errors import UsageError
from ltbench.method import Collective
from ltbench.predictions import Predictions
from ltbench.trained import Trained
from ltbench.views.making import make_pictures

__all__ = ["any_device", "predict_part", "renderer_of"]


def any_device(given: str = "auto") -> torch.device:
    """The device that was asked for; with "auto" a CUDA device where there is one.

    Raises:
        UsageError: another word than auto, cpu and cuda, or a CUDA device that is not here.
    """
    number = re.fullmatch(r"cuda(?::(\d+))?", given)
    if given not in ("auto", "cpu") and number is None:
        raise UsageError(f"--device: expected auto, cpu or cuda, came '{given}'.")
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if number is not None and int(number[1] or 0) >= there:
        raise UsageError(
            f"--device {given}: torch sees {there or 'no'} CUDA devices here. Use --device cpu, or "
            "auto."
        )
    return torch.device(("cuda" if there else "cpu") if given == "auto" else given)


def renderer_of(
    trained: Trained, part: Part, device: torch.device, *, normalised: bool = True
) -> Renderer:
    """What makes the run's views of a part's pictures.

    Args:
        normalised: False gives pictures on the scale 0..1.
    """
    channels = len(trained.mean)
    return Renderer(
        part,
        trained.views(),
        mean=trained.mean if normalised else (0.0,) * channels,
        std=trained.std if normalised else (1.0,) * channels,
        device=device,
        channels_last=trained.config.channels_last,
        seed=trained.config.seeds.loader,
        make_pictures=partial(make_pictures, trained.record["render"], device, 0),
    )


def predict_part(trained: Trained, part: Part, device: torch.device) -> Predictions:
    """Logits of a part's pictures, averaged over the method's eval views, batch by batch."""
    method = trained.method.to(device)
    if trained.config.channels_last:
        method.to(memory_format=torch.channels_last)
    return evaluator.predict(
        method,
        renderer_of(trained, part, device),
        batch_size=trained.config.eval_batch_size,
        collective=Collective(),
        autocast=_autocast(trained, device),
    )


def _autocast(trained: Trained, device: torch.device) -> Callable[[], AbstractContextManager[None]]:
    bf16 = trained.record["precision"] == "bf16"
    return lambda: torch.autocast(device.type, torch.bfloat16) if bf16 else nullcontext()
