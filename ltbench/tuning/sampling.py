"""Who draws a trial's settings, and who stops a trial early; each named with its settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from ltbench.errors import UsageError
from ltbench.files import sha256_hex
from ltbench.registry import suggest
from ltbench.tuning.space import Space

__all__ = [
    "PRUNERS",
    "SAMPLERS",
    "PositionedSampler",
    "make_pruner",
    "pruner_facts",
    "sampler_facts",
]

SAMPLERS: dict[str, dict[str, Any]] = {
    # Optuna 5's defaults, written down. The constant liar keeps workers apart that draw at once.
    "tpe": {
        "n_startup_trials": 10,
        "n_ei_candidates": 24,
        "multivariate": True,
        "constant_liar": True,
    },
    "random": {},
}
PRUNERS = ("median", "hyperband", "none")

Enter = Callable[[FrozenTrial], int]
"""A trial that begins, to its position among all that were drawn."""


class PositionedSampler(BaseSampler):
    """Draws each trial with a generator of its own, seeded by the study's seed and its position.

    So what is drawn does not depend on how often workers were stopped and started in between. The
    first trial is not drawn: it has the defaults, so that every study knows what they are worth.

    Args:
        facts: the sampler's name, seed and settings, as `sampler_facts` gives them.
        enter: called once for each trial that begins; gives its position.
    """

    def __init__(self, facts: Mapping[str, Any], space: Space, enter: Enter) -> None:
        self._facts = facts
        self._space = space
        self._enter = enter
        self._inner = _sampler(facts, 0)
        self.position = 0

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Take the generator of this trial."""
        self.position = self._enter(trial)
        self._inner = _sampler(self._facts, self.position)
        self._inner.before_trial(study, trial)

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """The whole space: unlike Optuna's own guess it does not depend on what has ended."""
        return {key: found for key, found in self._space.ranges.items() if not found.single()}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The defaults for the first trial, else the inner sampler's choice."""
        if self.position == 0:
            return {key: self._space.defaults[key] for key in search_space}
        drawn: dict[str, Any] = self._inner.sample_relative(study, trial, search_space)
        return drawn

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """The inner sampler's."""
        return self._inner.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Any,
    ) -> None:
        """The inner sampler's."""
        self._inner.after_trial(study, trial, state, values)


def sampler_facts(name: str, seed: int) -> dict[str, Any]:
    """A sampler's name, seed and settings.

    Raises:
        UsageError: an unknown name.
    """
    if name not in SAMPLERS:
        raise UsageError(suggest("sampler of settings", name, list(SAMPLERS)))
    return {"name": name, "seed": seed, **SAMPLERS[name]}


def pruner_facts(name: str, epochs: int) -> dict[str, Any]:
    """A pruner's name and settings; a step is an epoch, counted over all stages.

    Raises:
        UsageError: an unknown name.
    """
    if name == "median":
        # Not in the first third: methods that turn to the rare classes late are behind until then.
        return {"name": name, "n_startup_trials": 5, "n_warmup_steps": epochs // 3}
    if name == "hyperband":
        least = max(1, epochs // 9)
        return {"name": name, "min_resource": least, "max_resource": epochs, "reduction_factor": 3}
    if name == "none":
        return {"name": name}
    raise UsageError(suggest("pruner", name, list(PRUNERS)))


def make_pruner(facts: Mapping[str, Any]) -> BasePruner:
    """The pruner that facts tell of."""
    kinds: dict[str, Callable[..., BasePruner]] = {
        "median": MedianPruner,
        "hyperband": HyperbandPruner,
        "none": NopPruner,
    }
    return kinds[facts["name"]](**{key: facts[key] for key in facts if key != "name"})


def _sampler(facts: Mapping[str, Any], position: int) -> BaseSampler:
    seed = int(sha256_hex(f"{facts['seed']} {position}".encode())[:8], 16)
    settings = {key: facts[key] for key in facts if key not in ("name", "seed")}
    kinds: dict[str, Callable[..., BaseSampler]] = {"tpe": TPESampler, "random": RandomSampler}
    return kinds[facts["name"]](seed=seed, **settings)
