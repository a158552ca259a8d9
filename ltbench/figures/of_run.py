"""The figures of one run, from its record, its history and its stored predictions."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import cached_property
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from ltbench.clinical.calibration import fit_temperature, reliability
from ltbench.clinical.material import Material, read_material
from ltbench.clinical.probabilities import soften
from ltbench.clinical.proportions import LEVEL
from ltbench.clinical.referral import CONFIDENCE, coverage_risk, referral
from ltbench.errors import DataMissingError, VerificationError
from ltbench.figures.against_rest import SPECIFICITY, precision_recall_curves, roc_curves
from ltbench.figures.choosing import Chosen
from ltbench.figures.confusion import cell_words, draw_confusion, matrix_of
from ltbench.figures.coverage import RiskCurve, draw_coverage_risk
from ltbench.figures.curves import ClassCurve, draw_precision_recall, draw_roc, is_crowded
from ltbench.figures.drawing import Drawn, LeftOut, Sketch, drawn
from ltbench.figures.history import history_of, training_words
from ltbench.figures.names import literal, plural
from ltbench.figures.reliability import Calibrated, draw_reliability, ece_of
from ltbench.figures.stored import known_record, trained_run
from ltbench.figures.training import draw_history
from ltbench.figures.words import about_run, per_cent, test_part
from ltbench.metrics import NUM_ECE_BINS
from ltbench.predictions import Predictions
from ltbench.results import RunFolder

__all__ = ["RUN_FIGURES", "run_figures", "run_sketches"]

_MOST_NAMED: Final = 12
_ONE_CLASS: Final = "all test images are of one class: there is no rest to tell it from"


def run_figures(run: RunFolder, only: Collection[str] = ()) -> Iterator[Drawn]:
    """The figures of a finished run, or of an external test of it, one after the other.

    Args:
        only: names of `RUN_FIGURES`; empty for all.

    Raises:
        DataMissingError: the run is not done, or matplotlib is not installed.
        VerificationError: its record is damaged.
    """
    return drawn(run_sketches(run, only))


def run_sketches(run: RunFolder, only: Collection[str] = ()) -> Iterator[Sketch | LeftOut]:
    """The same, each still to be drawn, and those that cannot be, with the reason."""
    given = _Given(run)
    _ = given.record
    for name, (title, make) in RUN_FIGURES.items():
        if only and name not in only:
            continue
        try:
            yield make(given)
        except (DataMissingError, VerificationError) as error:
            yield LeftOut(name, title, str(error))


class _Given:
    """What is stored of a run, read when it is needed."""

    def __init__(self, run: RunFolder) -> None:
        self.run = run

    @cached_property
    def record(self) -> dict[str, Any]:
        return known_record(self.run)

    @cached_property
    def material(self) -> Material:
        return read_material(self.run)

    @cached_property
    def trained_run(self) -> RunFolder:
        return trained_run(self.run, self.record)

    @cached_property
    def trained(self) -> dict[str, Any]:
        return self.record if self.trained_run is self.run else known_record(self.trained_run)

    @property
    def about(self) -> str:
        """The last words of a caption."""
        return f"{about_run(self.trained)}. {test_part(self.record)}."


def _confusion(given: _Given) -> Sketch | LeftOut:
    record = given.record
    matrix = matrix_of([record])
    names, counts, order = matrix.class_names, matrix.counts, matrix.order
    told = [c for c in order.tolist() if matrix.num_images[c] > 0]
    worst = min(told, key=lambda c: float(matrix.shares[c, c]))
    sensitivity = float(np.mean([matrix.shares[c, c] for c in told]))
    others = np.where(np.arange(len(names)) == worst, -1, counts[worst])
    confused = int(others.argmax())
    taken = f", most often taken for {literal(names[confused])} ({others[confused]:.0f})"
    alt = (
        f"Confusion matrix of {plural(len(names), 'class')}: mean sensitivity "
        f"{per_cent(sensitivity)} over {plural(len(told), 'class')}; lowest of "
        f"{literal(names[worst])} with {per_cent(float(matrix.shares[worst, worst]))} "
        f"({counts[worst, worst]:.0f} of {counts[worst].sum():.0f})"
        f"{taken if others[confused] > 0 else ''}."
    )
    caption = (
        f"Test images by true class (rows) and predicted class (columns). {cell_words(matrix)} "
        f"{given.about}"
    )
    return Sketch("confusion", "Confusion matrix", caption, alt, lambda: draw_confusion(matrix))


def _reliability(given: _Given) -> Sketch | LeftOut:
    title, material = "Reliability diagram", given.material
    test, fitted = material.test, None
    if material.validation is not None:
        fitted = fit_temperature(material.validation)
    bins = reliability(test)
    as_given = Calibrated(f"logits as stored: ECE {per_cent(ece_of(bins))}", bins)
    scaled, said = None, "No temperature: the protocol has no validation part."
    if fitted is not None:
        softer = reliability(soften(test, fitted.value))
        label = f"at temperature {fitted.value:.2f}: ECE {per_cent(ece_of(softer))}"
        scaled = Calibrated(label, softer)
        said = (
            f"Open squares and dashed outlines: logits divided by {fitted.value:.4g}, the "
            f"temperature that makes {plural(fitted.num_images, 'validation image')} likeliest."
        )
        if fitted.undetermined:
            said += " Validation does not determine it."
    estimators = " or ".join(sorted({one.accuracy.estimator for one in bins}))
    caption = (
        f"Above: share of right decisions against mean confidence, the largest soft-max "
        f"probability, in {NUM_ECE_BINS} bins of equal width; whiskers: {100 * LEVEL:g} % "
        f"intervals, {estimators}. Below: images in each bin, logarithmic. {said} "
        f"ECE: sum over bins of share of images times |accuracy - confidence|. {given.about}"
    )
    accuracy = float((test.logits.argmax(axis=1) == test.targets).mean())
    alt = (
        f"Reliability diagram of {plural(len(test.ids), 'test image')}: accuracy "
        f"{per_cent(accuracy)}, {as_given.label}{f'; {scaled.label}' if scaled else ''}."
    )
    return Sketch("reliability", title, caption, alt, lambda: draw_reliability(as_given, scaled))


def _roc(given: _Given) -> Sketch | LeftOut:
    title, material = "ROC curves", given.material
    curves, areas, chosen = roc_curves(material.test, material.validation, material.train_counts)
    if not curves:
        return LeftOut("roc", title, _ONE_CLASS)
    corner = " Inset: the upper left corner." if is_crowded(curves) else ""
    points = sum(curve.point is not None for curve in curves)
    circles = (
        f" Circles: the threshold at which validation reaches {100 * SPECIFICITY:g} % specificity, "
        f"where it has images of the class ({points} of {len(curves)})."
        if points
        else ""
    )
    caption = (
        "Each class against the rest, by its soft-max probability; in the legend the area under "
        "the curve, ties counted half, and the test images of the class; dotted: chance."
        f"{circles}{corner}{_which(chosen, areas, material.test)} {given.about}"
    )
    alt = f"ROC curves: {_areas(curves, areas, 'AUC')}."
    return Sketch("roc", title, caption, alt, lambda: draw_roc(curves))


def _precision_recall(given: _Given) -> Sketch | LeftOut:
    title, material = "Precision-recall curves", given.material
    curves, areas, chosen = precision_recall_curves(material.test, material.train_counts)
    if not curves:
        return LeftOut("precision_recall", title, _ONE_CLASS)
    caption = (
        "Each class against the rest, by its soft-max probability; in the legend the average "
        "precision, the sum over thresholds of the step in recall times precision, and the share "
        "of the class among the test images (dotted), which is what guessing reaches."
        f"{_which(chosen, areas, material.test)} {given.about}"
    )
    alt = f"Precision-recall curves: {_areas(curves, areas, 'average precision')}."
    return Sketch("precision_recall", title, caption, alt, lambda: draw_precision_recall(curves))


def _which(chosen: Chosen, areas: np.ndarray, test: Predictions) -> str:
    """Which classes are not there, and why."""
    absent = [literal(test.class_names[c]) for c in np.flatnonzero(np.isnan(areas)).tolist()]
    more = f" and {len(absent) - _MOST_NAMED} more" if len(absent) > _MOST_NAMED else ""
    left_out = (
        f" Left out, without a test image: {', '.join(absent[:_MOST_NAMED])}{more}."
        if absent
        else ""
    )
    return f"{f' {chosen.sentence}' if chosen.sentence else ''}{left_out}"


def _areas(curves: Sequence[ClassCurve], areas: np.ndarray, what: str) -> str:
    worst = min(curves, key=lambda curve: curve.area)
    known = areas[~np.isnan(areas)]
    return (
        f"mean {what} {known.mean():.4f} over {plural(len(known), 'class')}, smallest of "
        f"{literal(worst.name)} with {worst.area:.4f} ({plural(worst.num_positive, 'test image')})"
    )


def _coverage_risk(given: _Given) -> Sketch | LeftOut:
    test, validation = given.material.test, given.material.validation
    curve, found = coverage_risk(test), referral(validation, test)
    num_right = int((test.logits.argmax(axis=1) == test.targets).sum())
    kept = np.arange(1, len(test.ids) + 1)
    points = [
        (one.coverage.value, one.risk.value)
        for one in found.points
        if one.coverage.value is not None and one.risk.value is not None
    ]
    drawn_curve = RiskCurve(
        "least confident referred first", curve.area, curve.coverage, curve.risk, points
    )
    best = RiskCurve(
        "best possible order",
        curve.area - curve.excess,
        curve.coverage,
        np.maximum(kept - num_right, 0) / kept,
    )
    wanted = ", ".join(f"{100 * one.wanted:g} %" for one in found.points)
    circles = f" Circles: thresholds that keep {wanted} of validation." if points else ""
    caption = (
        "Share of wrong decisions among the images that are decided, when the least "
        f"confident (by {CONFIDENCE}) are referred to a person; equal ones in no order."
        f"{circles} Area: mean risk over all coverages. {given.about}"
    )
    alt = (
        f"Coverage-risk curve: risk {per_cent(found.risk_of_all)} when all of "
        f"{plural(len(test.ids), 'image')} are decided, area {curve.area:.4f}, best possible "
        f"{curve.area - curve.excess:.4f}."
    )
    return Sketch(
        *("coverage_risk", "Coverage-risk curve", caption, alt),
        lambda: draw_coverage_risk([drawn_curve], best),
    )


def _training(given: _Given) -> Sketch | LeftOut:
    title, record = "Training curves", given.trained
    history = history_of(given.trained_run.epochs(), record)
    if history is None:
        return LeftOut(
            "training", title, "the run has no history: epochs.jsonl is missing or empty"
        )
    caption, alt = training_words(history, record)
    return Sketch("training", title, caption, alt, lambda: draw_history(history))


RUN_FIGURES: Mapping[str, tuple[str, Callable[[_Given], Sketch | LeftOut]]] = MappingProxyType(
    {
        "confusion": ("Confusion matrix", _confusion),
        "reliability": ("Reliability diagram", _reliability),
        "roc": ("ROC curves", _roc),
        "precision_recall": ("Precision-recall curves", _precision_recall),
        "coverage_risk": ("Coverage-risk curve", _coverage_risk),
        "training": ("Training curves", _training),
    }
)
"""By name: (title, what makes it)."""
