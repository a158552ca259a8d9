"""One step of a view on the host: a picture at a time, uint8, written in place where it can be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch

from ltbench.views.transforms import Parameters, Transform

__all__ = ["FloatStep", "HostStep", "parameters_by_size", "room_beside", "room_over"]


class HostStep(Protocol):
    """A transform, or several in one, made for pictures of a batch one after another."""

    def plan(self, u: np.ndarray, channels: int, sizes: np.ndarray) -> Sequence[Any]:
        """What to do with each picture, or None where it stays as it is.

        Args:
            u: float64 (B, words of this step) in [0, 1).
            channels: 1 or 3.
            sizes: (height, width) of the incoming pictures, int64 (B, 2).
        """
        ...

    def apply(self, picture: np.ndarray, planned: Any, row: np.ndarray) -> np.ndarray:
        """Change one picture as planned.

        Args:
            picture: uint8 (height, width, channels), never written to unless it is `row`.
            planned: its item of the plan, not None.
            row: the picture's place in the batch, uint8 (h, w, channels). A result of its size
                may be written there.

        Returns:
            The changed picture: `row` itself, a part of `picture`, or new memory.
        """
        ...


class FloatStep:
    """Any transform by its own arithmetic on floats: for those without a fast form.

    The picture is a batch of one, and is rounded to uint8 afterwards.
    """

    def __init__(self, transform: Transform) -> None:
        self._transform = transform

    def plan(self, u: np.ndarray, channels: int, sizes: np.ndarray) -> Sequence[Any]:
        """Each picture's row of the transform's parameters, float32 (B, k)."""
        table = parameters_by_size(self._transform, u, channels, sizes)
        return list(table.astype(np.float32))

    def apply(self, picture: np.ndarray, planned: Any, row: np.ndarray) -> np.ndarray:
        """Through floats in [0, 1] and back."""
        images = torch.from_numpy(picture.transpose(2, 0, 1)[None].astype(np.float32)).div_(255)
        table = planned[None]
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            made = self._transform.apply(images, Parameters(table, torch.from_numpy(table)))
        pixels = made[0].mul(255).round_().clamp_(0, 255).to(torch.uint8)
        result: np.ndarray = pixels.permute(1, 2, 0).contiguous().numpy()
        return result


def parameters_by_size(
    transform: Transform, u: np.ndarray, channels: int, sizes: np.ndarray
) -> np.ndarray:
    """The transform's parameters (B, k), asked for once a size: most take one size only."""
    if (sizes == sizes[0]).all():
        return transform.parameters(u, (channels, int(sizes[0, 0]), int(sizes[0, 1])))
    kinds, kind_of = np.unique(sizes, axis=0, return_inverse=True)
    members = [np.flatnonzero(kind_of == kind) for kind in range(len(kinds))]
    tables = [
        transform.parameters(u[rows], (channels, int(height), int(width)))
        for rows, (height, width) in zip(members, kinds, strict=True)
    ]
    result: np.ndarray = np.concatenate(tables)[np.argsort(np.concatenate(members))]
    return result


def room_over(picture: np.ndarray, row: np.ndarray) -> np.ndarray:
    """Where to write a picture of the same size, pixel by pixel: it may be where it is."""
    return row if picture.shape == row.shape else np.empty(picture.shape, np.uint8)


def room_beside(picture: np.ndarray, row: np.ndarray) -> np.ndarray:
    """Where to write a picture of the same size while the old one is read in another order."""
    return np.empty(picture.shape, np.uint8) if picture is row else room_over(picture, row)
