"""Another class prior: what the same model would score where classes are as common as it says."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from ltbench.clinical.calibration import equal_width_bins
from ltbench.clinical.class_files import read_prior
from ltbench.clinical.probabilities import log_softmax, shifted
from ltbench.errors import UsageError
from ltbench.metrics import NUM_ECE_BINS, class_rows
from ltbench.predictions import Predictions

__all__ = ["PriorReport", "class_prior", "exponential_prior", "prior_report", "weighted_metrics"]

UNIFORM: Final = "uniform"
_EXPONENTIAL: Final = re.compile(r"(forward|backward):([0-9.eE+]+)")


@dataclass(frozen=True)
class PriorReport:
    """The test part under another prior.

    Attributes:
        name: as it was asked for.
        prior, train_prior, test_prior: shares by class.
        absent: classes without a test image; their share of `prior`, `absent_share`, is given up
            and the others are scaled to sum 1.
        num_images: test images (or units).
        effective_images: (sum w)^2 / sum w^2 of the weights: as many images of equal weight would
            tell as much (Kish). Where it is small, few images decide.
        as_measured: metrics of the test part as it is.
        reweighted: of images weighted to the prior, decisions unchanged.
        adjusted: the same weights, decisions by logits + log(prior / train_prior).
    """

    name: str
    prior: dict[str, float]
    train_prior: dict[str, float]
    test_prior: dict[str, float]
    absent: tuple[str, ...]
    absent_share: float
    num_images: int
    effective_images: float
    as_measured: dict[str, float | None]
    reweighted: dict[str, float | None]
    adjusted: dict[str, float | None]


def class_prior(text: str, class_names: Sequence[str], train_counts: Sequence[int]) -> np.ndarray:
    """The prior a user means, float64 (C,) with sum 1, every share above 0.

    Args:
        text: `uniform`, `train`, `forward:R`, `backward:R` (see `exponential_prior`), or a CSV file
            with the columns class and share.

    Raises:
        UsageError: none of these, or a ratio below 1.
        DataMissingError, VerificationError: the file is not there or not right.
    """
    num = len(class_names)
    if text == UNIFORM:
        return np.full(num, 1 / num)
    if text == "train":
        return _shares(_known(train_counts, class_names))
    match = _EXPONENTIAL.fullmatch(text)
    if match is not None:
        ratio = _ratio_of(match[2], text)
        return exponential_prior(train_counts, ratio, backward=match[1] == "backward")
    path = Path(text).expanduser()
    if not text.strip() or not (path.suffix or path.is_file()):
        raise UsageError(
            f"--prior: expected uniform, train, forward:R, backward:R with a ratio R such as 50, "
            f"or a CSV file with the columns class,share; got '{text}'."
        )
    return read_prior(path, class_names)


def exponential_prior(
    train_counts: Sequence[int], ratio: float, *, backward: bool = False
) -> np.ndarray:
    """The long-tailed test priors of test-agnostic recognition, float64 (C,) with sum 1.

    Forward, for the class of rank r by training images (0 for the largest of C classes):

        prior proportional to ratio^(-r / (C - 1));

    backward: ratio^(-(C - 1 - r) / (C - 1)), so that the smallest class becomes the most common.
    Classes of equal size share the mean of their ranks.

    Args:
        ratio: of the largest share to the smallest, at least 1.

    Source: Zhang et al., Self-Supervised Aggregation of Diverse Experts for Test-Agnostic
    Long-Tailed Recognition (SADE), NeurIPS 2022; Vanint/SADE-AgnosticLT@511ef56c,
    data_loader/imbalance_cifar.py, get_img_num_per_cls with imb_factor = 1 / ratio.
    Departures: there images are drawn from a balanced test part, whole numbers of them; here each
    image is weighted, which is the same in expectation, uses every image and needs no seed. There
    classes stand in the order of their index, which is that of their size.
    """
    from scipy.stats import rankdata

    num = len(train_counts)
    ranks = rankdata(-np.asarray(train_counts), method="average") - 1
    if backward:
        ranks = num - 1 - ranks
    return _shares(float(ratio) ** (-ranks / max(num - 1, 1)))


def prior_report(
    test: Predictions,
    prior: np.ndarray,
    train_counts: Sequence[int],
    *,
    name: str = "given",
) -> PriorReport:
    """Metrics under another prior, in two steps that answer two questions.

    1. Re-weighting asks how the decisions as they are would fare: the images of class c weigh
       w_c = prior(c) / test_prior(c), with test_prior(c) = n_c / n. What depends on single classes
       only, such as sensitivity and balanced accuracy, stays; precision, F1, accuracy move.
    2. Adjusting asks how a model that is told the prior would fare: in addition

           logits'(c) = logits(c) + log(prior(c) / train_prior(c)),

       which is Bayes' rule where soft-max gives the posterior under the training prior and the
       pictures of a class stay the same. A method that balances its loss or its batches gives
       another posterior, for which this adjustment is too strong.

    Args:
        test: the test part.
        prior: float64 (C,), sum 1, all above 0.
        train_counts: training images of each class, all above 0.

    Raises:
        UsageError: a class without training images, whose prior ratio is not defined.
        VerificationError: predictions that cannot be scored.

    Source: Saerens, Latinne and Decaestecker, Adjusting the Outputs of a Classifier to New a Priori
    Probabilities, Neural Computation 14, 2002, equation 2.4; Menon et al., Long-Tail Learning via
    Logit Adjustment, ICLR 2021, section 4.
    """
    names = test.class_names
    train_prior = _shares(_known(train_counts, names))
    counts = np.bincount(test.targets, minlength=len(names))
    present = counts > 0
    kept = np.where(present, prior, 0.0)
    kept = kept / kept.sum()
    by_class = np.divide(kept * counts.sum(), counts, out=np.zeros(len(names)), where=present)
    weights = by_class[test.targets]
    adjusted = shifted(test, np.log(prior) - np.log(train_prior))
    return PriorReport(
        name=name,
        prior=_by_name(names, prior),
        train_prior=_by_name(names, train_prior),
        test_prior=_by_name(names, _shares(counts)),
        absent=tuple(
            name for name, there in zip(names, present.tolist(), strict=True) if not there
        ),
        absent_share=float(prior[~present].sum()),
        num_images=len(weights),
        effective_images=float(weights.sum() ** 2 / np.square(weights).sum()),
        as_measured=weighted_metrics(test, np.ones(len(weights))),
        reweighted=weighted_metrics(test, weights),
        adjusted=weighted_metrics(adjusted, weights),
    )


def weighted_metrics(predictions: Predictions, weights: np.ndarray) -> dict[str, float | None]:
    """Metrics of `ltbench.metrics` with a weight for each image; weights of 1 give its numbers.

    Wherever a metric counts images it sums weights: in the confusion matrix, in means over images,
    in bins, and in the pairs of the area under the ROC curve.

    Args:
        weights: float64 (N,), above 0.
    """
    probabilities, logs = log_softmax(predictions)
    targets, num_classes = predictions.targets, probabilities.shape[1]
    decided = predictions.logits.argmax(axis=1)
    cells = np.bincount(targets * num_classes + decided, weights=weights, minlength=num_classes**2)
    rows = class_rows(cells.reshape(num_classes, num_classes))
    present = rows["support"] > 0
    truth = np.zeros_like(probabilities)
    truth[np.arange(len(targets)), targets] = 1.0
    share = weights / weights.sum()
    confidence, correct = probabilities.max(axis=1), decided == targets
    bins = equal_width_bins(confidence, NUM_ECE_BINS)
    gaps = np.bincount(bins, weights=share * (correct - confidence))
    return {
        "accuracy": float(share @ correct),
        "balanced_accuracy": float(rows["sensitivity"][present].mean()),
        "macro_precision": float(np.nan_to_num(rows["precision"][present], nan=0.0).mean()),
        "macro_f1": float(rows["f1"][present].mean()),
        "macro_auc": _macro_auc(targets, probabilities, weights),
        "ece": float(np.abs(gaps).sum()),
        "brier": float(share @ np.square(probabilities - truth).sum(axis=1)),
        "nll": 0.0 - float(share @ logs[np.arange(len(targets)), targets]),
    }


def _macro_auc(targets: np.ndarray, probabilities: np.ndarray, weights: np.ndarray) -> float | None:
    from sklearn.metrics import roc_auc_score

    areas = [
        roc_auc_score(targets == c, probabilities[:, c], sample_weight=weights)
        for c in np.unique(targets).tolist()
        if (targets != c).any()
    ]
    return float(np.mean(areas)) if areas else None


def _known(train_counts: Sequence[int], class_names: Sequence[str]) -> np.ndarray:
    counts = np.asarray(train_counts, dtype=np.float64)
    without = [name for name, count in zip(class_names, counts, strict=True) if count <= 0]
    if without:
        raise UsageError(
            f"Another prior is told from that of training, and training has no image of "
            f"{', '.join(without)}."
        )
    return counts


def _shares(values: np.ndarray) -> np.ndarray:
    shares: np.ndarray = values / values.sum()
    return shares


def _ratio_of(text: str, asked: str) -> float:
    try:
        ratio = float(text)
    except ValueError:
        ratio = 0.0
    if not 1 <= ratio < np.inf:
        raise UsageError(f"--prior {asked}: expected a ratio of at least 1, such as forward:50.")
    return ratio


def _by_name(names: Sequence[str], values: np.ndarray) -> dict[str, float]:
    return dict(zip(names, values.tolist(), strict=True))
