"""What a study leaves: files of tuned settings, the budget curve."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ltbench import provenance
from ltbench.config import resolve, user_layers
from ltbench.files import storage_errors, write_text
from ltbench.settings import flat, nested
from ltbench.tuned import BLOCK, DIGEST, digest_of, tuned_file
from ltbench.tuning.plan import StudyPlan
from ltbench.tuning.report import EndedTrial, StudyReport

__all__ = ["curve_of", "place_of", "write_curve", "write_rows", "write_tuned"]

# Of a stored configuration that served as --config: names and places, which are no settings.
_NO_SETTINGS = ("method_name", "preset", "dataset_name", BLOCK, "tuned", "seed", "machine")


def write_tuned(plan: StudyPlan, report: StudyReport, trial: EndedTrial, out: Path) -> Path:
    """Write the settings of a trial as `<dataset>/<protocol>/<method>.yaml` below `out`.

    Those of a trial that is not the study's best go to `<method>.trial-<n>.yaml`.
    """
    best = report.best is not None and trial.number == report.best.number
    name = plan.label if best else f"{plan.label}.trial-{trial.number}"
    file = place_of(report, out, name)
    settings = _settings(plan, trial)
    block = {**_block(plan, report, trial, best), DIGEST: digest_of(settings)}
    whole = {**settings, BLOCK: block}
    head = (
        f"# {plan.label} on {report.dataset}, tuned by {report.objective}: trial {trial.number} of "
        f"study {report.study}.\n"
    )
    write_text(file, head + yaml.safe_dump(whole, sort_keys=False, width=100))
    return file


def write_curve(plan: StudyPlan, report: StudyReport, out: Path) -> Path:
    """Write the budget curve as `<method>.curve.csv` beside the tuned settings."""
    return write_rows(curve_of(place_of(report, out, plan.label)), report.curve())


def curve_of(file: Path) -> Path:
    """Where the curve belongs that goes with a file of tuned settings."""
    return file.with_suffix(".curve.csv")


def write_rows(file: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Rows with the same keys as CSV, numbers unrounded."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(file, text.getvalue())
    return file


def place_of(report: StudyReport, out: Path, name: str) -> Path:
    """Where a file of a study belongs; its folder is made."""
    file = tuned_file(out, dataset=report.dataset, protocol=report.protocol, method=name)
    with storage_errors(file.parent, "--out"):
        file.parent.mkdir(parents=True, exist_ok=True)
    return file


def _settings(plan: StudyPlan, trial: EndedTrial) -> dict[str, Any]:
    """What the study fixed and what the trial chose, nested: all that makes the run again."""
    request = plan.request
    config = resolve(request)
    given = flat(user_layers(request))
    kept = {key: value for key, value in given.items() if key.split(".")[0] not in _NO_SETTINGS}
    names = {"recipe": request.recipe or given.get("recipe") or config.recipe}
    return nested({**names, "protocol": config.protocol, **kept, **trial.settings})


def _block(plan: StudyPlan, report: StudyReport, trial: EndedTrial, best: bool) -> dict[str, Any]:
    config, facts = resolve(plan.request), plan.facts
    return {
        "study": report.study,
        "trial": trial.number,
        "best": best,
        "method": config.method_name,
        "preset": config.preset,
        "dataset": report.dataset,
        "protocol": report.protocol,
        "split_digest": facts["cell"]["split_digest"],
        "seeds": list(report.seeds),
        "objective": report.objective,
        "validation_images": report.validation_images,
        "value": trial.value,
        "default_value": report.default_value,
        "trials": report.budget,
        "complete": report.count("complete"),
        "pruned": report.count("pruned"),
        "diverged": report.count("diverged"),
        "failed": report.failed,
        "epochs": report.epochs,
        "epochs_trained": report.epochs_trained,
        "device_hours": round(report.device_hours, 6),
        "space": [f"{key}: {words}" for key, words in plan.space.in_words().items()],
        "sampler": dict(facts["sampler"]),
        "pruner": dict(facts["pruner"]),
        "frozen": report.frozen,
        "versions": {**provenance.versions(), "optuna": _optuna()},
        "git": provenance.git_state(),
    }


def _optuna() -> str:
    import optuna

    return str(optuna.__version__)
