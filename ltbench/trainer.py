"""The only training loop. It names no method: what differs between methods is in the contract."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor

from ltbench import evaluator
from ltbench.data.feed import Renderer, TrainingSet
from ltbench.errors import DivergedError, InterruptedRunError, UsageError
from ltbench.method import ClassReport, Method, Progress, Stage
from ltbench.metrics import class_report, selection_value, validation_summary
from ltbench.predictions import Predictions
from ltbench.run_config import RunConfig
from ltbench.training.checkpoint import save_checkpoint
from ltbench.training.devices import FabricCollective
from ltbench.training.engine import LossWatch
from ltbench.training.ledger import StemCounter
from ltbench.training.optimizers import ScheduledOptimizer, gathered_gradients
from ltbench.training.snapshot import Best, Log, State, device_state, log_of, put_back, take
from ltbench.training.stage import StageRun, build_stage

_AGREE_EVERY = 16  # steps between agreements of several devices on saving and stopping
_CHECK_EVERY = 100  # steps between looks at whether the loss is finite; each look synchronises


@dataclass(frozen=True)
class Surroundings:
    """What the trainer tells and asks of the outside.

    Attributes:
        checkpoint: where the whole state goes.
        on_epoch: takes the row of each finished epoch (first device only).
        stop_signal: the number of a signal that asks to stop, or None.
        before_stage: takes the name of each stage but the first when it is about to begin, with the
            checkpoint at the end of the one before (first device only).
        still_mine: raises where another process has taken the run over; asked before each save.
    """

    checkpoint: Path
    on_epoch: Callable[[Mapping[str, Any]], None] = lambda row: None
    stop_signal: Callable[[], int | None] = lambda: None
    still_mine: Callable[[], None] = lambda: None
    before_stage: Callable[[str], None] = lambda stage: None


class Trainer:
    """Trains one method on one training set.

    Args:
        method: on the run's device, with its initial weights.
        validation: selects the epoch; None where the protocol has no validation.
        feedback: what `ClassReport` is computed from; `validation`, an inner part, or None. Only
            methods that declare `uses_validation` are given it.

    Attributes:
        log: costs, selected epochs.
        last_state: the last epoch's weights where another epoch was selected, else None.
    """

    def __init__(
        self,
        fabric: Fabric,
        method: Method,
        training: TrainingSet,
        validation: Renderer | None,
        feedback: Renderer | None,
        config: RunConfig,
        around: Surroundings,
    ) -> None:
        self.fabric = fabric
        self.method = method
        self.training = training
        self.validation = validation
        self.feedback = feedback if method.uses_validation(method.config) else None
        self.config = config
        self.around = around
        self.collective = FabricCollective(fabric)
        self.log = Log()
        self.last_state: dict[str, Tensor] | None = None
        self._best: Best | None = None
        self._pending: State | None = None
        self._saved_at = self._clock = time.monotonic()

    def fit(self, resume: State | None = None) -> None:
        """Run all stages; afterwards the method holds the reported weights."""
        stages = self.method.stages()
        _check_stages(self.method, stages)
        first = 0
        if resume is not None:
            self._pending, self.log, first = resume, log_of(resume), resume["stage"]
            for stage in stages[:first]:
                self.method.on_stage_start(stage, self.training)
        for number in range(first, len(stages)):
            if number > first and self.fabric.is_global_zero:
                self.around.before_stage(stages[number].name)
            self._run_stage(number, stages[number], is_last=number == len(stages) - 1)

    def predict(self, renderer: Renderer) -> Predictions:
        """Predictions of a part of the data, the same on every device."""
        self.collective.sync_buffers(self.method)
        return evaluator.predict(
            self.method,
            renderer,
            batch_size=self.config.eval_batch_size,
            collective=self.collective,
            autocast=self.fabric.autocast,
        )

    def _run_stage(self, number: int, stage: Stage, *, is_last: bool) -> None:
        run = build_stage(
            number,
            stage,
            self.method,
            self.training,
            self.config,
            fabric=self.fabric,
            collective=self.collective,
        )
        self._best = None
        first_epoch = first_step = 0
        if self._pending is not None:
            first_epoch, first_step = self._pending["epoch"], self._pending["step"]
            if first_step == 0:
                self._put_back(run, None)
        for epoch in range(first_epoch, stage.epochs):
            self._run_epoch(run, epoch, first_step if epoch == first_epoch else 0)
        self._end_stage(run, is_last)

    def _run_epoch(self, run: StageRun, epoch: int, first_step: int) -> None:
        name, epochs, steps = run.stage.name, run.stage.epochs, run.feed.num_batches
        self.method.train()
        learning_rates = [o.set_epoch(epoch, epochs) for o in run.optimizers]
        self.method.on_epoch_start(Progress(name, epoch, epochs, 0, steps), self.training)
        for scheduled in run.optimizers:
            scheduled.optimizer.zero_grad(set_to_none=True)
        watch = LossWatch(self.fabric.device)
        if first_step:
            self._put_back(run, watch)
        self._tick(training=False)
        progress = Progress(name, epoch, epochs, first_step, steps)
        for step in range(first_step, steps):
            progress = progress._replace(step=step)
            self._train_step(run, progress, watch)
            self._between_steps(run, progress, watch)
        for scheduled in run.optimizers:
            if scheduled.every == "epoch":
                scheduled.step(self.config.optimizer.clip_norm)
        self._check_finite(run, progress, watch)
        self._tick(training=True)
        self._close_epoch(run, progress, watch, learning_rates)

    def _train_step(self, run: StageRun, progress: Progress, watch: LossWatch) -> None:
        totals = self.log.totals
        counter = None
        if run.stage.name not in totals.forward_passes_per_step:
            counter = StemCounter(self.method)
        batch = run.feed.batch(progress.epoch, progress.step)
        outputs = run.engine.run(self.method, batch, progress)
        watch.add(outputs, progress.step)
        totals.steps += 1
        totals.images += batch.targets.shape[0] * self.collective.world_size
        if counter is not None:
            counter.remove()
            images = counter.images * self.collective.world_size
            totals.forward_passes_per_step[run.stage.name] = counter.passes
            totals.forward_images_per_step[run.stage.name] = images

    def _between_steps(self, run: StageRun, progress: Progress, watch: LossWatch) -> None:
        """Save and stop where it is time to; the last step's turn comes at the epoch's end."""
        step = progress.step + 1
        if step == progress.steps:
            return
        if step % _CHECK_EVERY == 0:
            self._check_finite(run, progress, watch)
        if self.collective.world_size > 1 and step % _AGREE_EVERY:
            return
        stop = self.around.stop_signal()
        if self.collective.any(self._save_is_due() or stop is not None):
            self._check_finite(run, progress, watch)
            self._tick(training=True)
            self._save(run, progress.epoch, step, watch)
            self._stop_if_asked(stop, run, progress.epoch, step)
            self._tick(training=False)

    def _close_epoch(
        self, run: StageRun, progress: Progress, watch: LossWatch, learning_rates: list[float]
    ) -> None:
        summary, report = self._validate(run.stage)
        if summary is not None:
            # Before the hook, which may change weights: what is kept is what was validated.
            self._select(run.stage, progress.epoch, summary)
        self.method.on_epoch_end(progress, report)
        self._tick(training=False)
        row = {
            "stage": progress.stage,
            "epoch": progress.epoch,
            "epochs": progress.epochs,
            "learning_rates": learning_rates,
            "train": _averaged(self.collective.gather_object(watch.means())),
            "val": summary,
            "train_time_s": round(self.log.totals.train_time_s, 3),
            "wall_time_s": round(self.log.totals.wall_time_s, 3),
        }
        self.log.num_rows += 1
        if self.fabric.is_global_zero:
            self.around.on_epoch(row)
        next_epoch = progress.epoch + 1
        stop = self.around.stop_signal()
        due = self._save_is_due() or next_epoch == progress.epochs or stop is not None
        if self.collective.any(due):
            self._save(run, next_epoch, 0, None)
        self._stop_if_asked(stop, run, next_epoch, 0)

    def _end_stage(self, run: StageRun, is_last: bool) -> None:
        best = self._best if is_last or run.stage.carry == "best" else None
        if best is not None:
            if is_last:
                self.last_state = _copy_to_cpu(self.method)
            self.method.load_state_dict(best.state)
        self.log.selected.append(
            {
                "stage": run.stage.name,
                "epochs": run.stage.epochs,
                "steps_per_epoch": run.feed.num_batches,
                "epoch": run.stage.epochs - 1 if best is None else best.epoch,
                "value": None if best is None else best.value,
            }
        )

    def _validate(self, stage: Stage) -> tuple[dict[str, Any] | None, ClassReport | None]:
        """(validation summary, report for the method), each None where there is none."""
        validation = self.validation if stage.validate else None
        predictions = None if validation is None else self.predict(validation)
        summary = None if predictions is None else validation_summary(predictions)
        if self.feedback is None:
            return summary, None
        if self.feedback is not self.validation or predictions is None:
            predictions = self.predict(self.feedback)
        return summary, _report(predictions)

    def _select(self, stage: Stage, epoch: int, summary: Mapping[str, Any]) -> None:
        if not stage.select or self.config.select == "last":
            return
        value = selection_value(summary, self.config.select)
        if self._best is None or value >= self._best.value:
            self._best = Best(epoch, value, _copy_to_cpu(self.method))

    def _tick(self, *, training: bool) -> None:
        """Book the time since the last tick."""
        now = time.monotonic()
        self.log.totals.wall_time_s += now - self._clock
        if training:
            self.log.totals.train_time_s += now - self._clock
        self._clock = now

    def _save_is_due(self) -> bool:
        return time.monotonic() - self._saved_at >= self.config.machine.checkpoint_every_s

    def _save(self, run: StageRun, epoch: int, step: int, watch: LossWatch | None) -> None:
        mine = device_state(self.fabric.device, watch)
        devices = self.collective.gather_object(mine)
        if self.fabric.is_global_zero:
            self.around.still_mine()
            state = take(
                run, self.method, self.log, self._best, epoch=epoch, step=step, devices=devices
            )
            save_checkpoint(self.around.checkpoint, state)
        self._saved_at = time.monotonic()

    def _put_back(self, run: StageRun, watch: LossWatch | None) -> None:
        if self._pending is not None:
            rank = self.collective.rank
            self._best = put_back(self._pending, run, self.method, watch, rank=rank)
            self._pending = None

    def _check_finite(self, run: StageRun, progress: Progress, watch: LossWatch) -> None:
        """Raise, before anything is saved, where the loss or what it made is not finite."""
        losses = [bad for bad in self.collective.gather_object(watch.first_bad()) if bad]
        found = self.collective.gather_object(_not_finite(self.method, run.optimizers))
        weights = [name for name in found if name]
        if not losses and not weights:
            return
        step, what = progress.step, f"The loss is finite, but {(*weights, '')[0]} is not: found"
        if losses:
            step, _, term = min(losses)
            what = f"The loss is not finite: term '{term}' first"
        kept = self.around.checkpoint
        raise DivergedError(
            f"{what} at stage '{run.stage.name}', epoch {progress.epoch} of {run.stage.epochs}, "
            f"step {step} of {run.feed.num_batches} (all counted from 0). The last good checkpoint "
            f"is kept: {kept if kept.exists() else 'none yet'}. Lower optimizer.lr, set "
            "optimizer.clip_norm, or use precision 32."
        )

    def _stop_if_asked(self, stop: int | None, run: StageRun, epoch: int, step: int) -> None:
        signals = [s for s in self.collective.gather_object(stop) if s is not None]
        if signals:
            raise InterruptedRunError(
                f"Stopped by signal {signals[0]} at stage '{run.stage.name}', epoch {epoch}, step "
                f"{step}; everything up to here is saved in {self.around.checkpoint}. Run the same "
                "command again to go on from there.",
                signals[0],
            )


def _check_stages(method: Method, stages: Sequence[Stage]) -> None:
    names = [stage.name for stage in stages]
    if not names or len(set(names)) < len(names):
        raise UsageError(
            f"{type(method).__name__}.stages(): expected one stage or more, each with a name of "
            f"its own; got {names}."
        )
    blind = [s.name for s in stages if s.carry == "best" and not (s.validate and s.select)]
    if blind:
        raise UsageError(
            f"{type(method).__name__}.stages(): stage '{blind[0]}' hands on its best weights "
            "(carry='best'), which only a stage with validate and select can know."
        )


def _not_finite(method: Method, optimizers: Sequence[ScheduledOptimizer]) -> str | None:
    """A parameter, or gradient gathered over the epoch, that is not finite. Synchronises."""
    held: dict[str, Tensor] = {f"parameter '{name}'": p for name, p in method.named_parameters()}
    for name, gradient in gathered_gradients(method, optimizers).items():
        held[f"the gradient of '{name}'"] = gradient
    if not held:
        return None
    bad = torch.stack([~torch.isfinite(value).all() for value in held.values()])
    return next((name for name, is_bad in zip(held, bad.tolist(), strict=True) if is_bad), None)


def _averaged(devices: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Means over the devices; terms are the same on all."""
    return {name: sum(one[name] for one in devices) / len(devices) for name in devices[0]}


def _copy_to_cpu(method: Method) -> dict[str, Tensor]:
    return {name: value.detach().cpu().clone() for name, value in method.state_dict().items()}


def _report(predictions: Predictions) -> ClassReport:
    predicted = evaluator.predicted_classes(predictions.logits)
    scores = class_report(predictions.targets, predicted, len(predictions.class_names))
    columns = (scores.precision, scores.recall, scores.f1, scores.support)
    return ClassReport(*(torch.as_tensor(np.asarray(c), dtype=torch.float64) for c in columns))
