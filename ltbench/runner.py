"""Runs one cell: claim it, train, select, open the test split once, write the record last."""

from __future__ import annotations

import datetime
import json
import multiprocessing
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from lightning_fabric import Fabric
from torch import nn

from ltbench import claims, provenance
from ltbench.api import add_plugins
from ltbench.cell import Cell, prepare
from ltbench.config import Request, RunConfig, changes, rebuild, resolve
from ltbench.data.feed import Part, Renderer, TrainingSet
from ltbench.errors import InterruptedRunError, LtbenchError, RunFailedError
from ltbench.files import sha256_hex
from ltbench.method import Method
from ltbench.metrics import evaluate
from ltbench.models import state_digest
from ltbench.predictions import Predictions
from ltbench.results import RunFolder, predictions_digest
from ltbench.trainer import Surroundings, Trainer
from ltbench.training.checkpoint import load_checkpoint
from ltbench.training.devices import FabricCollective, make_fabric, settle
from ltbench.training.ledger import peak_memory_mb
from ltbench.training.signals import SignalGuard

CHECKPOINT = "checkpoint.pt"
LAST_WEIGHTS = "last.pt"
BEST_WEIGHTS = "best.pt"


@dataclass(frozen=True)
class Place:
    """Where results go and data lie, and how a run is watched.

    Attributes:
        plugins: plugin files the user named; worker processes load them too.
        on_start: called with the cell and its folder before training.
        on_epoch: called with the row of each finished epoch.
        on_wait: called with a text when another process runs this cell.
        stop_signal: asked after each step; a signal's number saves and stops the run. By default
            SIGTERM and SIGINT are caught.
        command: the command that repeats the run, stored in its record.
    """

    results: Path
    data_root: Path | None = None
    resume: Literal["auto", "never"] = "auto"
    plugins: tuple[Path, ...] = ()
    on_start: Callable[[Cell, RunFolder, bool], None] | None = None
    on_epoch: Callable[[Mapping[str, Any]], None] | None = None
    on_wait: Callable[[str], None] | None = None
    stop_signal: Callable[[], int | None] | None = None
    command: str = ""


@dataclass(frozen=True)
class Outcome:
    """What came of a cell: `status` is "ran" or "already done"."""

    folder: RunFolder
    record: dict[str, Any]
    status: str


@dataclass
class Context:
    """What a run says of itself beside its numbers; made once, before training."""

    label: str
    command: str
    started_at: str = field(default_factory=lambda: _now())


def run(request: Request, place: Place) -> Outcome:
    """Run one cell, or say that it is done already."""
    config = resolve(request)
    settle(config)
    cell = prepare(
        config, results=place.results, data_root=place.data_root, asked=asked_settings(request)
    )
    folder = folder_of(cell, place.results)
    if folder.is_done():
        return Outcome(folder, folder.record(), "already done")
    folder.create()
    claim = claims.acquire(folder.path, wait=True, on_wait=place.on_wait, done=folder.is_done)
    if claim is None:
        return Outcome(folder, folder.record(), "already done")
    with claim:
        if folder.is_done():
            return Outcome(folder, folder.record(), "already done")
        context = Context(label=_label(request, cell.config), command=place.command)
        if place.on_start is not None:
            place.on_start(cell, folder, (folder.path / CHECKPOINT).exists())
        if cell.config.machine.devices == 1:
            with SignalGuard() as guard:
                _run_here(make_fabric(cell.config), cell, folder, place, context, guard, claim.check)
        else:
            _run_on_several(cell, folder, place, context)
        return Outcome(folder, folder.record(), "ran")


def asked_settings(request: Request) -> list[str]:
    """Dotted names of the settings a user gave."""
    return [text.partition("=")[0] for text in changes(request)]


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
    """The method with the seed's initial weights, the same on every device."""
    collective = FabricCollective(fabric)
    torch.manual_seed(_mixed(cell.config.seed, "initialisation"))
    method = cell.method_class(cell.config.method, cell.task(collective))
    if cell.config.sync_batchnorm:
        method = nn.SyncBatchNorm.convert_sync_batchnorm(method)
    if cell.config.compile:
        method.backbone.compile()
    # From here on devices draw their own numbers (dropout).
    torch.manual_seed(_mixed(cell.config.seed, f"device {collective.rank}"))
    return method


def _run_here(
    fabric: Fabric,
    cell: Cell,
    folder: RunFolder,
    place: Place,
    context: Context,
    guard: SignalGuard,
    still_mine: Callable[[], None],
) -> None:
    """Train and finish in this process, which may be one of several devices'."""
    started = time.monotonic()
    resume = _resume_state(folder, place.resume)
    if fabric.is_global_zero:
        folder.write_config(cell.config.model_dump(mode="json"))
        folder.truncate_epochs(resume["num_rows"] if resume else 0)

    def on_epoch(row: Mapping[str, Any]) -> None:
        still_mine()
        folder.append_epoch(row)
        if place.on_epoch is not None:
            place.on_epoch(row)

    method = fabric.to_device(build_method(cell, fabric))
    views, (mean, std) = cell.views(), cell.input_statistics()

    def renderer(part: Part) -> Renderer:
        return Renderer(
            part,
            views,
            mean=mean,
            std=std,
            device=fabric.device,
            channels_last=cell.config.channels_last,
            seed=cell.config.seed,
        )

    validation = None if cell.validation is None else renderer(cell.validation)
    feedback = None if cell.feedback is None else renderer(cell.feedback)
    if cell.feedback is not None and cell.config.feedback_split == "validation":
        feedback = validation
    trainer = Trainer(
        fabric,
        method,
        TrainingSet(renderer(cell.training), cell.config.eval_batch_size),
        validation,
        feedback,
        cell.config,
        Surroundings(
            folder.path / CHECKPOINT, on_epoch, place.stop_signal or (lambda: guard.received)
        ),
    )
    trainer.fit(resume)
    _finish(trainer, cell, folder, context, renderer, validation, still_mine, started)


def _finish(
    trainer: Trainer,
    cell: Cell,
    folder: RunFolder,
    context: Context,
    renderer: Callable[[Part], Renderer],
    validation: Renderer | None,
    still_mine: Callable[[], None],
    started: float,
) -> None:
    """Last word of the method, validation again, then the test split for the first time."""
    method = trainer.method
    method.on_fit_end(None if validation is None else trainer.predict(validation))
    val = None if validation is None else trainer.predict(validation)
    test = trainer.predict(renderer(Part.of(cell.source, cell.split.test)))
    if not trainer.fabric.is_global_zero:
        return
    still_mine()
    state = {name: value.cpu() for name, value in method.state_dict().items()}
    provenance.save_weights(folder.path / BEST_WEIGHTS, state)
    provenance.save_weights(folder.path / LAST_WEIGHTS, trainer.last_state or state)
    folder.write_predictions({"val": val, "test": test})
    record = make_record(trainer, cell, folder, context, val, test, state_digest(state))
    record["ledger"]["session_time_s"] = round(time.monotonic() - started, 3)
    folder.write_record(record)
    (folder.path / CHECKPOINT).unlink(missing_ok=True)


def make_record(
    trainer: Trainer,
    cell: Cell,
    folder: RunFolder,
    context: Context,
    val: Predictions | None,
    test: Predictions,
    weights_digest: str,
) -> dict[str, Any]:
    """Everything a table needs, and everything needed to trace and repeat the number."""
    config, counts = cell.config, cell.training.class_counts
    parts = {"val": val, "test": test}
    digests = {
        name: predictions_digest(part) for name, part in parts.items() if part is not None
    }
    digests["weights"] = weights_digest
    return {
        "name": folder.name,
        "label": context.label,
        "method": config.method_name,
        "preset": config.preset,
        "dataset": config.dataset_name,
        "protocol": config.protocol,
        "protocol_notes": dict(cell.split.notes),
        "groups_note": cell.source.groups_note,
        "recipe": config.recipe,
        "key": cell.key,
        "key_parts": cell.key_parts,
        "seed": config.seed,
        "split_seed": config.split_seed,
        "split_digest": cell.split_digest,
        "class_names": list(cell.source.class_names),
        "train_counts": list(counts),
        "feedback_counts": None if cell.feedback is None else list(cell.feedback.class_counts),
        "select": config.select,
        "selected": trainer.log.selected,
        "uses_validation": cell.uses_validation and config.feedback_split == "validation",
        "feedback_split": config.feedback_split if cell.uses_validation else None,
        "precision": cell.key_parts["precision"],
        "device": provenance.device_name(trainer.fabric.device),
        "num_devices": config.machine.devices,
        "threads": cell.key_parts["threads"],
        "weights": {"name": config.weights, "digest": cell.factory.weights_digest},
        "metrics": {
            name: None if part is None else evaluate(part, counts) for name, part in parts.items()
        },
        "ledger": _ledger(trainer),
        "digests": digests,
        "digest": sha256_hex("".join(digests[k] for k in sorted(digests)).encode()),
        "versions": provenance.versions(),
        "git": provenance.git_state(),
        "command": context.command,
        "started_at": context.started_at,
        "finished_at": _now(),
    }


def _ledger(trainer: Trainer) -> dict[str, Any]:
    totals = trainer.log.totals
    return {
        "num_parameters": sum(p.numel() for p in trainer.method.parameters()),
        "steps": totals.steps,
        "images_seen": totals.images,
        "forward_passes_per_step": totals.forward_passes_per_step,
        "forward_images_per_step": totals.forward_images_per_step,
        "train_time_s": round(totals.train_time_s, 3),
        "wall_time_s": round(totals.wall_time_s, 3),
        "images_per_s": round(totals.images / max(totals.train_time_s, 1e-9), 1),
        "peak_memory_mb": round(peak_memory_mb(trainer.fabric.device), 1),
        "pretraining": trainer.config.weights,
    }


def _resume_state(folder: RunFolder, resume: str) -> dict[str, Any] | None:
    path = folder.path / CHECKPOINT
    if resume == "never" or not path.exists():
        return None
    return load_checkpoint(path)


def _label(request: Request, config: RunConfig) -> str:
    changed = [text for text in changes(request) if text.startswith(("method.", "sampler"))]
    return " ".join([config.method_label, *changed])


def _mixed(seed: int, purpose: str) -> int:
    """A seed for torch's generator, which keeps 32 bits only: all 63 bits of ours take part."""
    return int(sha256_hex(f"{seed} {purpose}".encode())[:8], 16)


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


# -- several devices ----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Job:
    """What a worker process needs to build the same cell; picklable."""

    config: dict[str, Any]
    place: Place
    folder: RunFolder
    context: Context
    errors: Path


def _run_on_several(cell: Cell, folder: RunFolder, place: Place, context: Context) -> None:
    """One process a device; this one waits, passes signals on, and reads their errors."""
    quiet = Place(
        results=place.results,
        data_root=place.data_root,
        resume=place.resume,
        plugins=place.plugins,
    )
    with tempfile.TemporaryDirectory(prefix="ltbench-") as errors, _signals_to_children():
        job = _Job(cell.config.model_dump(mode="json"), quiet, folder, context, Path(errors))
        fabric = make_fabric(cell.config)
        try:
            fabric.launch(_worker, job)
        except (torch.multiprocessing.ProcessRaisedException, torch.multiprocessing.ProcessExitedException) as error:
            raise _workers_error(Path(errors), error) from error


def _worker(fabric: Fabric, job: _Job) -> None:
    """One device's process."""
    add_plugins(job.place.plugins)
    config = rebuild(job.config)
    settle(config)
    try:
        with SignalGuard() as guard:
            cell = prepare(config, results=job.place.results, data_root=job.place.data_root)
            _run_here(fabric, cell, job.folder, job.place, job.context, guard, lambda: None)
    except LtbenchError as error:
        told = {"message": str(error), "kind": type(error).__name__, "exit_code": error.exit_code}
        (job.errors / f"{fabric.global_rank}.json").write_text(json.dumps(told), encoding="utf-8")
        raise


def _workers_error(folder: Path, error: Exception) -> LtbenchError:
    told = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("*.json"))]
    if not told:
        return RunFailedError(f"A worker process failed: {str(error).strip().splitlines()[-1]}")
    first = told[0]
    if first["kind"] == InterruptedRunError.__name__:
        return InterruptedRunError(first["message"], first["exit_code"] - 128)
    found = LtbenchError(first["message"])
    found.exit_code = first["exit_code"]
    return found


@contextmanager
def _signals_to_children() -> Iterator[None]:
    """Pass SIGTERM and SIGINT on to the workers, which save; this process waits for them."""

    def forward(number: int, _frame: object) -> None:
        for child in multiprocessing.active_children():
            if child.pid is not None:
                os.kill(child.pid, number)

    previous = {n: signal.signal(n, forward) for n in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
