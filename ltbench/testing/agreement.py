"""Whether two devices train as one: the same runs on both, watched step by step and compared.

Batch statistics are the one thing in which devices may differ, so every BatchNorm, the backbone's
and those of a method's own layers, is replaced by a GroupNorm before training. Dropout is left out:
each device draws its own. So that rounding stays small, ReLU becomes SiLU, because at its kink
rounding would decide, and convolutions are plain sums: faster algorithms round more, and otherwise
for a batch of another size.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ltbench import runner, trainer
from ltbench.cell import prepare
from ltbench.config import resolve
from ltbench.method import Batch, Method, Outputs, Progress
from ltbench.metrics import class_report
from ltbench.models import state_digest
from ltbench.record import Context
from ltbench.registry import add_plugins
from ltbench.runner import Place, folder_of, run_on_device
from ltbench.testing.tiny import TOY_BLOBS, tiny_request
from ltbench.training.devices import make_fabric, settle
from ltbench.training.engine import StepEngine
from ltbench.training.worker import Tell
from ltbench.workers import on_devices

# A learning rate that leaves float32 weights as they are: every gradient of the run is then taken
# at the same weights, and rounding has nothing to grow in.
STILL: Mapping[str, Any] = {"optimizer.lr": 1e-30, "epochs": 3}
# 24 images: three steps an epoch, whose halves hold different numbers of each class.
_SMALL: Mapping[str, Any] = {
    "dataset.train_counts": (13, 6, 3, 2),
    "machine.keep_stages": False,
    "machine.checkpoint_every_s": 3600,
}
# A parameter whose gradient is smaller than this part of the whole is compared with the whole.
_NEGLIGIBLE = 1e-2
# Relative. float32 rounds to 6e-8, and the two sums of a gradient have different orders.
_GRADIENT, _GRADIENT_MOVED, _STATE, _TERMS = 1e-6, 1e-5, 1e-5, 1e-5


class Case(NamedTuple):
    """A run to compare: a method, or `method@preset`, with dotted settings."""

    method: str
    settings: Mapping[str, Any] = {}

    @property
    def name(self) -> str:
        """For people and file names."""
        return " ".join([self.method, *(f"{k}={v}" for k, v in self.settings.items())])


@dataclass
class Course:
    """What one device saw and did in a run.

    Attributes:
        pictures: for each step of each stream, (index in the training set, class, SHA-256 of each
            view) of every image.
        gradients: by (stage, epoch, step), of every parameter, before the optimizers step: at the
            first and the last step of each epoch.
        states: the state dict, by (stage, epoch), before the epoch's first step; "end" after all.
        digests: of the state dict after every step.
        reports: validation feedback, (4, C): precision, recall, F1, support.
        rows: what was told of each epoch.
    """

    pictures: list[dict[str, list[tuple[int, int, tuple[str, ...]]]]] = field(default_factory=list)
    gradients: dict[tuple[str, int, int], dict[str, Tensor]] = field(default_factory=dict)
    states: dict[tuple[str, int], dict[str, Tensor]] = field(default_factory=dict)
    digests: list[str] = field(default_factory=list)
    reports: list[Tensor] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Runs in here are noted."""
        run, step = StepEngine.run, StepEngine.step
        held: dict[str, Any] = {}

        def watched_run(engine: StepEngine, method: Method, batch: Batch, now: Progress) -> Outputs:
            held.update(method=method, now=now)
            if now.step == 0:
                self.states[now.stage, now.epoch] = _copy(method.state_dict())
            self.pictures.append(_pictures(batch))
            outputs = run(engine, method, batch, now)
            self.digests.append(state_digest(method.state_dict()))
            return outputs

        def watched_step(engine: StepEngine) -> None:
            method, now = held["method"], held["now"]
            if now.step in (0, now.steps - 1):
                found = {n: p.grad for n, p in method.named_parameters() if p.grad is not None}
                self.gradients[now.stage, now.epoch, now.step] = _copy(found)
            step(engine)

        def watched_report(*arguments: Any) -> Any:
            scores = class_report(*arguments)
            columns = (scores.precision, scores.recall, scores.f1, scores.support)
            self.reports.append(torch.as_tensor(np.array(columns, dtype=np.float64)))
            return scores

        with (
            patch.object(StepEngine, "run", watched_run),
            patch.object(StepEngine, "step", watched_step),
            patch.object(trainer, "class_report", watched_report),
            patch.object(runner, "build_method", _with_group_norm(runner.build_method)),
            patch.object(nn.functional, "dropout", _no_dropout),
            patch.object(nn.functional, "relu", _without_kink),
            _plain_convolutions(),
        ):
            yield


@contextmanager
def _plain_convolutions() -> Iterator[None]:
    flags: Any = torch.backends.mkldnn
    before, flags.enabled = flags.enabled, False
    try:
        with torch.backends.nnpack.flags(enabled=False):
            yield
    finally:
        flags.enabled = before


def _copy(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in tensors.items()}


def _pictures(batch: Batch) -> dict[str, list[tuple[int, int, tuple[str, ...]]]]:
    streams = {"": batch, **batch.also}
    return {
        name: [
            (int(index), int(target), tuple(_digest(view[i]) for view in one.views))
            for i, (index, target) in enumerate(zip(one.indices, one.targets, strict=True))
        ]
        for name, one in streams.items()
    }


def _digest(picture: Tensor) -> str:
    return hashlib.sha256(picture.contiguous().numpy().tobytes()).hexdigest()[:16]


def _with_group_norm(build: Callable[..., Method]) -> Callable[..., Method]:
    def built(*arguments: Any) -> Method:
        return without_batch_statistics(build(*arguments))

    return built


def without_batch_statistics(method: Method) -> Method:
    """The method with a GroupNorm, of 8 groups where they fit, for each BatchNorm."""
    made: dict[nn.Module, nn.Module] = {}  # a layer that has two names stays one
    for module in list(method.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, _BatchNorm):
                groups = 8 if child.num_features % 8 == 0 else 1
                norm = made.setdefault(child, nn.GroupNorm(groups, child.num_features))
                setattr(module, name, norm.requires_grad_(child.weight.requires_grad))
    return method


def _no_dropout(x: Tensor, *_: Any, **__: Any) -> Tensor:
    return x


def _without_kink(x: Tensor, *_: Any, **__: Any) -> Tensor:
    return nn.functional.silu(x)


def courses_on_two(
    cases: Sequence[Case], results: Path, *, plugins: Sequence[Path] = ()
) -> dict[str, tuple[Course, Course]]:
    """The course of each case on either of two devices; all in one launch of two processes."""
    add_plugins(plugins)
    settings = {**_SMALL, "machine.devices": 2}
    config = resolve(tiny_request(cases[0].method, settings))
    on_devices(config, partial(_in_worker, tuple(cases), results, tuple(plugins)))
    return {
        case.name: (_read(results, number, 0), _read(results, number, 1))
        for number, case in enumerate(cases)
    }


def _in_worker(
    cases: Sequence[Case],
    results: Path,
    plugins: tuple[Path, ...],
    fabric: Fabric,
    _tell: Tell,
) -> None:
    add_plugins((TOY_BLOBS, *plugins))
    for number, case in enumerate(cases):
        course = _course(case, results / f"two-{number}", fabric)
        torch.save(vars(course), results / f"{number}-{fabric.global_rank}.pt")


def _read(results: Path, number: int, rank: int) -> Course:
    return Course(**torch.load(results / f"{number}-{rank}.pt", weights_only=True))


def course_on_one(case: Case, results: Path, *, plugins: Sequence[Path] = ()) -> Course:
    """The course of the same case in this process alone."""
    add_plugins(plugins)
    return _course(case, results / f"one-{case.name.replace('/', '-')}"[:200], None)


def _course(case: Case, results: Path, fabric: Fabric | None) -> Course:
    number = 1 if fabric is None else fabric.world_size
    settings = {**_SMALL, **case.settings, "machine.devices": number}
    config = resolve(tiny_request(case.method, settings))
    settle(config)
    cell = prepare(config, results=results, data_root=None)
    course = Course()
    place = Place(results=results, on_epoch=lambda row: course.rows.append(dict(row)))
    folder = folder_of(cell, results)
    folder.create()
    context = Context(case.name, "")
    with course.watched():
        device = fabric or make_fabric(config)
        method = run_on_device(device, cell, folder, place, context, lambda: None)
    course.states["end", 0] = _copy(method.state_dict())
    return course


class Difference(NamedTuple):
    """The largest relative difference of one kind, and where it was found."""

    size: float
    where: str


def gradient_difference(one: Course, other: Course) -> Difference:
    """The largest ||g - g'|| / ||g|| over parameters and over all steps that were kept.

    The norm below is that of the parameter's own gradient, or a hundredth of the whole gradient's
    where that is larger.
    """
    found = [Difference(0.0, "nowhere")]
    for when, gradients in one.gradients.items():
        others = other.gradients[when]
        whole = torch.stack([g.double().norm() for g in gradients.values()]).norm()
        for name in gradients.keys() | others.keys():
            where = f"the gradient of {name} at (stage, epoch, step) {when}"
            if name not in gradients or name not in others:
                return Difference(math.inf, f"{where}, which only one of them has")
            error = (others[name].double() - gradients[name].double()).norm()
            norm = torch.maximum(gradients[name].double().norm(), _NEGLIGIBLE * whole)
            found.append(Difference(_part(error, norm), where))
    return max(found)


def state_difference(one: Course, other: Course) -> Difference:
    """The largest ||v - v'|| / ||v|| over the tensors of every state that was kept."""
    found = [Difference(0.0, "nowhere")]
    for when, state in one.states.items():
        for name, value in state.items():
            error = (other.states[when][name].double() - value.double()).norm()
            size = _part(error, value.double().norm())
            found.append(Difference(size, f"{name} at (stage, epoch) {when}"))
    return max(found)


def _part(error: Tensor, norm: Tensor) -> float:
    """The error as a part of the norm; infinite where it is no number, so that it is found."""
    part = float(error / norm) if error != 0 else 0.0
    return part if math.isfinite(part) else math.inf


def disagreements(
    cases: Sequence[Case], results: Path, *, plugins: Sequence[Path] = ()
) -> dict[str, list[str]]:
    """In what two devices do not train as one process does, by case; empty where they agree.

    Two processes are launched once for all cases. See `problems_of` for what is compared.

    Args:
        cases: with the settings `STILL` gradients are held to 1e-6, else to 1e-5.
        results: an empty folder.
        plugins: files of methods that are not this project's.
    """
    two = courses_on_two(cases, results, plugins=plugins)
    found = {}
    for case in cases:
        problems = problems_of(case, course_on_one(case, results, plugins=plugins), two[case.name])
        if problems:
            found[case.name] = problems
    return found


def problems_of(case: Case, one: Course, two: tuple[Course, Course]) -> list[str]:
    """What differs between one process and two devices, in words.

    Compared are: the pictures of every step, to the last bit, of both devices in rank order; the
    state of the method after every step, to the last bit, between the devices; gradients, states
    and terms of the loss by their relative difference; validation feedback, to the last bit.
    """
    still = STILL.items() <= case.settings.items()
    if _pictures_of_both(two) != one.pictures:
        return ["the devices do not see the pictures of one process, in its order"]
    problems = []
    if two[0].digests != two[1].digests:
        step = [a == b for a, b in zip(two[0].digests, two[1].digests, strict=True)].index(False)
        problems.append(f"the devices' states differ after step {step} of the run")
    # Between the last step of an epoch and the first of the next, epoch-wise optimizers step.
    between = state_difference(*two)
    if between.size:
        problems.append(f"{between.where} differs between the devices")
    gradient, state = gradient_difference(one, two[0]), state_difference(one, two[0])
    if not gradient.size <= (_GRADIENT if still else _GRADIENT_MOVED):
        problems.append(f"{gradient.where} differs by {gradient.size:.2g} of its norm")
    if not state.size <= _STATE:
        problems.append(f"{state.where} differs by {state.size:.2g} of its norm")
    if still and not all(_same_reports(one, course) for course in two):
        problems.append("validation feedback differs")
    problems += [
        f"the row of epoch {number} tells {name} {value}, and {other['train'][name]} of two devices"
        for number, (row, other) in enumerate(zip(one.rows, two[0].rows, strict=True))
        for name, value in row["train"].items()
        if not abs(other["train"][name] - value) <= _TERMS * max(abs(value), 1.0)
    ]
    return problems


def _same_reports(one: Course, other: Course) -> bool:
    return len(one.reports) == len(other.reports) and all(
        torch.equal(a, b) for a, b in zip(one.reports, other.reports, strict=True)
    )


def _pictures_of_both(two: Sequence[Course]) -> list[Any]:
    """What the devices saw, step by step, in the order in which one process would see it."""
    return [
        {name: [row for share in shares for row in share[name]] for name in shares[0]}
        for shares in zip(*(course.pictures for course in two), strict=True)
    ]
