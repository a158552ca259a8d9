"""ECL: class-enhancement contrastive learning (Zhang et al., MICCAI 2023), whole.

A supervised contrastive branch in which learnable proxies, more of them for rarer classes, stand
beside the samples, and a classifier whose class weights move from none over inverse frequency to
inverse validation F1. Equation numbers are the paper's; "the authors' code" is zylbuaa/ECL at
commit 3fb66680216d035216db88408eff915d21943e1d.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from optuna.distributions import FloatDistribution
from pydantic import Field, model_validator
from torch import Tensor, nn

from ltbench.errors import UsageError
from ltbench.functional import (
    at_least_float32,
    class_averaged_log_denominator,
    masked_logsumexp,
    masked_mean,
    mean_one,
    one_device,
    positive_pair_losses,
    similarity_logits,
    unit_rows,
    view_major,
    weighted_mean,
)
from ltbench.method import (
    METHODS,
    Batch,
    ClassReport,
    Method,
    MethodConfig,
    OptimizerSpec,
    Outputs,
    Preset,
    Progress,
    Stage,
    Stream,
    Task,
)

Denominator = Literal["code", "paper"]
Normaliser = Literal["weighted_mean", "batch"]


def proxy_counts(class_counts: Sequence[int]) -> tuple[int, ...]:
    """Number of proxies of each class, reversed to its frequency.

        K_c = 1 if N_c = N_max else floor(N_max / (10 N_c)) + 2

    Args:
        class_counts: N_c > 0, images of each class in the training split actually used.

    Source: eq. 1; models/ecl.py. All classes tied for the maximum get one proxy.
    """
    largest = max(class_counts)
    return tuple(1 if n == largest else largest // (10 * n) + 2 for n in class_counts)


def paper_log_denominator(logits: Tensor, labels: Tensor) -> Tensor:
    """Log of eq. 3 as printed: every class divided by n_c - 1, the anchor itself included.

        D_i = log sum_c (1 / max(n_c - 1, 1)) sum_{j in c} exp(s_ij)

    Args:
        logits: s_ij, (M, M).
        labels: int64 (M,).

    Returns:
        (M,).

    Departures: n_c - 1 is floored at 1. As printed it is 0 for a class of one entry (the head
        class, which has one proxy, when the batch lacks it).
    """
    same = labels[:, None] == labels
    divisors = (same.sum(dim=0) - 1).clamp(min=1)
    return masked_logsumexp(logits, torch.ones_like(same), divisors)


def balanced_hybrid_proxy_loss(
    features: Tensor,
    targets: Tensor,
    proxies: Tensor,
    proxy_labels: Tensor,
    temperature: float,
    denominator: Denominator = "code",
) -> Tensor:
    """L_BHP: samples and proxies attract their class and repel others, all classes equally.

        entries: z_1..z_VB, p_1..p_P, M = VB + P, each of them an anchor;  s_ij = z_i . z_j / tau
        l_i = (1 / |P(i)|) sum_{p in P(i)} (D_i - s_ip),    P(i) = {p != i : y_p = y_i}
        D_i = log sum_c (1 / (n_c - [c = y_i])) sum_{j in c, j != i} exp(s_ij)
        L_BHP = mean of l_i over the anchors that have a positive

    n_c counts samples and proxies of class c. Vectors are used as given: the caller makes them
    unit, and gathers them from all devices.

    Args:
        features: embeddings z, (B, V, d), any float dtype.
        targets: int64 (B,).
        proxies: p, (P, d).
        proxy_labels: int64 (P,).
        temperature: tau > 0.
        denominator: "code" for D_i as above, "paper" for `paper_log_denominator`.

    Returns:
        Scalar, float32 or wider.

    Source: eq. 2 and 3; models/loss.py, class BHP.
    Departures: eq. 3 divides each class by n_c - 1 and keeps the anchor; the default follows the
        authors' code. Eq. 2 writes the positives as z+ for samples and p+ for proxies; as in the
        code they are all other entries of the class. Anchors without a positive (a single proxy
        whose class is absent) are 0/0 in the authors' code and are left out of the mean here. The
        maximum in the log-sum-exp leaves out self, with which the code underflows to NaN.
    """
    embeddings = at_least_float32(view_major(features))
    entries = torch.cat([embeddings, at_least_float32(proxies)])
    labels = torch.cat([targets.repeat(features.shape[1]), proxy_labels])
    logits = similarity_logits(entries, entries, temperature)
    log_denominator = {"code": class_averaged_log_denominator, "paper": paper_log_denominator}
    losses, has_positive = positive_pair_losses(
        logits, log_denominator[denominator](logits, labels), labels
    )
    return masked_mean(losses, has_positive)


def class_weights(
    epoch: int,
    stage_ends: Sequence[int],
    class_counts: Tensor,
    f1: Tensor,
    f1_floor: float = 0.01,
) -> Tensor:
    """w_c of the curriculum: none, then by inverse frequency, then by inverse F1.

        e <= E1:        1
        E1 < e <= E2:   (C (1/N_c) / sum_k 1/N_k) ^ ((e - E1) / (E2 - E1))
        E2 < e:         (C (1/f_c) / sum_k 1/f_k) ^ ((e - E2) / (E - E2))

    Args:
        epoch: e, 1-based.
        stage_ends: (E1, E2, E), the last epoch of each stage.
        class_counts: N_c > 0 of the training split, (C,), float64.
        f1: f_c in [0, 1] after the previous epoch, (C,), float64.
        f1_floor: the least value of f_c, > 0.

    Returns:
        (C,), > 0. The mean is one before the power is taken, not after.

    Source: eq. 5; models/loss.py, class CE_weight, called with the 1-based epoch.
    Departures: the paper's inequalities leave e = E1 and e = E2 open; the code's are used. f_c is
        floored: 1/0 makes the whole loss NaN, even if the class is not in the batch.
    """
    first, second, last = stage_ends
    if epoch <= first:
        return torch.ones_like(class_counts)
    if epoch <= second:
        return mean_one(1 / class_counts).pow((epoch - first) / (second - first))
    return mean_one(1 / f1.clamp(min=f1_floor)).pow((epoch - second) / (last - second))


def balanced_weighted_cross_entropy(
    logits: Tensor,
    targets: Tensor,
    weights: Tensor,
    normaliser: Normaliser = "weighted_mean",
    gather: Callable[[Tensor], Tensor] = one_device,
) -> Tensor:
    """L_BWCE: cross-entropy weighted by class.

        "weighted_mean":  sum_i w_{y_i} CE_i / sum_i w_{y_i}
        "batch":          sum_i w_{y_i} CE_i / B

    Args:
        logits: (B, C), any float dtype.
        targets: int64 (B,).
        weights: w_c > 0, (C,).
        normaliser: the divisor.
        gather: rows of all devices, as in `ltbench.functional.weighted_mean`.

    Returns:
        Scalar, float32 or wider.

    Source: eq. 4 ("batch", without its stray minus sign); models/loss.py, class CE_weight
        ("weighted_mean", in which a common factor of the weights cancels).
    """
    losses = F.cross_entropy(at_least_float32(logits), targets, reduction="none")
    sample_weights = weights.to(losses.dtype)[targets]
    if normaliser == "batch":
        return (sample_weights * losses).mean()
    return weighted_mean(losses, sample_weights, gather)


def authors_f1(report: ClassReport) -> Tensor:
    """F1 of each class as the authors' code has it: float64 (C,), in [0, 1].

    Precision and recall are rounded to four decimals, their F1 again; F1 is 0 where the rounded
    recall or the rounded *specificity* is 0. The second is a slip for precision: a model that
    predicts one class for all images gets 0 for that class too.

    Source: utils/eval_metrics.py, ConfusionMatrix.summary.
    """
    total, values = float(report.support.sum()), []
    rows = zip(
        *(x.tolist() for x in (report.precision, report.recall, report.support)), strict=True
    )
    for precision, recall, support in rows:
        # np.float64: NumPy rounds ties by the product with 10^4, Python by the exact value.
        precision, recall = np.float64(precision), np.float64(recall)
        hits, others = recall * support, total - support
        # Where precision is 0, so is recall, and the specificity does not matter.
        false_positives = np.rint(hits / precision - hits) if precision else 0.0
        specificity = round(1 - false_positives / others, 4) if others else 0.0
        p, r = round(precision, 4), round(recall, 4)
        values.append(round(2 * p * r / (p + r), 4) if r and specificity else 0.0)
    return torch.tensor(values, dtype=torch.float64)


_FLIP, _VFLIP, _TURN = {"hflip": {"p": 0.5}}, {"vflip": {"p": 0.5}}, {"rotation": {"degrees": 90}}
_GRAY, _SQUASH = {"grayscale": {"p": 0.2}}, {"resize": {"size": 224}}
_COLOUR = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1, "p": 0.8}
_JITTER = {"color_jitter": _COLOUR}
_CROP = {"random_resized_crop": {"size": 224, "scale": [0.08, 1.0]}}
_MILD_CROP = {"random_resized_crop": {"size": 224, "scale": [0.8, 1.0]}}
_PAPER = {
    "method.temperature": 0.01,
    "method.denominator": "paper",
    "method.normaliser": "batch",
    "select": "val.accuracy",
}
_PAPER_VIEWS = {
    "views.classify": [_CROP, _FLIP],
    "views.contrast": [_CROP, _FLIP, _GRAY, _TURN, _VFLIP],
    "views.eval": [_SQUASH],
}
_AUTHORS = {"method.f1_rounding": True, "normalise": "none", "schedule.early_step": True}
_AUTHORS_VIEWS = {
    "views.classify": [_SQUASH, _FLIP, _JITTER],
    "views.contrast": [_MILD_CROP, _FLIP, _VFLIP, _TURN, _JITTER, _GRAY],
    "views.eval": [{"resize": {"size": 224, "short_side": True}}],
}
# One loss alone has no other to be weighed against; with weight 1 the first row is the method `ce`,
# whose numbers the paper repeats there.
_CLASSIFIER = {"method.contrastive": False, "method.classifier_weight": 1.0}
_CE = {"method.classifier_loss": "ce"}


@METHODS.register(
    "ecl",
    paper="Zhang, Chen, Wang, Xie: ECL: Class-Enhancement Contrastive Learning for Long-Tailed "
    "Skin Lesion Classification, MICCAI 2023",
    year=2023,
    source="zylbuaa/ECL@3fb66680216d035216db88408eff915d21943e1d",
    tags=("contrastive", "re-weighting", "curriculum", "skin"),
)
class ECL(Method):
    """Loss = lambda L_BHP + mu L_BWCE on two views; inference is the classifier alone.

    The first view feeds classifier and contrast, the second only contrast. They pass through the
    network in separate calls, so BatchNorm sees each view by itself, as in the authors' code.

    Cycle update: the proxies have an optimizer of their own, which steps once an epoch with the
    sum (not the mean) of the gradients of its batches. Its effective step thus grows with the
    number of batches an epoch.

    E1 and E2, the last epochs of stages 1 and 2, are the parts `stage_two_start` and
    `stage_three_start` of the run, rounded to whole epochs (halves to even): 20 and 50 of 100. f_c
    is the F1 after the previous epoch; before the first report all f_c are 1, so weights are equal.

    Source: Algorithm 1; models/ecl.py, train.py. The algorithm prints the proxies' update inside
        the loop over batches; the paper's text and the code have it after the epoch.
    Departures: see `departures`, each explained at the function that makes it. The scheduler steps
        after the epoch; before it, as in the code, with presets `authors`.
    """

    class Config(MethodConfig):
        """Settings of ECL; defaults are the authors' code's."""

        temperature: float = Field(0.1, ge=0.001, le=10, description="tau; 0.01 in the paper")
        contrastive_weight: float = Field(1.0, ge=0, le=100, description="lambda, of L_BHP")
        classifier_weight: float = Field(2.0, gt=0, le=100, description="mu, of L_BWCE")
        embedding_dim: int = Field(128, ge=2, le=4096, description="width d of proxies and head")
        stage_two_start: float = Field(0.2, ge=0, le=1, description="E1 as a part of the run")
        stage_three_start: float = Field(0.5, ge=0, le=1, description="E2 as a part of the run")
        f1_floor: float = Field(0.01, gt=0, le=1, description="least validation F1 in 1 / F1")
        f1_rounding: bool = Field(False, description="F1 rounded as the authors' code has it")
        proxies: Literal["hybrid"] | Annotated[int, Field(ge=1, le=100)] = Field(
            "hybrid", description="'hybrid' (eq. 1), or a number for every class"
        )
        cycle_update: bool = Field(True, description="step proxies once an epoch, not each batch")
        contrastive: bool = Field(True, description="False leaves the classifier branch alone")
        classifier_loss: Literal["bwce", "ce"] = Field(
            "bwce", description="'bwce' weights classes by the curriculum; 'ce' does not"
        )
        denominator: Denominator = Field("code", description="eq. 3: the code's, or as printed")
        normaliser: Normaliser = Field("weighted_mean", description="eq. 4: divisor; paper: batch")

        @model_validator(mode="after")
        def _stages_in_order(self) -> ECL.Config:
            if self.stage_two_start > self.stage_three_start:
                raise ValueError("stage_two_start must not be greater than stage_three_start")
            return self

    search_space: ClassVar = {
        "temperature": FloatDistribution(0.01, 1.0, log=True),
        "contrastive_weight": FloatDistribution(0.1, 4.0, log=True),
        "classifier_weight": FloatDistribution(0.5, 4.0, log=True),
        "stage_two_start": FloatDistribution(0.0, 0.4),
        "stage_three_start": FloatDistribution(0.4, 0.8),
    }
    presets: ClassVar = {
        "paper": Preset("as the paper prints it, views at 224 pixels", _PAPER | _PAPER_VIEWS),
        "paper_losses": Preset("paper, with the recipe's views: for other sizes", _PAPER),
        "authors": Preset("as the authors' code, views at 224 pixels", _AUTHORS | _AUTHORS_VIEWS),
        "authors_losses": Preset("authors, with the recipe's views: for other sizes", _AUTHORS),
    }
    ablations: ClassVar = {
        "classifier_ce": Preset("Classifier branch-CE, HPM", _CLASSIFIER | _CE),
        "classifier_bwce": Preset("Classifier branch-BWCE, HPM", _CLASSIFIER),
        "dual_ce": Preset("Dual branch-CE+BHP, HPM", _CE),
        "proxies_2": Preset("Dual branch-BWCE+BHP, 2 proxies per-class", {"method.proxies": 2}),
        "proxies_3": Preset("Dual branch-BWCE+BHP, 3 proxies per-class", {"method.proxies": 3}),
        "proxies_4": Preset("Dual branch-BWCE+BHP, 4 proxies per-class", {"method.proxies": 4}),
        "no_cycle": Preset(
            "Dual branch-BWCE+BHP, w/o cycle strategy", {"method.cycle_update": False}
        ),
        "full": Preset("Dual branch-BWCE+BHP, HPM", {}),
    }
    departures: ClassVar = (
        "validation F1 is floored (f1_floor); the code's 1/0 makes the loss NaN",
        "anchors without a positive are left out; the code's 0/0 makes the loss NaN",
        "the log-sum-exp's maximum leaves out self; the code underflows at small temperatures",
        "with denominator=paper, n_c - 1 is floored at 1",
        "before the first report all F1 are 1; the paper leaves the first epoch of stage 3 open",
        "the epoch best on validation is reported, as in the paper; the code also tests late ones",
        "test batches of any size: inference does not depend on it; the code takes single images",
    )

    @classmethod
    def check(cls, config: Any, task: Task) -> None:
        """Refuse what would fail in the middle of a run.

        Raises:
            UsageError: a class without a training image; weights by F1 without a split that feeds
                back, or with a class that has no image in it; batches of one image a device.
        """
        missing = _names(task, task.class_counts)
        if missing:
            raise UsageError(
                f"Classes without a training image: {missing}. ECL divides by the class counts; "
                "leave these classes out of the data set, or choose another split."
            )
        if cls.uses_validation(config):
            _check_feedback(task)
        images, size = sum(task.class_counts), task.batch_size
        rest = images % size if task.steps_per_epoch * size > images else 0
        if config.contrastive and (rest or size) < 2 * task.collective.world_size:
            raise UsageError(
                f"batch_size {size} leaves a device fewer than 2 images in a batch, which the "
                "BatchNorm of ECL's embedding head cannot train on. Raise batch_size, or, if only "
                "the last batch is so small, set drop_last=true."
            )

    @classmethod
    def uses_validation(cls, config: Any) -> bool:
        """True where class weights follow validation F1."""
        return bool(config.classifier_loss == "bwce")

    validation_f1: Tensor
    class_counts: Tensor
    proxy_labels: Tensor

    def __init__(self, config: MethodConfig, task: Task) -> None:
        super().__init__(config, task)
        counts = torch.tensor(task.class_counts, dtype=torch.float64)
        self.register_buffer("class_counts", counts, persistent=False)
        self.register_buffer("validation_f1", torch.ones_like(counts))
        if not self.config.contrastive:
            return
        features, width = self.backbone.num_features, self.config.embedding_dim
        self.embedding = nn.Sequential(
            nn.Linear(features, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, width)
        )
        fixed, hybrid = self.config.proxies, proxy_counts(task.class_counts)
        numbers = hybrid if fixed == "hybrid" else (fixed,) * task.num_classes
        labels = torch.arange(task.num_classes).repeat_interleave(torch.tensor(numbers))
        self.register_buffer("proxy_labels", labels, persistent=False)
        self.proxies = nn.Parameter(nn.init.xavier_uniform_(torch.empty(len(labels), width)))

    def streams(self, stage: Stage) -> dict[str, Stream]:
        """Two views, or the classifier's alone."""
        views = ("classify", "contrast") if self.config.contrastive else ("classify",)
        return {"main": Stream(views=views)}

    def optimizers(self, stage: Stage) -> list[OptimizerSpec] | None:
        """The recipe's, and one more of its kind for the proxies with a pace of its own."""
        if not self.config.contrastive:
            return None
        network = [p for p in self.parameters() if p is not self.proxies and p.requires_grad]
        every: Literal["batch", "epoch"] = "epoch" if self.config.cycle_update else "batch"
        return [OptimizerSpec(network), OptimizerSpec([self.proxies], every=every)]

    def training_step(self, batch: Batch, progress: Progress) -> Outputs:
        """Lambda L_BHP + mu L_BWCE, with "bhp" (dual branch only) and "bwce" to log."""
        features = self.backbone(batch.images)
        bwce = balanced_weighted_cross_entropy(
            self.head(features),
            batch.targets,
            self._class_weights(progress),
            self.config.normaliser,
            self.task.collective.gather,
        )
        loss = self.config.classifier_weight * bwce
        floored = (self.validation_f1 < self.config.f1_floor).sum().float()
        logged = {"bwce": bwce.detach(), "classes_at_f1_floor": floored}
        if not self.config.contrastive:
            return {"loss": loss, **logged}
        bhp = self._contrast(features, self.backbone(batch.views[1]), batch.targets)
        loss = loss + self.config.contrastive_weight * bhp
        return {"loss": loss, "bhp": bhp.detach(), **logged}

    def on_epoch_end(self, progress: Progress, report: ClassReport | None) -> None:
        """Keep the F1 that weighs the classes of the next epoch."""
        if report is not None:
            f1 = authors_f1(report) if self.config.f1_rounding else report.f1
            self.validation_f1.copy_(f1)

    def _class_weights(self, progress: Progress) -> Tensor:
        config, epochs = self.config, progress.epochs
        if config.classifier_loss == "ce":
            return torch.ones_like(self.class_counts)
        parts = config.stage_two_start, config.stage_three_start, 1.0
        ends, f1 = [round(part * epochs) for part in parts], self.validation_f1
        return class_weights(progress.paper_epoch, ends, self.class_counts, f1, config.f1_floor)

    def _contrast(self, first: Tensor, second: Tensor, targets: Tensor) -> Tensor:
        """L_BHP of the batch of all devices, from the backbone features (B, f) of both views."""
        gather = self.task.collective.gather
        # Each view is gathered by itself, so that the global batch is view-major as one process's.
        views = [gather(unit_rows(self.embedding(x)), grad=True) for x in (first, second)]
        return balanced_hybrid_proxy_loss(
            torch.stack(views, dim=1),
            gather(targets),
            unit_rows(self.proxies),
            self.proxy_labels,
            self.config.temperature,
            self.config.denominator,
        )


def _names(task: Task, counts: Sequence[int]) -> str:
    return ", ".join(name for name, n in zip(task.class_names, counts, strict=True) if n == 0)


def _check_feedback(task: Task) -> None:
    if task.validation_counts is None:
        raise UsageError(
            "method.classifier_loss=bwce weighs classes by validation F1, and this run has no "
            "validation split that feeds back. Set feedback_split=inner, or "
            "method.classifier_loss=ce."
        )
    missing = _names(task, task.validation_counts)
    if missing:
        raise UsageError(
            f"Each of these classes has no validation image, so its F1 is undefined: {missing}. "
            "Choose a split in which every class has one, or set method.classifier_loss=ce."
        )
