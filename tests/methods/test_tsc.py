"""TSC and KCL: golden numbers of the authors' codes, naive references, and what must hold."""

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ltbench.errors import UsageError
from ltbench.functional import supervised_contrastive_loss, unit_rows
from ltbench.method import METHODS, Collective, Progress
from ltbench.testing.traps import no_host_sync

METHODS["tsc"]  # imports the plugin, as the harness does

from ltbench.methods._spread import (  # noqa: E402
    MAX_TARGET_COSINE,
    match_on_device,
    match_on_host,
    most_targets,
    optimised_targets,
    simplex_targets,
    spread_targets,
    uniformity_loss,
    updated_centroids,
)
from ltbench.methods.tsc import (  # noqa: E402
    TSC,
    UNLABELLED,
    default_queue_size,
    draw_positives,
    in_batch_targeted_loss,
    log_probabilities,
    targeted_contrastive_loss,
)

NONE_DRAWN = torch.empty(0, 0)


def double(value: Any) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def progress(stage: str, epoch: int = 0, epochs: int = 10) -> Progress:
    return Progress(stage, epoch=epoch, epochs=epochs, step=0, steps=10)


@pytest.mark.parametrize(("num", "dim"), [(2, 2), (3, 2), (4, 3), (7, 8), (10, 128), (129, 128)])
def test_simplex_targets(num, dim):
    targets = simplex_targets(num, dim)
    want = torch.full((num, num), -1 / (num - 1), dtype=torch.float64).fill_diagonal_(1.0)
    assert targets.shape == (num, dim)
    torch.testing.assert_close(targets @ targets.T, want, rtol=0, atol=1e-14)


def uniformity_floor(num: int, temperature: float) -> float:
    """The least value on any sphere; only the regular simplex has it."""
    others = math.exp(-1 / ((num - 1) * temperature))
    return math.log(math.exp(1 / temperature) + (num - 1) * others)


def test_golden_uniform_loss(golden, meets):
    for case in golden("tsc_uniform_loss")["cases"]:
        name = f"tsc_uniform_loss/{case['name']}/{case['t']}"
        targets = double(case["targets"]).requires_grad_()
        loss = uniformity_loss(targets, case["t"])
        loss.backward()
        meets(name, loss, case["loss"])
        meets(name, targets.grad, case["grad"])
        meets(name, uniformity_floor(len(targets), case["t"]), case["simplex_bound"])
        assert loss > case["simplex_bound"] - 1e-12
        exact = simplex_targets(len(targets), max(len(targets), targets.shape[1]))
        meets(name, uniformity_loss(exact, case["t"]), case["simplex_bound"])


def naive_uniformity(targets: Tensor, temperature: float) -> float:
    rows = targets.tolist()
    total = 0.0
    for a in rows:
        exponents = [sum(x * y for x, y in zip(a, b, strict=True)) / temperature for b in rows]
        total += math.log(sum(math.exp(e) for e in exponents))
    return total / len(rows)


def test_uniformity_against_double_loop_and_gradcheck():
    targets = F.normalize(torch.randn(6, 3, dtype=torch.float64)).requires_grad_()
    want = naive_uniformity(targets.detach(), 0.3)
    assert uniformity_loss(targets, 0.3).item() == pytest.approx(want, rel=1e-12)
    assert torch.autograd.gradcheck(lambda t: uniformity_loss(t, 0.3), (targets,))


@pytest.mark.parametrize(
    ("num", "dim", "steps", "largest"),
    [
        pytest.param(4, 2, 800, 0.0, id="square"),
        pytest.param(6, 3, 2000, 0.0, id="octahedron", marks=pytest.mark.slow),
        pytest.param(5, 2, 2000, math.cos(2 * math.pi / 5), id="pentagon", marks=pytest.mark.slow),
        pytest.param(4, 3, 2000, -1 / 3, id="tetrahedron", marks=pytest.mark.slow),
    ],
)
def test_optimised_targets_find_the_known_optimum(num, dim, steps, largest):
    torch.manual_seed(0)
    targets = optimised_targets(num, dim, steps, temperature=0.5)
    cosines = (targets @ targets.T).fill_diagonal_(-1)
    torch.testing.assert_close(targets.norm(dim=1), torch.ones(num).double())
    assert cosines.max().item() == pytest.approx(largest, abs=5e-3)
    assert uniformity_loss(targets, 0.5) >= uniformity_floor(num, 0.5) - 1e-12


def test_optimisation_keeps_the_best_iterate():
    def best_after(steps):
        torch.manual_seed(0)
        return uniformity_loss(optimised_targets(6, 2, steps, 0.07), 0.07).item()

    values = [best_after(steps) for steps in (1, 2, 20, 80)]
    assert values == sorted(values, reverse=True)


def test_spread_targets_are_exact_where_they_can_be():
    torch.testing.assert_close(spread_targets(5, 4, 1, 0.07), simplex_targets(5, 4))


def test_crowded_targets_are_refused():
    torch.manual_seed(0)
    with pytest.raises(UsageError, match="Raise method"):
        spread_targets(12, 2, 1, 0.07)


def test_most_targets():
    angle = math.acos(MAX_TARGET_COSINE)
    assert most_targets(2) == pytest.approx(2 * math.pi / angle, rel=1e-9)
    assert most_targets(3) == pytest.approx(2 / (1 - math.cos(angle / 2)), rel=1e-9)
    assert most_targets(128) > 1e6
    assert most_targets(4096) > 1e6


def test_golden_assignment(golden, meets):
    for case in golden("tsc_assignment")["cases"]:
        similarity = double(case["similarity"])
        for match in (match_on_host, match_on_device):
            order = match(similarity)
            assert order.tolist() == case["class_to_target"], case["name"]
            total = similarity.gather(1, order[:, None]).sum()
            meets(f"tsc_assignment/{case['name']}", total, case["total_similarity"])


@pytest.mark.parametrize("num", [2, 3, 5, 8, 10, 12])
@pytest.mark.parametrize("levels", [None, 3, 1], ids=["distinct", "ties", "all_equal"])
def test_matching_on_the_device_equals_scipy(num, levels):
    generator = np.random.default_rng(num)
    for _ in range(5):
        similarity = generator.uniform(-1, 1, (num, num))
        if levels is not None:
            similarity = generator.integers(0, levels, (num, num)).astype(float)
        rows, columns = linear_sum_assignment(similarity, maximize=True)
        order = match_on_device(torch.from_numpy(similarity))
        assert sorted(order.tolist()) == list(range(num))
        got = similarity[rows, order.numpy()].sum()
        assert got == pytest.approx(similarity[rows, columns].sum(), rel=1e-12, abs=1e-12)
        if levels is None:
            assert order.tolist() == columns.tolist()
            assert match_on_host(torch.from_numpy(similarity)).tolist() == columns.tolist()


def test_matching_tries_all_permutations():
    similarity = torch.randn(4, 4, generator=torch.Generator().manual_seed(3))
    best = max(
        itertools.permutations(range(4)),
        key=lambda order: sum(similarity[c, t].item() for c, t in enumerate(order)),
    )
    assert match_on_device(similarity).tolist() == list(best)


@pytest.mark.parametrize("match", [match_on_host, match_on_device])
def test_matching_is_equivariant(match):
    similarity = torch.randn(6, 6, generator=torch.Generator().manual_seed(4))
    order, mixed = match(similarity), torch.tensor([3, 1, 5, 0, 2, 4])
    assert match(similarity[mixed]).tolist() == order[mixed].tolist()
    assert mixed[match(similarity[:, mixed])].tolist() == order.tolist()


def test_matching_waits_for_nothing():
    with no_host_sync():
        match_on_device(torch.randn(7, 7))


def test_matching_of_coinciding_centroids_is_a_permutation():
    centroids = simplex_targets(5, 4)[[0, 0, 0, 3, 3]]
    order = match_on_device(centroids @ simplex_targets(5, 4).T)
    assert sorted(order.tolist()) == list(range(5))


def test_centroids_against_a_loop():
    generator = torch.Generator().manual_seed(6)
    queries, centroids = (
        F.normalize(torch.randn(n, 3, generator=generator, dtype=torch.float64)) for n in (5, 4)
    )
    labels = [0, 0, 2, 3, 0]
    got = updated_centroids(centroids, queries, torch.tensor(labels), 0.9)
    for c in range(4):
        rows = [queries[i] for i in range(5) if labels[i] == c]
        want = centroids[c]
        if rows:
            want = F.normalize(0.9 * want + 0.1 * F.normalize(sum(rows) / len(rows), dim=0), dim=0)
        torch.testing.assert_close(got[c], want)
    assert torch.equal(got[1], centroids[1])


def naive_draw(candidates: list[bool], draws: list[float]) -> list[bool]:
    left = [j for j, candidate in enumerate(candidates) if candidate]
    taken = [left.pop(int(u * len(left))) for u in draws if left]
    return [j in taken for j in range(len(candidates))]


@pytest.mark.parametrize("num_positives", [1, 2, 6, 20])
def test_draws_against_a_loop(num_positives):
    generator = torch.Generator().manual_seed(num_positives)
    for share in (0.1, 0.5, 1.0):
        candidates = torch.rand(30, 12, generator=generator) < share
        uniforms = torch.rand(num_positives, 30, generator=generator, dtype=torch.float64)
        drawn = draw_positives(candidates, uniforms)
        for row, (mask, draws) in enumerate(
            zip(candidates.tolist(), uniforms.T.tolist(), strict=True)
        ):
            assert drawn[row].tolist() == naive_draw(mask, draws)


def test_draws_are_uniform_without_replacement():
    candidates = torch.tensor([True, False, True, True, True, False, True]).expand(20_000, 7)
    uniforms = torch.rand(2, 20_000, generator=torch.Generator().manual_seed(0))
    drawn = draw_positives(candidates, uniforms)
    assert drawn.sum(dim=1).eq(2).all()
    pairs = (drawn.double().T @ drawn.double()) / 20_000
    for i, j in itertools.combinations((0, 2, 3, 4, 6), 2):
        assert pairs[i, j].item() == pytest.approx(0.1, abs=0.012)
    assert not drawn[:, [1, 5]].any()


def test_draws_at_the_edges():
    candidates = torch.tensor([[True] * 4, [False] * 4, [False, True, False, False]])
    assert torch.equal(draw_positives(candidates, torch.empty(0, 3)), candidates)
    almost_one = torch.full((9, 3), 1 - 2**-24)
    assert torch.equal(draw_positives(candidates, almost_one), candidates)
    assert draw_positives(candidates, torch.ones(1, 3)).tolist()[0] == [False] * 3 + [True]


def moco_case(case):
    """(queries, labels, inputs, log_p of given targets, uniforms) of a golden queue case."""
    given = case["inputs"]
    queries = double(given["query_raw"]).requires_grad_()
    queue, labels = double(given["queue"]), torch.tensor(given["labels"])
    same = labels[:, None] == torch.tensor(given["queue_labels"])
    return given, queries, double(given["key_raw"]), queue, labels, same


@pytest.mark.parametrize(
    "name",
    [
        "tsc_imbalanced",
        "tsc_k2_sampled",
        "tsc_k6_more_than_available",
        "tsc_repeat2",
        "tsc_tau01_c7",
        "kcl_all_positives",
        "kcl_no_queue_positive",
    ],
)
def test_golden_queue_losses(name, golden, meets):
    case = golden(name)
    given, queries, keys, queue, labels, same = moco_case(case)
    want, entries, matched = case["outputs"], queue, same[:, :0]
    if given["targets"] is not None:
        targets, repeat = double(given["targets"]), given["target_repeat"]
        centroids = updated_centroids(
            double(given["class_centroid_before"]), unit_rows(queries.detach()), labels, 0.9
        )
        meets(name, centroids, want["class_centroid_after"])
        similarity = centroids @ targets.T
        meets(name, similarity, want["centroid_target_similarity"])
        for match in (match_on_host, match_on_device):
            order = match(similarity)
            assert order.tolist() == want["assignment_class_to_target"]
        entries = torch.cat([queue, targets.repeat(repeat, 1)])
        matched = order[labels][:, None] == torch.arange(len(targets)).repeat(repeat)
    draws = want["uniform_draws"]
    drawn = draw_positives(same, double(draws) if draws else NONE_DRAWN)
    log_p = log_probabilities(queries, keys, entries, given["temperature"])
    class_loss, target_loss = targeted_contrastive_loss(
        log_p, drawn, matched, given["target_weight"]
    )
    loss = class_loss + target_loss
    loss.backward()
    meets(name, loss, want["loss"])
    meets(name, class_loss, want["loss_class"])
    meets(name, target_loss, want["loss_target"])
    meets(name, queries.grad, want["grad_query_raw"])


@pytest.mark.parametrize(
    "name",
    ["kcl_official_empty_queue", "kcl_official_k2_v1", "kcl_official_k6_more_than_available"],
)
def test_golden_kcl_official(name, golden, meets):
    case = golden(name)
    given, queries, keys, queue, _, same = moco_case(case)
    want = case["outputs"]
    used = double(want["soft_labels"])[:, 1:] > 0
    # Which entries the code takes is no random draw; that they are min(K, all) of the class is.
    assert not (used & ~same).any()
    assert torch.equal(used.sum(1), same.sum(1).clamp(max=given["posk"]))
    log_p = log_probabilities(queries, keys, queue, given["temperature"])
    class_loss, target_loss = targeted_contrastive_loss(log_p, used, same[:, :0])
    class_loss.backward()
    meets(name, class_loss, want["loss"], 1e-7)
    meets(name, queries.grad, want["grad_query_raw"], 1e-7)
    meets(name, log_p, double(want["logits"]).log_softmax(dim=1), 1e-7)
    assert target_loss == 0


def naive_targeted(case, tw: float, divisor: str) -> tuple[float, float]:
    """The formula, query by query, in Python floats."""
    queries, keys, queue, targets, drawn, matched, temperature = case
    unit = [F.normalize(x, dim=1).tolist() for x in (queries, keys)]

    def similarity(a, b):
        return sum(x * y for x, y in zip(a, b, strict=True)) / temperature

    class_loss = target_loss = 0.0
    for i, query in enumerate(unit[0]):
        everything = [unit[1][i], *queue.tolist(), *targets.tolist()]
        total = sum(math.exp(similarity(query, other)) for other in everything)
        log_p = [math.log(math.exp(similarity(query, other)) / total) for other in everything]
        queue_p, target_p = log_p[1 : 1 + len(queue)], log_p[1 + len(queue) :]
        chosen = [p for p, use in zip(queue_p, drawn[i].tolist(), strict=True) if use]
        copies = [p for p, use in zip(target_p, matched[i].tolist(), strict=True) if use]
        size = 1 + len(chosen) + len(copies)
        class_size = size if divisor == "code" else 1 + len(chosen)
        class_loss -= (log_p[0] + sum(chosen)) / class_size
        target_loss -= tw * sum(copies) / (size if divisor == "code" else 1)
    return class_loss / len(unit[0]), target_loss / len(unit[0])


def random_queue_case(repeat: int = 1, temperature: float = 0.3, dim: int = 3, seed: int = 0):
    """queries, keys, queue, targets, drawn, matched, temperature; float64, 3 classes."""
    generator = torch.Generator().manual_seed(seed)
    queries, keys, queue = (
        torch.randn(n, dim, generator=generator, dtype=torch.float64) for n in (4, 4, 7)
    )
    labels, queue_labels = torch.tensor([0, 0, 1, 2]), torch.tensor([0, 0, 0, 1, -1, 1, 0])
    drawn = draw_positives(labels[:, None] == queue_labels, torch.rand(2, 4, generator=generator))
    matched = torch.tensor([2, 0, 1])[labels][:, None] == torch.arange(3).repeat(repeat)
    targets = simplex_targets(3, dim).repeat(repeat, 1)
    return queries, keys, F.normalize(queue), targets, drawn, matched, temperature


def losses_of(case, tw: float = 0.2, divisor: str = "code") -> tuple[Tensor, Tensor]:
    queries, keys, queue, targets, drawn, matched, temperature = case
    log_p = log_probabilities(queries, keys, torch.cat([queue, targets]), temperature)
    return targeted_contrastive_loss(log_p, drawn, matched, tw, divisor)


@pytest.mark.parametrize("divisor", ["code", "paper"])
@pytest.mark.parametrize("repeat", [1, 3])
@pytest.mark.parametrize("temperature", [0.07, 0.7])
def test_queue_losses_against_double_loop(divisor, repeat, temperature):
    case = random_queue_case(repeat, temperature)
    got = losses_of(case, 0.6, divisor)
    want = naive_targeted(case, 0.6, divisor)
    assert [x.item() for x in got] == pytest.approx(list(want), rel=1e-11)


@pytest.mark.parametrize("divisor", ["code", "paper"])
def test_queue_losses_gradcheck(divisor):
    queries, *rest = random_queue_case()
    assert torch.autograd.gradcheck(
        lambda q: sum(losses_of((q, *rest), 0.7, divisor)), (queries.requires_grad_(),)
    )


def test_keys_queue_and_targets_get_no_gradient():
    case = [x.requires_grad_() if x.is_floating_point() else x for x in random_queue_case()[:-1]]
    sum(losses_of((*case, 0.3))).backward()
    assert case[0].grad is not None
    assert all(case[i].grad is None for i in (1, 2, 3))
    # Raw inputs are made unit inside, so the gradient is tangential.
    torch.testing.assert_close((case[0].grad * case[0]).sum(1), torch.zeros(4).double())


def test_unlabelled_queue_and_no_targets_is_infonce():
    queries, keys, queue, _, drawn, matched, temperature = random_queue_case()
    log_p = log_probabilities(queries, keys, queue, temperature)
    loss, zero = targeted_contrastive_loss(log_p, torch.zeros_like(drawn), matched[:, :0])
    q, k = F.normalize(queries), F.normalize(keys)
    logits = torch.cat([(q * k).sum(1, keepdim=True), q @ queue.T], dim=1) / temperature
    torch.testing.assert_close(loss, F.cross_entropy(logits, torch.zeros(4).long()))
    assert zero == 0


def test_targets_of_weight_zero_still_repel():
    case = random_queue_case()
    queries, keys, queue, _, drawn, matched, temperature = case
    with_targets, zero = losses_of(case, 0.0)
    without, _ = targeted_contrastive_loss(
        log_probabilities(queries, keys, queue, temperature), drawn, matched[:, :0]
    )
    assert zero == 0
    # By hand: |P| counts the target, and the denominator holds all of them.
    want = naive_targeted(case, 0.0, "code")[0]
    assert with_targets.item() == pytest.approx(want, rel=1e-12)
    assert with_targets.item() != pytest.approx(without.item(), rel=1e-3)
    same_size, _ = losses_of(case, 0.0, "paper")
    assert same_size > without


def test_divisors_agree_on_the_class_term_without_targets():
    queries, keys, queue, _, drawn, matched, temperature = random_queue_case()
    case = queries, keys, queue, queue[:0], drawn, matched[:, :0], temperature
    torch.testing.assert_close(losses_of(case, 0.2, "code"), losses_of(case, 0.2, "paper"))


def test_identical_entries_have_the_log_of_their_number():
    one = F.normalize(torch.ones(1, 3, dtype=torch.float64))
    log_p = log_probabilities(one.expand(4, 3), one.expand(4, 3), one.expand(9, 3), 0.01)
    torch.testing.assert_close(log_p, torch.full((4, 10), -math.log(10)).double())
    drawn, matched = torch.rand(4, 6) < 0.5, torch.eye(3, dtype=torch.bool)[[0, 1, 1, 2]]
    class_loss, target_loss = targeted_contrastive_loss(log_p, drawn, matched, 1.0)
    assert (class_loss + target_loss).item() == pytest.approx(math.log(10), rel=1e-12)


@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_loss_at_simplex_collapse(temperature):
    vertices, labels = simplex_targets(3, 4), torch.tensor([0, 0, 1, 2])
    queue_labels = torch.tensor([0, 1, 2]).repeat(5)
    z, queue = vertices[labels], vertices[queue_labels]
    log_p = log_probabilities(z, z, torch.cat([queue, vertices]), temperature)
    drawn = draw_positives(labels[:, None] == queue_labels, torch.rand(2, 4))
    matched = labels[:, None] == torch.arange(3)
    loss = sum(targeted_contrastive_loss(log_p, drawn, matched, 1.0))
    # 7 own entries (key, 5 in the queue, target) and 2 x 6 at the cosine -1/2.
    want = math.log(7 + 12 * math.exp(-1.5 / temperature))
    assert loss.item() == pytest.approx(want, rel=1e-12)


def test_rotation_changes_nothing():
    queries, keys, queue, targets, *rest = random_queue_case(dim=5)
    turn = torch.from_numpy(np.linalg.qr(np.random.default_rng(0).normal(size=(5, 5)))[0])
    before = losses_of((queries, keys, queue, targets, *rest))
    after = losses_of((queries @ turn, keys @ turn, queue @ turn, targets @ turn, *rest))
    torch.testing.assert_close(after, before, rtol=1e-12, atol=0)


def test_order_of_batch_and_queue_and_names_change_nothing():
    queries, keys, queue, targets, drawn, matched, tau = random_queue_case()
    batch, slots = torch.tensor([2, 0, 3, 1]), torch.tensor([3, 1, 6, 0, 2, 5, 4])
    names = torch.tensor([1, 2, 0])
    before = losses_of((queries, keys, queue, targets, drawn, matched, tau))
    after = losses_of(
        (
            queries[batch],
            keys[batch],
            queue[slots],
            targets[names],
            drawn[batch][:, slots],
            matched[batch][:, names],
            tau,
        )
    )
    torch.testing.assert_close(after, before, rtol=1e-12, atol=0)


@pytest.mark.parametrize("temperature", [0.005, 0.01])
def test_loss_is_finite_and_exact_in_a_cold_float32_batch(temperature):
    narrow = [x.float() if x.is_floating_point() else x for x in random_queue_case()[:-1]]
    narrow[1] = -narrow[0]  # own keys opposite: every similarity is far below the largest
    queries = narrow[0].requires_grad_()
    loss = sum(losses_of((*narrow, temperature)))
    loss.backward()
    wide = [x.detach().double() if x.is_floating_point() else x for x in narrow]
    assert loss.item() == pytest.approx(sum(losses_of((*wide, temperature))).item(), rel=1e-4)
    assert queries.grad.isfinite().all()


def test_one_query():
    queries, keys, queue, targets, drawn, matched, tau = random_queue_case()
    case = queries[:1], keys[:1], queue, targets, drawn[:1], matched[:1], tau
    got, want = losses_of(case), naive_targeted(case, 0.2, "code")
    assert [x.item() for x in got] == pytest.approx(list(want), rel=1e-12)


@pytest.mark.parametrize(
    "name", ["tsc_cifar_only_targets_anchor", "tsc_cifar_tr3", "tsc_cifar_unbiased"]
)
def test_golden_in_batch(name, golden, meets):
    case = golden(name)
    given = case["inputs"]
    features = double(given["features"]).requires_grad_()
    targets = double(given["targets"]).requires_grad_()
    loss = in_batch_targeted_loss(
        features,
        torch.tensor(given["labels"]),
        targets,
        temperature=given["temperature"],
        base_temperature=given["base_temperature"],
        target_repeat=given["target_repeat"],
        anchors="targets" if given["only_target_anchors"] else "all",
        denominator="pair" if given["unbiased"] else "all",
    )
    loss.backward()
    meets(name, loss, case["outputs"]["loss"])
    meets(name, features.grad, case["outputs"]["grad_features"])
    assert targets.grad is None


def in_batch_case():
    generator = torch.Generator().manual_seed(9)
    features = torch.randn(4, 2, 3, generator=generator, dtype=torch.float64)
    return F.normalize(features, dim=-1), torch.tensor([0, 2, 0, 1]), simplex_targets(3, 3)


@pytest.mark.parametrize("anchors", ["all", "targets"])
@pytest.mark.parametrize("denominator", ["all", "pair"])
@pytest.mark.parametrize("repeat", [1, 2])
def test_in_batch_against_double_loop(anchors, denominator, repeat):
    features, labels, targets = in_batch_case()
    rows, classes = features.tolist(), labels.tolist()
    images = [(r, c, False) for r, c in zip(rows, classes, strict=True)]
    points = [([t, t], c, True) for c, t in enumerate(targets.tolist())] * repeat
    entries = [(views[v], c, is_t) for v in range(2) for views, c, is_t in images + points]
    losses = []
    for i, (a, own, is_target) in enumerate(entries):
        if anchors == "targets" and not is_target:
            continue
        s = [sum(x * y for x, y in zip(a, b, strict=True)) / 0.4 for b, _, _ in entries]
        positives = [j for j, (_, c, _) in enumerate(entries) if c == own and j != i]
        negatives = sum(math.exp(s[j]) for j, (_, c, _) in enumerate(entries) if c != own)
        everything = negatives + sum(math.exp(s[j]) for j in positives)
        total = 0.0
        for p in positives:
            below = everything if denominator == "all" else negatives + math.exp(s[p])
            total += math.log(below) - s[p]
        losses.append(total / len(positives))
    got = in_batch_targeted_loss(
        features,
        labels,
        targets,
        temperature=0.4,
        base_temperature=0.1,
        target_repeat=repeat,
        anchors=anchors,
        denominator=denominator,
    )
    assert got.item() == pytest.approx(4 * sum(losses) / len(losses), rel=1e-12)


def test_in_batch_is_supervised_contrast_with_targets_in_the_batch():
    features, labels, targets = in_batch_case()
    got = in_batch_targeted_loss(features, labels, targets, target_repeat=2)
    joined = torch.cat([features, targets.repeat(2, 1)[:, None].expand(-1, 2, -1)])
    names = torch.cat([labels, torch.arange(3).repeat(2)])
    torch.testing.assert_close(got, supervised_contrastive_loss(joined, names, 0.07))


def test_in_batch_gradcheck():
    features, labels, targets = in_batch_case()
    for denominator in ("all", "pair"):
        assert torch.autograd.gradcheck(
            lambda z, d=denominator: in_batch_targeted_loss(
                z, labels, targets, temperature=0.5, target_repeat=1, denominator=d
            ),
            (features.requires_grad_(),),
        )


@pytest.mark.parametrize("denominator", ["all", "pair"])
def test_in_batch_in_a_cold_float32_batch(denominator):
    features, labels, targets = in_batch_case()
    features = features.float().requires_grad_()
    loss = in_batch_targeted_loss(
        features, labels, targets.float(), temperature=0.005, denominator=denominator
    )
    loss.backward()
    assert loss.isfinite()
    assert features.grad.isfinite().all()


@pytest.fixture
def make_tsc(make_task):
    def make(task=None, **settings):
        torch.manual_seed(0)
        return TSC(TSC.Config(**{"embedding_dim": 4} | settings), task or make_task())

    return make


def begin(method: TSC, name: str, epoch: int = 0) -> Progress:
    """What the trainer does before the first step."""
    (stage,) = [s for s in method.stages() if s.name == name]
    method.on_stage_start(stage, None)
    method.train()
    now = progress(name, epoch)
    method.on_epoch_start(now, None)
    return now


def step(method: TSC, batch, now: Progress):
    outputs = method.training_step(batch, now)
    with torch.no_grad():
        method.after_step(outputs, now)
    return outputs


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"matching": "epoch", "divisor": "paper"},
        {"separate_targets": False, "target_repeat": 3},
        {"num_positives": 0, "temperature": 0.01},
        {"embedding_dim": 2, "target_steps": 10},
    ],
)
@pytest.mark.parametrize("stage", ["kcl", "tsc"])
def test_steps_reach_the_network_without_a_sync(make_tsc, make_batch, settings, stage):
    method = make_tsc(**settings)
    now = begin(method, stage)
    for targets in ([0, 0, 0, 0, 1, 1, 2, 2], [0] * 8, [0, 1, 2]):
        method.zero_grad()
        with no_host_sync():
            outputs = method.training_step(make_batch(targets), now)
            outputs["loss"].backward()
            with torch.no_grad():
                method.after_step(outputs, now)
        scalars = {name for name, value in outputs.items() if value.ndim == 0}
        assert scalars == {"loss", "class_loss"} | ({"target_loss"} if stage == "tsc" else set())
        assert outputs["loss"].isfinite()
        for name, parameter in method.named_parameters():
            trained = name.startswith(("backbone.", "projection."))
            assert parameter.requires_grad == trained, name
            assert (parameter.grad is not None) == trained, name
            assert not trained or parameter.grad.isfinite().all(), name


def test_step_is_its_formula(make_tsc, make_batch):
    method, batch = make_tsc(num_positives=0), make_batch([0, 0, 1, 2])
    step(method, make_batch([0, 1, 1, 2]), begin(method, "kcl"))
    now = begin(method, "tsc")
    centroids, queue, labels = (
        x.clone() for x in (method.centroids, method.queue, method.queue_labels)
    )
    outputs = method.training_step(batch, now)
    queries = method.projection(method.backbone(batch.views[0]))
    keys = method.momentum_projection(method.momentum_backbone(batch.views[1]))
    after = updated_centroids(centroids, F.normalize(queries), batch.targets, 0.9)
    order = match_on_host(after @ method.targets.T)
    torch.testing.assert_close(outputs["centroids"], after)
    assert outputs["class_to_target"].tolist() == order.tolist()
    case = (
        queries.double(),
        keys.double(),
        queue.double(),
        method.targets.double(),
        batch.targets[:, None] == labels,
        order[batch.targets][:, None] == torch.arange(3),
        0.07,
    )
    class_loss, target_loss = naive_targeted(case, 0.2, "code")
    assert outputs["class_loss"].item() == pytest.approx(class_loss, rel=1e-5)
    assert outputs["target_loss"].item() == pytest.approx(target_loss, rel=1e-5)
    torch.testing.assert_close(outputs["loss"], outputs["class_loss"] + outputs["target_loss"])


def test_kcl_knows_no_targets(make_tsc, make_batch):
    method, batch = make_tsc(num_positives=0), make_batch([0, 0, 1, 2])
    now = begin(method, "kcl")
    before = method.training_step(batch, now)["loss"]
    method.targets.neg_()
    torch.testing.assert_close(method.training_step(batch, now)["loss"], before)


def test_joint_targets_are_candidates(make_tsc, make_batch):
    # With all candidates taken, joint and separate targets are the same.
    batch, losses = make_batch([0, 0, 1, 2]), []
    for separate in (True, False):
        method = make_tsc(num_positives=0, separate_targets=separate, target_weight=1.0)
        now = begin(method, "tsc")
        step(method, batch, now)
        losses.append(method.training_step(batch, now)["loss"])
    torch.testing.assert_close(losses[0], losses[1])
    # With none in the queue, the target is what one draw finds.
    method = make_tsc(num_positives=1, separate_targets=False)
    outputs = method.training_step(batch, begin(method, "tsc"))
    assert outputs["target_loss"] > 0


def test_queue_takes_keys_and_labels_and_goes_round(make_tsc, make_batch):
    method = make_tsc(queue_size=16)
    now = begin(method, "kcl")
    assert method.queue_labels.eq(UNLABELLED).all()
    torch.testing.assert_close(method.queue.norm(dim=1), torch.ones(16))
    expected = [UNLABELLED] * 16
    place = 0
    for targets in ([0] * 8, [1] * 8, [2] * 8, [0, 1, 2], [1] * 8):
        outputs = step(method, make_batch(targets), now)
        for i, target in enumerate(targets):
            expected[(place + i) % 16] = target
        slots = (place + torch.arange(len(targets))) % 16
        torch.testing.assert_close(method.queue[slots], outputs["keys"])
        place = (place + len(targets)) % 16
        assert method.pointer.item() == place
        assert method.queue_labels.tolist() == expected
    torch.testing.assert_close(method.queue.norm(dim=1), torch.ones(16))


def test_momentum_encoder_follows(make_tsc, make_batch):
    method = make_tsc(momentum=0.9)
    now = begin(method, "kcl")
    pairs = [
        (dict(method.momentum_backbone.named_parameters()), method.backbone),
        (dict(method.momentum_projection.named_parameters()), method.projection),
    ]
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(torch.randn_like(parameter))
    before = [{n: p.clone() for n, p in slow.items()} for slow, _ in pairs]
    step(method, make_batch([0, 1, 2, 0]), now)
    for old, (slow, fast) in zip(before, pairs, strict=True):
        for name, parameter in fast.named_parameters():
            want = 0.9 * old[name] + 0.1 * parameter
            torch.testing.assert_close(slow[name], want)


def test_momentum_encoder_starts_as_the_encoder(make_tsc):
    method = make_tsc()
    for slow, fast in (
        (method.momentum_backbone, method.backbone),
        (method.momentum_projection, method.projection),
    ):
        for a, b in zip(slow.parameters(), fast.parameters(), strict=True):
            assert torch.equal(a, b)
            assert a is not b


def test_a_second_pass_moves_nothing(make_tsc, make_batch):
    method, batch = make_tsc(), make_batch([0, 0, 1, 2])
    now = begin(method, "tsc")
    names = ("queue", "queue_labels", "pointer", "centroids", "class_to_target")
    kept = {name: getattr(method, name).clone() for name in names}
    for _ in range(2):
        method.training_step(batch, now)
    assert all(torch.equal(getattr(method, name), kept[name]) for name in names)


def test_matching_before_an_epoch(make_tsc, make_batch):
    method = make_tsc(matching="epoch")
    with torch.no_grad():
        method.centroids.copy_(method.targets[[2, 0, 1]])
    now = begin(method, "tsc")
    assert method.class_to_target.tolist() == [2, 0, 1]
    with torch.no_grad():
        method.centroids.copy_(method.targets)
    outputs = method.training_step(make_batch([0, 1, 2]), now)
    assert outputs["class_to_target"].tolist() == [2, 0, 1]
    begin(method, "tsc", epoch=1)
    assert method.class_to_target.tolist() == [0, 1, 2]


def test_when_classes_are_matched(make_tsc, make_task):
    def task(num):
        return make_task(class_names=tuple(map(str, range(num))), class_counts=(9,) * num)

    assert make_tsc(task(12), embedding_dim=16).matches_every_step
    assert not make_tsc(task(13), embedding_dim=16).matches_every_step
    assert not make_tsc(task(12), embedding_dim=16, matching="epoch").matches_every_step
    assert make_tsc(task(12), embedding_dim=16, matching="step").matches_every_step


@pytest.mark.parametrize(
    ("epochs", "kcl_part", "lengths"),
    [
        (100, 0.5, {"kcl": 50, "tsc": 50, "linear": 10}),
        (60, 0.25, {"kcl": 15, "tsc": 45, "linear": 6}),
        (60, 1.0, {"kcl": 60, "linear": 6}),
        (60, 0.0, {"tsc": 60, "linear": 6}),
        (3, 0.5, {"kcl": 2, "tsc": 1, "linear": 1}),
        (1, 0.5, {"tsc": 1, "linear": 1}),
    ],
)
def test_stages_scale_with_the_run(make_tsc, make_task, epochs, kcl_part, lengths):
    stages = make_tsc(make_task(epochs=epochs), kcl_part=kcl_part).stages()
    assert {stage.name: stage.epochs for stage in stages} == lengths
    assert [stage.validate for stage in stages] == [False] * (len(stages) - 1) + [True]


def test_linear_stage(make_tsc, make_batch):
    method, batch = make_tsc(linear_lr=10.0), make_batch([0, 1, 2, 0], num_views=1)
    stage = method.stages()[-1]
    assert method.streams(stage)["main"].views == ("classify",)
    assert method.streams(stage)["main"].sampler == "balanced"
    now = begin(method, "linear")
    (spec,) = method.optimizers(stage)
    assert spec.params_list == tuple(method.head.parameters())
    assert (spec.lr, spec.weight_decay) == (10 * 8 / 2048, 0.0)
    factors = [spec.schedule(epoch, 40) for epoch in (0, 19, 20, 29, 30, 39)]
    assert [spec.schedule(0, epochs) for epochs in (1, 2, 3)] == [1.0, 1.0, 1.0]
    assert factors == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
    assert not method.backbone.training
    state = {k: v.clone() for k, v in method.state_dict().items() if not k.startswith("head.")}
    with no_host_sync():
        outputs = method.training_step(batch, now)
        outputs["loss"].backward()
        method.after_step(outputs, now)
    assert set(outputs) == {"loss"}
    assert all(torch.equal(method.state_dict()[key], value) for key, value in state.items())
    trained = {name for name, p in method.named_parameters() if p.grad is not None}
    assert trained == {"head.weight", "head.bias"}
    torch.testing.assert_close(
        outputs["loss"], F.cross_entropy(method.predict(batch.images), batch.targets)
    )


def test_head_starts_small(make_task, make_tsc):
    names = tuple(map(str, range(300)))
    task = make_task(class_names=names, class_counts=(9,) * 300)
    head = make_tsc(task, embedding_dim=300).head
    assert head.weight.std().item() == pytest.approx(0.01, rel=0.1)
    assert not head.bias.any()


def test_streams_and_optimizers_of_the_contrast(make_tsc):
    method = make_tsc()
    for stage in method.stages()[:2]:
        assert method.streams(stage)["main"].views == ("contrast", "contrast")
        assert method.optimizers(stage) is None


def test_widths(make_tsc):
    shapes = [tuple(p.shape) for p in make_tsc(hidden_dim=9).projection.parameters()]
    assert shapes == [(9, 6), (9,), (4, 9), (4,)]
    assert TSC.Config().embedding_dim == 128


def test_state_goes_round(make_tsc, make_batch, tmp_path):
    method = make_tsc()
    step(method, make_batch([0, 1, 2, 2]), begin(method, "tsc"))
    torch.save(method.state_dict(), tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert {"queue", "queue_labels", "pointer", "centroids", "targets", "class_to_target"} <= set(
        state
    )
    torch.manual_seed(1)
    other = TSC(method.config, method.task)
    other.load_state_dict(state)
    for key, value in other.state_dict().items():
        assert torch.equal(value, method.state_dict()[key]), key


def test_step_in_bfloat16_keeps_the_losses_in_float32(make_tsc, make_batch):
    method, batch = make_tsc(num_positives=0), make_batch([0, 0, 1, 2])
    now = begin(method, "tsc")
    want = method.training_step(batch, now)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = step(method, batch, now)
    assert got["loss"].dtype == got["keys"].dtype == method.queue.dtype == torch.float32
    torch.testing.assert_close(got["loss"], want["loss"], rtol=0.1, atol=0.05)


@pytest.mark.parametrize(
    ("batch_size", "num_images", "expected"),
    [(32, 350, 320), (8, 40, 40), (64, 6005, 2048), (48, 6005, 2016), (256, 100, 256), (2, 40, 40)],
)
def test_default_queue_size(batch_size, num_images, expected):
    assert default_queue_size(batch_size, num_images) == expected


@pytest.mark.parametrize(
    ("changes", "settings", "words"),
    [
        ({}, {"queue_size": 20}, "method.queue_size is 20, expected a multiple of batch_size"),
        (
            {"class_names": tuple("abcdefghijklm"), "class_counts": (9,) * 13},
            {"matching": "step", "embedding_dim": 16},
            "method.matching=epoch",
        ),
        (
            {"class_names": tuple("abcdefghijklmn"), "class_counts": (9,) * 14},
            {"embedding_dim": 2},
            "at most 13 targets",
        ),
    ],
)
def test_check_refuses(make_task, changes, settings, words):
    with pytest.raises(UsageError, match=words):
        TSC.check(TSC.Config(**settings), make_task(**changes))


@pytest.mark.parametrize(
    ("changes", "settings"),
    [
        ({}, {}),
        ({}, {"queue_size": 24}),
        ({"class_names": tuple("abcdefghijklm"), "class_counts": (9,) * 13}, {"embedding_dim": 2}),
        ({"class_names": tuple(map(str, range(1000))), "class_counts": (9,) * 1000}, {}),
    ],
)
def test_check_accepts(make_task, changes, settings):
    TSC.check(TSC.Config(**settings), make_task(**changes))


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0},
        {"momentum": 1.0},
        {"num_positives": -1},
        {"queue_size": 0},
        {"kcl_part": 1.5},
        {"divisor": "paper", "separate_targets": False},
        {"tau": 0.1},
    ],
)
def test_config_refuses(settings):
    with pytest.raises(ValueError):
        TSC.Config(**settings)


def test_declared_settings_are_fields():
    assert set(TSC.search_space) <= set(TSC.Config.model_fields)
    assert all(field.description for field in TSC.Config.model_fields.values())
    for preset in (*TSC.presets.values(), *TSC.ablations.values()):
        TSC.Config(**{k[7:]: v for k, v in preset.settings.items() if k.startswith("method.")})


def test_metadata():
    info = METHODS.info("tsc")
    assert (info.name, info.year, info.file.stem) == ("tsc", 2022, "tsc")
    assert "targeted-supcon@c4f15eb" in info.source


def test_golden_files_of_the_queue_are_all_used():
    stems = {path.stem for path in (Path(__file__).parents[1] / "golden").glob("[tk][sc][cl]_*")}
    text = Path(__file__).read_text("utf-8")
    assert stems
    assert all(f'"{stem}"' in text for stem in stems)


def test_step_gathers_what_all_devices_must_share(make_task, make_batch):
    calls = []

    class Recorder(Collective):
        def gather(self, x, *, grad=False):
            calls.append((tuple(x.shape), x.requires_grad, grad))
            return x

    method = TSC(TSC.Config(embedding_dim=4), make_task(collective=Recorder()))
    method.training_step(make_batch([0, 0, 1, 2]), begin(method, "tsc"))
    labels, rows, uniforms = (4,), (4, 4), (6, 4)
    assert calls == [(shape, False, False) for shape in (labels, rows, rows, uniforms)]


TWO_DEVICES = """
import torch
import torch.distributed as dist
from torch import nn
from two_devices import Batch, Collective, Gloo, Progress, Step, build, run

def train(collective, mine, wrap):
    method = build("tsc", collective, epochs=10, queue_size=16)
    torch.manual_seed(collective.rank)  # as in a run, devices have generators of their own
    for stage in method.stages()[:2]:
        method.on_stage_start(stage, None)
        module = wrap(Step(method))
        optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.5)
        for number in range(3):
            now = Progress(stage.name, 0, 5, number, 3)
            generator = torch.Generator().manual_seed(number)
            views = torch.randn(2, 8, 3, 2, 2, generator=generator).double()
            targets = torch.randint(0, 3, (8,), generator=generator)
            optimizer.zero_grad()
            batch = Batch(tuple(views[:, mine]), targets[mine], targets[mine])
            outputs = module(batch, now)
            outputs["loss"].backward()
            optimizer.step()
            with torch.no_grad():
                method.after_step(outputs, now)
    return method.state_dict()

def work(rank):
    one = train(Collective(), slice(8), lambda m: m)
    two = train(Gloo(), slice(4 * rank, 4 * rank + 4), nn.parallel.DistributedDataParallel)
    for name, value in two.items():
        torch.testing.assert_close(value, one[name], rtol=1e-9, atol=1e-12, msg=name)
    for name in ("queue", "queue_labels", "pointer", "centroids", "class_to_target"):
        both = [torch.empty_like(two[name]) for _ in range(2)]
        dist.all_gather(both, two[name])
        assert torch.equal(*both), name

run(work)
"""


@pytest.mark.slow
def test_two_devices_keep_one_queue_and_train_as_one(on_two_devices):
    on_two_devices(TWO_DEVICES)


def test_pair_gradients_are_exact_where_similarities_are_far_apart():
    """Over 20, where a soft-plus that turns linear is off by 2e-9."""
    generator = torch.Generator().manual_seed(168)
    rows = F.normalize(torch.randn(3, 3, generator=generator, dtype=torch.float64), dim=-1)
    targets = F.normalize(torch.randn(2, 3, generator=generator, dtype=torch.float64), dim=-1)
    labels, tau = torch.tensor([0, 0, 1]), 0.07
    features = rows.clone().requires_grad_()
    settings = {"temperature": tau, "base_temperature": tau, "target_repeat": 1}
    in_batch_targeted_loss(
        features[:, None], labels, targets, denominator="pair", **settings
    ).backward()
    wanted = rows.clone().requires_grad_()
    entries, classes = torch.cat([wanted, targets]), torch.cat([labels, torch.arange(2)])
    logits = entries @ entries.T / tau
    assert logits.max() - logits.min() > 20
    same = classes[:, None] == classes
    positive = same & ~torch.eye(5, dtype=torch.bool)
    others = logits.masked_fill(same, -torch.inf).logsumexp(dim=1, keepdim=True)
    pairs = torch.where(positive, torch.logaddexp(logits, others) - logits, 0.0)
    (pairs.sum(dim=1) / positive.sum(dim=1)).mean().backward()
    error = (features.grad - wanted.grad).abs().max() / wanted.grad.abs().max()
    assert error < 1e-11
