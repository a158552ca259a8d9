"""What a study came to: its trials counted, its best, its cost, its budget curve."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from ltbench.columns import columns
from ltbench.tuning import places
from ltbench.tuning.curve import best_so_far, expected_best
from ltbench.tuning.places import NOTE, POSITION
from ltbench.tuning.plan import StudyPlan
from ltbench.tuning.study import OUTCOME, Study

__all__ = ["EndedTrial", "StudyReport", "in_a_line", "render_curves", "render_table", "report_of"]

# Rows of a printed curve; the file has all.
_LINES = 12


@dataclass(frozen=True)
class EndedTrial:
    """One trial of the budget.

    Attributes:
        untuned: whether it had the defaults.
        state: "complete"; "pruned" with what it had reached; "diverged", which counts as 0.
        value: the objective, the mean over the tuning seeds.
        epochs: trained, over all seeds.
    """

    number: int
    untuned: bool
    state: str
    value: float
    epochs: int
    wall_time_s: float
    settings: dict[str, Any]


@dataclass(frozen=True)
class StudyReport:
    """What a study came to.

    Attributes:
        study: its digest.
        failed: trials given up: refused settings, or a process that died every time.
        validation_images: that the objective is computed from.
        epochs: of one trial with one seed that is trained to its end.
        trials: those of the budget, by number.
        frozen: when the budget was met; None before.
        file: of the tuned settings; None before.
    """

    method: str
    dataset: str
    protocol: str
    study: str
    objective: str
    validation_images: int
    seeds: tuple[int, ...]
    budget: int
    epochs: int
    failed: int
    trials: tuple[EndedTrial, ...]
    frozen: str | None = None
    file: Path | None = None

    def count(self, state: str) -> int:
        """Trials of the budget in a state."""
        return sum(one.state == state for one in self.trials)

    @property
    def pruned(self) -> int:
        """Trials that were not trained to their end: stopped early, or diverged."""
        return len(self.trials) - self.count("complete")

    @property
    def best(self) -> EndedTrial | None:
        """The complete trial with the largest value, the first of equals."""
        return self.incumbent(len(self.trials))

    def incumbent(self, num_trials: int) -> EndedTrial | None:
        """The best of the first so many; None where none of them is complete."""
        whole = [one for one in self.trials[:num_trials] if one.state == "complete"]
        return max(whole, key=lambda one: one.value, default=None)

    @property
    def default_value(self) -> float | None:
        """What the untuned settings are worth; None where they diverged or are not known yet."""
        found = (one.value for one in self.trials if one.untuned and one.state == "complete")
        return next(found, None)

    @property
    def epochs_trained(self) -> int:
        """By all trials of the budget."""
        return sum(one.epochs for one in self.trials)

    @property
    def device_hours(self) -> float:
        """Of all trials of the budget, each on one device."""
        return sum(one.wall_time_s for one in self.trials) / 3600

    def curve(self) -> list[dict[str, Any]]:
        """For k = 1..N the expected best of k trials and the best of the first k.

        A pruned trial enters with what it had reached, at most the best that a trial reached which
        was trained to its end: what it would have come to is not known, and it cannot be chosen.
        """
        if self.best is None:
            return []
        values = [min(one.value, self.best.value) for one in self.trials]
        rows = zip(expected_best(values), best_so_far(values), strict=True)
        return [
            {"k": k, "expected_best": expected, "best_so_far": best}
            for k, (expected, best) in enumerate(rows, start=1)
        ]

    def as_json(self) -> dict[str, Any]:
        """All of it, JSON-able."""
        best = self.best
        return {
            **asdict(self),
            "file": None if self.file is None else str(self.file),
            "pruned": self.pruned,
            "complete": self.count("complete"),
            "best": None if best is None else asdict(best),
            "default_value": self.default_value,
            "epochs_trained": self.epochs_trained,
            "device_hours": self.device_hours,
            "curve": self.curve(),
        }


def report_of(study: Study) -> StudyReport:
    """A study as it stands now."""
    plan, trials = study.plan, study.trials()
    return StudyReport(
        method=plan.label,
        dataset=plan.facts["dataset"],
        protocol=plan.facts["protocol"],
        study=plan.id,
        objective=plan.objective,
        validation_images=plan.facts["validation_images"],
        seeds=plan.seeds,
        budget=plan.trials,
        epochs=plan.facts["cell"]["config"]["epochs"],
        failed=len(places.failures(trials)),
        trials=tuple(_ended(trial) for trial in places.finished(trials)),
        frozen=study.frozen,
    )


def in_a_line(plan: StudyPlan, trial: FrozenTrial) -> str:
    """A trial that has just ended, failed ones too."""
    head = f"{plan.label} trial {trial.number}: "
    if trial.state == TrialState.FAIL:
        return f"{head}refused: {trial.user_attrs.get(NOTE, 'its process died every time')}"
    one = _ended(trial)
    untuned = " (untuned)" if one.untuned else ""
    told = {"complete": "", "pruned": "pruned at ", "diverged": "diverged, "}[one.state]
    return f"{head}{told}{one.value:.4f}{untuned}, {one.epochs} epochs, {one.wall_time_s:.1f} s"


def render_table(reports: Sequence[StudyReport]) -> str:
    """One line a method: what it was given, what came of it, what it took."""
    rows = [
        {
            "method": one.method,
            "complete": str(one.count("complete")),
            "pruned": str(one.count("pruned")),
            "diverged": str(one.count("diverged")),
            "failed": str(one.failed),
            "epochs": str(one.epochs_trained),
            "untuned": _number(one.default_value),
            "best": _number(None if one.best is None else one.best.value),
            "trial": "-" if one.best is None else str(one.best.number),
            "device-hours": f"{one.device_hours:.4f}",
            "file": str(one.file or "-"),
        }
        for one in reports
    ]
    first = reports[0]
    seeds = ", ".join(map(str, first.seeds))
    return (
        f"{first.dataset}, protocol {first.protocol}: {first.objective} of "
        f"{first.validation_images} validation images, seeds {seeds}; {first.budget} trials of "
        f"{first.epochs} epochs a method\n\n{columns(rows)}\n"
    )


def render_curves(reports: Sequence[StudyReport]) -> str:
    """The budget curves beside each other."""
    curves = {one.method: one.curve() for one in reports}
    longest = max((len(curve) for curve in curves.values()), default=0)
    if longest == 0:
        return ""
    rows = [
        {"k": str(k + 1)}
        | {
            f"{method} {column}": _number(curve[k][column] if k < len(curve) else None)
            for method, curve in curves.items()
            for column in ("expected_best", "best_so_far")
        }
        for k in _shown(longest)
    ]
    return (
        "Validation by budget: the expected best of k of the trials, and the best of the first k"
        f"\n\n{columns(rows)}\n\n"
        "Expected best of k drawn without replacement from all trials, as if they were "
        "independent; those of TPE are not. Pruned trials enter with what they had reached.\n"
    )


def with_file(report: StudyReport, file: Path) -> StudyReport:
    """The report, its settings written."""
    return replace(report, file=file)


def _shown(longest: int) -> list[int]:
    """Which budgets to print: all of few, else about `_LINES` with the first and the last."""
    if longest <= _LINES:
        return list(range(longest))
    return sorted({round(i * (longest - 1) / (_LINES - 1)) for i in range(_LINES)})


def _ended(trial: FrozenTrial) -> EndedTrial:
    outcome = trial.user_attrs[OUTCOME]
    return EndedTrial(
        trial.number,
        trial.user_attrs[POSITION] == 0,
        *(outcome["state"], outcome["value"], outcome["epochs"], outcome["wall_time_s"]),
        outcome["settings"],
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
