"""Logit adjustment (Menon et al., ICLR 2021): shift logits by the log of the class prior.

Either in the loss or after training, never both. "The authors' code" is
google-research/google-research, folder logit_adjustment, at commit
1d4d2f1aa6f2883a790d2ae46a6ee8ab150d8f31.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from optuna.distributions import FloatDistribution
from pydantic import Field
from torch import Tensor

from ltbench.functional import at_least_float32
from ltbench.method import METHODS, Method, MethodConfig, Preset, Progress, Task


def log_priors(class_counts: Tensor, tau: float, floor: float = 1e-12) -> Tensor:
    """The shift of each class's logit.

        log(pi_c^tau + floor),    pi_c = N_c / sum_k N_k

    Args:
        class_counts: N_c >= 0 of the training split, (C,), float64; not all 0.
        tau: >= 0.
        floor: added after the power, so that a class without images has log(floor) at every
            tau > 0.

    Returns:
        (C,), float64, at most about 0.

    Source: utils.py, build_loss_fn; main.py, test loop. The paper's formula has no floor.
    """
    return ((class_counts / class_counts.sum()).pow(tau) + floor).log()


def adjusted_losses(logits: Tensor, targets: Tensor, shifts: Tensor) -> Tensor:
    """Cross-entropy of shifted logits: the prior is added in training.

        l_i = -log softmax(x_i + a)[y_i],    a_c = log(pi_c^tau + floor)

    Args:
        logits: x, (B, C), any float dtype.
        targets: int64 (B,).
        shifts: a, (C,).

    Returns:
        (B,), float32 or wider.

    Source: utils.py, build_loss_fn.
    """
    logits = at_least_float32(logits)
    return F.cross_entropy(logits + shifts.to(logits.dtype), targets, reduction="none")


def _cifar(epochs: int, warmup: int, drops: Sequence[int]) -> Mapping[str, Any]:
    """The authors' CIFAR settings; epochs become parts of the run."""
    return {
        "method.form": "posthoc",
        "epochs": epochs,
        "batch_size": 128,
        "drop_last": True,
        "optimizer.name": "sgd",
        "optimizer.lr": 0.1,
        "optimizer.momentum": 0.9,
        "optimizer.nesterov": True,
        "optimizer.weight_decay": 2e-4,
        "schedule.name": "step",
        "schedule.warmup": warmup / epochs,
        "schedule.milestones": tuple(drop / epochs for drop in drops),
        "schedule.gamma": 0.1,
        "views.classify": [{"pad_crop": {"padding": 2}}, {"hflip": {"p": 0.5}}],
    }


@METHODS.register(
    "logit_adjust",
    paper="Menon, Jayasumana, Rawat, Jain, Veit, Kumar: Long-Tail Learning via Logit Adjustment, "
    "ICLR 2021",
    year=2021,
    source="google-research/google-research@1d4d2f1aa6f2883a790d2ae46a6ee8ab150d8f31",
    tags=("logit-adjustment", "loss", "post-hoc"),
)
class LogitAdjust(Method):
    """Linear head; the log prior is added in the loss, or subtracted from the trained logits.

        form=loss:     train on -log softmax(x_i + a)[y_i], predict with x_i
        form=posthoc:  train on -log softmax(x_i)[y_i],     predict with x_i - a

    a_c = log(pi_c^tau + floor), pi the class frequencies of the training split. tau = 0 is
    cross-entropy; form=loss at tau = 1 is `balanced_softmax` but for the floor. Which form
    published tables mean is often not said: the authors' code defaults to post-hoc.

    Inference logits: the head's output for form=loss, the shifted one for form=posthoc. The shift
    is a constant a column, so it cannot move the one-vs-rest AUC of raw logits, though it moves
    accuracy and the AUC of soft-max probabilities. Validation, and with it the selected epoch, sees
    the shifted logits. A tau tuned for form=posthoc needs a validation score that averages over
    classes.

    Source: main.py, utils.py. The paper's text was not at hand: that its tau is 1, and tuned for
        the post-hoc form, is unverified.
    Departures: see `departures`.
    """

    class Config(MethodConfig):
        """Settings of logit adjustment."""

        form: Literal["loss", "posthoc"] = Field(
            "loss", description="add the log prior in the loss, or subtract it at inference"
        )
        tau: float = Field(1.0, ge=0, le=10, description="exponent of the prior; 0 is CE")
        floor: float = Field(
            1e-12, ge=0, le=1e-3, description="added to the prior's power before the log"
        )

    search_space: ClassVar = {"tau": FloatDistribution(0.25, 2.5)}
    presets: ClassVar = {
        "loss": Preset("the prior in the loss", {"method.form": "loss"}),
        "posthoc": Preset("the prior at inference", {"method.form": "posthoc"}),
        "paper": Preset("without the floor of the code", {"method.floor": 0.0}),
        "authors": Preset("the code's default form", {"method.form": "posthoc"}),
        "authors_cifar10": Preset(
            "the code on CIFAR-10-LT: post-hoc, 1241 epochs, drops at 604, 926 and 1128",
            _cifar(1241, 20, (604, 926, 1128)),
        ),
        "authors_cifar100": Preset(
            "the code on CIFAR-100-LT: post-hoc, 1419 epochs, drops at 691, 1059 and 1290",
            _cifar(1419, 22, (691, 1059, 1290)),
        ),
    }
    departures: ClassVar = (
        "the prior is counted in the training split; the code reads it from a file it does not "
        "ship",
        "with presets authors_*: weight decay also acts on BatchNorm, warm-up rises by epochs and "
        "not by steps, pixels are normalised as in the recipe and not to -0.5..0.5, and the "
        "network is the recipe's, not the code's 15 bottleneck units",
    )

    shifts: Tensor

    def __init__(self, config: MethodConfig, task: Task) -> None:
        super().__init__(config, task)
        counts = torch.tensor(task.class_counts, dtype=torch.float64)
        shifts = log_priors(counts, self.config.tau, self.config.floor)
        self.register_buffer("shifts", shifts, persistent=False)

    def per_sample_loss(self, logits: Tensor, targets: Tensor, progress: Progress) -> Tensor:
        """l_i (B,) of logits (B, C) and targets (B,)."""
        if self.config.form == "posthoc":
            return F.cross_entropy(at_least_float32(logits), targets, reduction="none")
        return adjusted_losses(logits, targets, self.shifts)

    def predict(self, images: Tensor) -> Tensor:
        """Logits (B, C), less the log prior with form=posthoc."""
        logits = self.logits(images)
        if self.config.form == "loss":
            return logits
        logits = at_least_float32(logits)
        return logits - self.shifts.to(logits.dtype)
