"""Which way views are made: on CPU cores, or in batches on the run's device."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ltbench.dataset import Images
from ltbench.views.device import DevicePictures, free_memory
from ltbench.views.pool import HostPictures
from ltbench.views.view import View

__all__ = ["make_pictures"]


def make_pictures(
    render: str,
    device: torch.device,
    workers: int,
    images: Images,
    views: Mapping[str, View],
    seed: int,
) -> HostPictures | DevicePictures:
    """What makes the views of these pictures.

    Args:
        render: "host" or "device".
        workers: processes on the host; 0 makes the views in this one.
    """
    if render == "host":
        return HostPictures(images, views, seed=seed, workers=workers)
    return DevicePictures(images, views, seed=seed, device=device, budget_bytes=free_memory(device))
