"""The contract of a method: what a plugin in `methods/` fills in, and what the trainer promises it.

A method is one file. Everything that lives between epochs is a parameter, a persistent buffer or a
submodule of its `Method`, so `state_dict()` is its whole state and resuming needs nothing from it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol

from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from ltbench.registry import METHODS, PluginInfo

if TYPE_CHECKING:
    import numpy as np
    from optuna.distributions import BaseDistribution

    from ltbench.predictions import Predictions

__all__ = [
    "METHODS",
    "Backbone",
    "Batch",
    "ClassReport",
    "Collective",
    "Composer",
    "Engine",
    "Method",
    "MethodConfig",
    "OptimizerSpec",
    "Preset",
    "Progress",
    "Stage",
    "Stream",
    "Task",
    "TrainingData",
]

Outputs = dict[str, Tensor]
SamplerFn = Callable[["np.ndarray", int, int], "np.ndarray"]
ScheduleFn = Callable[[int, int], float]


class MethodConfig(BaseModel):
    """Settings of a method: frozen, unknown keys refused. Give each bounds and a description."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True
    )


@dataclass(frozen=True)
class Preset:
    """Named settings a plugin declares: `paper`, `authors`, or one row of an ablation table.

    `settings` maps dotted keys of the run's configuration to values, e.g.
    `{"method.temperature": 0.01, "select": "val.accuracy"}`.
    """

    summary: str
    settings: Mapping[str, Any]


class Progress(NamedTuple):
    """The only clock. All numbers are 0-based; `epochs` and `steps` are totals."""

    stage: str
    epoch: int
    epochs: int
    step: int
    steps: int

    @property
    def paper_epoch(self) -> int:
        """The 1-based epoch, as most papers count it."""
        return self.epoch + 1


class Batch(NamedTuple):
    """One batch on the device.

    Attributes:
        views: one float32 tensor (B, channels, height, width) for each view the stream asked for,
            normalised for the backbone.
        targets: class indices, int64 (B,).
        indices: positions in the training set, int64 (B,).
        also: the batches of further streams, by name; empty for methods with one stream.
    """

    views: tuple[Tensor, ...]
    targets: Tensor
    indices: Tensor
    also: Mapping[str, Batch] = {}

    @property
    def images(self) -> Tensor:
        """The first view."""
        return self.views[0]


@dataclass(frozen=True)
class Stream:
    """What one data stream delivers.

    Attributes:
        views: names of the recipe's views, each image rendered once for each.
        sampler: None for the user's choice, a name from `ltbench.data.samplers.SAMPLERS`, or a
            function (class counts, epoch, epochs) -> class probabilities.
        batch_size: images a batch over all devices; None for the run's.
        drop_last: whether an incomplete last batch is left out; None for the recipe's choice.
    """

    views: tuple[str, ...] = ("classify",)
    sampler: str | SamplerFn | None = None
    batch_size: int | None = None
    drop_last: bool | None = None


@dataclass(frozen=True)
class Stage:
    """One stage of training with optimizers of its own.

    Attributes:
        name: unique within the method.
        epochs: length of the stage.
        validate: whether validation runs after each epoch.
        select: whether the selection rule picks the best epoch of this stage; without it the
            stage ends with its last weights. Needs `validate`.
        carry: what the next stage starts from. The reported model comes from the last stage.
    """

    name: str
    epochs: int
    validate: bool = True
    select: bool = True
    carry: Literal["last", "best"] = "last"


@dataclass(frozen=True)
class OptimizerSpec:
    """One optimizer; what is None is the recipe's.

    Attributes:
        params: the parameters it steps; no parameter may be in two optimizers of a stage.
        every: "batch" steps after each batch; "epoch" adds up the gradients of an epoch's batches
            (their sum, not their mean) and steps once at its end.
        schedule: a function (epoch, epochs) -> factor on the learning rate.
    """

    params: Iterable[nn.Parameter]
    every: Literal["batch", "epoch"] = "batch"
    lr: float | None = None
    weight_decay: float | None = None
    momentum: float | None = None
    schedule: ScheduleFn | None = None
    params_list: tuple[nn.Parameter, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "params_list", tuple(self.params))


@dataclass(frozen=True)
class ClassReport:
    """Per-class results of one evaluation, as float64 tensors (C,); undefined values are 0."""

    precision: Tensor
    recall: Tensor
    f1: Tensor
    support: Tensor


class Collective:
    """The devices of a run. This class is one device; the trainer passes its own for several."""

    world_size: int = 1
    rank: int = 0

    def gather(self, x: Tensor, *, grad: bool = False) -> Tensor:
        """Concatenate `x` (n, ...) of all devices in rank order to (world_size * n, ...).

        With `grad`, gradients flow back to the device each row came from. A loss computed from
        gathered rows on every device then has the gradient of one process on the global batch.
        """
        return x


class Composer:
    """How per-sample losses become the loss of a batch. This class is their plain mean.

    The run's settings may ask for more: see `ltbench.composition`.
    """

    def streams(self, streams: Mapping[str, Stream]) -> dict[str, Stream]:
        """The streams to draw from, given those the method asks for."""
        return dict(streams)

    def loss(
        self, method: Method, batch: Batch, progress: Progress, collective: Collective
    ) -> Tensor:
        """(1/B) sum_i l_i over the batch."""
        logits = method.logits(batch.images).float()
        return method.per_sample_loss(logits, batch.targets, progress).mean()


class Backbone(Protocol):
    """Images (B, channels, height, width) to features (B, num_features)."""

    num_features: int

    def __call__(self, images: Tensor) -> Tensor:
        """Features."""
        ...

    def split_last_block(self) -> tuple[nn.Module, nn.Module, nn.Module]:
        """(trunk, last residual block, pooling), sharing weights; for methods that double it."""
        ...


@dataclass(frozen=True)
class Task:
    """What a method may know of the run when it is built.

    Attributes:
        class_counts: images of each class in the training split actually used.
        validation_counts: the same for the split that feeds back to training (`ClassReport`), or
            None when there is no such split.
        input_shape: (channels, height, width) of the classifier's view.
        epochs: the run's epochs, to be shared out by methods with several stages.
        batch_size: images a batch over all devices.
        steps_per_epoch: batches an epoch of the run's own sampler.
        make_backbone: a new backbone, with the run's initial weights.
        composition: how per-sample losses become the batch's (re-weighting, mixing).
    """

    class_names: tuple[str, ...]
    class_counts: tuple[int, ...]
    validation_counts: tuple[int, ...] | None
    input_shape: tuple[int, int, int]
    epochs: int
    batch_size: int
    steps_per_epoch: int
    make_backbone: Callable[[], Any]
    collective: Collective = field(default_factory=Collective)
    composition: Composer = field(default_factory=Composer)

    @property
    def num_classes(self) -> int:
        """Number of classes C."""
        return len(self.class_names)


class TrainingData(Protocol):
    """The training set, for hooks that need more than the batch at hand."""

    class_counts: tuple[int, ...]

    def iterate(self, split: Literal["train"] = "train", view: str = "eval") -> Iterator[Batch]:
        """Pass once over the training images in stored order, in one view, without shuffling."""
        ...


class Engine(Protocol):
    """What `Method.update` may use; nothing else of the trainer is reachable."""

    def loss(self, batch: Batch, progress: Progress) -> Outputs:
        """Run `training_step` under the run's precision; the result has "loss"."""
        ...

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of `loss` to those of the parameters."""
        ...

    def zero_grad(self) -> None:
        """Clear the gradients of the optimizers that step after each batch."""
        ...

    def step(self) -> None:
        """Clip, then step the optimizers that step after each batch."""
        ...


class Method(nn.Module):
    """Base class of all methods: backbone, linear head, one stage, one stream, one optimizer.

    Attributes:
        search_space: Optuna distributions of fields of `Config`.
        defaults: dotted settings of the run that belong to the method, such as a deferred
            re-weighting; they lie above the recipe and below presets.
        presets, ablations: named settings; an ablation is one row of the method's own table.
        stage_settings: by stage, in order, the dotted settings that act from that stage on only. A
            run that differs from another in no other setting takes over what that one did before
            the stage. The conformance suite checks the claim.
        departures: what differs from the paper or its code, and why.
        eval_views: the recipe's views that inference averages over.
    """

    Config: ClassVar[type[MethodConfig]] = MethodConfig
    info: ClassVar[PluginInfo]
    search_space: ClassVar[Mapping[str, BaseDistribution]] = {}
    defaults: ClassVar[Mapping[str, Any]] = {}
    presets: ClassVar[Mapping[str, Preset]] = {}
    ablations: ClassVar[Mapping[str, Preset]] = {}
    stage_settings: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    departures: ClassVar[tuple[str, ...]] = ()
    eval_views: ClassVar[tuple[str, ...]] = ("eval",)

    def __init__(self, config: MethodConfig, task: Task) -> None:
        super().__init__()
        self.config: Any = config
        self.task = task
        self.backbone = task.make_backbone()
        self.head = self.make_head(self.backbone.num_features)

    @classmethod
    def check(cls, config: Any, task: Task) -> None:
        """Raise `UsageError`, naming the setting, if this task cannot meet the method's needs."""

    @classmethod
    def uses_validation(cls, config: Any) -> bool:
        """Whether training itself uses `ClassReport`; such rows are marked in tables."""
        return False

    def make_head(self, num_features: int) -> nn.Module:
        """The classifier on the backbone's features."""
        return nn.Linear(num_features, self.task.num_classes)

    def stages(self) -> list[Stage]:
        """The stages of training, in order."""
        return [Stage("train", epochs=self.task.epochs)]

    def streams(self, stage: Stage) -> dict[str, Stream]:
        """Data streams by name. The first is the batch and sets the epoch's length."""
        return {"main": Stream()}

    def optimizers(self, stage: Stage) -> list[OptimizerSpec] | None:
        """Optimizers of the stage; None for one of the recipe's over all trainable parameters."""
        return None

    def training_step(self, batch: Batch, progress: Progress) -> Tensor | Outputs:
        """The loss, or a dict with "loss", scalars to log and tensors for `after_step`."""
        return self.task.composition.loss(self, batch, progress, self.task.collective)

    def per_sample_loss(self, logits: Tensor, targets: Tensor, progress: Progress) -> Tensor:
        """Losses (B,) of logits (B, C) and targets (B,); plain losses need nothing else."""
        raise TypeError(
            f"{type(self).__name__} defines neither `per_sample_loss` nor `training_step`; "
            "a method needs one of them"
        )

    def update(self, engine: Engine, batch: Batch, progress: Progress) -> Outputs:
        """One optimizer step. Override only for what a loss cannot say (meta-learning)."""
        outputs = engine.loss(batch, progress)
        engine.backward(outputs["loss"])
        engine.step()
        return outputs

    def after_step(self, outputs: Outputs, progress: Progress) -> None:
        """Update queues, momentum encoders and centroids: once an optimizer step, without grad."""

    def on_stage_start(self, stage: Stage, data: TrainingData) -> None:
        """Freeze, re-initialise, measure; called before the stage's optimizers are made."""

    def on_epoch_start(self, progress: Progress, data: TrainingData) -> None:
        """Called before the first batch of an epoch; `progress.step` is 0."""

    def on_epoch_end(self, progress: Progress, report: ClassReport | None) -> None:
        """Called after validation.

        Args:
            report: None where nothing was validated, and for methods whose `uses_validation` is
                False: what a method learns from validation must be declared.
        """

    def on_fit_end(self, validation: Predictions | None) -> None:
        """Called with the selected weights in place; validation is predicted again afterwards.

        Args:
            validation: predictions of what feeds back to training; None for methods whose
                `uses_validation` is False, as in `on_epoch_end`.
        """

    def logits(self, images: Tensor) -> Tensor:
        """What `per_sample_loss` is given: (B, C) of images (B, channels, height, width)."""
        logits: Tensor = self.head(self.backbone(images))
        return logits

    def predict(self, images: Tensor) -> Tensor:
        """Inference logits (B, C); the training logits unless the method says otherwise."""
        return self.logits(images)
