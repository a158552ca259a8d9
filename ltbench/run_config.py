"""What a run is: its configuration as one frozen model, in sections."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from ltbench.composition import MixConfig, ReweightConfig
from ltbench.data.samplers import SAMPLERS
from ltbench.registry import suggest
from ltbench.settings import Settings
from ltbench.views.view import ViewSpec

__all__ = [
    "Frozen",
    "MachineConfig",
    "OptimizerConfig",
    "RunConfig",
    "ScheduleConfig",
    "Seeds",
    "TunedFrom",
    "free_seeds",
]

SelectionRule = Literal["val.accuracy", "val.macro_f1", "val.balanced_accuracy", "last"]

# Settings that say where and when a run happens, not what it is: they are no part of its key.
PLACE = ("seed", "machine")


class Frozen(BaseModel):
    """A section: unknown keys and numbers that are not finite are refused."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True
    )


class OptimizerConfig(Frozen):
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


class ScheduleConfig(Frozen):
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


class MachineConfig(Frozen):
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


class TunedFrom(Frozen):
    """The study that settings come from. A file that `tune` wrote fills it in, nobody else.

    Attributes:
        study: its digest.
        trial: the number of the trial whose settings these are.
        best: whether that is the study's best trial, not one that was best for a while.
        split_digest: of the split whose validation part chose them.
        seeds: that the trials were trained with.
    """

    study: str
    trial: int
    best: bool
    split_digest: str
    seeds: tuple[int, ...]


class Seeds(NamedTuple):
    """What each source of chance draws from.

    Attributes:
        split: which image is in which part.
        init: initial weights of what is not pre-trained.
        loader: all that training draws: order, views, mixing, dropout.
    """

    split: int
    init: int
    loader: int


def free_seeds(taken: Iterable[int]) -> str:
    """Five seeds in a row, none of them taken: `0-4`, or the next."""
    first = 0
    for seed in sorted(set(taken)):
        if first <= seed < first + 5:
            first = seed + 1
    return f"{first}-{first + 4}"


def _text_of_number(value: Any) -> Any:
    """YAML reads 32 as a number."""
    return str(value) if type(value) is int else value


class RunConfig(Frozen):
    """Everything that decides a result, and where it runs; `method` and `dataset` are plugins'."""

    method_name: str
    preset: str | None = None
    dataset_name: str
    protocol: str
    recipe: str

    method: Any
    dataset: Any

    seed: int = Field(
        default=0, ge=0, lt=2**63, description="of the run: init_seed and loader_seed unless given"
    )
    init_seed: int | None = Field(
        default=None, ge=0, lt=2**63, description="initial weights; None for the run's seed"
    )
    loader_seed: int | None = Field(
        default=None,
        ge=0,
        lt=2**63,
        description="order, views, mixing and dropout; None for the run's seed",
    )
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
    tuned: TunedFrom | None = Field(
        default=None, description="where tuned settings come from; set by --tuned FILE"
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
        chosen_on = () if self.tuned is None else self.tuned.seeds
        used = {self.seed, self.seeds.init, self.seeds.loader} & {*chosen_on}
        if used:
            problems.append(
                f"seed {min(used)} is one of those the settings were tuned with "
                f"({', '.join(map(str, chosen_on))}), so its result would be chosen, not drawn; "
                f"report other seeds, such as --seeds {free_seeds(chosen_on)}"
            )
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def hashed(self) -> Settings:
        """What decides the result, JSON-able: everything but seed, machine and places of data."""
        settings = self.model_dump(mode="json", exclude=set(PLACE))
        if self.tuned is None:
            del settings["tuned"]  # the keys of runs that were not tuned know nothing of tuning
        return settings | {"dataset": self.dataset.identity()}

    @property
    def seeds(self) -> Seeds:
        """The seeds in force."""
        given = (self.init_seed, self.loader_seed)
        init, loader = (self.seed if one is None else one for one in given)
        return Seeds(split=self.split_seed, init=init, loader=loader)

    @property
    def method_label(self) -> str:
        """`ecl` or `ecl@authors`."""
        return self.method_name + (f"@{self.preset}" if self.preset else "")
