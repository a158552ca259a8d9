"""The record of a run: what a table needs, and what tracing and repeating a number needs."""

from __future__ import annotations

import datetime
from dataclasses import dataclass, field
from typing import Any

from ltbench import provenance
from ltbench.cell import Cell
from ltbench.data.feed import Part
from ltbench.dataset import Dataset
from ltbench.files import sha256_hex
from ltbench.metrics import evaluate
from ltbench.predictions import Predictions
from ltbench.registry import DATASETS
from ltbench.results import RunFolder
from ltbench.stage_reuse import taken_over
from ltbench.stored_predictions import predictions_digest
from ltbench.trainer import Trainer
from ltbench.training.devices import has_batchnorm
from ltbench.training.ledger import peak_memory_mb


@dataclass
class Context:
    """What a run says of itself beside its numbers; made once, before training.

    Attributes:
        tuning: where tuned settings come from, as their file says.
    """

    label: str
    command: str
    tuning: dict[str, Any] | None = None
    started_at: str = field(default_factory=lambda: now())


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
    # Of the whole training split, also where a part of it was carved for feedback: head, medium and
    # tail are the same classes for every row of a table.
    counts = Part.of(cell.source, cell.split.train).class_counts
    config = cell.config
    parts = {"val": val, "test": test}
    digests = {name: predictions_digest(part) for name, part in parts.items() if part is not None}
    digests["weights"] = weights_digest
    return {
        "name": folder.name,
        "label": context.label,
        **_cell_facts(cell),
        "tuning": context.tuning,
        "select": config.select,
        "selected": trainer.log.selected,
        **_machine(trainer, cell),
        "input": _input(cell),
        "overlaps": [overlap.as_fact() for overlap in cell.overlaps],
        **_beginning(trainer, cell, folder),
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
        "finished_at": now(),
    }


def _cell_facts(cell: Cell) -> dict[str, Any]:
    """What was run on what, known before training."""
    config = cell.config
    return {
        "method": config.method_name,
        "preset": config.preset,
        "dataset": config.dataset_name,
        "protocol": config.protocol,
        "protocol_notes": dict(cell.split.notes),
        "groups_note": cell.source.groups_note,
        "group_noun": cell.source.group_noun,
        "data_notes": dict(cell.source.notes),
        "leak": None if cell.leak is None else cell.leak.as_note(),
        "recipe": config.recipe,
        "key": cell.key,
        "key_parts": cell.key_parts,
        "seed": config.seed,
        "seeds": config.seeds._asdict(),
        "split_seed": config.split_seed,
        "split_digest": cell.split_digest,
        "class_names": list(cell.source.class_names),
        "class_groups": _class_groups(cell),
        "train_counts": list(cell.training.class_counts),
        "feedback_counts": None if cell.feedback is None else list(cell.feedback.class_counts),
        "uses_validation": cell.uses_validation and config.feedback_split == "validation",
        "feedback_split": config.feedback_split if cell.uses_validation else None,
    }


def _class_groups(cell: Cell) -> dict[str, list[str]]:
    """What the data set says of its classes, as far as this protocol has them."""
    dataset: Dataset = DATASETS[cell.config.dataset_name](cell.config.dataset)
    present = {
        group: [name for name in names if name in cell.source.class_names]
        for group, names in dataset.class_groups().items()
    }
    return {group: names for group, names in present.items() if names}


def _machine(trainer: Trainer, cell: Cell) -> dict[str, Any]:
    """Where it ran, and where its views were made."""
    return {
        "precision": cell.key_parts["precision"],
        "device": provenance.device_name(trainer.fabric.device),
        "num_devices": cell.config.machine.devices,
        "batchnorm": cell.batchnorm if has_batchnorm(trainer.method) else "none",
        "threads": cell.key_parts["threads"],
        "render": cell.render,
    }


def _input(cell: Cell) -> dict[str, Any]:
    """What the trained method needs to be told again, to predict for other pictures."""
    mean, std = cell.input_statistics
    task = cell.task()
    return {
        "shape": list(task.input_shape),
        "mean": list(mean),
        "std": list(std),
        "steps_per_epoch": task.steps_per_epoch,
    }


def _beginning(trainer: Trainer, cell: Cell, folder: RunFolder) -> dict[str, Any]:
    """What training began with: pre-trained weights, another run's weights or first stages."""
    start, source = cell.start, cell.start.record if cell.start else {}
    return {
        "weights": {"name": cell.config.weights, "digest": cell.factory.weights_digest},
        "taken_over": taken_over(folder),
        "init_from": None
        if start is None
        else {
            "run": start.folder.name,
            **{fact: source[fact] for fact in ("label", "dataset", "protocol", "split_digest")},
            "digest": start.digest,
            "parameters": start.shared(trainer.method, cell.source.class_names),
        },
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


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
