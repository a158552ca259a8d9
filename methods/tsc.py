"""TSC: targeted supervised contrastive learning (Li et al., CVPR 2022), and KCL in it.

Queue-based contrast with a few positives an image (KCL), then the same with maximally spread
targets on the sphere, one for each class, that classes are matched to while they train; a linear
classifier on the frozen features last. "The authors' code" is LTH14/targeted-supcon at commit
c4f15ebf67756088f40b672d7612b341529c7447. KCL is Kang et al., ICLR 2021, bingykang/BalFeat at commit
ba60412df9154077f57ff6d320ff8e7717e330b8.
"""

from __future__ import annotations

import copy
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from pydantic import Field, model_validator
from torch import Tensor, nn

from ltbench.errors import UsageError
from ltbench.functional import (
    at_least_float32,
    is_self,
    masked_logsumexp,
    masked_mean,
    positive_pair_losses,
    same_class,
    similarity_logits,
    unit_rows,
    view_major,
)
from ltbench.method import (
    METHODS,
    Batch,
    Method,
    MethodConfig,
    OptimizerSpec,
    Outputs,
    Preset,
    Progress,
    Stage,
    Stream,
    Task,
    TrainingData,
)
from ltbench.methods._spread import (
    MAX_CLASSES_MATCHED_BY_STEP,
    MAX_TARGET_COSINE,
    match_on_device,
    match_on_host,
    most_targets,
    spread_targets,
    updated_centroids,
)

Divisor = Literal["code", "paper"]

UNLABELLED = -1


def draw_positives(candidates: Tensor, uniforms: Tensor) -> Tensor:
    """Draw K entries a row without replacement, or all there are if they are fewer.

    In round r row i takes entry floor(u_ri n) of its n candidates not yet taken, in their order;
    a row with none left takes none. Without rounds, all candidates are taken.

    Args:
        candidates: bool (B, M).
        uniforms: u in [0, 1), (K, B).

    Returns:
        bool (B, M), a part of `candidates`.
    """
    if not len(uniforms):
        return candidates
    counts, nowhere = candidates.sum(dim=1), candidates.shape[1]
    ranks = counts.new_empty(len(counts), 0)
    for r, draws in enumerate(uniforms):
        left = counts - r
        place = torch.minimum((draws * left).floor().long(), left - 1)
        # The place among those left, moved up by one for each taken entry at or below it.
        earlier = ranks.sort(dim=1).values - torch.arange(r, device=ranks.device)
        rank = place + (earlier <= place[:, None]).sum(dim=1)
        rank = torch.where(left > 0, rank, nowhere)
        ranks = torch.cat([ranks, rank[:, None]], dim=1)
    is_taken = torch.zeros(len(counts), nowhere + 1, dtype=torch.bool, device=counts.device)
    is_taken = is_taken.scatter(1, ranks, True)
    return candidates & is_taken.gather(1, (candidates.cumsum(dim=1) - 1).clamp(min=0))


def log_probabilities(queries: Tensor, keys: Tensor, entries: Tensor, temperature: float) -> Tensor:
    """Logs of the soft-max of each query's similarities to its own key and to all entries.

        log pi(i, v) = q_i . v / tau - log sum_{u in {k_i} and entries} exp(q_i . u / tau)

    Args:
        queries: raw q, (B, d), any float dtype; made unit here.
        keys: raw k, (B, d), the row of each query; made unit here, without gradient.
        entries: unit vectors of queue and targets, (M, d), without gradient.
        temperature: tau > 0.

    Returns:
        (B, 1 + M), own key first, float32 or wider.

    Source: moco/builder.py, class KCL.
    Departures: the code exponentiates before any maximum is subtracted and overflows in half
        precision, at temperature 0.01 in float32 too; here the maximum goes first.
    """
    unit = unit_rows(queries)
    own = (unit * unit_rows(keys.detach())).sum(dim=1, keepdim=True) / temperature
    logits = torch.cat([own, similarity_logits(unit, entries.detach(), temperature)], dim=1)
    return logits - masked_logsumexp(logits, torch.ones_like(logits, dtype=torch.bool))[:, None]


def targeted_contrastive_loss(
    log_p: Tensor,
    drawn: Tensor,
    matched: Tensor,
    target_weight: float = 0.2,
    divisor: Divisor = "code",
) -> tuple[Tensor, Tensor]:
    """L_class and L_target of TSC; with no targets, L_class is the loss of KCL.

        |P_i| = 1 + |S_i| + |T_i|
        L_class  = -(1 / B) sum_i (1 / |P_i|) (log pi(i, k_i) + sum_{u in S_i} log pi(i, u))
        L_target = -(1 / B) sum_i (lambda / |P_i|) sum_{t in T_i} log pi(i, t)

    S_i are the drawn queue entries of the query's class, T_i the copies of its class's target.
    With `divisor` "paper", L_class is divided by 1 + |S_i|, and L_target by nothing.

    Args:
        log_p: (B, 1 + Q + T): own key, queue, targets; of `log_probabilities`.
        drawn: S, bool (B, Q).
        matched: T, bool (B, T); T = 0 for KCL.
        target_weight: lambda >= 0.
        divisor: whose.

    Returns:
        Two scalars; their sum is the loss.

    Source: moco/builder.py, class KCL; the paper's divisors from its supplement.
    Departures: the default divisor is the code's. The paper's does not shrink the target term, so
        the same lambda weighs about eight times more there.
    """
    own, queue, targets = log_p.split([1, drawn.shape[1], matched.shape[1]], dim=1)
    class_sums = own.squeeze(1) + torch.where(drawn, queue, 0.0).sum(dim=1)
    target_sums = target_weight * torch.where(matched, targets, 0.0).sum(dim=1)
    num_keys = 1 + drawn.sum(dim=1)
    if divisor == "paper":
        return -(class_sums / num_keys).mean(), -target_sums.mean()
    num_positives = num_keys + matched.sum(dim=1)
    return -(class_sums / num_positives).mean(), -(target_sums / num_positives).mean()


def in_batch_targeted_loss(
    features: Tensor,
    labels: Tensor,
    targets: Tensor,
    *,
    temperature: float = 0.07,
    base_temperature: float = 0.07,
    target_repeat: int = 25,
    anchors: Literal["all", "targets"] = "all",
    denominator: Literal["all", "pair"] = "all",
) -> Tensor:
    """TSC without a queue: targets join the batch as labelled images, then supervised contrast.

        entries: M = V (B + C tr);  s_ij = z_i . z_j / tau;  P(i) = {p != i : y_p = y_i}
        l_i = (1 / |P(i)|) sum_{p in P(i)} (D_ip - s_ip)
        "all":   D_ip = log sum_{j != i} exp(s_ij)
        "pair":  D_ip = log (exp(s_ip) + sum_{y_j != y_i} exp(s_ij))
        L = (tau / tau_0) * mean of l_i over the anchors

    Args:
        features: unit z, (B, V, d), any float dtype.
        labels: int64 (B,), in [0, C).
        targets: unit, (C, d), without gradient; row c is the target of class c.
        temperature: tau > 0.
        base_temperature: tau_0 > 0.
        target_repeat: tr >= 1, copies of each target in each view.
        anchors: "targets" takes the mean over the 2 C tr entries that are targets.
        denominator: "pair" leaves a pair's other positives out.

    Returns:
        Scalar, float32 or wider.

    Source: cifar_dirty/tsc_cifar_loss.py, class SupConLoss. Classes are not matched there.
    """
    num_views, num_classes = features.shape[1], len(targets)
    copies = targets.detach().to(features.dtype).repeat(target_repeat, 1)
    rows = torch.cat([features, copies[:, None].expand(-1, num_views, -1)])
    classes = torch.arange(num_classes, device=labels.device).repeat(target_repeat)
    all_labels = torch.cat([labels, classes]).repeat(num_views)
    entries = view_major(rows)
    logits = similarity_logits(entries, entries, temperature)
    own, itself = same_class(logits, all_labels), is_self(logits)
    if denominator == "all":
        losses, _ = positive_pair_losses(logits, masked_logsumexp(logits, ~itself), all_labels)
    else:
        positives = own & ~itself
        pairs = -F.logsigmoid(logits - masked_logsumexp(logits, ~own)[:, None])
        losses = torch.where(positives, pairs, 0.0).sum(dim=1) / positives.sum(dim=1)
    is_anchor = torch.ones_like(classes, dtype=torch.bool)
    is_image = torch.full_like(labels, anchors == "all", dtype=torch.bool)
    mean = masked_mean(losses, torch.cat([is_image, is_anchor]).repeat(num_views))
    return temperature / base_temperature * mean


def default_queue_size(batch_size: int, num_images: int) -> int:
    """The largest multiple of the batch not above 2048 and the number of images; at least one.

    A longer queue than the data would hold several stale keys of each image.
    """
    return max(1, min(2048, num_images) // batch_size) * batch_size


_FLIP = {"hflip": {"p": 0.5}}
_CROP = {"random_resized_crop": {"size": 224, "scale": [0.08, 1.0]}}
_JITTER = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.0}
_AUTHORS = {"method.queue_size": 65536}
_AUTHORS_VIEWS = {"views.contrast": [_CROP, _FLIP, {"color_jitter": _JITTER}]}


@METHODS.register(
    "tsc",
    paper="Li, Cao, Yuan, Fan, Yang, Feris, Indyk, Katabi: Targeted Supervised Contrastive "
    "Learning for Long-Tailed Recognition, CVPR 2022",
    year=2022,
    source="LTH14/targeted-supcon@c4f15ebf67756088f40b672d7612b341529c7447",
    tags=("contrastive", "queue", "two-stage", "decoupled"),
)
class TSC(Method):
    """Three stages: KCL, KCL with targets (TSC), a linear classifier on the frozen encoder.

    The run's epochs are those of the first two; each has an optimizer and a schedule of its own,
    so the learning rate starts afresh when the targets come in. The linear stage comes on top, and
    its length is a part of the run's (`linear_epochs`).

    Keys are made by a momentum encoder (backbone and projection), and kept in a queue with their
    labels, which is the same on all devices. A step's loss uses the queue before this batch enters
    it, and the matching after this batch has moved the centroids.

    Matching, every step in the code, is done every step here as well where the classes are few
    enough for the exact `match_on_device`; for more, once before each epoch with scipy, since a
    step may not wait for the device. Centroids follow the queries in the KCL stage too, so that the
    first matching knows the classes.

    Source: the paper and its supplement; moco/builder.py.
    Departures: see `departures`.
    """

    class Config(MethodConfig):
        """Settings of TSC; the loss is the authors' code's, the sizes suit the data."""

        temperature: float = Field(0.07, ge=0.001, le=10, description="tau")
        embedding_dim: int = Field(128, ge=2, le=4096, description="width d of the contrast")
        hidden_dim: int | None = Field(
            None, ge=1, le=8192, description="hidden width of the projection; None: the backbone's"
        )
        num_positives: int = Field(
            6, ge=0, le=1000, description="K positives an image from the queue; 0: all there are"
        )
        queue_size: int | None = Field(
            None,
            ge=1,
            le=1_000_000,
            description="keys kept, a multiple of batch_size; None: the largest multiple not above "
            "2048 and the training images",
        )
        momentum: float = Field(0.999, ge=0, lt=1, description="m of the momentum encoder")
        kcl_part: float = Field(
            0.5, ge=0, le=1, description="part of the epochs without targets; 1 is KCL alone"
        )
        target_weight: float = Field(0.2, ge=0, le=100, description="lambda, of L_target")
        target_repeat: int = Field(1, ge=1, le=1000, description="tr, copies of each target")
        separate_targets: bool = Field(
            True, description="False: the class's target is one more candidate of the K positives"
        )
        divisor: Divisor = Field(
            "code", description="of both loss terms: the code's or the paper's"
        )
        matching: Literal["auto", "step", "epoch"] = Field(
            "auto",
            description="when classes are matched to targets; auto: every step up to "
            f"{MAX_CLASSES_MATCHED_BY_STEP} classes, else before each epoch",
        )
        centroid_momentum: float = Field(0.9, ge=0, lt=1, description="mu of the class centroids")
        target_steps: int = Field(
            10_000, ge=1, le=1_000_000, description="updates of targets with no exact solution"
        )
        target_temperature: float = Field(
            0.07, ge=0.001, le=10, description="tau_u, for targets with no exact solution"
        )
        linear_epochs: float = Field(
            0.1, gt=0, le=10, description="length of the linear stage as a part of the run's epochs"
        )
        linear_lr: float = Field(
            10.0, gt=0, le=1000, description="its learning rate at batch 2048, scaled to the batch"
        )

        @model_validator(mode="after")
        def _divisor_fits(self) -> TSC.Config:
            if self.divisor == "paper" and not self.separate_targets:
                raise ValueError(
                    "divisor=paper divides the class term alone, which needs separate_targets=true"
                )
            return self

    search_space: ClassVar = {
        "temperature": FloatDistribution(0.03, 0.5, log=True),
        "target_weight": FloatDistribution(0.02, 2.0, log=True),
        "num_positives": IntDistribution(1, 16, log=True),
        "kcl_part": CategoricalDistribution([0.25, 0.5, 0.75]),
        "linear_lr": FloatDistribution(1.0, 100.0, log=True),
    }
    presets: ClassVar = {
        "paper": Preset("the paper's divisors", {"method.divisor": "paper"}),
        "authors": Preset("the authors' code for ImageNet-LT: its queue", _AUTHORS),
        "authors_views": Preset("authors, and its views at 224 pixels", _AUTHORS | _AUTHORS_VIEWS),
    }
    ablations: ClassVar = {
        "kcl": Preset("KCL: no targets", {"method.kcl_part": 1.0}),
        "no_warm_up": Preset("targets from the start", {"method.kcl_part": 0.0}),
        "full": Preset("KCL, then TSC", {}),
    }
    stage_settings: ClassVar = {
        "tsc": ("method.target_weight", "method.target_repeat"),
        "linear": ("method.linear_epochs", "method.linear_lr", "select"),
    }
    departures: ClassVar = (
        "targets are the exact simplex where C <= d + 1; the code optimises them or reads a file",
        "above 12 classes matching runs once an epoch; the code matches on the host in every step",
        "centroids follow the queries in the KCL stage too",
        "the maximum is subtracted before exponentiating; the code overflows in half precision",
        "the queue is no longer than the data unless set; the code's 65536 keys suit ImageNet-LT",
        "BatchNorm of the keys' encoder is not shuffled over devices",
        "class-balanced draws of single images in the linear stage; the code draws four of a class",
        "the linear stage is selected on validation; the code selects on the test set",
    )

    @classmethod
    def check(cls, config: Any, task: Task) -> None:
        """Refuse what would fail in the middle of a run.

        Raises:
            UsageError: one class; a queue that whole batches do not fill; more classes than
                matching in every step takes, or than targets find room on the sphere.
        """
        classes, dim = task.num_classes, config.embedding_dim
        if config.queue_size is not None and config.queue_size % task.batch_size:
            whole = max(1, config.queue_size // task.batch_size) * task.batch_size
            raise UsageError(
                f"method.queue_size is {config.queue_size}, expected a multiple of batch_size "
                f"({task.batch_size} over all devices). Take {whole}, or leave it out."
            )
        if config.matching == "step" and classes > MAX_CLASSES_MATCHED_BY_STEP:
            raise UsageError(
                f"method.matching=step takes at most {MAX_CLASSES_MATCHED_BY_STEP} classes, and "
                f"there are {classes}. Set method.matching=epoch."
            )
        if classes < 2:
            raise UsageError("TSC spreads the targets of two classes or more, and there is one.")
        if config.kcl_part < 1 and classes > dim + 1 and classes > most_targets(dim):
            raise UsageError(
                f"method.embedding_dim is {dim}: on that sphere at most {int(most_targets(dim))} "
                f"targets keep a cosine of {MAX_TARGET_COSINE} or less, and there are {classes} "
                "classes. Raise method.embedding_dim."
            )

    queue: Tensor
    queue_labels: Tensor
    pointer: Tensor
    centroids: Tensor
    targets: Tensor
    class_to_target: Tensor

    def __init__(self, config: MethodConfig, task: Task) -> None:
        super().__init__(config, task)
        features, dim = self.backbone.num_features, self.config.embedding_dim
        hidden = self.config.hidden_dim or features
        self.projection = nn.Sequential(
            nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, dim)
        )
        self.momentum_backbone = copy.deepcopy(self.backbone)
        self.momentum_projection = copy.deepcopy(self.projection)
        size = self.config.queue_size or default_queue_size(task.batch_size, sum(task.class_counts))
        few = task.num_classes <= MAX_CLASSES_MATCHED_BY_STEP
        self.matches_every_step = few and self.config.matching != "epoch"
        self._register_state(size, dim)

    def make_head(self, num_features: int) -> nn.Linear:
        """Weights from N(0, 0.01^2), no bias yet; untouched until the linear stage."""
        head = nn.Linear(num_features, self.task.num_classes)
        nn.init.normal_(head.weight, std=0.01)
        nn.init.zeros_(head.bias)
        return head

    def stages(self) -> list[Stage]:
        """KCL and TSC share the run's epochs; the linear stage comes on top."""
        epochs = self.task.epochs
        kcl = round(self.config.kcl_part * epochs)
        lengths = {"kcl": kcl, "tsc": epochs - kcl}
        return [
            *(Stage(s, n, validate=False, select=False) for s, n in lengths.items() if n),
            Stage("linear", max(1, round(self.config.linear_epochs * epochs))),
        ]

    def streams(self, stage: Stage) -> dict[str, Stream]:
        """Two views; in the linear stage one, each class as often as any other."""
        if stage.name == "linear":
            return {"main": Stream(sampler="balanced")}
        return {"main": Stream(views=("contrast", "contrast"))}

    def optimizers(self, stage: Stage) -> list[OptimizerSpec] | None:
        """The recipe's; in the linear stage one without decay, its rate / 10 at 1/2 and at 3/4."""
        if stage.name != "linear":
            return None
        lr = self.config.linear_lr * self.task.batch_size / 2048

        def schedule(epoch: int, epochs: int) -> float:
            return 0.1 ** sum(epoch >= max(1, round(part * epochs)) for part in (0.5, 0.75))

        parameters = self.head.parameters()
        return [OptimizerSpec(parameters, lr=lr, weight_decay=0.0, schedule=schedule)]

    def on_stage_start(self, stage: Stage, data: TrainingData) -> None:
        """Only what the stage trains has gradients."""
        trained = (self.head,) if stage.name == "linear" else (self.backbone, self.projection)
        self.requires_grad_(False)
        for module in trained:
            module.requires_grad_(True)

    def on_epoch_start(self, progress: Progress, data: TrainingData) -> None:
        """Linear stage: encoder in eval mode. TSC stage: match the classes, unless steps do."""
        if progress.stage == "linear":
            self.backbone.eval()
        elif progress.stage == "tsc" and not self.matches_every_step:
            self.class_to_target.copy_(match_on_host(self.centroids @ self.targets.T))

    def training_step(self, batch: Batch, progress: Progress) -> Outputs:
        """L_class + L_target with both to log, or the classifier's cross-entropy."""
        if progress.stage == "linear":
            with torch.no_grad():
                features = self.backbone(batch.images)
            logits = at_least_float32(self.head(features))
            return {"loss": F.cross_entropy(logits, batch.targets)}
        queries = self.projection(self.backbone(batch.views[0]))
        with torch.no_grad():
            keys = unit_rows(self.momentum_projection(self.momentum_backbone(batch.views[1])))
            state = self._next_state(unit_rows(queries.detach()), keys, batch.targets)
        targeted = progress.stage == "tsc"
        losses = self._losses(queries, keys, batch.targets, state["class_to_target"], targeted)
        names = ("class_loss", "target_loss") if targeted else ("class_loss",)
        logged = {name: loss.detach() for name, loss in zip(names, losses, strict=False)}
        return {"loss": losses[0] + losses[1]} | logged | state

    def after_step(self, outputs: Outputs, progress: Progress) -> None:
        """Keys into the queue, encoder into the momentum encoder, centroids and matching kept."""
        if progress.stage == "linear":
            return
        keys, size = outputs["keys"], len(self.queue)
        slots = (self.pointer + torch.arange(len(keys), device=keys.device)) % size
        self.queue.index_copy_(0, slots, keys.to(self.queue.dtype))
        self.queue_labels.index_copy_(0, slots, outputs["key_labels"])
        self.pointer.copy_((self.pointer + len(keys)) % size)
        self.centroids.copy_(outputs["centroids"])
        self.class_to_target.copy_(outputs["class_to_target"])
        slow = [*self.momentum_backbone.parameters(), *self.momentum_projection.parameters()]
        fast = [*self.backbone.parameters(), *self.projection.parameters()]
        for behind, ahead in zip(slow, fast, strict=True):
            behind.lerp_(ahead, 1 - self.config.momentum)  # m behind + (1 - m) ahead

    def _next_state(self, queries: Tensor, keys: Tensor, labels: Tensor) -> Outputs:
        """What `after_step` keeps, the same on all devices; the matching is this step's already."""
        gather = self.task.collective.gather
        labels = gather(labels)
        centroids = updated_centroids(
            self.centroids, gather(queries), labels, self.config.centroid_momentum
        )
        matching = self.class_to_target
        if self.matches_every_step:
            with torch.autocast(centroids.device.type, enabled=False):
                matching = match_on_device(centroids @ self.targets.T)
        entering = {"keys": gather(keys), "key_labels": labels}
        return {**entering, "centroids": centroids, "class_to_target": matching}

    def _losses(
        self, queries: Tensor, keys: Tensor, labels: Tensor, matching: Tensor, targeted: bool
    ) -> tuple[Tensor, Tensor]:
        """(L_class, L_target) of this device's images; L_target is 0 without targets."""
        config, device = self.config, labels.device
        repeat = config.target_repeat if targeted else 0
        entries = torch.cat([self.queue, self.targets.repeat(repeat, 1)])
        log_p = log_probabilities(queries, keys, entries, config.temperature)
        same = labels[:, None] == self.queue_labels
        targets = torch.arange(len(matching), device=device).repeat(repeat)
        matched = matching[labels][:, None] == targets
        # The numbers one process would draw: the first device's, for the batch of all devices.
        rounds, shares = config.num_positives, self.task.collective
        whole = torch.rand(rounds, len(labels) * shares.world_size, device=device)
        uniforms = shares.gather(whole)[:rounds].chunk(shares.world_size, dim=1)[shares.rank]
        if config.separate_targets:
            drawn = draw_positives(same, uniforms)
        else:
            candidates = draw_positives(torch.cat([same, matched], dim=1), uniforms)
            drawn, matched = candidates.split([same.shape[1], matched.shape[1]], dim=1)
        return targeted_contrastive_loss(
            log_p, drawn, matched, config.target_weight, config.divisor
        )

    def _register_state(self, queue_size: int, dim: int) -> None:
        classes, config = self.task.num_classes, self.config
        targets = spread_targets(classes, dim, config.target_steps, config.target_temperature)
        self.register_buffer("targets", targets.float())
        self.register_buffer("class_to_target", torch.arange(classes))
        self.register_buffer("centroids", unit_rows(torch.randn(classes, dim)))
        self.register_buffer("queue", unit_rows(torch.randn(queue_size, dim)))
        self.register_buffer("queue_labels", torch.full((queue_size,), UNLABELLED))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.int64))
