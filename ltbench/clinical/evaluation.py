"""A run evaluated again from its stored predictions: everything the command `eval` reports."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from ltbench.clinical.calibration import Temperature, calibration, fit_temperature
from ltbench.clinical.class_files import read_cost_matrix
from ltbench.clinical.cost import expected_cost
from ltbench.clinical.material import Material, read_material
from ltbench.clinical.operating import against_rest, threshold_of
from ltbench.clinical.positives import Positive, declared_positives, parse_positive
from ltbench.clinical.priors import class_prior, prior_report, weighted_metrics
from ltbench.clinical.probabilities import soften
from ltbench.clinical.proportions import LEVEL, proportion
from ltbench.clinical.referral import COVERAGES, referral
from ltbench.clinical.subgroups import AGE_EDGES, subgroups
from ltbench.clinical.units import LESION, Rule, Units, one_a_unit
from ltbench.errors import UsageError
from ltbench.predictions import Predictions
from ltbench.results import RunFolder

__all__ = ["EvalOptions", "Facts", "evaluation"]

Facts = dict[str, Any]
SCHEMA_VERSION: Final = 1
_MIX: Final = 0.1
_FEW_POSITIVES: Final = 30
_GROUP_WORDS: Final = (LESION, "group")


@dataclass(frozen=True)
class EvalOptions:
    """What `eval` is asked for.

    Attributes:
        positive: groups of classes or classes to set against the rest, one report each; empty for
            those the data set declares.
        specificity: sensitivity is reported at each of these, reached on validation.
        sensitivity: specificity is reported at each of these.
        by: facts of the images to divide the test part by; `lesion`, `group` or the run's own word
            for a group asks for `per_lesion`.
        age_edges: bins of `by="age"`.
        prior: `uniform`, `train`, `forward:50`, `backward:50`, or a CSV file; one report each.
        cost: CSV file of a cost matrix.
        per_lesion: one decision a lesion, by "mean" or "max"; None for one an image.
        temperature: divide logits by the temperature that validation chooses, before all else.
        coverage: of referral, reached on validation.
        level: of all intervals.
    """

    positive: Sequence[str] = ()
    specificity: Sequence[float] = (0.95,)
    sensitivity: Sequence[float] = (0.9,)
    by: Sequence[str] = ()
    age_edges: Sequence[float] = AGE_EDGES
    prior: Sequence[str] = ()
    cost: str | Path | None = None
    per_lesion: Rule | None = None
    temperature: bool = False
    coverage: Sequence[float] = COVERAGES
    level: float = LEVEL


@dataclass(frozen=True)
class _Decided:
    """The predictions that decisions are made from, and what was done to get them.

    Attributes:
        as_given, scaled: the test part, one row a unit, by the stored logits and by logits divided
            by the temperature; `test` is one of the two.
        fitted: None without a validation part.
    """

    validation: Predictions | None
    test: Predictions
    as_given: Predictions
    scaled: Predictions | None
    fitted: Temperature | None
    units: Units | None

    @property
    def unit(self) -> str:
        """What a decision is made of, in one word."""
        return "image" if self.units is None else self.units.noun


def evaluation(folder: RunFolder, options: EvalOptions | None = None) -> Facts:
    """Evaluate one run, or one external test of it; the result holds only what JSON can.

    What was asked for and cannot be answered is an error. What is reported without being asked for
    says `{"refused": reason}` in its place.

    Args:
        folder: of a finished run, or of an external test below it.

    Raises:
        UsageError: unknown names, or something that this run cannot answer, such as a threshold
            without a validation part.
        DataMissingError, VerificationError: the run or a file is not here or not whole.
    """
    options = options or EvalOptions()
    material = read_material(folder)
    facts = [fact for fact in options.by if not _means_units(fact, material)]
    rule = options.per_lesion or ("mean" if len(facts) < len(options.by) else None)
    positives = _positives(material, options)
    decided = _decided(material, options, rule, positives)
    test, names, counts = decided.test, decided.test.class_names, material.train_counts
    right = test.logits.argmax(axis=1) == test.targets
    against = _against(decided, positives, options)
    found: Facts = {
        **_about(material, decided, options),
        "notes": [*_notes(material, decided, options), *_few(against)],
        "accuracy": asdict(proportion(right, test.groups, level=options.level)),
        "metrics": weighted_metrics(test, _ones(test)),
        "against_rest": against,
        "calibration": asdict(
            calibration(decided.as_given, decided.scaled, decided.fitted, level=options.level)
        ),
        "referral": asdict(
            referral(
                decided.validation,
                test,
                coverages=tuple(options.coverage),
                level=options.level,
            )
        ),
        "subgroups": _subgroups(decided, facts, positives, options, counts),
        "cost": None,
        "priors": [
            asdict(prior_report(test, class_prior(one, names, counts), counts, name=one))
            for one in options.prior
        ],
    }
    if options.cost is not None:
        matrix = read_cost_matrix(Path(options.cost), names)
        found["cost"] = asdict(expected_cost(test, matrix, counts))
    return found


def _about(material: Material, decided: _Decided, options: EvalOptions) -> Facts:
    """Whose numbers these are."""
    record, test = material.record, decided.test
    groups = test.groups
    return {
        "schema_version": SCHEMA_VERSION,
        "run": material.name,
        "label": record["label"],
        "dataset": record["dataset"],
        "protocol": record["protocol"],
        "key": material.trained["key"],
        "seed": record["seed"],
        "external": material.is_external,
        "part": "test",
        "unit": decided.unit,
        "units": None if decided.units is None else asdict(decided.units),
        "num_images": len(material.test.ids),
        "num_units": len(test.ids),
        "num_validation": None if decided.validation is None else len(decided.validation.ids),
        "group_noun": material.group_noun,
        "num_groups": None if groups is None else len(set(groups.tolist())),
        "temperature": decided.fitted.value if decided.fitted and options.temperature else None,
        "level": options.level,
    }


def _notes(material: Material, decided: _Decided, options: EvalOptions) -> list[str]:
    """What a reader must know of the numbers, one sentence each."""
    notes = []
    if material.is_external:
        notes.append(
            "Thresholds and temperature come from the validation part of the run's own data."
        )
    if decided.validation is not None and material.trained.get("uses_validation"):
        notes.append(
            "Training itself used results on the validation part, so that thresholds and "
            "temperature taken there may promise more than test keeps."
        )
    if decided.validation is not None and _mix_moves(decided.validation, decided.test):
        notes.append(
            "Validation and test have other shares of the classes: what a threshold reached on one "
            "is not expected on the other."
        )
    if decided.test.groups is None:
        notes.append("No groups are known: intervals take every image for independent.")
    if decided.units is not None and decided.units.num_several == 0:
        notes.append(f"No {decided.unit} of the test part has several images.")
    if options.by:
        notes.append(
            "Differences between subgroups are descriptive: they differ in their mix of classes, "
            "and nothing here tests them."
        )
    return notes


def _few(reports: Any) -> list[str]:
    """Of thresholds that rest on few images of validation."""
    notes = []
    for one in reports if isinstance(reports, list) else ():
        numbers = {point["validation"]["sensitivity"]["total"] for point in one["points"]}
        if numbers and min(numbers) < _FEW_POSITIVES:
            notes.append(
                f"Thresholds for {one['name']} rest on {min(numbers)} such images of validation: "
                "another validation part would give another threshold."
            )
    return notes


def _decided(
    material: Material, options: EvalOptions, rule: Rule | None, positives: Sequence[Positive]
) -> _Decided:
    """Temperature first, image by image, then one row a unit."""
    validation, test = material.validation, material.test
    if validation is None and options.temperature:
        fit_temperature(None)
    fitted = None if validation is None else fit_temperature(validation)
    chosen = _chosen(rule, positives)

    def united(part: Predictions, temperature: float) -> tuple[Predictions, Units | None]:
        part = part if temperature == 1.0 else soften(part, temperature)
        if rule is None:
            return part, None
        return one_a_unit(part, material.group_noun, rule=rule, positive=chosen)

    as_given, units = united(test, 1.0)
    scaled = None if fitted is None else united(test, fitted.value)[0]
    used = fitted.value if fitted is not None and options.temperature else 1.0
    return _Decided(
        validation=None if validation is None else united(validation, used)[0],
        test=scaled if scaled is not None and options.temperature else as_given,
        as_given=as_given,
        scaled=scaled,
        fitted=fitted,
        units=units,
    )


def _chosen(rule: Rule | None, positives: Sequence[Positive]) -> tuple[int, ...]:
    """The classes by which the rule "max" takes an image."""
    if rule == "max" and len(positives) > 1:
        raise UsageError(
            "The rule 'max' takes one image a lesion, by one group of classes; there are "
            f"{len(positives)}: {', '.join(one.title for one in positives)}. Name one with "
            "--positive."
        )
    return positives[0].indices if positives else ()


def _positives(material: Material, options: EvalOptions) -> list[Positive]:
    names, declared = material.test.class_names, material.class_groups
    if not options.positive:
        return declared_positives(names, declared)
    return [parse_positive(text, names, declared) for text in options.positive]


def _against(decided: _Decided, positives: Sequence[Positive], options: EvalOptions) -> Any:
    if not positives:
        return _refused(
            "the data set declares no classes to set against the rest; name some with --positive"
        )

    def report() -> list[Facts]:
        return [
            asdict(
                against_rest(
                    decided.validation,
                    decided.test,
                    one,
                    specificities=tuple(options.specificity),
                    sensitivities=tuple(options.sensitivity),
                    level=options.level,
                )
            )
            for one in positives
        ]

    return report() if options.positive else _or_refused(report)


def _subgroups(
    decided: _Decided,
    facts: Sequence[str],
    positives: Sequence[Positive],
    options: EvalOptions,
    train_counts: Sequence[int],
) -> Facts:
    thresholds = [(one, _threshold(decided, one, options)) for one in positives if facts]
    return {
        fact: [
            asdict(one)
            for one in subgroups(
                decided.test,
                fact,
                train_counts,
                thresholds=thresholds,
                age_edges=options.age_edges,
                level=options.level,
            )
        ]
        for fact in facts
    }


def _threshold(decided: _Decided, positive: Positive, options: EvalOptions) -> float | None:
    """That of the first wanted specificity; None where validation cannot give one."""
    if not options.specificity:
        return None
    try:
        return threshold_of(decided.validation, positive, "specificity", options.specificity[0])
    except UsageError:
        return None


def _means_units(fact: str, material: Material) -> bool:
    return fact in (*_GROUP_WORDS, material.group_noun)


def _or_refused(report: Callable[[], list[Facts]]) -> Any:
    try:
        return report()
    except UsageError as error:
        return _refused(str(error))


def _refused(reason: str) -> Facts:
    return {"refused": reason}


def _mix_moves(validation: Predictions, test: Predictions) -> bool:
    """Whether a tenth of the images or more would have to change class to make the shares equal."""
    shares = [
        np.bincount(part.targets, minlength=len(part.class_names)) / len(part.targets)
        for part in (validation, test)
    ]
    return bool(np.abs(shares[0] - shares[1]).sum() / 2 >= _MIX)


def _ones(predictions: Predictions) -> np.ndarray:
    return np.ones(len(predictions.ids))
