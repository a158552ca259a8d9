"""Test scores along the budget, of trials that were best for a while; once a study is frozen."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ltbench.columns import columns
from ltbench.config import Request
from ltbench.errors import UsageError
from ltbench.run_config import free_seeds
from ltbench.runner import Outcome, Place
from ltbench.tuning.output import write_tuned
from ltbench.tuning.plan import StudyPlan
from ltbench.tuning.report import EndedTrial, StudyReport

__all__ = ["Tested", "check_budgets", "render_tests", "run_incumbents"]

METRICS = ("macro_f1", "balanced_accuracy")

RunSeed = Callable[[Request, int, Place], Outcome]


@dataclass(frozen=True)
class Tested:
    """One run of the settings that the first k trials would have chosen.

    Attributes:
        k: trials of the budget.
        expected_best, best_so_far: of validation, from the budget curve.
        run: `<key>/seed-<n>`.
        macro_f1, balanced_accuracy: on the test part.
    """

    method: str
    k: int
    trial: int
    expected_best: float
    best_so_far: float
    seed: int
    run: str
    macro_f1: float
    balanced_accuracy: float


def check_budgets(at: Sequence[int], seeds: Sequence[int], plans: Sequence[StudyPlan]) -> None:
    """Refuse what cannot be tested, before anything trains.

    Raises:
        UsageError: a budget outside 1..N, or a seed that trials train with.
    """
    taken = {seed for plan in plans for seed in plan.seeds}
    for plan in plans:
        wrong = [k for k in at if not 1 <= k <= plan.trials]
        if wrong:
            raise UsageError(
                f"--test-at {wrong[0]}: expected numbers of trials from 1 to {plan.trials}."
            )
        shared = sorted(set(seeds) & set(plan.seeds))
        if shared:
            raise UsageError(
                f"Seed {shared[0]} is one of those that trials train with; what is reported needs "
                f"seeds of its own, such as --seeds {free_seeds(taken)}."
            )


def run_incumbents(
    plan: StudyPlan,
    report: StudyReport,
    at: Sequence[int],
    seeds: Sequence[int],
    place: Place,
    out: Path,
    *,
    run_seed: RunSeed,
    on_outcome: Callable[[Outcome], None],
) -> list[Tested]:
    """Run, with every seed, what the first k trials would have chosen, for each k.

    The runs are ordinary ones: in tables the untuned settings are the method's own row, others are
    called tuned. A k whose first trials were none of them complete has no row.

    Args:
        report: of a study that is frozen.
    """
    assert report.frozen is not None
    rows, curve = [], report.curve()
    for k in sorted(set(at)):
        trial = report.incumbent(k)
        if trial is None:
            continue
        request = _request(plan, report, trial, out)
        for seed in seeds:
            outcome = run_seed(request, seed, place)
            on_outcome(outcome)
            test = outcome.record["metrics"]["test"]
            told = (curve[k - 1]["expected_best"], curve[k - 1]["best_so_far"])
            rows.append(
                Tested(
                    *(plan.label, k, trial.number, *told, seed, outcome.folder.name),
                    *(float(test[metric]) for metric in METRICS),
                )
            )
    return rows


def render_tests(rows: Sequence[Tested]) -> str:
    """Validation and test beside each other, one line for each method and budget."""
    groups: dict[tuple[str, int], list[Tested]] = {}
    for row in rows:
        groups.setdefault((row.method, row.k), []).append(row)
    lines = [
        {
            "method": method,
            "k": str(k),
            "trial": str(found[0].trial),
            "expected best (val)": f"{found[0].expected_best:.4f}",
            "best so far (val)": f"{found[0].best_so_far:.4f}",
            "seeds": str(len(found)),
            **{
                f"test {metric.replace('_', ' ')}": _mean(getattr(row, metric) for row in found)
                for metric in METRICS
            },
        }
        for (method, k), found in groups.items()
    ]
    return f"Test results of what the first k trials would have chosen\n\n{columns(lines)}\n"


def _request(plan: StudyPlan, report: StudyReport, trial: EndedTrial, out: Path) -> Request:
    """The run of a trial's settings: the method's own where they are untuned."""
    settings = {key: value for key, value in plan.request.settings.items() if key != "seed"}
    if trial.untuned:
        return replace(plan.request, settings=settings)
    place = {key: value for key, value in settings.items() if key.startswith("machine.")}
    file = write_tuned(plan, report, trial, out)
    return Request(
        plan.request.method,
        plan.request.dataset,
        report.protocol,
        settings=place,
        tuned_file=file,
    )


def _mean(values: Any) -> str:
    found = list(values)
    mean = f"{100 * statistics.fmean(found):.2f}"
    return f"{mean} \N{PLUS-MINUS SIGN} {100 * statistics.stdev(found):.2f}" if found[1:] else mean
