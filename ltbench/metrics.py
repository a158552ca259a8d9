"""Every metric, computed from stored predictions alone.

Rules that hold for all of them:

- All arithmetic is float64, whatever the dtype of the logits.
- The predicted class is the one with the largest logit; of several largest, the first. Rows with
  such a tie are counted (`num_tied`). The ISIC challenge calls a tied row wrong instead.
- Averages over classes ("macro") take the classes that have at least one image in the truth, each
  with the same weight; `classes_averaged` says how many those were. For this reason
  `macro_sensitivity` and `balanced_accuracy` are the same number.
- What is undefined is None. Only in `macro_precision` does a class that has images but is never
  predicted count as 0: leaving it out would reward a method for giving the class up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from ltbench.errors import UsageError, VerificationError
from ltbench.predictions import Predictions
from ltbench.registry import normalise, suggest

HEAD_ABOVE = 100
TAIL_BELOW = 20
GROUP_BOUNDS: Mapping[str, str] = MappingProxyType(
    {
        "head": f"more than {HEAD_ABOVE}",
        "medium": f"{TAIL_BELOW} to {HEAD_ABOVE}",
        "tail": f"fewer than {TAIL_BELOW}",
    }
)
NUM_ECE_BINS = 15


@dataclass(frozen=True)
class Metric:
    """One entry of the catalogue.

    Attributes:
        definition: what is computed, exactly, in one line.
        percent: whether tables show it times 100.
        paper_column: the name of this column in the tables of the ECL paper, or None.
        path: where the number stands in the result of `evaluate`; (name,) if empty.
    """

    name: str
    definition: str
    higher_is_better: bool = True
    percent: bool = True
    paper_column: str | None = None
    path: tuple[str, ...] = ()

    def read(self, metrics: Mapping[str, Any]) -> float | None:
        """The number in a result of `evaluate`; None where undefined or not recorded."""
        found: Any = metrics
        for step in self.path or (self.name,):
            found = None if found is None else found.get(step)
        return None if found is None else float(found)


_penalty = partial(Metric, higher_is_better=False, percent=False)
_IN_TRUTH = "over classes that occur in the truth"

_CATALOGUE = (
    Metric("accuracy", "images whose predicted class is right / images", paper_column="Acc"),
    Metric("macro_sensitivity", f"mean of TP / (TP + FN) {_IN_TRUTH}", paper_column="Sen"),
    Metric("macro_precision", f"mean of TP / max(TP + FP, 1) {_IN_TRUTH}", paper_column="Pre"),
    Metric("macro_f1", f"mean of 2 TP / (2 TP + FP + FN) {_IN_TRUTH}", paper_column="F1"),
    Metric(
        "macro_auc",
        "mean of the one-vs-rest areas under the ROC of softmax probabilities, where defined",
        paper_column="AUC",
    ),
    Metric("balanced_accuracy", f"mean of TP / (TP + FN) {_IN_TRUTH}, as in the ISIC challenge"),
    Metric("macro_auc_raw_logits", "macro_auc of raw logits, as in the ECL authors' code"),
    Metric("worst_class_sensitivity", f"smallest TP / (TP + FN) {_IN_TRUTH}"),
    *(
        Metric(
            f"{group}_sensitivity",
            f"mean of TP / (TP + FN) {_IN_TRUTH} and have {bounds} training images",
            path=("groups", group, "sensitivity"),
        )
        for group, bounds in GROUP_BOUNDS.items()
    ),
    Metric("mcc", "Matthews correlation of true and predicted class", percent=False),
    Metric("cohen_kappa", "agreement beyond chance, (p_o - p_e) / (1 - p_e)", percent=False),
    Metric(
        "ece",
        f"sum over {NUM_ECE_BINS} bins of top-1 confidence of share * |accuracy - confidence|",
        higher_is_better=False,
    ),
    _penalty("brier", "mean over images of the sum over classes of (probability - truth)^2"),
    _penalty("nll", "mean over images of -log(probability of the true class), in nats"),
)

METRICS: Mapping[str, Metric] = MappingProxyType({metric.name: metric for metric in _CATALOGUE})

SELECTION_RULES: Mapping[str, str] = MappingProxyType(
    {f"val.{name}": name for name in ("accuracy", "balanced_accuracy", "macro_f1")}
)


class ClassScores(NamedTuple):
    """Per-class results as float64 arrays (C,), in the order of `ltbench.method.ClassReport`."""

    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray
    support: np.ndarray


def evaluate(predictions: Predictions, train_counts: Sequence[int]) -> dict[str, Any]:
    """Compute every metric of one split; the result holds only what JSON can.

    `METRICS` defines the single numbers. Beside them stand:

    - `num_images`, `num_classes`, `num_tied` (images with several largest logits);
    - `classes_averaged`: of each mean over classes, the number of classes in it;
    - `groups`: head, medium and tail by training images (more than 100, 20 to 100, fewer than 20;
      Liu et al. 2019), each with its `classes` and their mean `sensitivity`, which is None for a
      group without a class that occurs in the truth;
    - `per_class`: lists in class order. None stands for `precision` of a class never predicted;
      `sensitivity`, `f1` and `auc` of a class absent from the truth; `specificity` and `auc` of a
      class that all images belong to. A class with images that is never predicted has F1 0;
    - `confusion`: images by true class (rows) and predicted class (columns).

    `mcc` and `cohen_kappa` are None where the truth holds one class only; `mcc` is 0 where all
    predictions fall in one class, as in scikit-learn. ECE's bins are open below and closed above.

    Args:
        predictions: logits and targets of N images, N at least 1.
        train_counts: training images of each class, (C,).

    Raises:
        VerificationError: nothing to score, a logit that is NaN or infinite, or arrays that do
            not fit each other.
    """
    logits = _checked_logits(predictions)
    counts = _checked_counts(train_counts, predictions.class_names)
    targets, predicted = predictions.targets, logits.argmax(axis=1)
    num_images, num_classes = logits.shape
    confusion = confusion_matrix(targets, predicted, num_classes)
    rows = _class_rows(confusion)
    probabilities, log_probabilities = softmax(logits)
    rows["auc"] = _one_vs_rest_auc(targets, probabilities)
    raw_auc = _one_vs_rest_auc(targets, logits)
    mcc, kappa = _agreement(targets, predicted)
    return {
        "num_images": num_images,
        "num_classes": num_classes,
        "num_tied": _num_tied(logits),
        **_summary(confusion, rows, targets, log_probabilities),
        "macro_auc": _defined_mean(rows["auc"]),
        "macro_auc_raw_logits": _defined_mean(raw_auc),
        "worst_class_sensitivity": float(np.nanmin(rows["sensitivity"])),
        "mcc": mcc,
        "cohen_kappa": kappa,
        "ece": _expected_calibration_error(probabilities.max(axis=1), predicted == targets),
        "brier": _brier(targets, probabilities),
        "classes_averaged": _classes_averaged(rows, raw_auc),
        "groups": _groups(predictions.class_names, counts, rows["sensitivity"]),
        "per_class": {
            "class_names": list(predictions.class_names),
            **{name: _nullable(rows[name]) for name in _ROW_RATES},
            "support": rows["support"].tolist(),
            "train_count": counts,
        },
        "confusion": confusion.tolist(),
    }


def validation_summary(predictions: Predictions) -> dict[str, Any]:
    """The cheap part of `evaluate`, for each epoch: equal to it number for number, numpy alone.

    Returns:
        accuracy, balanced_accuracy, macro_sensitivity, macro_precision, macro_f1, nll, and
        per_class with the lists sensitivity and f1 (None for a class absent from the truth).

    Raises:
        VerificationError: as in `evaluate`.
    """
    logits = _checked_logits(predictions)
    targets = predictions.targets
    confusion = confusion_matrix(targets, logits.argmax(axis=1), logits.shape[1])
    rows = _class_rows(confusion)
    return {
        **_summary(confusion, rows, targets, softmax(logits)[1]),
        "per_class": {name: _nullable(rows[name]) for name in ("sensitivity", "f1")},
    }


def class_report(targets: np.ndarray, predicted: np.ndarray, num_classes: int) -> ClassScores:
    """Per-class precision TP / (TP + FP), recall TP / (TP + FN), F1 and support, unrounded.

    Undefined values are 0, and so is the F1 of a class that occurs in neither argument: these
    numbers feed training, which must not meet a NaN.

    Args:
        targets: class indices, integers (N,) in [0, num_classes).
        predicted: the same of the predictions.
        num_classes: C.
    """
    rows = _class_rows(confusion_matrix(targets, predicted, num_classes))
    names = ("precision", "sensitivity", "f1", "support")
    return ClassScores(*(np.nan_to_num(rows[name].astype(np.float64)) for name in names))


def selection_value(metrics: Mapping[str, Any], rule: str) -> float:
    """The number by which a selection rule ranks epochs; larger is better.

    Args:
        metrics: a result of `validation_summary` or `evaluate` on the validation split.
        rule: one of `SELECTION_RULES`.

    Raises:
        UsageError: no such rule.
    """
    name = normalise(rule)
    if name not in SELECTION_RULES:
        raise UsageError(suggest("selection rule", rule, list(SELECTION_RULES)))
    return float(metrics[SELECTION_RULES[name]])


def confusion_matrix(targets: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """Images by true class (rows) and predicted class (columns), int64 (C, C)."""
    # int64 first: in a small integer type the cell's number would wrap around.
    rows = targets.astype(np.int64) * num_classes
    cells = np.bincount(rows + predicted, minlength=num_classes**2)
    return cells.reshape(num_classes, num_classes)


_ROW_RATES = ("precision", "sensitivity", "specificity", "f1", "auc")


def _class_rows(confusion: np.ndarray) -> dict[str, np.ndarray]:
    """Per-class numbers (C,) by name; NaN where undefined."""
    hits = np.diagonal(confusion)
    support, guesses = confusion.sum(axis=1), confusion.sum(axis=0)
    others = support.sum() - support
    return {
        "precision": _ratio(hits, guesses),
        "sensitivity": _ratio(hits, support),
        "specificity": _ratio(others - guesses + hits, others),
        "f1": np.where(support > 0, _ratio(2 * hits, support + guesses), np.nan),
        "support": support,
    }


def _summary(
    confusion: np.ndarray,
    rows: Mapping[str, np.ndarray],
    targets: np.ndarray,
    log_probabilities: np.ndarray,
) -> dict[str, float]:
    """The numbers that `evaluate` and `validation_summary` share."""
    present = rows["support"] > 0
    sensitivity = float(rows["sensitivity"][present].mean())
    return {
        "accuracy": float(np.trace(confusion) / len(targets)),
        "balanced_accuracy": sensitivity,
        "macro_sensitivity": sensitivity,
        "macro_precision": float(np.nan_to_num(rows["precision"][present], nan=0.0).mean()),
        "macro_f1": float(rows["f1"][present].mean()),
        "nll": 0.0 - float(log_probabilities[np.arange(len(targets)), targets].mean()),
    }


def softmax(logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and their logarithms, float64 (N, C), finite for any finite float32 logits."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    exponentials = np.exp(shifted)
    # Added in sorted order: the last bit of a sum depends on the order, and a renumbering of the
    # classes could otherwise break ties between images and so move the AUC.
    total = np.sort(exponentials, axis=1).sum(axis=1, keepdims=True)
    return exponentials / total, shifted - np.log(total)


def _one_vs_rest_auc(targets: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Area under the ROC curve of each class against the rest, (C,); NaN without both kinds."""
    from sklearn.metrics import roc_auc_score

    areas = np.full(scores.shape[1], np.nan)
    for index in range(scores.shape[1]):
        positives = targets == index
        if positives.any() and not positives.all():
            areas[index] = roc_auc_score(positives, scores[:, index])
    return areas


def _agreement(targets: np.ndarray, predicted: np.ndarray) -> tuple[float | None, float | None]:
    """Matthews correlation and Cohen's kappa; None if the truth is one class, as chance is all."""
    from sklearn.metrics import cohen_kappa_score, matthews_corrcoef

    if (targets == targets[0]).all():
        return None, None
    mcc, kappa = matthews_corrcoef(targets, predicted), cohen_kappa_score(targets, predicted)
    return float(mcc), float(kappa)


def _expected_calibration_error(confidence: np.ndarray, correct: np.ndarray) -> float:
    """ECE of Guo et al. (2017), equations 2 to 3, with bins ((m - 1) / M, m / M]."""
    inner_edges = np.linspace(0.0, 1.0, NUM_ECE_BINS + 1)[1:-1]
    bins = np.searchsorted(inner_edges, confidence, side="left")
    gaps = np.bincount(bins, weights=correct - confidence, minlength=NUM_ECE_BINS)
    return float(np.abs(gaps).sum() / len(confidence))


def _brier(targets: np.ndarray, probabilities: np.ndarray) -> float:
    errors = probabilities.copy()
    errors[np.arange(len(targets)), targets] -= 1.0
    return float(np.square(errors).sum(axis=1).mean())


def _num_tied(logits: np.ndarray) -> int:
    largest = logits == logits.max(axis=1, keepdims=True)
    return int((largest.sum(axis=1) > 1).sum())


def _classes_averaged(rows: Mapping[str, np.ndarray], raw_auc: np.ndarray) -> dict[str, int]:
    num_present = int((rows["support"] > 0).sum())
    by_support = ("balanced_accuracy", "macro_sensitivity", "macro_precision", "macro_f1")
    return {
        **dict.fromkeys(by_support, num_present),
        "macro_auc": int(np.isfinite(rows["auc"]).sum()),
        "macro_auc_raw_logits": int(np.isfinite(raw_auc).sum()),
    }


def _groups(
    class_names: Sequence[str], train_counts: Sequence[int], sensitivity: np.ndarray
) -> dict[str, dict[str, Any]]:
    counts = np.asarray(train_counts)
    head, tail = counts > HEAD_ABOVE, counts < TAIL_BELOW
    members = {"head": head, "medium": ~head & ~tail, "tail": tail}
    return {
        group: {
            "classes": [class_names[index] for index in np.flatnonzero(chosen).tolist()],
            "sensitivity": _defined_mean(sensitivity[chosen]),
        }
        for group, chosen in members.items()
    }


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Element-wise quotient, float64; NaN where the denominator is 0."""
    quotient = np.full(len(denominator), np.nan)
    np.divide(numerator, denominator, out=quotient, where=denominator > 0)
    return quotient


def _defined_mean(values: np.ndarray) -> float | None:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else None


def _nullable(values: np.ndarray) -> list[float | None]:
    return [None if np.isnan(value) else value for value in values.tolist()]


def _checked_logits(predictions: Predictions) -> np.ndarray:
    """The logits as float64 (N, C), after every check that scoring relies on."""
    ids, targets = predictions.ids, predictions.targets
    logits = np.asarray(predictions.logits, dtype=np.float64)
    num_images, num_classes = len(targets), len(predictions.class_names)
    if num_images == 0:
        raise VerificationError("No predictions to score: expected at least one image, got none.")
    if logits.shape != (num_images, num_classes) or len(ids) != num_images:
        raise VerificationError(
            f"Predictions do not fit each other: {len(ids)} ids, {num_images} targets and "
            f"{num_classes} class names, but logits of shape {logits.shape}. Predict again."
        )
    if targets.min() < 0 or targets.max() >= num_classes:
        raise VerificationError(
            f"Targets run from {targets.min()} to {targets.max()}; expected class indices from 0 "
            f"to {num_classes - 1}. Check the order of the class names."
        )
    broken = ~np.isfinite(logits).all(axis=1)
    if broken.any():
        raise VerificationError(
            f"{broken.sum()} of {num_images} images have a logit that is NaN or infinite, first "
            f"'{ids[broken][0]}'. Training has diverged, or the file of predictions is damaged."
        )
    return logits


def _checked_counts(train_counts: Sequence[int], class_names: Sequence[str]) -> list[int]:
    counts = [int(count) for count in train_counts]
    if len(counts) != len(class_names) or min(counts) < 0:
        raise VerificationError(
            f"Expected the number of training images of each of {len(class_names)} classes, "
            f"got {counts}."
        )
    return counts
