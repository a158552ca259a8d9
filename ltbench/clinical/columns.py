"""Columns of the clinical table: one number a run, from its stored predictions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from ltbench import metrics
from ltbench.clinical.calibration import Calibration, calibration, fit_temperature
from ltbench.clinical.material import Material, read_material
from ltbench.clinical.operating import against_rest
from ltbench.clinical.positives import declared_positives
from ltbench.clinical.probabilities import soften
from ltbench.clinical.referral import referral
from ltbench.clinical.units import one_a_unit
from ltbench.derived import code_digest, derived, inputs_digest
from ltbench.errors import UsageError
from ltbench.results import RunFolder

__all__ = ["CLINICAL", "Column", "clinical_numbers"]

Numbers = dict[str, float | None]

_CODE: Final = (*Path(__file__).parent.glob("*.py"), Path(metrics.__file__))

SPECIFICITY: Final = 0.95
SENSITIVITY: Final = 0.9
COVERAGE: Final = 0.9
_AT_THRESHOLDS: Final = (
    *("sensitivity_at_95_specificity", "specificity_at_that_threshold"),
    *("specificity_at_90_sensitivity", "sensitivity_at_that_threshold"),
)


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        title: for the head of a table.
        definition: what is computed, exactly, in one line.
        value: of a run; None where the run cannot give it (no validation part, no groups, classes
            that no data set has declared).
        percent: whether tables show it times 100.
    """

    name: str
    title: str
    definition: str
    value: Callable[[RunFolder], float | None]
    percent: bool = True
    higher_is_better: bool = True


def clinical_numbers(folder: RunFolder) -> Numbers:
    """Every number of `CLINICAL` for one run, by name.

    Raises:
        DataMissingError, VerificationError: the run or its predictions are not here or not whole.
    """
    material = read_material(folder)
    validation, test = material.validation, material.test
    fitted = None if validation is None else fit_temperature(validation)
    before = calibration(test, None if fitted is None else soften(test, fitted.value), fitted)
    after = referral(validation, test, coverages=(COVERAGE,))
    risk = after.points[0].risk.value if after.points else None
    return {
        **_against(material),
        "lesion_balanced_accuracy": _by_lesion(material),
        "adaptive_ece": before.as_given.adaptive_ece,
        "classwise_ece": before.as_given.classwise_ece,
        **_after_temperature(before),
        "aurc": after.area,
        "risk_at_90_coverage": risk,
    }


def _against(material: Material) -> Numbers:
    """The first of the data set's classes that are set against the rest."""
    numbers: Numbers = dict.fromkeys(("positive_auc", *_AT_THRESHOLDS))
    declared = declared_positives(material.test.class_names, material.class_groups)
    if not declared:
        return numbers
    found = against_rest(None, material.test, declared[0])
    numbers["positive_auc"] = found.auc
    try:
        found = against_rest(
            material.validation,
            material.test,
            declared[0],
            specificities=(SPECIFICITY,),
            sensitivities=(SENSITIVITY,),
        )
    except UsageError:  # no validation part, or without a positive: no threshold, no number
        return numbers
    at_specificity, at_sensitivity = (point.test for point in found.points)
    rates = (
        *(at_specificity.sensitivity, at_specificity.specificity),
        *(at_sensitivity.specificity, at_sensitivity.sensitivity),
    )
    values = [rate.value for rate in rates]
    return numbers | dict(zip(_AT_THRESHOLDS, values, strict=True))


def _by_lesion(material: Material) -> float | None:
    try:
        one, _ = one_a_unit(material.test, material.group_noun)
    except UsageError:  # no groups, or a group with images of several classes
        return None
    return float(metrics.validation_summary(one)["balanced_accuracy"])


def _after_temperature(before: Calibration) -> Numbers:
    scaled = before.scaled
    return {
        "temperature": None if before.temperature is None else before.temperature.value,
        "ece_after_temperature": None if scaled is None else scaled.ece,
        "nll_after_temperature": None if scaled is None else scaled.nll,
    }


def _number(name: str, folder: RunFolder) -> float | None:
    record = folder.record()
    read = [record.get(part) for part in ("digests", "class_groups", "group_noun")]
    digest = inputs_digest(folder, read, code_digest(_CODE))
    return _once(folder, digest)[name]


@lru_cache(maxsize=4096)
def _once(folder: RunFolder, digest: str) -> Numbers:
    """All numbers of a run are computed together, for the first of its columns."""
    found: Numbers = derived(folder, "clinical", digest, lambda: clinical_numbers(folder))
    return found


def _column(name: str, title: str, definition: str, **how: Any) -> Column:
    return Column(name, title, definition, partial(_number, name), **how)


_FIRST = "the first group of classes the data set declares (such as melanoma) against the rest"
_TAKEN = "threshold taken on validation"
_CATALOGUE: Final = (
    _column("positive_auc", "AUC pos", f"area under the ROC curve of {_FIRST}"),
    _column(
        "sensitivity_at_95_specificity",
        "Sen @95 Spe",
        f"TP / (TP + FN) on test of {_FIRST}; {_TAKEN}, where it gives 95 % specificity",
    ),
    _column(
        "specificity_at_that_threshold",
        "Spe there",
        "TN / (TN + FP) on test at the threshold of sensitivity_at_95_specificity",
    ),
    _column(
        "specificity_at_90_sensitivity",
        "Spe @90 Sen",
        f"TN / (TN + FP) on test of {_FIRST}; {_TAKEN}, where it gives 90 % sensitivity",
    ),
    _column(
        "sensitivity_at_that_threshold",
        "Sen there",
        "TP / (TP + FN) on test at the threshold of specificity_at_90_sensitivity",
    ),
    _column(
        "lesion_balanced_accuracy",
        "Sen a lesion",
        "balanced_accuracy of one decision a lesion (or group), by the mean of probabilities",
    ),
    _column(
        "adaptive_ece",
        "ECE mass",
        "ECE over bins of as equal numbers of images as ties allow",
        higher_is_better=False,
    ),
    _column(
        "classwise_ece",
        "ECE class",
        "mean over classes in the truth of the binned error of p(class)",
        higher_is_better=False,
    ),
    _column("temperature", "T", "temperature fitted on validation; 1 is calibrated", percent=False),
    _column(
        "ece_after_temperature",
        "ECE at T",
        "ece of test logits divided by the temperature",
        higher_is_better=False,
    ),
    _column(
        "nll_after_temperature",
        "NLL at T",
        "nll of test logits divided by the temperature",
        percent=False,
        higher_is_better=False,
    ),
    _column(
        "aurc",
        "AURC",
        "mean share of wrong decisions over all coverages, least confident referred first",
        higher_is_better=False,
    ),
    _column(
        "risk_at_90_coverage",
        "Risk @90 cov",
        f"share of wrong decisions among those not referred; {_TAKEN}, where it keeps 90 %",
        higher_is_better=False,
    ),
)

CLINICAL: Mapping[str, Column] = MappingProxyType({column.name: column for column in _CATALOGUE})
