"""The configuration of a run: one frozen model from layers, checked before anything loads."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model, model_validator
from pydantic_core import ErrorDetails

from ltbench.composition import COMPOSITIONS, MixConfig, ReweightConfig
from ltbench.data.samplers import SAMPLERS
from ltbench.data.views import ViewSpec
from ltbench.errors import UsageError
from ltbench.registry import DATASETS, METHODS, normalise, suggest

SelectionRule = Literal["val.accuracy", "val.macro_f1", "val.balanced_accuracy", "last"]
Settings = dict[str, Any]

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
    checkpoint_every_s: float = Field(
        default=60.0, ge=0, description="seconds between checkpoints; 0 saves after each step"
    )


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
    precision: Literal["32", "bf16", "auto"] = Field(
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
            raise ValueError("; ".join(problems))
        return self

    def hashed(self) -> Settings:
        """What decides the result, JSON-able: everything but seed and machine."""
        return self.model_dump(mode="json", exclude=set(PLACE))

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
        preset_settings: a plugin's declared ablation or preset, applied after `method`'s own.
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
    method_name, _, preset = request.method.partition("@")
    method = METHODS[method_name]
    dataset = DATASETS[request.dataset]
    user = _user_layers(request)
    recipe = request.recipe or user.pop("recipe", None) or dataset.default_recipe
    protocol = request.protocol or user.pop("protocol", None) or dataset.default_protocol
    if protocol not in dataset.protocols:
        raise UsageError(
            suggest(f"protocol of {request.dataset}", protocol, sorted(dataset.protocols))
        )
    settings: Settings = {}
    merge(settings, load_recipe(recipe))
    merge(settings, nested(method.defaults))
    merge(settings, nested(preset_settings(method, preset or None)))
    merge(settings, user)
    settings = {"method": {}, "dataset": {}, **settings}
    settings |= {
        "method_name": normalise(method_name),
        "preset": preset or None,
        "dataset_name": normalise(request.dataset),
        "protocol": protocol,
        "recipe": recipe,
    }
    return validate(settings, method, dataset)


def validate(settings: Settings, method: Any, dataset: Any) -> RunConfig:
    """Check nested settings against the plugins' models; all problems in one message."""
    model: type[RunConfig] = create_model(
        "RunConfig",
        __base__=RunConfig,
        method=(method.Config, ...),
        dataset=(dataset.Config, ...),
    )
    try:
        return model.model_validate(settings)
    except ValidationError as error:
        problems = [_problem(details, model) for details in error.errors(include_url=False)]
        head = f"{len(problems)} problem{'s' if len(problems) > 1 else ''} in the configuration:"
        raise UsageError("\n  ".join([head, *problems])) from None


def rebuild(stored: Settings) -> RunConfig:
    """The `RunConfig` of a stored `config.json`."""
    return validate(stored, METHODS[stored["method_name"]], DATASETS[stored["dataset_name"]])


def preset_settings(method: Any, preset: str | None) -> Settings:
    """The dotted settings of a preset, an ablation or a composition; several joined by "+"."""
    settings: Settings = {}
    for part in preset.split("+") if preset else ():
        known = {name: row for name, (_, row) in COMPOSITIONS.items()}
        known |= {n: p.settings for n, p in {**method.ablations, **method.presets}.items()}
        name = normalise(part)
        if name not in known:
            raise UsageError(suggest(f"preset of {method.info.name}", name, sorted(known)))
        settings |= known[name]
    return settings


def recipe_names() -> list[str]:
    """Names of the recipes in the package."""
    folder = resources.files("ltbench.recipes")
    return sorted(f.name[:-5] for f in folder.iterdir() if f.name.endswith(".yaml"))


def load_recipe(name: str, *, with_summary: bool = False) -> Settings:
    """The settings of a named recipe, or of a YAML file given by path."""
    if name.endswith((".yaml", ".yml")):
        settings = read_settings(Path(name))
    elif normalise(name) in recipe_names():
        text = (resources.files("ltbench.recipes") / f"{normalise(name)}.yaml").read_text("utf-8")
        settings = yaml.safe_load(text)
    else:
        raise UsageError(suggest("recipe", name, recipe_names()))
    if not with_summary:
        settings.pop("summary", None)
    return settings


def read_settings(file: Path) -> Settings:
    """A YAML file of settings, nested or dotted."""
    try:
        loaded = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"Cannot read the settings file {file}: {error.strerror}.") from error
    except yaml.YAMLError as error:
        raise UsageError(f"{file} is not valid YAML: {error}") from error
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise UsageError(f"{file} holds a {type(loaded).__name__}; expected `key: value` settings.")
    return nested(loaded)


def parse_assignments(assignments: Iterable[str]) -> Settings:
    """`key=value` texts to dotted settings; values are read as YAML, then checked by the model."""
    settings = {}
    for text in assignments:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise UsageError(
                f"--set takes key=value, such as method.temperature=0.2; got '{text}'."
            )
        try:
            settings[key.strip().replace("-", "_")] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise UsageError(f"--set {text}: the value is not valid YAML: {error}") from error
    return settings


def nested(dotted: Mapping[str, Any]) -> Settings:
    """{"a.b": 1, "c": {"d": 2}} to {"a": {"b": 1}, "c": {"d": 2}}."""
    result: Settings = {}
    for key, value in dotted.items():
        branch = value
        for part in reversed(str(key).split(".")):
            branch = {part: nested(branch) if isinstance(branch, Mapping) else branch}
        merge(result, branch)
    return result


def flat(settings: Mapping[str, Any], prefix: str = "") -> Settings:
    """The inverse of `nested`: {"a": {"b": 1}} to {"a.b": 1}."""
    result: Settings = {}
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            result |= flat(value, f"{prefix}{key}.")
        else:
            result[f"{prefix}{key}"] = value
    return result


def merge(below: Settings, above: Mapping[str, Any]) -> None:
    """Lay `above` over `below` in place; mappings are joined, anything else is replaced."""
    for key, value in above.items():
        if isinstance(value, Mapping) and isinstance(below.get(key), dict):
            merge(below[key], value)
        else:
            below[key] = nested(value) if isinstance(value, Mapping) else value


def changes(request: Request) -> list[str]:
    """What the user changed beside the recipe and preset, as `key=value`, for labels of rows."""
    hidden = {"seed", "protocol", "recipe"}
    settings = flat(_user_layers(request))
    return sorted(
        f"{key}={value}"
        for key, value in settings.items()
        if key not in hidden and not key.startswith("machine.")
    )


def _user_layers(request: Request) -> Settings:
    user: Settings = {}
    for file in (request.tuned_file, request.config_file):
        if file is not None:
            merge(user, read_settings(file))
    merge(user, nested(request.settings))
    return user


def _problem(details: ErrorDetails, model: type[BaseModel]) -> str:
    path = [str(part) for part in details["loc"]]
    name = ".".join(path)
    if details["type"] == "extra_forbidden":
        near = difflib.get_close_matches(path[-1], _fields_at(model, path[:-1]), n=1, cutoff=0.5)
        prefix = "".join(f"{part}." for part in path[:-1])
        hint = f" Did you mean '{prefix}{near[0]}'?" if near else ""
        return f"{name}: no such setting.{hint}"
    if details["type"] == "missing":
        return f"{name}: missing. Give it in the recipe or with --set {name}=VALUE."
    message = details["msg"].removeprefix("Value error, ")
    if not path:
        return message
    return f"{name}: {message[0].lower() + message[1:]}; got {details['input']!r}"


def _fields_at(model: type[BaseModel], path: Sequence[str]) -> list[str]:
    for part in path:
        info = model.model_fields.get(part)
        if info is None:
            return []
        kinds = [info.annotation, *get_args(info.annotation)]
        models = [k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)]
        if not models:
            return []
        model = models[0]
    return list(model.model_fields)
