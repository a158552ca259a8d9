"""What combines by settings with every method that gives a per-sample loss.

Deferred re-weighting weighs the losses; batch augmentation mixes pictures and their labels. Both
act on `Method.logits` and `Method.per_sample_loss`, so a method knows nothing of them.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from ltbench.data import philox
from ltbench.functional import effective_number_weights, inverse_frequency_weights, weighted_mean
from ltbench.method import Batch, Collective, Composer, Method, Progress, Stream

_STREAM = 0x4D000000  # of the random words of mixing, apart from those of orders and views
CMO_STREAM = "foreground"


class _Frozen(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True
    )


class ReweightConfig(_Frozen):
    """Class weights on the losses, from a part of the run on (deferred re-weighting)."""

    name: Literal["none", "inverse", "effective"] = Field(
        "none", description="1/N_c, or (1 - beta)/(1 - beta^N_c) (Cui et al. 2019)"
    )
    beta: float = Field(0.9999, ge=0, lt=1, description="of 'effective'")
    start: float = Field(0.8, ge=0, le=1, description="part of the epochs before weights act")


class MixConfig(_Frozen):
    """Mixing of pictures and labels within a batch."""

    name: Literal["none", "mixup", "remix", "cutmix", "cmo"] = "none"
    alpha: float = Field(1.0, gt=0, le=100, description="of Beta(alpha, alpha)")
    probability: float = Field(1.0, gt=0, le=1, description="part of the batches that are mixed")
    kappa: float = Field(3.0, ge=1, description="remix: ratio of class sizes that decides labels")
    tau: float = Field(0.5, ge=0, le=1, description="remix: bound on the pixels' weight")
    start: float = Field(0.0, ge=0, le=1, description="part of the epochs before mixing")
    stop: float = Field(1.0, ge=0, le=1, description="part of the epochs after which it stops")


# Rows that every method can have: `ce@mixup`, `ldam_drw@balanced`, `ce@sqrt+mixup`.
COMPOSITIONS: Mapping[str, tuple[str, Mapping[str, object]]] = {
    "balanced": ("class-balanced sampling", {"sampler": "balanced"}),
    "sqrt": ("square-root sampling", {"sampler": "sqrt"}),
    "progressive": ("sampling from instance- to class-balanced", {"sampler": "progressive"}),
    "reversed": ("reversed sampling", {"sampler": "reversed"}),
    "drw": (
        "deferred re-weighting by effective numbers, in the last fifth of the epochs",
        {"reweight.name": "effective", "reweight.start": 0.8},
    ),
    "mixup": ("mixup with Beta(1, 1)", {"mix.name": "mixup"}),
    "remix": ("ReMix, kappa 3, tau 0.5", {"mix.name": "remix"}),
    "cutmix": ("CutMix in half of the batches", {"mix.name": "cutmix", "mix.probability": 0.5}),
    # Its code mixes half of the batches, in epochs 4 to 196 of 200 (naver-ai/cmo@10d2d09).
    "cmo": (
        "CMO: boxes of class-balanced foregrounds in half of the batches",
        {"mix.name": "cmo", "mix.probability": 0.5, "mix.start": 0.02, "mix.stop": 0.985},
    ),
    "sam": ("sharpness-aware minimisation, rho 0.05", {"optimizer.sam_rho": 0.05}),
}


def overrides(method: type[Method], hook: str) -> bool:
    """Whether the method has a hook of its own."""
    return getattr(method, hook) is not getattr(Method, hook)


def compositions_of(method: type[Method]) -> list[str]:
    """Names of the `COMPOSITIONS` that the method's own hooks leave room for."""
    closed: tuple[str, ...] = ()
    if overrides(method, "training_step"):
        closed += ("mix.", "reweight.")
    if overrides(method, "update"):
        closed += ("optimizer.sam_rho",)
    return [
        name
        for name, (_, row) in COMPOSITIONS.items()
        if not any(key.startswith(closed) for key in row)
    ]


class Mixed(NamedTuple):
    """Pictures with two labels each: loss = label_weight l(y) + (1 - label_weight) l(other)."""

    images: Tensor
    targets: Tensor
    others: Tensor
    label_weight: Tensor


@dataclass(frozen=True)
class Composition(Composer):
    """Per-sample losses, re-weighted and of mixed pictures.

    Attributes:
        class_counts: of the training split.
        seed: of the run; mixing draws from (seed, stage, epoch, step) alone.
    """

    reweight: ReweightConfig = field(default_factory=ReweightConfig)
    mix: MixConfig = field(default_factory=MixConfig)
    class_counts: tuple[int, ...] = ()
    seed: int = 0

    def streams(self, streams: Mapping[str, Stream]) -> dict[str, Stream]:
        """The method's streams, and CMO's second one."""
        if self.mix.name != "cmo":
            return dict(streams)
        first = next(iter(streams.values()))
        foreground = replace(first, views=first.views[:1], sampler="balanced")
        return {**streams, CMO_STREAM: foreground}

    def loss(
        self, method: Method, batch: Batch, progress: Progress, collective: Collective
    ) -> Tensor:
        """The loss of a batch.

            plain:       (1/B) sum_i l_i
            mixed:       l_i = r_i l(x~_i, y_i) + (1 - r_i) l(x~_i, y'_i)
            re-weighted: sum_i w_i l_i / sum_i w_i,   w_i = r_i w_{y_i} + (1 - r_i) w_{y'_i}

        Under re-weighting of a mixed batch each of the two losses carries the weight of its own
        label. Partners are drawn from the batch of all devices, as one process would draw them.
        """
        mixed = self._mixed(batch, progress, collective)
        if mixed is None:
            logits = method.logits(batch.images).float()
            losses = method.per_sample_loss(logits, batch.targets, progress)
            weights = self.class_weights(progress, losses)
            if weights is None:
                return losses.mean()
            return weighted_mean(losses, weights[batch.targets], collective.gather)
        logits = method.logits(mixed.images).float()
        first = mixed.label_weight * method.per_sample_loss(logits, mixed.targets, progress)
        second = (1 - mixed.label_weight) * method.per_sample_loss(logits, mixed.others, progress)
        weights = self.class_weights(progress, first)
        if weights is None:
            return (first + second).mean()
        own, other = weights[mixed.targets], weights[mixed.others]
        sample_weights = mixed.label_weight * own + (1 - mixed.label_weight) * other
        losses = (own * first + other * second) / sample_weights
        return weighted_mean(losses, sample_weights, collective.gather)

    def class_weights(self, progress: Progress, like: Tensor) -> Tensor | None:
        """w_c (C,), mean one; None before re-weighting starts."""
        config = self.reweight
        if config.name == "none" or progress.epoch < round(config.start * progress.epochs):
            return None
        counts = torch.tensor(self.class_counts, dtype=torch.float64)
        if config.name == "inverse":
            weights = inverse_frequency_weights(counts)
        else:
            weights = effective_number_weights(counts, config.beta)
        return weights.to(device=like.device, dtype=like.dtype, non_blocking=True)

    def _mixed(self, batch: Batch, progress: Progress, collective: Collective) -> Mixed | None:
        config, epochs = self.mix, progress.epochs
        if config.name == "none":
            return None
        if not round(config.start * epochs) <= progress.epoch < round(config.stop * epochs):
            return None
        u = self._uniform(progress, 4)
        if u[0] >= config.probability:
            return None
        share = beta_quantile(float(u[1]), config.alpha)
        targets = batch.targets
        if config.name == "cmo":
            foreground = batch.also[CMO_STREAM]
            others, pictures = foreground.targets, foreground.images
        else:
            partners = self._partners(progress, len(targets), collective)
            partners = partners.to(targets.device, non_blocking=True)
            others = collective.gather(targets)[partners]
            pictures = collective.gather(batch.images)[partners]
        if config.name in ("cutmix", "cmo"):
            images, share = paste(batch.images, pictures, share, (float(u[2]), float(u[3])))
            return Mixed(
                images, targets, others, torch.full_like(targets, share, dtype=torch.float32)
            )
        images = share * batch.images + (1 - share) * pictures
        weight = torch.full_like(targets, share, dtype=torch.float32)
        if config.name == "remix":
            counts = torch.tensor(self.class_counts, dtype=torch.float32)
            counts = counts.to(targets.device, non_blocking=True)
            ratios = counts[targets] / counts[others]
            weight = remix_label_weight(share, ratios, config.kappa, config.tau)
        return Mixed(images, targets, others, weight)

    def _uniform(self, progress: Progress, num_words: int) -> np.ndarray:
        numbers: np.ndarray = philox.uniform(
            self.seed,
            stream=_word(progress),
            epoch=progress.epoch,
            index=np.array([progress.step]),
            num_words=num_words,
        )[0]
        return numbers

    def _partners(self, progress: Progress, share: int, collective: Collective) -> Tensor:
        """Rows in the batch of all devices that this device's `share` images are mixed with."""
        # One permutation a step: the step's number in the stage stands where the epoch does.
        number = progress.epoch * progress.steps + progress.step
        size = share * collective.world_size
        order = philox.permutation(self.seed, size, stream=_word(progress) | 1 << 16, epoch=number)
        return torch.as_tensor(order[collective.rank * share :][:share])


def _word(progress: Progress) -> int:
    """A stream number for each stage, by its name."""
    return _STREAM | (zlib.crc32(progress.stage.encode()) & 0xFFFF)


def beta_quantile(u: float, alpha: float) -> float:
    """The u-quantile of Beta(alpha, alpha): a draw, for a uniform u."""
    if alpha == 1.0:
        return u
    from scipy.stats import beta

    return float(beta.ppf(u, alpha, alpha))


def remix_label_weight(share: float, ratios: Tensor, kappa: float, tau: float) -> Tensor:
    """Weight of the first label under ReMix.

        0       if n_1 / n_2 >= kappa and lambda < tau
        1       if n_1 / n_2 <= 1 / kappa and 1 - lambda < tau
        lambda  otherwise

    Args:
        share: lambda, the pixels' weight of the first picture, in [0, 1].
        ratios: n_1 / n_2, training images of the first label's class over the second's, (B,).
        kappa: >= 1.
        tau: in [0, 1].

    Returns:
        (B,), of the ratios' dtype.

    Source: Chou et al., ECCV workshops 2020, eq. 6; conditions as in zhangyongshun/BagofTricks-LT
        @ce7859a, lib/core/combiner.py (the authors published no code).
    """
    weight = torch.full_like(ratios, share)
    if share < tau:
        weight = torch.where(ratios >= kappa, 0.0, weight)
    if 1 - share < tau:
        weight = torch.where(ratios <= 1 / kappa, 1.0, weight)
    return weight


def paste(
    backgrounds: Tensor, foregrounds: Tensor, share: float, centre: Sequence[float]
) -> tuple[Tensor, float]:
    """CutMix: one box of each foreground laid over its background.

    The box has sqrt(1 - share) of each side, cut at the border. `centre` is uniform on the picture.

    Args:
        backgrounds, foregrounds: (B, channels, height, width).
        share: lambda, the part of the background that should stay.
        centre: (row, column) in [0, 1).

    Returns:
        The pictures, and the part of the background that did stay.

    Source: Yun et al., ICCV 2019, eq. 2; Park et al. (CMO), CVPR 2022, naver-ai/cmo@10d2d09.
    """
    height, width = backgrounds.shape[-2:]
    side = (1.0 - share) ** 0.5
    rows, columns = int(height * side), int(width * side)
    row, column = int(centre[0] * height), int(centre[1] * width)
    top, bottom = max(row - rows // 2, 0), min(row + rows // 2, height)
    left, right = max(column - columns // 2, 0), min(column + columns // 2, width)
    images = backgrounds.clone()
    images[:, :, top:bottom, left:right] = foregrounds[:, :, top:bottom, left:right]
    return images, 1.0 - (bottom - top) * (right - left) / (height * width)
