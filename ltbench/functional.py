"""Pure functions of tensors and numbers that two or more methods share.

Contrastive maths runs in float32 or wider, outside autocast: at temperature 0.01 a bfloat16 cosine
would be wrong by several units of logit. float64 input stays float64, so that losses can be checked
to the last digits. Nothing here waits for the device: masks select by `where`, never by indexing.

The functions on pairs share one layout: `logits` (A, M) compares A anchors with M entries, the
anchors are the first A entries, and `labels` (M,) are the entries' classes. An entry is never
compared with itself. P(i) are the other entries of anchor i's class.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "at_least_float32",
    "class_averaged_log_denominator",
    "is_self",
    "masked_logsumexp",
    "masked_mean",
    "mean_one",
    "one_device",
    "parabolic_weight",
    "positive_pair_losses",
    "same_class",
    "similarity_logits",
    "supervised_contrastive_loss",
    "unit_rows",
    "view_major",
    "weighted_mean",
]


def at_least_float32(x: Tensor) -> Tensor:
    """`x` as float32 if it is bfloat16 or float16; float32 and float64 as they are."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def unit_rows(x: Tensor) -> Tensor:
    """Rows x / ||x||, after widening to float32; a row of zeros stays zeros.

    Args:
        x: (..., d), any float dtype.
    """
    with torch.autocast(x.device.type, enabled=False):
        return F.normalize(at_least_float32(x), dim=-1)


def view_major(features: Tensor) -> Tensor:
    """(B, V, d) to (V * B, d): all rows of the first view, then all of the second, and so on."""
    return features.transpose(0, 1).flatten(0, 1)


def similarity_logits(anchors: Tensor, entries: Tensor, temperature: float) -> Tensor:
    """s_ij = a_i . z_j / temperature, of the vectors as given: the caller makes them unit.

    Args:
        anchors: (A, d), any float dtype.
        entries: (M, d).
        temperature: tau > 0.

    Returns:
        (A, M), float32 or wider.
    """
    with torch.autocast(anchors.device.type, enabled=False):
        return at_least_float32(anchors) @ at_least_float32(entries).T / temperature


def is_self(logits: Tensor) -> Tensor:
    """Where anchor and entry are the same: bool (A, M), true on the diagonal."""
    return torch.eye(*logits.shape, dtype=torch.bool, device=logits.device)


def same_class(logits: Tensor, labels: Tensor) -> Tensor:
    """Where anchor and entry are of one class: bool (A, M), the anchor itself included."""
    return labels[: len(logits), None] == labels


def masked_logsumexp(logits: Tensor, mask: Tensor, divisors: Tensor | float = 1.0) -> Tensor:
    """Log of the sum of exp(logits) / divisors over the entries of `mask`, row by row.

    The maximum that keeps the sum in range is taken over the mask's entries alone. With a masked
    self entry in it (1 / temperature for unit vectors) all others can underflow, and the log of 0
    makes the loss NaN.

    Args:
        logits: (A, M).
        mask: bool (A, M).
        divisors: > 0, broadcast to (A, M).

    Returns:
        (A,); -inf, with gradient 0, for a row without an entry.
    """
    empty = ~mask.any(dim=1, keepdim=True)
    kept = torch.where(mask, logits, -torch.inf)
    largest = kept.detach().amax(dim=1, keepdim=True).masked_fill(empty, 0.0)
    # Not torch.logsumexp: its gradient exp(logit - result) carries the rounding of a large result,
    # 1e-6 in float32 at temperature 0.01; here the gradient comes from the shifted numbers.
    total = ((kept - largest).exp() / divisors).sum(dim=1, keepdim=True)
    # An empty row's log(0) would have gradient NaN; log(1) stands in for it, and is replaced after.
    result = total.masked_fill(empty, 1.0).log() + largest
    return result.masked_fill(empty, -torch.inf).squeeze(1)


def class_averaged_log_denominator(logits: Tensor, labels: Tensor) -> Tensor:
    """Log of the sum over classes of the mean of exp(s_ij) within the class, self left out.

        D_i = log sum_c (1 / m_ic) sum_{j in c, j != i} exp(s_ij),    m_ic = n_c - [c = y_i]

    n_c is the number of entries of class c. A class without entries adds nothing.

    Args:
        logits: (A, M).
        labels: int64 (M,).

    Returns:
        (A,).

    Source: BCL (Zhu et al., CVPR 2022), class averaging, as coded in
        FlamieZhu/Balanced-Contrastive-Learning@f72d070 and in zylbuaa/ECL@3fb6668, models/loss.py.
    """
    own = same_class(logits, labels)
    class_sizes = (labels[:, None] == labels).sum(dim=0)
    # m_ic is 0 only for the self entry of a class of one, which the mask leaves out.
    divisors = (class_sizes - own.long()).clamp(min=1)
    return masked_logsumexp(logits, ~is_self(logits), divisors)


def positive_pair_losses(
    logits: Tensor, log_denominators: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor]:
    """Supervised contrastive loss of each anchor, the mean over positives outside the log.

        l_i = (1 / |P(i)|) sum_{p in P(i)} (D_i - s_ip)

    Args:
        logits: (A, M).
        log_denominators: D_i, (A,).
        labels: int64 (M,).

    Returns:
        l_i (A,), 0 where P(i) is empty; and bool (A,), whether P(i) has an entry.

    Source: Khosla et al., NeurIPS 2020, eq. 2 (L_out).
    """
    positives = same_class(logits, labels) & ~is_self(logits)
    counts = positives.sum(dim=1)
    similarity = torch.where(positives, logits, 0.0).sum(dim=1) / counts.clamp(min=1)
    has_positive = counts > 0
    return torch.where(has_positive, log_denominators - similarity, 0.0), has_positive


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over the entries of `mask`; 0 when there are none.

    Args:
        values: (N,).
        mask: bool (N,).
    """
    return torch.where(mask, values, 0.0).sum() / mask.sum().clamp(min=1)


def mean_one(weights: Tensor) -> Tensor:
    """Weights scaled to mean one: C w_c / sum_k w_k.

    Args:
        weights: (C,), > 0.
    """
    return weights / weights.mean()


def one_device(x: Tensor) -> Tensor:
    """The `gather` of a run on one device: its rows are all there are."""
    return x


def weighted_mean(
    losses: Tensor, weights: Tensor, gather: Callable[[Tensor], Tensor] = one_device
) -> Tensor:
    """sum_i w_i l_i / sum_i w_i, exact over the batch of all devices.

    With W devices each returns W (local sum of w l) / (global sum of w). Devices average their
    gradients, so the result is the gradient of one process on the whole batch; the mean of the
    values over the devices is its loss.

    Args:
        losses: (B,).
        weights: (B,), > 0, constants.
        gather: concatenates the rows of all devices; `task.collective.gather`.
    """
    # Over B local and W B global rows, W * sum / sum is a mean over a mean.
    return (weights * losses).mean() / gather(weights).mean()


def inverse_frequency_weights(class_counts: Tensor) -> Tensor:
    """w_c proportional to 1 / N_c, mean one.

    Args:
        class_counts: N_c > 0, float64 (C,).
    """
    return mean_one(1 / class_counts)


def effective_number_weights(class_counts: Tensor, beta: float) -> Tensor:
    """w_c proportional to (1 - beta) / (1 - beta^N_c), mean one; all ones for beta = 0.

    Args:
        class_counts: N_c > 0, float64 (C,).
        beta: in [0, 1).

    Source: Cui et al., CVPR 2019, eq. 2; deferred in Cao et al., NeurIPS 2019 (LDAM-DRW).
    """
    if beta == 0:
        return torch.ones_like(class_counts)
    # 1 - beta^N through expm1: for beta near 1 and small N the plain difference loses its digits.
    log_beta = torch.log1p(torch.tensor(beta - 1, dtype=class_counts.dtype))
    return mean_one(-1 / torch.expm1(class_counts * log_beta))


def parabolic_weight(position: int, length: float) -> float:
    """Weight alpha = 1 - (t / D)^2: one at the start, falling ever faster, zero at t = D.

    Args:
        position: t in [0, D], epochs that have passed.
        length: D > 0.

    Source: BBN (Zhou et al., CVPR 2020), section 4.3; Hybrid-SC (Wang et al., CVPR 2021).
    """
    return 1.0 - (position / length) ** 2


def supervised_contrastive_loss(
    features: Tensor,
    targets: Tensor,
    temperature: float,
    anchors: Literal["all", "one"] = "all",
) -> Tensor:
    """L_SC: all views of all images of a class attract each other and repel the rest.

        entries: z_1..z_M, M = V B;    s_ij = z_i . z_j / tau;    P(i) = {p != i : y_p = y_i}
        l_i = (1 / |P(i)|) sum_{p in P(i)} (log sum_{j != i} exp(s_ij) - s_ip)
        L_SC = mean of l_i over the anchors

    An anchor without a positive (possible with one view only) adds 0 and counts in the mean.
    Vectors are used as given: the caller makes them unit, and gathers them from all devices.

    Args:
        features: embeddings z, (B, V, d), any float dtype.
        targets: int64 (B,).
        temperature: tau > 0.
        anchors: "all" entries, or those of view "one" alone; all are compared with all entries.

    Returns:
        Scalar, float32 or wider.

    Source: Khosla et al., NeurIPS 2020, eq. 2; HobbitLong/SupContrast@66a8fe5, losses.py, with its
        base temperature equal to the temperature.
    Departures: the maximum in the log-sum-exp leaves out self, with which the code underflows to
        NaN at small temperatures.
    """
    num_images, num_views = features.shape[:2]
    entries = view_major(features)
    logits = similarity_logits(
        entries if anchors == "all" else entries[:num_images], entries, temperature
    )
    log_denominators = masked_logsumexp(logits, ~is_self(logits))
    losses, _ = positive_pair_losses(logits, log_denominators, targets.repeat(num_views))
    return losses.mean()
