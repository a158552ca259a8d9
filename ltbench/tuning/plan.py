"""A study as it is asked for: all that is fixed, and the digest that names it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ltbench.cell import Cell
from ltbench.config import Request, resolve
from ltbench.errors import RunFailedError, UsageError
from ltbench.files import canonical_json, sha256_hex
from ltbench.registry import METHODS, suggest
from ltbench.runner import Place
from ltbench.settings import flat
from ltbench.tuning.sampling import pruner_facts, sampler_facts
from ltbench.tuning.space import Kind, Space, space_of
from ltbench.tuning.trial import trial_cell

__all__ = ["FIRST_SEED", "OBJECTIVES", "Options", "StudyPlan", "differences", "plan_studies"]

OBJECTIVES = ("val.macro_f1", "val.balanced_accuracy")
# Far from what anybody reports.
FIRST_SEED = 1_000_000
# As in a grid: so that what a study is does not depend on how many trials run side by side.
_THREADS = 1
_DIGITS = 12


@dataclass(frozen=True)
class Options:
    """What all studies of a command have in common.

    Attributes:
        trials: the budget: trials that are complete or pruned.
        space: which settings are searched; see `space_of`.
        own: the user's ranges by setting.
        seeds: that every trial trains with; its value is the mean.
        sampler_seed: of the draws.
    """

    trials: int = 30
    space: Kind = "both"
    own: Mapping[str, str] | None = None
    objective: str = OBJECTIVES[0]
    seeds: tuple[int, ...] = (FIRST_SEED,)
    sampler: str = "tpe"
    sampler_seed: int = 0
    pruner: str = "median"


@dataclass(frozen=True)
class StudyPlan:
    """One method's study.

    Attributes:
        request: what every trial begins with; its seed is one of the study's.
        facts: everything fixed, JSON-able.
    """

    request: Request
    space: Space
    facts: Mapping[str, Any]

    @property
    def id(self) -> str:
        """The first digits of the facts' SHA-256."""
        return sha256_hex(canonical_json(dict(self.facts)).encode())[:_DIGITS]

    @property
    def name(self) -> str:
        """What the study is called in its database."""
        return f"{self.group}/{self.id}"

    @property
    def group(self) -> str:
        """What studies of this method on these data share in their names."""
        return f"{self.facts['dataset']}/{self.facts['protocol']}/{self.label}"

    @property
    def label(self) -> str:
        """The method, with its preset."""
        return str(self.facts["method"])

    @property
    def trials(self) -> int:
        """The budget."""
        return int(self.facts["trials"])

    @property
    def objective(self) -> str:
        """What is maximised."""
        return str(self.facts["objective"])

    @property
    def seeds(self) -> tuple[int, ...]:
        """That every trial trains with."""
        return tuple(self.facts["seeds"])

    def trial_request(self, settings: Mapping[str, Any], seed: int) -> Request:
        """A trial's run with one seed."""
        # The ends of first stages are worth their space where all that is searched acts after them.
        later = _settings_of_later_stages(self.request)
        place = {"seed": seed, "machine.keep_stages": set(self.space.ranges) <= later}
        return replace(self.request, settings={**self.request.settings, **settings, **place})

    def check(self, cell: Cell) -> None:
        """Refuse a trial that is about something else: a plugin or data were edited meanwhile.

        Raises:
            RunFailedError: it is.
        """
        changed = differences(self.facts["cell"], _cell_facts(cell, self.space))
        if changed:
            raise RunFailedError(
                f"{', '.join(changed)} changed while the study {self.name} ran. Its trials would "
                "not be comparable: run the same command again, which begins another study."
            )


def plan_studies(
    methods: Sequence[Request], options: Options, place: Place
) -> tuple[StudyPlan, ...]:
    """One study a method, with the same budget.

    Args:
        methods: one request each, without seed and tuned file.

    Raises:
        UsageError, DataMissingError, VerificationError: anything a trial would be refused for
            before it trains, and budgets that would differ.
    """
    _check(options)
    plans = tuple(_plan(_settled(request, options), options, place) for request in methods)
    epochs = {plan.label: plan.facts["cell"]["config"]["epochs"] for plan in plans}
    if len(set(epochs.values())) > 1:
        told = ", ".join(f"{label} {number}" for label, number in epochs.items())
        raise UsageError(
            f"Methods are tuned with equal budgets, but their epochs differ: {told}. Give --epochs."
        )
    return plans


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Dotted names of the facts that differ."""
    one, other = flat(before), flat(after)
    return sorted(key for key in {*one, *other} if one.get(key) != other.get(key))


def _plan(request: Request, options: Options, place: Place) -> StudyPlan:
    space = space_of(request, options.space, options.own)
    cell = trial_cell(request, place)
    if cell.validation is None:
        raise UsageError(
            f"Protocol '{cell.config.protocol}' of {cell.config.dataset_name} has no validation "
            "part, and nothing else may choose settings. Choose another with --protocol."
        )
    facts = {
        "method": cell.config.method_label,
        "dataset": cell.config.dataset_name,
        "protocol": cell.config.protocol,
        "cell": _cell_facts(cell, space),
        "validation_images": len(cell.validation),
        "space": space.facts(),
        "defaults": dict(space.defaults),
        "objective": options.objective,
        "trials": options.trials,
        "seeds": list(options.seeds),
        "sampler": sampler_facts(options.sampler, options.sampler_seed),
        "pruner": pruner_facts(options.pruner, cell.config.epochs),
    }
    return StudyPlan(request, space, facts)


def _settled(request: Request, options: Options) -> Request:
    """The request with threads and a seed of the study's."""
    if request.tuned_file is not None:
        raise UsageError(
            "tune writes files of tuned settings and takes none. Give --config or --set to fix "
            "settings."
        )
    config = resolve(request)
    threads = {"machine.threads": config.machine.threads or _THREADS}
    if config.machine.devices > 1:
        raise UsageError(
            f"machine.devices is {config.machine.devices}, but a trial trains on one device; "
            "-j N trains N trials side by side. Leave --devices out."
        )
    if config.init_seed is not None or config.loader_seed is not None:
        raise UsageError(
            "init_seed and loader_seed are fixed, so trials would share them with the runs that "
            "are reported. Leave them out: --tune-seeds says what trials train with."
        )
    settings = {**request.settings, **threads, "seed": options.seeds[0]}
    return replace(request, settings=settings)


def _check(options: Options) -> None:
    if options.objective not in OBJECTIVES:
        raise UsageError(suggest("objective", options.objective, list(OBJECTIVES)))
    if options.trials < 1:
        raise UsageError(f"Expected one trial or more, got {options.trials}.")
    if not options.seeds:
        raise UsageError("Expected one tuning seed or more, got none.")


def _cell_facts(cell: Cell, space: Space) -> dict[str, Any]:
    """The parts of a run's key, without what is searched; settings by dotted name."""
    settings = flat(cell.key_parts["config"])
    kept = {key: value for key, value in settings.items() if key not in space.ranges}
    return {**cell.key_parts, "config": kept}


def _settings_of_later_stages(request: Request) -> set[str]:
    stages = METHODS[request.method.partition("@")[0]].stage_settings
    return {key for settings in stages.values() for key in settings}
