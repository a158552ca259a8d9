"""Runs one cell: claim it, train, select, open the test split once, write the record last."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from lightning_fabric import Fabric
from torch import nn

from ltbench import claims, provenance, seen, stage_reuse
from ltbench.cell import Cell, Sources, prepare
from ltbench.config import Request, asked, rebuild, resolve, tuned_settings
from ltbench.data.feed import Part, Renderer, TrainingSet
from ltbench.errors import InterruptedRunError, RunFailedError
from ltbench.files import sha256_hex
from ltbench.labels import row_label
from ltbench.method import Method
from ltbench.models import state_digest
from ltbench.predictions import Predictions
from ltbench.record import Context, make_record
from ltbench.registry import add_plugins
from ltbench.results import BEST_WEIGHTS, RunFolder
from ltbench.stage_reuse import StageKeeper
from ltbench.trainer import Surroundings, Trainer
from ltbench.training.checkpoint import CHECKPOINT, load_checkpoint
from ltbench.training.devices import (
    FabricCollective,
    check_devices,
    make_fabric,
    resolved_workers,
    settle,
)
from ltbench.training.signals import SignalGuard
from ltbench.training.snapshot import State
from ltbench.views.making import make_pictures
from ltbench.workers import on_devices

SET_ASIDE = "checkpoint.pt.set-aside"
LAST_WEIGHTS = "last.pt"


@dataclass(frozen=True)
class Place:
    """Where results go and data lie, and how a run is watched.

    Attributes:
        plugins: plugin files the user named; worker processes load them too.
        on_start: called before training with the cell, its folder, and what it goes on from in
            words ("" for a run that begins with its first step).
        on_epoch: called with the row of each finished epoch.
        on_wait: called with a text when another process runs this cell.
        stop_signal: asked after each step; a signal's number saves and stops the run. By default
            SIGINT, SIGTERM, SIGUSR1 and SIGUSR2 are caught.
        command: the command that repeats the run, stored in its record.
        sources: keeps the data of one cell for the next.
    """

    results: Path
    data_root: Path | None = None
    resume: Literal["auto", "never"] = "auto"
    plugins: tuple[Path, ...] = ()
    on_start: Callable[[Cell, RunFolder, str], None] | None = None
    on_epoch: Callable[[Mapping[str, Any]], None] | None = None
    on_wait: Callable[[str], None] | None = None
    stop_signal: Callable[[], int | None] | None = None
    command: str = ""
    sources: Sources = field(default_factory=Sources)


@dataclass(frozen=True)
class Outcome:
    """What came of a cell: `status` is "ran" or "already done"."""

    folder: RunFolder
    record: dict[str, Any]
    status: str


def run(request: Request, place: Place) -> Outcome:
    """Run one cell, or say that it is done already."""
    config = resolve(request)
    settle(config)
    cell = prepare(
        config,
        results=place.results,
        data_root=place.data_root,
        asked=asked(request),
        sources=place.sources,
    )
    folder = folder_of(cell, place.results)
    if folder.is_done():
        return Outcome(folder, folder.record(), "already done")
    context = Context(row_label(request, cell.config), place.command, _tuning(request))
    claim = claims.acquire(folder.path, wait=True, on_wait=place.on_wait, done=folder.is_done)
    if claim is None:
        return Outcome(folder, folder.record(), "already done")
    with claim:
        if folder.is_done():
            return Outcome(folder, folder.record(), "already done")
        folder.clear_leftovers()
        folder.create()
        folder.clear_failure()
        goes_on = beginning(cell, folder, place)
        if place.on_start is not None:
            place.on_start(cell, folder, goes_on)
        if cell.config.machine.devices == 1:
            run_on_device(make_fabric(cell.config), cell, folder, place, context, claim.check)
        else:
            quiet = Place(place.results, place.data_root, place.resume, place.plugins)
            stored = cell.config.model_dump(mode="json")
            work = partial(_run_on_one_of, stored, cell.key_parts, folder, quiet, context)
            work = partial(work, os.getpid(), claim.ticket)
            on_devices(cell.config, work, place.on_epoch or (lambda row: None))
        return Outcome(folder, folder.record(), "ran")


def check(request: Request, seeds: Sequence[int], place: Place) -> None:
    """Refuse what would be refused before training: for all cells of a grid, before the first.

    Of one configuration, seeds differ in the run that `init_from` names, without which one of them
    is prepared for all, and in whether settings were tuned with them.

    Raises:
        UsageError, DataMissingError, VerificationError: with what to do about it.
    """
    cells = [replace(request, settings={**request.settings, "seed": seed}) for seed in seeds]
    configs = [resolve(cell) for cell in cells]
    check_devices(configs[0].machine)
    for one, config in zip(cells, configs, strict=True):
        prepare(
            config,
            results=place.results,
            data_root=place.data_root,
            asked=asked(one),
            sources=place.sources,
        )
        if config.init_from is None:
            return


def beginning(cell: Cell, folder: RunFolder, place: Place) -> str:
    """See to the checkpoint that the run begins with, and say in words which."""
    if place.resume == "auto" and (folder.path / CHECKPOINT).exists():
        return "goes on from its checkpoint"
    stage_reuse.forget(folder)
    if place.resume == "never":
        return ""
    taken = stage_reuse.take_over(cell, folder, place.results)
    if taken is None:
        return ""
    return f"begins with stage '{taken['before']}': what comes before it, run {taken['run']} did"


def folder_of(cell: Cell, results: Path) -> RunFolder:
    """Where the cell's run belongs."""
    return RunFolder.at(
        results,
        dataset=cell.config.dataset_name,
        protocol=cell.config.protocol,
        method=cell.config.method_label,
        key=cell.key,
        seed=cell.config.seed,
    )


def build_method(cell: Cell, fabric: Fabric) -> Method:
    """The method with the initial weights of its seed, the same on every device."""
    collective = FabricCollective(fabric)
    torch.manual_seed(_mixed(cell.config.seeds.init, "initialisation"))
    method = cell.method_class(cell.config.method, cell.task(collective))
    if cell.start is not None:
        cell.start.load(method, cell.source.class_names)
    if cell.config.sync_batchnorm:
        method = nn.SyncBatchNorm.convert_sync_batchnorm(method)  # type: ignore[no-untyped-call]
    if cell.config.compile:
        method.backbone.compile()
    # From here on devices draw their own numbers (dropout).
    torch.manual_seed(_mixed(cell.config.seeds.loader, f"device {collective.rank}"))
    return method


def run_on_device(
    fabric: Fabric,
    cell: Cell,
    folder: RunFolder,
    place: Place,
    context: Context,
    still_mine: Callable[[], None],
) -> Method:
    """Train and finish in this process, which may be one of several devices'.

    Args:
        still_mine: raises where another process has taken the cell over.

    Returns:
        The method, holding the reported weights.
    """
    several = fabric.world_size > 1
    with SignalGuard(patient=several) as guard:
        started = time.monotonic()
        stop_signal = place.stop_signal or (lambda: guard.received)
        trainer, val = fit(fabric, cell, folder, place, stop_signal, still_mine)
        _finish(trainer, val, cell, folder, context, still_mine, started)
        fabric.barrier()
    if guard.received is not None and not several:
        raise InterruptedRunError(
            f"Stopped by signal {guard.received}; by then this run was complete, and its record is "
            f"in {folder.path}.",
            guard.received,
        )
    return trainer.method


def fit(
    fabric: Fabric,
    cell: Cell,
    folder: RunFolder,
    place: Place,
    stop_signal: Callable[[], int | None],
    still_mine: Callable[[], None],
) -> tuple[Trainer, Predictions | None]:
    """All of a run that comes before its test part, and all of a trial: train, select, validate.

    Returns:
        The trainer, whose method holds the reported weights, and their predictions of validation.
    """
    renderer = _renderer(cell, fabric)
    trainer, resume = _trainer(fabric, cell, folder, place, renderer, stop_signal, still_mine)
    try:
        trainer.fit(resume)
    finally:
        trainer.training.renderer.close()
    validation, feedback = trainer.validation, trainer.feedback
    trainer.method.on_fit_end(None if feedback is None else trainer.predict(feedback))
    return trainer, None if validation is None else trainer.predict(validation)


def _run_on_one_of(
    stored: dict[str, Any],
    key_parts: Mapping[str, Any],
    folder: RunFolder,
    place: Place,
    context: Context,
    parent: int,
    ticket: claims.Ticket,
    fabric: Fabric,
    tell: Callable[[Mapping[str, Any]], None],
) -> None:
    """One device's process: build the same cell again and run it, telling each epoch's row."""
    add_plugins(place.plugins)
    config = rebuild(stored)
    settle(config)
    cell = prepare(config, results=place.results, data_root=place.data_root)
    changed = [name for name, value in key_parts.items() if cell.key_parts[name] != value]
    if changed:
        raise RunFailedError(
            f"{', '.join(changed)} changed while the run started: a plugin or the data were edited "
            "at this moment. Run the same command again."
        )
    place = replace(place, on_epoch=tell)
    run_on_device(fabric, cell, folder, place, context, partial(_still_ours, parent, ticket))


def _still_ours(parent: int, ticket: claims.Ticket) -> None:
    """The claim is the parent's: without it another process may be at work in the folder."""
    claims.check(ticket)
    if os.getppid() != parent:
        raise RunFailedError(
            "The process that started this worker is gone, and with it the claim on the run's "
            "folder. What was saved is kept; run the same command again to go on."
        )


def _trainer(
    fabric: Fabric,
    cell: Cell,
    folder: RunFolder,
    place: Place,
    renderer: Callable[..., Renderer],
    stop_signal: Callable[[], int | None],
    still_mine: Callable[[], None],
) -> tuple[Trainer, State | None]:
    """The trainer, and what it goes on from."""
    resume = _resume_state(folder, place.resume, fabric.is_global_zero)
    if fabric.is_global_zero:
        folder.write_config(cell.config.model_dump(mode="json"))
        folder.truncate_epochs(resume["num_rows"] if resume else 0)

    tell = place.on_epoch  # and not `place`, which leads to the test's pictures

    def on_epoch(row: Mapping[str, Any]) -> None:
        still_mine()
        folder.append_epoch(row)
        if tell is not None:
            tell(row)

    method = build_method(cell, fabric)
    fabric.to_device(method)
    validation = None if cell.validation is None else renderer(cell.validation)
    feedback = validation if cell.config.feedback_split == "validation" else None
    if cell.feedback is not None and cell.config.feedback_split == "inner":
        feedback = renderer(cell.feedback)
    around = Surroundings(
        folder.path / CHECKPOINT,
        on_epoch,
        stop_signal,
        still_mine,
        before_stage=StageKeeper.of(cell, folder, place.results).keep,
    )
    training = _training_set(cell, fabric, renderer)
    return Trainer(fabric, method, training, validation, feedback, cell.config, around), resume


def _training_set(cell: Cell, fabric: Fabric, renderer: Callable[..., Renderer]) -> TrainingSet:
    """The training part; its views alone are worth processes of their own."""
    workers = resolved_workers(cell.config.machine)
    making = partial(make_pictures, cell.render, fabric.device, workers)
    return TrainingSet(renderer(cell.training, make_pictures=making), cell.config.eval_batch_size)


def _renderer(cell: Cell, fabric: Fabric) -> Callable[..., Renderer]:
    """Makes the pictures of one part, on the run's device or for it."""
    mean, std = cell.input_statistics
    return partial(
        Renderer,
        views=cell.views(),
        mean=mean,
        std=std,
        device=fabric.device,
        channels_last=cell.config.channels_last,
        seed=cell.config.seeds.loader,
        make_pictures=partial(make_pictures, cell.render, fabric.device, 0),
    )


def _finish(
    trainer: Trainer,
    val: Predictions | None,
    cell: Cell,
    folder: RunFolder,
    context: Context,
    still_mine: Callable[[], None],
    started: float,
) -> None:
    """The test part, made and predicted for the first time, and the record."""
    method = trainer.method
    render = _renderer(cell, trainer.fabric)
    test = trainer.predict(render(Part.of(cell.source, cell.split.test)))
    if not trainer.fabric.is_global_zero:
        return
    still_mine()
    state = {name: value.cpu() for name, value in method.state_dict().items()}
    provenance.save_weights(folder.path / BEST_WEIGHTS, state)
    provenance.save_weights(folder.path / LAST_WEIGHTS, trainer.last_state or state)
    folder.write_predictions({"val": val, "test": test})
    seen.write_seen(folder.path / seen.FILE, cell.source, cell.split)
    record = make_record(trainer, cell, folder, context, val, test, state_digest(state))
    record["ledger"]["session_time_s"] = round(time.monotonic() - started, 3)
    folder.write_record(record)
    for name in (CHECKPOINT, SET_ASIDE):
        (folder.path / name).unlink(missing_ok=True)


def _resume_state(folder: RunFolder, resume: str, is_global_zero: bool) -> State | None:
    path = folder.path / CHECKPOINT
    if resume == "auto" and path.exists():
        return load_checkpoint(path)
    if is_global_zero and path.exists():
        # Else the next run would go on from what this one was told not to use.
        os.replace(path, folder.path / SET_ASIDE)
    return None


def _tuning(request: Request) -> dict[str, Any] | None:
    """Where tuned settings come from."""
    tuned = tuned_settings(request)
    return None if tuned is None else tuned.tuning


def _mixed(seed: int, purpose: str) -> int:
    """A seed for torch's generator, which keeps 32 bits only: all 63 bits of ours take part."""
    return int(sha256_hex(f"{seed} {purpose}".encode())[:8], 16)
