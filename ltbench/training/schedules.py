"""Learning rates as pure functions of the epoch, so that resuming has nothing to restore."""

from __future__ import annotations

import math

from ltbench.run_config import ScheduleConfig


def lr_factor(schedule: ScheduleConfig, epoch: int, epochs: int) -> float:
    """The factor on the base learning rate in a 0-based epoch.

    With W = round(warmup * epochs):
        e < W: (e + 1) / W
        cosine: (1 + cos(pi (e - W) / (epochs - W))) / 2, so the first full epoch runs at the base
            rate and the last just above 0
        step: gamma ** (number of milestones m with e >= round(m * epochs))
    `early_step` takes e + 1 for e, as code that steps its scheduler before the epoch; the last
    cosine epoch then moves nothing. In runs so short that a milestone falls on their first epoch,
    it counts from the second on.
    """
    position = epoch + 1 if schedule.early_step else epoch
    warmup_epochs = round(schedule.warmup * epochs)
    if position < warmup_epochs:
        return (position + 1) / warmup_epochs
    if schedule.name == "cosine":
        fraction = (position - warmup_epochs) / max(1, epochs - warmup_epochs)
        return (1 + math.cos(math.pi * min(1.0, fraction))) / 2
    if schedule.name == "step":
        early = position - epoch
        passed = sum(epoch >= max(1, round(m * epochs) - early) for m in schedule.milestones)
        return schedule.gamma**passed
    return 1.0
