"""The seeds of one configuration together: mean and standard deviation of what was found."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from ltbench.errors import UsageError

__all__ = ["headline", "over_seeds"]

Facts = dict[str, Any]
Numbers = dict[str, float | None]


def over_seeds(evaluations: Sequence[Facts]) -> dict[str, Facts]:
    """Mean and sample standard deviation (n - 1) over the seeds of one row, by headline number.

    A number that is undefined for any seed is None: a mean over the others would be another one.

    Raises:
        UsageError: runs of several configurations or data, or one run twice.
    """
    keys = sorted({f"{one['key']} on {one['dataset']}" for one in evaluations})
    runs = [one["run"] for one in evaluations]
    if len(keys) > 1:
        raise UsageError(
            f"eval takes the seeds of one configuration; these runs are of {len(keys)}: "
            f"{', '.join(keys)}. `table` and `compare` set configurations against each other."
        )
    if len(set(runs)) < len(runs):
        raise UsageError(f"eval was given one run twice: {', '.join(runs)}. Give each once.")
    every = [headline(one) for one in evaluations]
    # A seed whose validation gave no threshold lacks its numbers: they are undefined for the row.
    names = dict.fromkeys(name for one in every for name in one)
    return {name: _summary([one.get(name) for one in every]) for name in names}


def headline(found: Facts) -> Numbers:
    """The numbers of an evaluation that are worth a mean over seeds, by name."""
    numbers: Numbers = dict(found["metrics"])
    numbers |= _against(found["against_rest"])
    errors = found["calibration"]
    for state in ("as_given", "scaled"):
        for name in ("ece", "adaptive_ece", "classwise_ece", "nll") if errors[state] else ():
            numbers[f"calibration {state}: {name}"] = errors[state][name]
    numbers["area under the coverage-risk curve"] = found["referral"]["area"]
    for point in found["referral"]["points"]:
        numbers[f"risk at {point['wanted']:g} coverage"] = point["risk"]["value"]
    for prior in found["priors"]:
        for state in ("reweighted", "adjusted"):
            for name, value in prior[state].items():
                numbers[f"prior {prior['name']}, {state}: {name}"] = value
    for way in ("most_probable", "least_cost") if found["cost"] else ():
        numbers[f"cost, {way}"] = found["cost"][way]["mean_cost"]
    return numbers


def _against(found: Any) -> Numbers:
    numbers: Numbers = {}
    for one in [] if isinstance(found, Mapping) else found:
        numbers[f"{one['name']}: AUC"] = one["auc"]
        for point in one["points"]:
            asked = f"{one['name']}: at {point['wanted']:g} {point['goal']}"
            for rate in ("sensitivity", "specificity", "ppv", "npv"):
                numbers[f"{asked}, {rate}"] = point["test"][rate]["value"]
    return numbers


def _summary(values: Sequence[float | None]) -> Facts:
    defined = [value for value in values if value is not None]
    whole = len(defined) == len(values)
    return {
        "mean": statistics.fmean(defined) if whole else None,
        "sd": statistics.stdev(defined) if whole and len(defined) > 1 else None,
        "num_seeds": len(values),
    }
