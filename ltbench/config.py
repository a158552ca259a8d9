"""The configuration of a run: one frozen model from layers, checked before anything loads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    create_model,
    model_validator,
)

from ltbench import explain
from ltbench.composition import COMPOSITIONS, MixConfig, ReweightConfig
from ltbench.data.samplers import SAMPLERS
from ltbench.errors import UsageError
from ltbench.recipes import is_file, load_recipe, recipe_names
from ltbench.registry import DATASETS, METHODS, normalise, suggest
from ltbench.settings import Settings, flat, merge, nested, read_settings
from ltbench.views.view import ViewSpec

__all__ = [
    "MachineConfig",
    "OptimizerConfig",
    "Request",
    "RunConfig",
    "ScheduleConfig",
    "asked",
    "dataset_config",
    "flat",
    "load_recipe",
    "nested",
    "preset_settings",
    "protocol_name",
    "rebuild",
    "recipe_names",
    "resolve",
    "user_layers",
    "validate",
]

SelectionRule = Literal["val.accuracy", "val.macro_f1", "val.balanced_accuracy", "last"]
M = TypeVar("M", bound=BaseModel)

# Settings that say where and when a run happens, not what it is: they are no part of its key.
PLACE = ("seed", "machine")


class _Frozen(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True
    )


class OptimizerConfig(_Frozen):
    """The recipe's optimizer; a method's `OptimizerSpec` may change single values for its parts."""

    name: Literal["sgd", "adamw"] = "sgd"
    lr: float = Field(gt=0, description="learning rate at full height, for the whole batch")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="momentum of SGD")
    nesterov: bool = Field(default=False, description="Nesterov momentum")
    weight_decay: float = Field(
        default=1e-4, ge=0, description="coupled (SGD) or decoupled (AdamW)"
    )
    clip_norm: float | None = Field(
        default=None, gt=0, description="largest gradient norm over the parameters that step"
    )
    sam_rho: float = Field(
        default=0.0, ge=0, description="radius of sharpness-aware minimisation; 0 is off"
    )
    accumulate: int = Field(
        default=1, ge=1, description="parts a batch is computed in, to save memory; same batch size"
    )

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> OptimizerConfig:
        if self.nesterov and (self.momentum == 0 or self.name != "sgd"):
            raise ValueError("nesterov needs sgd with momentum > 0")
        return self


class ScheduleConfig(_Frozen):
    """Learning rate by epoch, as a factor on `optimizer.lr`; times are fractions of the run."""

    name: Literal["cosine", "step", "constant"] = "cosine"
    warmup: float = Field(
        default=0.0, ge=0, lt=1, description="part of the epochs in which lr rises as (e+1)/W"
    )
    milestones: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(
        default=(), description="step only: parts of the run after which lr drops"
    )
    gamma: float = Field(default=0.1, gt=0, le=1, description="step only: factor at a milestone")
    early_step: bool = Field(
        default=False,
        description="use the next epoch's rate, as code that steps its scheduler before the epoch",
    )


class MachineConfig(_Frozen):
    """Where a run happens. Device kind, number of devices and threads are part of its key."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    devices: int = Field(default=1, ge=1, description="devices of the run (DDP when more than 1)")
    threads: int | None = Field(
        default=None, ge=1, description="CPU threads a process; None for all cores of the machine"
    )
    workers: int | None = Field(
        default=None,
        ge=0,
        le=64,
        description="processes that make views of stored pictures on the CPU; None for one a "
        "core beside a CUDA device, and none beside a CPU that trains",
    )
    checkpoint_every_s: float = Field(
        default=60.0, ge=0, description="seconds between checkpoints; 0 saves after each step"
    )
    keep_stages: bool = Field(
        default=True, description="keep the ends of first stages for runs that share them"
    )


def _text_of_number(value: Any) -> Any:
    """YAML reads 32 as a number."""
    return str(value) if type(value) is int else value


class RunConfig(_Frozen):
    """Everything that decides a result, and where it runs; `method` and `dataset` are plugins'."""

    method_name: str
    preset: str | None = None
    dataset_name: str
    protocol: str
    recipe: str

    method: Any
    dataset: Any

    seed: int = Field(default=0, ge=0, lt=2**63, description="initialisation, order and views")
    split_seed: int = Field(default=0, ge=0, lt=2**63, description="which images go where")
    epochs: int = Field(ge=1, description="epochs of the run, shared out by staged methods")
    batch_size: int = Field(ge=1, description="images a step, over all devices together")
    eval_batch_size: int = Field(default=256, ge=1, description="images a batch in evaluation")
    drop_last: bool = Field(default=True, description="leave out an incomplete last batch")
    backbone: str = Field(description="a name of `bench.py list backbones`")
    weights: str = Field(
        default="none",
        description="'none' (random), a timm tag such as resnet50.tv_in1k, or a file",
    )
    init_from: str | None = Field(
        default=None,
        description="a finished run this one starts from: its folder, <key>/seed-<n>, or <key> for "
        "the run with this run's seed",
    )
    precision: Annotated[Literal["32", "bf16", "auto"], BeforeValidator(_text_of_number)] = Field(
        default="32", description="bf16 is autocast; auto is bf16 on CUDA and 32 elsewhere"
    )
    channels_last: bool = Field(default=False, description="memory format of images and weights")
    compile: bool = Field(default=False, description="torch.compile on the backbone")
    sync_batchnorm: bool = Field(
        default=False, description="BatchNorm statistics over all devices instead of each its own"
    )
    normalise: Literal["backbone", "dataset", "none"] = Field(
        default="backbone",
        description="mean and std of the inputs: the pre-trained backbone's, the training split's",
    )
    render: Literal["auto", "host", "device"] = Field(
        default="auto",
        description="where views are made: host is 8-bit on CPU cores, device is float32 in "
        "batches; auto is host for stored pictures of a run on CPU, device elsewhere",
    )
    views: dict[str, ViewSpec] = Field(description="transforms of each named view")
    optimizer: OptimizerConfig
    schedule: ScheduleConfig = ScheduleConfig()
    sampler: str = Field(
        default="instance", description="a sampler's name, for methods that ask none"
    )
    reweight: ReweightConfig = ReweightConfig()
    mix: MixConfig = MixConfig()
    select: SelectionRule = Field(
        default="val.accuracy", description="which epoch is reported; ties go to the latest"
    )
    feedback_split: Literal["validation", "inner"] = Field(
        default="validation",
        description="what methods that train on validation feedback see; inner is carved from "
        "the training part",
    )
    feedback_fraction: float = Field(
        default=0.2, gt=0, lt=1, description="part of the training images carved for inner feedback"
    )
    allow_leak: bool = Field(
        default=False, description="run although training and test share groups; tables say so"
    )
    machine: MachineConfig = MachineConfig()

    @model_validator(mode="after")
    def _consistent(self) -> RunConfig:
        problems = []
        if self.sampler not in SAMPLERS:
            problems.append(suggest("sampler", self.sampler, sorted(SAMPLERS)))
        if "eval" not in self.views:
            problems.append("views.eval is missing: evaluation needs it")
        if self.batch_size % (self.machine.devices * self.optimizer.accumulate):
            problems.append(
                f"batch_size {self.batch_size} is not divisible by machine.devices "
                f"({self.machine.devices}) times optimizer.accumulate ({self.optimizer.accumulate})"
            )
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def hashed(self) -> Settings:
        """What decides the result, JSON-able: everything but seed, machine and places of data."""
        settings = self.model_dump(mode="json", exclude=set(PLACE))
        return settings | {"dataset": self.dataset.identity()}

    @property
    def method_label(self) -> str:
        """`ecl` or `ecl@authors`."""
        return self.method_name + (f"@{self.preset}" if self.preset else "")


@dataclass(frozen=True)
class Request:
    """What a user asked for, before it is resolved to a `RunConfig`.

    Attributes:
        method: name, or name@preset.
        settings: dotted keys from flags and `--set`, the strongest layer.
        config_file: a YAML file of settings, weaker than flags.
        tuned_file: a YAML file that `tune` wrote, weaker than `config_file`.
    """

    method: str
    dataset: str
    protocol: str | None = None
    recipe: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    config_file: Path | None = None
    tuned_file: Path | None = None


def resolve(request: Request) -> RunConfig:
    """Stack the layers and check the whole, naming every problem at once.

    Layers, later wins: library < recipe < method's defaults < method@preset < tuned file < YAML
    file < flags.
    """
    method_name, _, presets = (normalise(part) for part in request.method.partition("@"))
    # One order, so that ce@mixup+sqrt and ce@sqrt+mixup are the same run.
    preset = "+".join(sorted(presets.split("+")))
    method = METHODS[method_name]
    dataset = DATASETS[request.dataset]
    user = user_layers(request)
    recipe = request.recipe or user.get("recipe") or dataset.default_recipe
    protocol = request.protocol or user.get("protocol") or dataset.default_protocol
    names = {
        "method_name": method_name,
        "preset": preset or None,
        "dataset_name": normalise(request.dataset),
        "protocol": protocol_name(dataset, str(protocol)),
        "recipe": _recipe_name(str(recipe)),
    }
    _refuse_other_names(user, names)
    settings: Settings = {"method": {}, "dataset": {}}
    merge(settings, load_recipe(str(recipe)))
    merge(settings, nested(method.defaults))
    merge(settings, nested(preset_settings(method, preset or None)))
    merge(settings, user)
    return validate(settings | names, method, dataset)


def validate(settings: Settings, method: Any, dataset: Any) -> RunConfig:
    """Check nested settings against the plugins' models; all problems in one message."""
    return _checked(_model(method.Config, dataset.Config), settings)


def dataset_config(dataset: Any, settings: Settings) -> Any:
    """The settings of a data set alone, given below the key `dataset`."""
    model = create_model("DatasetOnly", __base__=_Frozen, dataset=(dataset.Config, ...))
    checked: Any = _checked(model, {"dataset": {}, **settings})
    return checked.dataset


def _checked(model: type[M], settings: Settings) -> M:
    try:
        config = model.model_validate(settings)
    except ValidationError as error:
        problems = explain.problems(model, settings, error)
    else:
        problems = explain.problems(model, settings)
        if not problems:
            return config
    head = f"{len(problems)} problem{'s' if len(problems) > 1 else ''} in the configuration:"
    raise UsageError("\n  ".join([head, *problems]))


@cache
def _model(method: type[BaseModel], dataset: type[BaseModel]) -> type[RunConfig]:
    """`RunConfig` with the plugins' models; one class a pair, so that equal configs are equal."""
    return create_model(
        "RunConfig", __base__=RunConfig, method=(method, ...), dataset=(dataset, ...)
    )


def rebuild(stored: Settings) -> RunConfig:
    """The `RunConfig` of a stored `config.json`."""
    return validate(stored, METHODS[stored["method_name"]], DATASETS[stored["dataset_name"]])


def preset_settings(method: Any, preset: str | None) -> Settings:
    """The dotted settings of a preset, an ablation or a composition; several joined by "+"."""
    settings: Settings = {}
    parts = [normalise(part) for part in preset.split("+")] if preset else []
    if len(set(parts)) < len(parts):
        raise UsageError(f"{method.info.name}@{preset} names a preset twice. Name each once.")
    for part in parts:
        known = {name: row for name, (_, row) in COMPOSITIONS.items()}
        known |= {n: p.settings for n, p in {**method.ablations, **method.presets}.items()}
        name = normalise(part)
        if name not in known:
            raise UsageError(suggest(f"preset of {method.info.name}", name, sorted(known)))
        clashes = [
            key for key in known[name] if settings.get(key, known[name][key]) != known[name][key]
        ]
        if clashes:
            raise UsageError(
                f"Presets {preset} of {method.info.name} cannot be joined: they give "
                f"{', '.join(clashes)} different values."
            )
        settings |= known[name]
    return settings


def protocol_name(dataset: Any, name: str) -> str:
    """The name of a data set's protocol, which may be written with hyphens or underscores."""
    by_plain: dict[str, str] = {normalise(known): known for known in dataset.protocols}
    if normalise(name) not in by_plain:
        kind = f"protocol of {dataset.info.name}"
        raise UsageError(suggest(kind, name, sorted(dataset.protocols)))
    return by_plain[normalise(name)]


def _recipe_name(name: str) -> str:
    """How a configuration names its recipe: of a file not its folder, which decides nothing."""
    return Path(name).name if is_file(name) else normalise(name)


def _refuse_other_names(user: Settings, names: Settings) -> None:
    """A stored `config.json` may serve as `--config`, but not for another method or data set."""
    flags = {
        "method_name": "--method",
        "preset": "--method NAME@PRESET",
        "dataset_name": "--dataset",
    }
    for key, flag in flags.items():
        if key in user and user[key] != names[key]:
            raise UsageError(
                f"{key}: the settings say '{user[key]}', the command '{names[key]}'. It is no "
                f"setting; choose with {flag}."
            )


def asked(request: Request) -> list[str]:
    """Dotted names of all settings the user gave, changed or not."""
    return sorted(flat(user_layers(request)))


def user_layers(request: Request) -> Settings:
    """The settings that the user gave, nested: tuned file, then YAML file, then flags."""
    user: Settings = {}
    for file in (request.tuned_file, request.config_file):
        if file is not None:
            merge(user, read_settings(file))
    merge(user, nested(request.settings))
    return user
