"""MWNL with CLS (Yao et al., IEEE TMI 2022): one-vs-rest focal loss, weights that grow, a cap.

Multi-weighted new loss: terms of very hard, probably wrong samples are capped; class weights move
from none to full by a cumulative learning strategy. The paper's body was not at hand: all here is
from the authors' code, yaopengUSTC/mbit-skin-cancer at commit
a82a87b2abebaf724dbe2a7b7e833c434c1b56a0, and how the paper writes cap and class factor is
unverified.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from optuna.distributions import FloatDistribution
from pydantic import Field, model_validator
from torch import Tensor

from ltbench.errors import UsageError
from ltbench.functional import mean_one
from ltbench.method import METHODS, Method, MethodConfig, Preset, Progress, Task
from ltbench.methods.focal import one_vs_rest

Cap = Literal["fix", "zero", "decrease"]
Schedule = Literal["cls", "default", "re_weight", "drw"]
Factor = Annotated[float, Field(gt=0, le=1000)]

ENLARGEMENT = 30.0


def cumulative_power(epoch: int, first: int, last: int, power: float) -> float:
    """a(e): the exponent of the class weights under the cumulative learning strategy.

        e <= e1:        0
        e1 < e < e2:    P ((e - e1) / (e2 - e1))^2
        e2 <= e:        P

    Args:
        epoch: e, 1-based.
        first, last: e1 <= e2; where they are equal, a is 0 up to e1 and P after it.
        power: P >= 0.

    Source: lib/loss/loss.py, BaseLoss.reset_epoch, scheduler "cls".
    """
    if epoch <= first:
        return 0.0
    if epoch >= last:
        return power
    return power * ((epoch - first) / (last - first)) ** 2


def capped(losses: Tensor, beta: float, kind: Cap) -> Tensor:
    """Binary losses l = -log q with those of q < beta bounded.

        th = -log beta;  l <= th:  l;   else  fix: th   zero: 0   decrease: q th / beta

    Args:
        losses: l >= 0, any shape.
        beta: in [0, 1); 0 bounds nothing.
        kind: "fix" and "decrease" are continuous at th, "zero" is not.

    Returns:
        The same shape and dtype. "fix" and "zero" never raise a loss.

    Source: lib/loss/loss.py, MWNLoss.forward.
    """
    if beta == 0:
        return losses
    bound = -math.log(beta)
    if kind == "fix":
        return losses.clamp(max=bound)
    replaced = torch.zeros_like(losses) if kind == "zero" else (-losses).exp() * (bound / beta)
    return torch.where(losses <= bound, losses, replaced)


def mwnl_terms(logits: Tensor, targets: Tensor, gamma: float, beta: float, kind: Cap) -> Tensor:
    """Focal one-vs-rest losses with a cap, summed over classes, without class weights.

        S_i = sum_c (1 - q_ic)^gamma l'_ic,    q = sigmoid(t),  l' = `capped`(-log q)

    The modulator is that of the uncapped logit and carries gradient: under "fix" a capped term
    still moves, for gamma > 0, towards being right.

    Args:
        logits: (B, C), any float dtype.
        targets: int64 (B,).
        gamma: >= 0.
        beta: in [0, 1).
        kind: of the cap.

    Returns:
        (B,), float32 or wider.

    Source: lib/loss/loss.py, MWNLoss.forward.
    Departures: the modulator is exp(gamma log sigmoid(-t)); the code's log(1 + exp(-x)) overflows
        in float32 below x = -88, which gives the hardest positives no weight and a NaN gradient.
    """
    t = one_vs_rest(logits, targets)
    return ((gamma * F.logsigmoid(-t)).exp() * capped(-F.logsigmoid(t), beta, kind)).sum(dim=1)


_FIXED_WEIGHTS = {"method.schedule": "re_weight", "method.normaliser": "normal"}


@METHODS.register(
    "mwnl",
    paper="Yao, Shen, Xu, Liu, Zhang, Xing, Shao, Kaffenberger, Xu: Single Model Deep Learning on "
    "Imbalanced Small Datasets for Skin Lesion Classification, IEEE TMI 41(5), 2022",
    year=2022,
    source="yaopengUSTC/mbit-skin-cancer@a82a87b2abebaf724dbe2a7b7e833c434c1b56a0",
    tags=("re-weighting", "curriculum", "skin"),
)
class MWNL(Method):
    """Linear head; capped one-vs-rest focal terms S_i, weighted by class, the weights by epoch.

        w_c proportional to (k_c / N_c)^a(e), of mean one
        normaliser=enlarge:  L = 30 sum_i w_{y_i} S_i / (B C)
        normaliser=normal:   L = sum_i w_{y_i} S_i / (C sum_i w_{y_i})

    a(e) by `schedule`, e 1-based: "cls" is `cumulative_power`, "default" 0, "re_weight" P, "drw" 0
    before the epoch round(drw_start T) and P from it on. e1 and e2 are the parts `cls_start` and
    `cls_end` of the run, rounded to whole epochs: 20 and 60 of 100, as in the code of ECL's first
    author (zylbuaa/TFormer@abaac38). The weight of a sample is that of its label, for all its C
    terms; its head starts as the framework's, without the bias of the sigmoid focal loss. Under
    SGD the factor 30 / C of "enlarge" acts as one on the learning rate: ECL's 0.002 leaves room for
    it, a rate of 0.1 is too high.

    "normal" divides by the weights of the batch of all devices. Of a batch mixed by mixup, ReMix or
    CutMix each of the two labels is divided by its own.

    Inference logits: the head's output. The authors' code takes their soft-max for probabilities
    and AUC, though training fits sigmoids; so does the harness.

    Source: lib/loss/loss.py, BaseLoss and MWNLoss.
    Departures: see `departures`.
    """

    class Config(MethodConfig):
        """Settings of MWNL; defaults are the code's for ISIC 2018 and 2019, in 100 epochs."""

        gamma: float = Field(2.0, ge=0, le=10, description="exponent of the focal modulator")
        beta: float = Field(
            0.1, ge=0, le=0.4, description="terms of a smaller probability are capped; 0 is off"
        )
        cap: Cap = Field("fix", description="what becomes of capped terms")
        power: float = Field(1.2, ge=0, le=5, description="P, full exponent of the class weights")
        schedule: Schedule = Field("cls", description="how the exponent grows over the run")
        cls_start: float = Field(0.2, ge=0, le=1, description="e1 as a part of the run")
        cls_end: float = Field(0.6, ge=0, le=1, description="e2 as a part of the run")
        drw_start: float = Field(0.5, ge=0, le=1, description="switch of 'drw', part of the run")
        normaliser: Literal["enlarge", "normal"] = Field(
            "enlarge", description="30 times the mean of all terms, or their weighted mean"
        )
        difficulty: dict[str, Factor] | tuple[Factor, ...] = Field(
            {}, description="k_c: {class name: factor}, others 1; or a factor for every class"
        )

        @model_validator(mode="after")
        def _start_before_end(self) -> MWNL.Config:
            if self.cls_start > self.cls_end:
                raise ValueError("cls_start must not be greater than cls_end")
            return self

    search_space: ClassVar = {
        "power": FloatDistribution(0.6, 1.6),
        "gamma": FloatDistribution(0.5, 4.0),
        "beta": FloatDistribution(0.0, 0.4),
    }
    presets: ClassVar = {
        "authors": Preset(
            "the code on ISIC 2018 and 2019: e1 20 and e2 60 of 70 epochs, drops at 30, 40, 50, 60",
            {
                "epochs": 70,
                "method.cls_start": 20 / 70,
                "method.cls_end": 60 / 70,
                "schedule.name": "step",
                "schedule.milestones": tuple(epoch / 70 for epoch in (30, 40, 50, 60)),
                "schedule.gamma": 0.1,
                "select": "val.balanced_accuracy",
            },
        ),
        "isic2017": Preset(
            "the code on ISIC 2017: full weights from the start, power 1.1, weighted mean",
            _FIXED_WEIGHTS | {"method.power": 1.1},
        ),
        "derm7pt": Preset(
            "the code on Derm7pt: full weights from the start, power 1, weighted mean",
            _FIXED_WEIGHTS | {"method.power": 1.0},
        ),
    }
    departures: ClassVar = (
        "modulators are computed from log-sigmoids: the code's overflow below -88 in float32",
        "thresholds are parts of the run; the code's are epochs",
        "presets keep the recipe's network, views and optimizer; the code has RegNetY with "
        "DropBlock, Adam, RandAugment and 16 crops",
    )

    @classmethod
    def check(cls, config: Any, task: Task) -> None:
        """Refuse difficulty factors that do not fit the classes.

        Raises:
            UsageError: an unknown class name, or a wrong number of factors.
        """
        names, factors = task.class_names, config.difficulty
        if isinstance(factors, tuple) and len(factors) not in (0, len(names)):
            raise UsageError(
                f"method.difficulty has {len(factors)} factors, but the data set has {len(names)} "
                f"classes: {', '.join(names)}. Give one for each, or {{name: factor}}."
            )
        unknown = [name for name in factors if name not in names] if factors else []
        if isinstance(factors, dict) and unknown:
            raise UsageError(
                f"method.difficulty names classes the data set has not: {', '.join(unknown)}. "
                f"Its classes are {', '.join(names)}."
            )

    class_ratios: Tensor

    def __init__(self, config: MethodConfig, task: Task) -> None:
        super().__init__(config, task)
        factors = self.config.difficulty
        if isinstance(factors, dict):
            factors = [factors.get(name, 1.0) for name in task.class_names]
        counts = torch.tensor(task.class_counts, dtype=torch.float64)
        ratios = torch.tensor(factors or [1.0] * len(counts), dtype=torch.float64) / counts
        self.register_buffer("class_ratios", ratios, persistent=False)

    def class_weights(self, progress: Progress) -> Tensor:
        """w_c in this epoch, float64 (C,), of mean one."""
        return mean_one(self.class_ratios.pow(self._power(progress)))

    def per_sample_loss(self, logits: Tensor, targets: Tensor, progress: Progress) -> Tensor:
        """Losses (B,) of logits (B, C) and targets (B,); their mean over the batch is L."""
        config = self.config
        terms = mwnl_terms(logits, targets, config.gamma, config.beta, config.cap)
        weights = self.class_weights(progress).to(terms.dtype)[targets]
        losses = weights * terms / logits.shape[1]
        if config.normaliser == "enlarge":
            return ENLARGEMENT * losses
        return losses / self.task.collective.gather(weights).mean()

    def _power(self, progress: Progress) -> float:
        config, epoch, epochs = self.config, progress.paper_epoch, progress.epochs
        if config.schedule == "cls":
            first, last = round(config.cls_start * epochs), round(config.cls_end * epochs)
            return cumulative_power(epoch, first, last, config.power)
        if config.schedule == "drw":
            return config.power if epoch >= round(config.drw_start * epochs) else 0.0
        return config.power if config.schedule == "re_weight" else 0.0
