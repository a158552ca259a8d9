"""What one stage trains with: the wrapped method, its optimizers, its data, its engine."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from lightning_fabric import Fabric

from ltbench.data.feed import StageFeed, StreamPlan, TrainingSet, stream_word
from ltbench.method import Collective, Method, Stage
from ltbench.run_config import RunConfig
from ltbench.training.engine import StepEngine
from ltbench.training.optimizers import ScheduledOptimizer, make_optimizers


@dataclass(frozen=True)
class StageRun:
    """One stage, ready to train. `module` is the method as Fabric wrapped it."""

    number: int
    stage: Stage
    module: Any
    optimizers: list[ScheduledOptimizer]
    feed: StageFeed
    engine: StepEngine


def build_stage(
    number: int,
    stage: Stage,
    method: Method,
    training: TrainingSet,
    config: RunConfig,
    *,
    fabric: Fabric,
    collective: Collective,
) -> StageRun:
    """Let the method prepare, then wrap it anew: freezing after DDP has wrapped would break it."""
    method.on_stage_start(stage, training)
    if config.channels_last:
        method.to(memory_format=torch.channels_last)
    module = fabric.setup_module(method)
    module.mark_forward_method("training_step")
    optimizers = make_optimizers(method, stage, config.optimizer, config.schedule)
    for scheduled in optimizers:
        scheduled.optimizer = fabric.setup_optimizers(scheduled.optimizer)
    engine = StepEngine(
        fabric,
        module,
        optimizers,
        clip_norm=config.optimizer.clip_norm,
        accumulate=config.optimizer.accumulate,
        sam_rho=config.optimizer.sam_rho,
    )
    feed = _feed(number, stage, method, training, config, collective)
    return StageRun(number, stage, module, optimizers, feed, engine)


def _feed(
    number: int,
    stage: Stage,
    method: Method,
    training: TrainingSet,
    config: RunConfig,
    collective: Collective,
) -> StageFeed:
    plans = {}
    streams = method.task.composition.streams(method.streams(stage))
    for i, (name, stream) in enumerate(streams.items()):
        for view in stream.views:
            training.renderer.view(view)  # a name the recipe lacks is refused here
        plans[name] = StreamPlan(
            training.part,
            replace(stream, sampler=stream.sampler or config.sampler),
            batch_size=stream.batch_size or config.batch_size,
            drop_last=config.drop_last if stream.drop_last is None else stream.drop_last,
            word=stream_word(number, i, 0),
            seed=config.seeds.loader,
            epochs=stage.epochs,
            collective=collective,
        )
    return StageFeed(training.renderer, plans, epochs=stage.epochs)
