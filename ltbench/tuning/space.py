"""What is searched: a method's own search space, the recipe's optimizer, a user's ranges."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import optuna
import yaml
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from ltbench.config import Request, asked, resolve
from ltbench.errors import UsageError
from ltbench.explain import searched
from ltbench.registry import METHODS, suggest
from ltbench.settings import Settings, flat

__all__ = ["Kind", "Space", "parse_ranges", "space_of"]

Kind = Literal["method", "recipe", "both"]

# One decade either side of the recipe's value; where that is 0, where weight decay begins to act.
_DECADE = 10.0
_WEIGHT_DECAY = (1e-6, 1e-3)
# A trial with another value of these would be another experiment, or cost another budget.
_NOT_SEARCHED = (
    *("seed", "init_seed", "loader_seed", "split_seed", "machine", "dataset", "epochs", "select"),
    *("eval_batch_size", "protocol", "recipe", "method_name", "preset", "dataset_name", "tuned"),
    *("feedback_split", "feedback_fraction", "allow_leak", "views", "init_from", "weights"),
)


@dataclass(frozen=True)
class Space:
    """The settings that are searched.

    Attributes:
        ranges: distributions by dotted setting.
        defaults: the value each has where nothing is tuned.
        fixed: settings that would be searched, had the user not fixed them.
    """

    ranges: Mapping[str, BaseDistribution]
    defaults: Mapping[str, Any]
    fixed: tuple[str, ...] = ()

    @property
    def holds_defaults(self) -> bool:
        """Whether the untuned values lie within the ranges."""
        return all(_contains(found, self.defaults[key]) for key, found in self.ranges.items())

    def suggest(self, trial: optuna.Trial) -> Settings:
        """The settings of a trial."""
        return {key: _suggested(trial, key, found) for key, found in self.ranges.items()}

    def facts(self) -> dict[str, Any]:
        """Every distribution as JSON-able values."""
        return {
            key: json.loads(optuna.distributions.distribution_to_json(found))
            for key, found in self.ranges.items()
        }

    def in_words(self) -> dict[str, str]:
        """By setting, its range for people: `0.01 .. 1 (log)`."""
        return {key: searched(found) for key, found in self.ranges.items()}


def space_of(request: Request, kind: Kind = "both", own: Mapping[str, str] | None = None) -> Space:
    """The space of a method.

    Args:
        request: what is fixed; settings the user gave leave the space.
        kind: the method's search space, the recipe's learning rate and weight decay, or both.
        own: ranges of the user's, by dotted setting: `0.01:0.5:log`, `1:4`, `a,b,c`. They join the
            space or replace ranges in it; a setting given beside one is where its search begins.

    Raises:
        UsageError: a range that the configuration refuses, or an empty space.
    """
    if kind not in get_args(Kind):
        raise UsageError(suggest("search space", kind, list(get_args(Kind))))
    current = flat(resolve(request).model_dump(mode="json"))
    ranges: dict[str, BaseDistribution] = {}
    name = request.method.partition("@")[0]
    if kind in ("method", "both"):
        ranges |= {f"method.{key}": found for key, found in METHODS[name].search_space.items()}
    if kind in ("recipe", "both"):
        ranges |= _of_recipe(current)
    given = set(asked(request))
    fixed = tuple(sorted(key for key in ranges if key in given and key not in (own or {})))
    ranges = {key: found for key, found in ranges.items() if key not in fixed}
    for key, text in (own or {}).items():
        ranges[key] = _range(request, key, text, current)
    if not ranges:
        raise UsageError(
            f"Nothing of {request.method} is left to search: --space {kind} offers "
            f"{', '.join(fixed) or 'nothing for this method'}"
            f"{', which the command fixes' if fixed else ''}. Use --space both, or give ranges "
            "with --search, such as --search optimizer.lr=0.01:0.5:log."
        )
    return Space(ranges, {key: current[key] for key in ranges}, fixed)


def parse_ranges(texts: Sequence[str]) -> dict[str, str]:
    """`key=range` texts to ranges by setting."""
    ranges = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key.strip() or not value.strip():
            raise UsageError(
                "--search takes KEY=LOW:HIGH, KEY=LOW:HIGH:log or KEY=A,B,C, such as "
                f"optimizer.lr=0.01:0.5:log; got '{text}'."
            )
        ranges[key.strip().replace("-", "_")] = value.strip()
    return ranges


def _of_recipe(current: Settings) -> dict[str, BaseDistribution]:
    rate, decay = current["optimizer.lr"], current["optimizer.weight_decay"]
    low, high = (decay / _DECADE, decay * _DECADE) if decay else _WEIGHT_DECAY
    return {
        "optimizer.lr": FloatDistribution(rate / _DECADE, rate * _DECADE, log=True),
        "optimizer.weight_decay": FloatDistribution(low, high, log=True),
    }


def _range(request: Request, key: str, text: str, current: Settings) -> BaseDistribution:
    """A user's range, its ends tried on the configuration."""
    if key.partition(".")[0] in _NOT_SEARCHED:
        raise UsageError(
            f"--search {key}: trials must share it, else they would differ in data, cost or seed. "
            "Search settings of the method, the optimizer or the schedule."
        )
    if key not in current:
        known = [name for name in sorted(current) if name.partition(".")[0] not in _NOT_SEARCHED]
        raise UsageError(suggest("setting", key, known))
    try:
        found = _parsed(text, current[key])
    except ValueError as error:
        raise UsageError(
            f"--search {key}={text}: expected LOW:HIGH, LOW:HIGH:log or A,B,C with LOW below HIGH, "
            f"and above 0 for log ({error})."
        ) from error
    ends = found.choices if isinstance(found, CategoricalDistribution) else (found.low, found.high)  # type: ignore[attr-defined]
    for end in ends:
        try:
            resolve(replace(request, settings={**request.settings, key: end}))
        except UsageError as error:
            # Together with other values of other settings an end may be taken all the same.
            if f"\n  {key}: " in str(error):
                raise UsageError(f"--search {key}={text}: {error}") from error
    return found


def _parsed(text: str, current: Any) -> BaseDistribution:
    """Raises ValueError for what is no range."""
    if ":" not in text:
        choices = [yaml.safe_load(part) for part in text.split(",")]
        if len(choices) < 2 or any(isinstance(one, list | dict) for one in choices):
            raise ValueError("a range has two ends, a choice two values or more")
        return CategoricalDistribution(choices)
    low, high, *more = text.split(":")
    if more not in ([], ["log"]):
        raise ValueError(f"not known: {':'.join(more)}")
    log = bool(more)
    if type(current) is int:
        return IntDistribution(int(low), int(high), log=log)
    return FloatDistribution(float(low), float(high), log=log)


def _contains(found: BaseDistribution, value: Any) -> bool:
    if isinstance(found, CategoricalDistribution):
        return value in found.choices
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and found.low <= value <= found.high  # type: ignore[attr-defined]


def _suggested(trial: optuna.Trial, key: str, found: BaseDistribution) -> Any:
    if isinstance(found, FloatDistribution):
        return trial.suggest_float(key, found.low, found.high, step=found.step, log=found.log)
    if isinstance(found, IntDistribution):
        return trial.suggest_int(key, found.low, found.high, step=found.step, log=found.log)
    if isinstance(found, CategoricalDistribution):
        return trial.suggest_categorical(key, found.choices)
    raise TypeError(f"{key}: {type(found).__name__} is no distribution of Optuna's")
