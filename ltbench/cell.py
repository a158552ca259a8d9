"""One cell of a grid before it runs: its data, its needs checked, and the key that names it."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ltbench.audit import Overlap, overlaps
from ltbench.composition import Composition, overrides
from ltbench.data.feed import Part, batches_per_epoch
from ltbench.data.leaks import Leak, group_leak
from ltbench.data.lists import source_digest, stored_split
from ltbench.data.longtail import carve
from ltbench.dataset import Dataset, Source, Split
from ltbench.errors import DoesNotFitError, UsageError, VerificationError
from ltbench.files import canonical_json, sha256_hex
from ltbench.method import Collective, Method, Task
from ltbench.models import BackboneFactory, check_images
from ltbench.registry import DATASETS, METHODS, source_files, suggest
from ltbench.rendering import output_shape, pixel_statistics, resolved_render
from ltbench.run_config import RunConfig
from ltbench.training.devices import device_kind, resolved_precision, resolved_threads
from ltbench.views.view import View
from ltbench.warm_start import WarmStart, check_start, find_start

KEY_LENGTH = 16


class _Devices(Collective):
    """As many devices as the run will have; they cannot gather yet."""

    def __init__(self, world_size: int) -> None:
        self.world_size = world_size


class Sources:
    """Keeps the data of the last cell for the next: cells of a grid often share them."""

    def __init__(self) -> None:
        self._key: tuple[Any, ...] = ()
        self._source: Source | None = None

    def load(self, dataset: Dataset, protocol: str) -> Source:
        """The images that a protocol draws on, read where they are not the ones read last."""
        settings = dataset.config.model_dump_json()
        key = (type(dataset), settings, dataset.data_root, protocol)
        if self._source is None or key != self._key:
            self._source = None  # two large sets need not be held at once
            self._source, self._key = dataset.load(protocol), key
        return self._source


@dataclass(frozen=True)
class Cell:
    """A run's configuration with its data at hand.

    Attributes:
        training, validation: parts of the split; the test part is made only after training.
        feedback: what `ClassReport` is computed from, for methods that use validation.
        start: the run whose weights this one starts from.
        leak: what of the groups of test is in training too; None where no groups are known.
        key_parts: everything that decides the result but the seed, JSON-able.
        key: the first digits of its SHA-256; names the folder.
    """

    config: RunConfig
    source: Source
    split: Split
    split_digest: str
    training: Part
    validation: Part | None
    feedback: Part | None
    factory: BackboneFactory
    start: WarmStart | None
    leak: Leak | None
    key_parts: dict[str, Any]
    key: str

    @property
    def method_class(self) -> type[Method]:
        """The plugin's class."""
        method: type[Method] = METHODS[self.config.method_name]
        return method

    @property
    def render(self) -> str:
        """Where views are made, "host" or "device"."""
        where: str = self.key_parts["render"]
        return where

    @cached_property
    def overlaps(self) -> tuple[Overlap, ...]:
        """What the parts share by name, group, file and pixels."""
        return overlaps(self.source, self.split)

    @property
    def uses_validation(self) -> bool:
        """Whether training uses feedback from validation or from an inner part."""
        return self.method_class.uses_validation(self.config.method)

    @property
    def batchnorm(self) -> str:
        """Whose images BatchNorm's statistics are taken over, in words."""
        if self.config.machine.devices == 1:
            return "one device"
        return "synchronised" if self.config.sync_batchnorm else "per device"

    def views(self) -> dict[str, View]:
        """The recipe's views, ready to render."""
        return {name: View(transforms) for name, transforms in self.config.views.items()}

    @cached_property
    def input_statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and std of the inputs by channel, on the scale 0..1."""
        channels = self.source.images.channels
        if self.config.normalise == "none":
            return (0.0,) * channels, (1.0,) * channels
        if self.config.normalise == "backbone":
            return self.factory.input_statistics()
        return pixel_statistics(self.training)

    def task(self, collective: Collective | None = None) -> Task:
        """What the method may know; without a collective, to check the run before it begins."""
        views = self.views()
        name = "classify" if "classify" in views else "eval"
        channels, height, width = output_shape(views[name], self.source.images)
        collective = collective or _Devices(self.config.machine.devices)
        size = self.config.batch_size
        steps, _ = batches_per_epoch(
            len(self.training),
            size,
            drop_last=self.config.drop_last,
            world_size=collective.world_size,
        )
        return Task(
            class_names=self.source.class_names,
            class_counts=self.training.class_counts,
            validation_counts=None if self.feedback is None else self.feedback.class_counts,
            input_shape=(channels, height, width),
            epochs=self.config.epochs,
            batch_size=size,
            steps_per_epoch=steps,
            make_backbone=self.factory,
            collective=collective,
            composition=Composition(
                reweight=self.config.reweight,
                mix=self.config.mix,
                class_counts=self.training.class_counts,
                seed=self.config.seeds.loader,
            ),
        )


def prepare(
    config: RunConfig,
    *,
    results: Path,
    data_root: Path | None,
    asked: Sequence[str] = (),
    sources: Sources | None = None,
) -> Cell:
    """Load and split the data, check what can be checked, and compute the key.

    Args:
        asked: dotted settings the user gave, to tell a rule that was asked for from a recipe's.
        sources: holds data that were read before.

    Raises:
        UsageError, DataMissingError, VerificationError: with what to do about it.
    """
    dataset: Dataset = DATASETS[config.dataset_name](config.dataset, data_root)
    config = config.model_copy(update={"protocol": dataset.choose_protocol(config.protocol)})
    source = (sources or Sources()).load(dataset, config.protocol)
    split, split_digest = stored_split(
        dataset, source, config.protocol, config.split_seed, results / "splits"
    )
    _check_tuned(config, split_digest)
    leak = _known_leak(config, dataset, source, split)
    config = _selection_without_validation(config, split, asked)
    method: type[Method] = METHODS[config.method_name]
    train, feedback = _feedback(config, method, source, split)
    factory = BackboneFactory(config.backbone, source.images.channels, config.weights)
    start = _warm_start(config, results, split_digest, factory)
    key_parts = _key_parts(config, dataset, method, source, split_digest, factory, start)
    cell = Cell(
        config=config,
        source=source,
        split=split,
        split_digest=split_digest,
        training=Part.of(source, train),
        validation=None if split.val is None else Part.of(source, split.val),
        feedback=None if feedback is None else Part.of(source, feedback),
        factory=factory,
        start=start,
        leak=leak,
        key_parts=key_parts,
        key=sha256_hex(canonical_json(key_parts).encode())[:KEY_LENGTH],
    )
    _check(cell)
    return cell


@cache
def plugin_digest(plugin: Any) -> str:
    """SHA-256 over the source of a plugin's class and that of the plugins it imports.

    Taken once a class, near its import: a file that is edited later in the life of this process is
    not the code that runs.
    """
    file: Path | None = plugin.info.file
    if file is None:
        return "interactive"
    texts = [f"{path.name}\n{path.read_text(encoding='utf-8')}" for path in source_files(file)]
    return sha256_hex("\0".join(texts).encode())


def _check_tuned(config: RunConfig, split_digest: str) -> None:
    """Settings that were chosen on another split may have been chosen on images of this test."""
    if config.tuned is None or config.tuned.split_digest == split_digest:
        return
    raise UsageError(
        f"The settings were tuned on split {config.tuned.split_digest[:12]}, but this run's is "
        f"{split_digest[:12]}: validation images of the one may be test images of the other. Give "
        "--split-seed and the data set's settings as for tuning, or tune on this split."
    )


def _known_leak(config: RunConfig, dataset: Dataset, source: Source, split: Split) -> Leak | None:
    """What the parts share; refused unless the protocol is known to, or the user asks for it."""
    leak = group_leak(source, split)
    if leak is None or not leak.shares or config.protocol in dataset.leaky or config.allow_leak:
        return leak
    raise VerificationError(
        f"Protocol '{config.protocol}' of {config.dataset_name} leaks: {leak.sentence()}. "
        "Expected parts that share no group. Split by group, or set allow_leak=true to run all the "
        "same; tables will say so."
    )


def _selection_without_validation(
    config: RunConfig, split: Split, asked: Sequence[str]
) -> RunConfig:
    if split.val is not None or config.select == "last":
        return config
    if "select" in asked:
        raise UsageError(
            f"select is '{config.select}', but protocol '{config.protocol}' has no validation "
            "split. Use --select last, or a protocol with validation."
        )
    return config.model_copy(update={"select": "last"})


def _feedback(
    config: RunConfig, method: type[Method], source: Source, split: Split
) -> tuple[np.ndarray, np.ndarray | None]:
    """(training positions, feedback positions) for this method."""
    if not method.uses_validation(config.method):
        return split.train, None
    if config.feedback_split == "validation":
        return split.train, split.val
    return carve(source, split.train, config.feedback_fraction, config.split_seed)


def _warm_start(
    config: RunConfig, results: Path, split_digest: str, factory: BackboneFactory
) -> WarmStart | None:
    """The run to start from; its backbone becomes what the factory makes."""
    if config.init_from is None:
        return None
    start = find_start(config.init_from, results, seed=config.seed)
    check_start(start, dataset=config.dataset_name, split_digest=split_digest)
    factory.start_from(start.backbone(), f"init_from: the backbone of {start.folder.name}")
    return start


def _key_parts(
    config: RunConfig,
    dataset: Any,
    method: type[Method],
    source: Source,
    split_digest: str,
    factory: BackboneFactory,
    start: WarmStart | None,
) -> dict[str, Any]:
    plugins: dict[str, Any] = {"method": method, "dataset": type(dataset)}
    settings = config.hashed()
    # Which run it is counts, and what is in a file, not what they are called here.
    settings["init_from"] = None if start is None else start.identity
    if factory.from_file:
        settings["weights"] = "file"
    return {
        "config": settings,
        "split_digest": split_digest,
        "source_digest": source_digest(source),
        "image_digest": source.images.digest(),
        **{f"{kind}_digest": plugin_digest(plugin) for kind, plugin in plugins.items()},
        "weights_digest": factory.weights_digest,
        "precision": resolved_precision(config),
        "render": resolved_render(config, source),
        "device": device_kind(config.machine),
        "machine": platform.machine(),
        "num_devices": config.machine.devices,
        "threads": resolved_threads(config.machine),
    }


def _check(cell: Cell) -> None:
    config, method = cell.config, cell.method_class
    names = cell.source.class_names
    empty = [name for name, n in zip(names, cell.training.class_counts, strict=True) if n == 0]
    if empty:
        raise UsageError(
            f"No training image of class {', '.join(empty)}. Every class needs at least one; lower "
            "dataset.imbalance, or leave the class out of the data."
        )
    missing = [view for view in method.eval_views if view not in config.views]
    if missing:
        raise UsageError(suggest("view", missing[0], sorted(config.views)))
    with _telling_what_does_not_fit():
        _check_composition(config, method)
    if config.sync_batchnorm and cell.key_parts["device"] != "cuda":
        raise UsageError("sync_batchnorm needs CUDA devices; on CPU leave it false.")
    task = cell.task()
    check_images(config.backbone, *task.input_shape)
    with _telling_what_does_not_fit():
        method.check(config.method, task)


@contextmanager
def _telling_what_does_not_fit() -> Iterator[None]:
    """A grid of all methods leaves out those that are refused so, and nothing else."""
    try:
        yield
    except UsageError as error:
        raise DoesNotFitError(str(error)) from error


def _check_composition(config: RunConfig, method: type[Method]) -> None:
    """Refuse what cannot be combined with this method, with the reason."""
    name = config.method_name
    if (config.mix.name != "none" or config.reweight.name != "none") and overrides(
        method, "training_step"
    ):
        raise UsageError(
            f"mix.name is '{config.mix.name}' and reweight.name is '{config.reweight.name}', but "
            f"method '{name}' has a training step of its own, not a loss for each sample that "
            "could be mixed or weighted. Leave both at 'none'."
        )
    if config.optimizer.sam_rho and overrides(method, "update"):
        raise UsageError(
            f"optimizer.sam_rho is {config.optimizer.sam_rho}, but method '{name}' makes its own "
            "optimizer steps (`update`), which SAM cannot repeat. Set optimizer.sam_rho=0."
        )
    if config.optimizer.accumulate == 1:
        return
    if config.optimizer.sam_rho:
        raise UsageError(
            f"optimizer.accumulate is {config.optimizer.accumulate}, but SAM needs the gradient of "
            "the whole batch before it moves. Use optimizer.accumulate=1 or optimizer.sam_rho=0."
        )
    if config.reweight.name != "none":
        raise UsageError(
            f"optimizer.accumulate is {config.optimizer.accumulate}, but reweight.name="
            f"{config.reweight.name} divides by the weights of the whole batch, which its parts do "
            "not know. Use optimizer.accumulate=1 or reweight.name=none."
        )
    for hook in ("training_step", "update", "after_step"):
        if overrides(method, hook):
            raise UsageError(
                f"optimizer.accumulate is {config.optimizer.accumulate}, but method '{name}' has a "
                f"`{hook}` of its own, which must see the whole batch. Use optimizer.accumulate=1."
            )
