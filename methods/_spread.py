"""Targets spread over the sphere, class centroids, and their matching: the geometry of `tsc`."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from scipy.special import betainc
from torch import Tensor

from ltbench.errors import UsageError
from ltbench.functional import unit_rows

# The subsets of the targets are enumerated in each step: 4096 of them for 12 classes.
MAX_CLASSES_MATCHED_BY_STEP = 12
# Targets nearer to each other than this are no targets: about 26 degrees apart.
MAX_TARGET_COSINE = 0.9


def simplex_targets(num_targets: int, dim: int) -> Tensor:
    """Vertices of the regular simplex: unit vectors with t_i . t_j = -1 / (C - 1) for i != j.

        t_i = sqrt(C / (C - 1)) H e_i,    H the Helmert basis: C - 1 orthonormal rows, each of
        them orthogonal to the vector of ones

    Args:
        num_targets: C in [2, dim + 1].
        dim: d.

    Returns:
        float64 (C, d); all coordinates but the first C - 1 are 0.
    """
    k = torch.arange(1, num_targets, dtype=torch.float64)
    rows = torch.ones(num_targets, num_targets, dtype=torch.float64).tril() - torch.diag(k, 1)
    helmert = rows[:-1] / (k * (k + 1)).sqrt()[:, None]
    vertices = math.sqrt(num_targets / (num_targets - 1)) * helmert.T
    return F.pad(vertices, (0, dim - num_targets + 1))


def uniformity_loss(targets: Tensor, temperature: float) -> Tensor:
    """L_u = (1 / C) sum_i log sum_j exp(t_i . t_j / tau_u), with j = i in the sum.

    Never below log(exp(1/tau_u) + (C - 1) exp(-1/((C - 1) tau_u))), which the regular simplex has.
    At tau_u 0.07 the self entry outweighs all others, and the value says little; the cosines do.

    Args:
        targets: unit vectors, (C, d), float32 or wider.
        temperature: tau_u > 0.

    Source: target_generation.py.
    """
    return (targets @ targets.T / temperature).logsumexp(dim=1).mean()


def optimised_targets(num_targets: int, dim: int, steps: int, temperature: float) -> Tensor:
    """Minimise `uniformity_loss` with Adam (rate 1e-3) from normal numbers; keep the best iterate.

    Args:
        num_targets: C >= 2.
        dim: d >= 2.
        steps: updates, each with all targets, renormalised after it.
        temperature: tau_u > 0.

    Returns:
        Unit vectors, float64 (C, d).

    Source: target_generation.py.
    """
    points = unit_rows(torch.randn(num_targets, dim, dtype=torch.float64)).requires_grad_()
    optimizer = torch.optim.Adam([points], lr=1e-3)
    best, best_loss = points.detach().clone(), math.inf
    for _ in range(steps):
        # Through the normalisation: the pull of t_i . t_i along t_i would fill Adam's scale.
        loss = uniformity_loss(unit_rows(points), temperature)
        if loss.item() < best_loss:
            best, best_loss = points.detach().clone(), loss.item()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            points.copy_(unit_rows(points))
    return best


def spread_targets(num_targets: int, dim: int, steps: int, temperature: float) -> Tensor:
    """Maximally spread unit vectors: the exact simplex where it fits, else `optimised_targets`.

    Returns:
        float64 (C, d).

    Raises:
        UsageError: two optimised targets have a cosine above `MAX_TARGET_COSINE`.
    """
    if num_targets <= dim + 1:
        return simplex_targets(num_targets, dim)
    targets = optimised_targets(num_targets, dim, steps, temperature)
    largest = (targets @ targets.T).fill_diagonal_(-1).max().item()
    if largest > MAX_TARGET_COSINE:
        raise UsageError(
            f"The {num_targets} targets of TSC came out too near to each other in {dim} dimensions "
            f"(largest cosine {largest:.2f}, at most {MAX_TARGET_COSINE} is taken). Raise "
            "method.target_steps or method.embedding_dim."
        )
    return targets


def most_targets(dim: int) -> float:
    """An upper bound on how many unit vectors of dimension d have cosines <= MAX_TARGET_COSINE.

    Caps of half the smallest angle around the targets do not overlap, so the bound is the sphere's
    area over a cap's:  2 / I_x((d - 1) / 2, 1 / 2),  x = sin^2(angle / 2) = (1 - cos angle) / 2,
    with the regularised incomplete beta function I.
    """
    part = betainc((dim - 1) / 2, 0.5, (1 - MAX_TARGET_COSINE) / 2) / 2
    return 1 / float(part) if part else math.inf


def updated_centroids(
    centroids: Tensor, queries: Tensor, labels: Tensor, momentum: float
) -> Tensor:
    """Class centroids after one batch; those of classes without an image in it stay.

        m_c <- L2(mu m_c + (1 - mu) L2(mean of the queries of class c))

    Args:
        centroids: unit m_c, (C, d).
        queries: unit vectors of all devices, (B, d).
        labels: int64 (B,).
        momentum: mu in [0, 1].

    Source: moco/builder.py, class KCL (mu = 0.9).
    """
    classes = torch.arange(len(centroids), device=labels.device)
    members = classes[:, None] == labels
    with torch.autocast(labels.device.type, enabled=False):
        # The direction of a mean is that of the sum.
        sums = members.to(centroids.dtype) @ queries.to(centroids.dtype)
    moved = unit_rows(momentum * centroids + (1 - momentum) * unit_rows(sums))
    return torch.where(members.any(dim=1, keepdim=True), moved, centroids)


def match_on_host(similarity: Tensor) -> Tensor:
    """The permutation sigma that maximises sum_c similarity[c, sigma(c)]; waits for the device.

    Args:
        similarity: (C, C), class by target.

    Returns:
        sigma, int64 (C,).
    """
    _, order = linear_sum_assignment(similarity.detach().cpu().double().numpy(), maximize=True)
    return torch.from_numpy(order.astype(np.int64)).to(similarity.device)


def match_on_device(similarity: Tensor) -> Tensor:
    """`match_on_host` without leaving the device, by dynamic programming over sets of targets.

        V_0({}) = 0,    V_{c+1}(S) = max_{t in S} V_c(S without t) + similarity[c, t]

    V_c(S) is the best that the first c classes can do with the targets S. Exact; C rounds over 2^C
    sets, in float64. Among equal totals any permutation may come out, as in scipy.

    Args:
        similarity: (C, C), C at most about 12.

    Returns:
        sigma, int64 (C,).
    """
    num_classes, device = len(similarity), similarity.device
    bits = torch.bitwise_left_shift(
        torch.ones(num_classes, dtype=torch.int64, device=device),
        torch.arange(num_classes, device=device),
    )
    sets = torch.arange(2**num_classes, device=device)
    holds = (sets[:, None] & bits) > 0
    without = sets[:, None] ^ bits
    values = torch.where(sets == 0, 0.0, -torch.inf).double()
    choices = []
    for row in similarity.detach().double():
        values, choice = torch.where(holds, values[without] + row, -torch.inf).max(dim=1)
        choices.append(choice)
    left, chosen = sets[-1:], []
    for choice in reversed(choices):
        target = choice.gather(0, left)
        left = left ^ bits.gather(0, target)
        chosen.append(target)
    return torch.cat(chosen[::-1])
