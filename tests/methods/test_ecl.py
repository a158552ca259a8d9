"""ECL: golden numbers of the authors' code, a naive reference, and what the losses must obey."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ltbench.errors import UsageError
from ltbench.functional import (
    class_averaged_log_denominator,
    masked_logsumexp,
    positive_pair_losses,
    similarity_logits,
    unit_rows,
    view_major,
    weighted_mean,
)
from ltbench.method import METHODS, ClassReport, Collective, Progress

METHODS["ecl"]  # imports the plugin, as the harness does

from ltbench.methods.ecl import (  # noqa: E402
    ECL,
    authors_f1,
    balanced_hybrid_proxy_loss,
    balanced_weighted_cross_entropy,
    class_weights,
    paper_log_denominator,
    proxy_counts,
)

STAGE_ENDS = (20, 50, 100)
BWCE_CASES = (
    "bwce_isic2018_epoch40",
    "bwce_large_logits",
    "bwce_stage1_last",
    "bwce_stage2_first",
    "bwce_stage2_mid",
    "bwce_stage2_single_sample",
    "bwce_stage3_first",
    "bwce_stage3_mid",
)


def progress(epoch: int, epochs: int = 100) -> Progress:
    return Progress("train", epoch=epoch, epochs=epochs, step=0, steps=10)


def random_case(
    targets: list[int], num_proxies: list[int], dim: int = 5, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """features (B, 2, d), targets, proxies, proxy_labels; unit vectors, float64."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(len(num_proxies)).repeat_interleave(torch.tensor(num_proxies))
    draw = [
        torch.randn(*shape, dim, generator=generator, dtype=torch.float64)
        for shape in ((len(targets), 2), (len(labels),))
    ]
    features, proxies = (F.normalize(x, dim=-1) for x in draw)
    return features, torch.tensor(targets), proxies, labels


ORDINARY = random_case([0, 0, 0, 1, 1, 2], [1, 2, 3])


def anchor_losses(entries: Tensor, labels: Tensor, temperature: float = 0.1) -> Tensor:
    logits = similarity_logits(entries, entries, temperature)
    return positive_pair_losses(logits, class_averaged_log_denominator(logits, labels), labels)[0]


def naive_bhp(entries, labels, temperature: float, denominator: str) -> float:
    """The formula, entry by entry, in Python floats."""
    entries, labels = entries.tolist(), labels.tolist()
    sizes, losses = Counter(labels), []

    def similarity(i: int, j: int) -> float:
        return sum(a * b for a, b in zip(entries[i], entries[j], strict=True)) / temperature

    for i, own in enumerate(labels):
        positives = [j for j, label in enumerate(labels) if label == own and j != i]
        if not positives:
            continue
        total = 0.0
        for c, size in sizes.items():
            members = [j for j, label in enumerate(labels) if label == c]
            if denominator == "code":
                members = [j for j in members if j != i]
                divisor = size - 1 if c == own else size
            else:
                divisor = max(size - 1, 1)
            total += sum(math.exp(similarity(i, j)) for j in members) / divisor
        pairs = [math.log(math.exp(similarity(i, j)) / total) for j in positives]
        losses.append(-sum(pairs) / len(positives))
    return sum(losses) / len(losses)


@pytest.mark.parametrize(
    ("class_counts", "expected"),
    [
        ((84, 195, 69, 4023, 308, 659, 667), (6, 4, 7, 1, 3, 2, 2)),
        ((519, 1993, 1574, 143, 2712, 7725, 376, 151), (3, 2, 2, 7, 2, 1, 4, 7)),
        ((60, 20, 4), (1, 2, 3)),
        ((100, 10, 100, 5), (1, 3, 1, 4)),
        ((9, 9, 9), (1, 1, 1)),
    ],
)
def test_proxy_counts(class_counts, expected):
    assert proxy_counts(class_counts) == expected


def test_golden_proxy_cycle(golden, meets):
    case = golden("ecl_proxy_cycle")
    given = case["inputs"]
    raw = torch.nn.Parameter(torch.tensor(given["raw_proxies_init"], dtype=torch.float64))
    labels = torch.arange(3).repeat_interleave(torch.tensor(given["proxy_counts"]))
    optimizer = torch.optim.SGD(
        [raw], lr=given["lr"], momentum=given["momentum"], weight_decay=given["weight_decay"]
    )
    for epoch in case["epochs"]:
        name = f"ecl_proxy_cycle/epoch{epoch['epoch_0based']}"
        # The authors step the scheduler before the epoch: the rate of epoch e is that of e + 1.
        angle = math.pi * (epoch["epoch_0based"] + 1) / given["T_max"]
        lr = given["lr"] / 2 * (1 + math.cos(angle))
        meets(name, lr, epoch["lr_used"])
        optimizer.param_groups[0]["lr"] = lr
        optimizer.zero_grad()
        for batch in epoch["batches"]:
            features = torch.tensor(batch["features"], dtype=torch.float64)
            loss = balanced_hybrid_proxy_loss(
                features, torch.tensor(batch["targets"]), unit_rows(raw), labels, 0.1
            )
            loss.backward()
            meets(name, loss, batch["loss"])
        meets(name, raw.grad, epoch["accumulated_grad"])
        optimizer.step()
    meets("ecl_proxy_cycle/final", raw, case["raw_proxies_final"])


def test_gradient_is_orthogonal_to_the_raw_proxy_and_scales_with_its_inverse_norm():
    features, targets, proxies, labels = ORDINARY
    gradients = []
    for norm in (1.0, 4.0):
        raw = (norm * proxies).requires_grad_()
        balanced_hybrid_proxy_loss(features, targets, unit_rows(raw), labels, 0.1).backward()
        gradients.append(raw.grad)
        torch.testing.assert_close((raw.grad * raw).sum(1), torch.zeros(6).double())
    torch.testing.assert_close(gradients[0], 4 * gradients[1])


def run_bhp(case, temperature=None):
    given = case["inputs"]
    dtype = torch.float32 if case["dtype"] == "torch.float32" else torch.float64
    features = torch.tensor(given["features"], dtype=dtype, requires_grad=True)
    proxies = torch.tensor(given["proxies"], dtype=dtype, requires_grad=True)
    labels = torch.arange(3).repeat_interleave(torch.tensor(given["proxy_counts"]))
    loss = balanced_hybrid_proxy_loss(
        features, torch.tensor(given["targets"]), proxies, labels, given["temperature"]
    )
    loss.backward()
    return loss, features.grad, proxies.grad


@pytest.mark.parametrize(
    ("name", "rtol"),
    [
        ("bhp_imbalanced", 1e-9),
        ("bhp_all_one_class", 1e-9),
        ("bhp_single_sample", 1e-9),
        ("bhp_large_logits", 1e-9),
        ("bhp_tau001_float32", 1e-6),
    ],
)
def test_golden_bhp(name, rtol, golden, meets):
    case = golden(name)
    loss, features_grad, proxies_grad = run_bhp(case)
    meets(name, loss, case["outputs"]["loss"], rtol)
    meets(name, features_grad, case["outputs"]["grad_features"], rtol)
    meets(name, proxies_grad, case["outputs"]["grad_proxies"], rtol)


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("bhp_large_logits_nan", "loss_exact"),
        ("bhp_missing_head_nan", "loss_skipping_anchors_without_positive"),
    ],
)
def test_golden_bhp_is_finite_where_the_authors_code_is_not(name, field, golden, meets):
    case = golden(name)
    loss, *gradients = run_bhp(case)
    meets(name, loss, case["outputs"][field])
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("denominator", ["code", "paper"])
@pytest.mark.parametrize("temperature", [0.1, 0.7])
@pytest.mark.parametrize(
    ("targets", "num_proxies"),
    [
        ([0, 0, 0, 1, 1, 2], [1, 2, 3]),
        ([1, 1, 2], [1, 2, 3]),  # the head class, with one proxy, is absent
        ([0, 0, 0], [1, 1, 1, 1]),  # equal counts: most proxies have no positive
        ([2], [1, 2, 1]),
    ],
)
def test_bhp_against_double_loop(targets, num_proxies, temperature, denominator):
    features, targets, proxies, labels = random_case(targets, num_proxies, seed=3)
    got = balanced_hybrid_proxy_loss(features, targets, proxies, labels, temperature, denominator)
    entries, classes = (
        torch.cat([view_major(features), proxies]),
        torch.cat([targets.repeat(2), labels]),
    )
    want = naive_bhp(entries, classes, temperature, denominator)
    assert got.item() == pytest.approx(want, rel=1e-12)


def test_bhp_gradcheck():
    features, targets, proxies, labels = random_case([1, 1, 2], [1, 2, 1], dim=3)
    for denominator in ("code", "paper"):
        assert torch.autograd.gradcheck(
            lambda z, p, d=denominator: balanced_hybrid_proxy_loss(z, targets, p, labels, 0.5, d),
            (features.requires_grad_(), proxies.requires_grad_()),
        )


@pytest.mark.parametrize("targets", [[0, 0, 0, 0, 1, 2], [0, 1, 2], [2]])
def test_bhp_of_identical_entries_is_log_of_classes(targets):
    features, targets, proxies, labels = random_case(targets, [2, 2, 3])
    one = F.normalize(torch.ones(5, dtype=torch.float64), dim=0)
    loss = balanced_hybrid_proxy_loss(
        one.expand_as(features), targets, one.expand_as(proxies), labels, 0.01
    )
    assert loss.item() == pytest.approx(math.log(3), rel=1e-12)


@pytest.mark.parametrize("targets", [[0, 1, 2], [0, 0, 0, 0, 0, 0, 1, 2], [1, 1, 1]])
@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_bhp_at_simplex_collapse_does_not_depend_on_the_imbalance(targets, temperature):
    angles = torch.arange(3, dtype=torch.float64) * 2 * math.pi / 3
    vertices = torch.stack([angles.cos(), angles.sin()], dim=1)
    targets, labels = torch.tensor(targets), torch.tensor([0, 0, 1, 1, 1, 2, 2])
    features = vertices[targets][:, None].expand(-1, 2, -1)
    loss = balanced_hybrid_proxy_loss(features, targets, vertices[labels], labels, temperature)
    want = math.log(1 + 2 * math.exp(-3 / (2 * temperature)))
    assert loss.item() == pytest.approx(want, rel=1e-9)


def rotated(case):
    features, targets, proxies, labels = case
    matrix = np.random.default_rng(0).normal(size=(5, 5))
    turn = torch.from_numpy(np.linalg.qr(matrix)[0])
    return features @ turn, targets, proxies @ turn, labels


def reordered(case):
    features, targets, proxies, labels = case
    order = torch.tensor([4, 0, 5, 2, 1, 3])
    return features[order], targets[order], proxies, labels


def views_swapped(case):
    features, targets, proxies, labels = case
    return features.flip(1), targets, proxies, labels


def proxies_permuted(case):
    features, targets, proxies, labels = case
    return features, targets, proxies[[0, 2, 1, 5, 3, 4]], labels


def relabelled(case):
    features, targets, proxies, labels = case
    names = torch.tensor([2, 0, 1])
    return features, names[targets], proxies, names[labels]


@pytest.mark.parametrize("denominator", ["code", "paper"])
@pytest.mark.parametrize(
    "change", [rotated, reordered, views_swapped, proxies_permuted, relabelled]
)
def test_bhp_is_invariant(change, denominator):
    before = balanced_hybrid_proxy_loss(*ORDINARY, 0.1, denominator)
    after = balanced_hybrid_proxy_loss(*change(ORDINARY), 0.1, denominator)
    torch.testing.assert_close(after, before, rtol=1e-12, atol=0)


@pytest.mark.parametrize("copies", [2, 5])
def test_copying_a_class_leaves_anchors_of_others_alone(copies):
    features, targets, proxies, labels = ORDINARY
    entries, classes = (
        torch.cat([view_major(features), proxies]),
        torch.cat([targets.repeat(2), labels]),
    )
    extra = classes == 0
    more = torch.cat([entries] + [entries[extra]] * (copies - 1))
    more_classes = torch.cat([classes] + [classes[extra]] * (copies - 1))
    before, after = anchor_losses(entries, classes), anchor_losses(more, more_classes)
    others = classes != 0
    torch.testing.assert_close(after[: len(entries)][others], before[others], rtol=1e-12, atol=0)


@pytest.mark.parametrize("denominator", ["code", "paper"])
def test_bhp_is_finite_in_a_tiny_cold_batch(denominator):
    # Near-opposite views at tau 0.01 in float32: with self in the maximum all else underflows.
    features = torch.tensor([[[1.0, 0.0], [-1.0, 0.05]], [[0.0, 1.0], [0.1, -1.0]]])
    features = F.normalize(features, dim=-1).requires_grad_()
    proxies = F.normalize(torch.tensor([[-1.0, 0.1], [0.2, -1.0]]), dim=-1).requires_grad_()
    targets = torch.tensor([0, 1])
    loss = balanced_hybrid_proxy_loss(features, targets, proxies, targets, 0.01, denominator)
    loss.backward()
    assert loss.isfinite()
    assert features.grad.isfinite().all()
    assert proxies.grad.isfinite().all()


def test_bhp_with_logits_of_ten_thousand():
    features, targets, proxies, labels = ORDINARY
    features = (100 * features).float().requires_grad_()
    loss = balanced_hybrid_proxy_loss(features, targets, (100 * proxies).float(), labels, 1.0)
    loss.backward()
    assert loss.isfinite()
    assert features.grad.isfinite().all()


def test_bhp_of_bfloat16_is_computed_in_float32_also_under_autocast():
    features, targets, proxies, labels = ORDINARY
    low = features.bfloat16(), targets, proxies.bfloat16(), labels
    want = balanced_hybrid_proxy_loss(low[0].float(), targets, low[2].float(), labels, 0.01)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = balanced_hybrid_proxy_loss(*low, 0.01)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, want)


def test_bhp_without_any_positive_is_zero():
    features = torch.zeros(0, 2, 4)
    proxies = unit_rows(torch.randn(3, 4)).requires_grad_()
    none = torch.zeros(0, dtype=torch.int64)
    loss = balanced_hybrid_proxy_loss(features, none, proxies, torch.arange(3), 0.1)
    loss.backward()
    assert loss.item() == 0
    assert proxies.grad.abs().max() == 0


def test_masked_logsumexp_of_an_empty_row():
    logits = torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    result = masked_logsumexp(logits, torch.tensor([[True, False], [False, False]]))
    assert result.tolist() == [1.0, -math.inf]
    torch.where(result.isfinite(), result, 0.0).sum().backward()
    assert logits.grad.tolist() == [[1.0, 0.0], [0.0, 0.0]]


def test_paper_denominator_floors_the_divisor_of_a_class_of_one():
    logits = torch.zeros(3, 3, dtype=torch.float64)
    result = paper_log_denominator(logits, torch.tensor([0, 1, 1]))
    # Class 0: one entry over max(0, 1); class 1: two entries, the anchor's own included, over 1.
    torch.testing.assert_close(result.exp(), torch.full((3,), 3.0).double())


def weights_of(given):
    counts = torch.tensor(given["class_counts"], dtype=torch.float64)
    f1 = (
        torch.ones_like(counts)
        if given["f1"] is None
        else torch.tensor(given["f1"], dtype=torch.float64)
    )
    ends = (given["E1"], given["E2"], given["E"])
    return class_weights(given["epoch_1based"], ends, counts, f1)


@pytest.mark.parametrize("name", BWCE_CASES)
def test_golden_bwce(name, golden, meets):
    case = golden(name)
    given, wanted = case["inputs"], case["outputs"]
    if given["f1"] is not None:
        given["f1"] = [float(f) for f in given["f1"]]
    logits = torch.tensor(given["logits"], dtype=torch.float64, requires_grad=True)
    targets, weights = torch.tensor(given["targets"]), weights_of(given)
    loss = balanced_weighted_cross_entropy(logits, targets, weights)
    loss.backward()
    meets(name, weights, wanted["class_weights"])
    meets(name, loss, wanted["loss"])
    meets(name, logits.grad, wanted["grad_logits"])
    by_batch = balanced_weighted_cross_entropy(logits, targets, weights, "batch")
    meets(name, by_batch, wanted["loss_divided_by_B"])


def test_golden_bwce_is_finite_with_a_floor_on_f1(golden):
    given = golden("bwce_stage3_f1_zero_absent_nan")["inputs"]
    logits = torch.tensor(given["logits"], dtype=torch.float64, requires_grad=True)
    weights = weights_of(given)
    loss = balanced_weighted_cross_entropy(logits, torch.tensor(given["targets"]), weights)
    loss.backward()
    assert weights.isfinite().all()
    assert (weights > 0).all()
    assert loss.isfinite()
    assert logits.grad.isfinite().all()


def test_golden_weight_schedule(golden, meets):
    case = golden("bwce_weight_schedule_isic2018")
    for row in case["schedule"]:
        weights = weights_of(case["inputs"] | row)
        meets(f"bwce_weight_schedule_isic2018/{row['epoch_1based']}", weights, row["class_weights"])


def test_bwce_against_loop():
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    targets, weights = [0, 2, 2, 1, 0], [0.2, 1.0, 1.8]
    losses = []
    for row, target in zip(logits.tolist(), targets, strict=True):
        losses.append(math.log(sum(math.exp(x) for x in row)) - row[target])
    weighted = sum(weights[t] * loss for t, loss in zip(targets, losses, strict=True))
    for normaliser, divisor in (("weighted_mean", sum(weights[t] for t in targets)), ("batch", 5)):
        got = balanced_weighted_cross_entropy(
            logits, torch.tensor(targets), torch.tensor(weights, dtype=torch.float64), normaliser
        )
        assert got.item() == pytest.approx(weighted / divisor, rel=1e-12)


@pytest.mark.parametrize("normaliser", ["weighted_mean", "batch"])
def test_bwce_gradcheck(normaliser):
    logits = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    targets, weights = torch.tensor([0, 1, 2, 2]), torch.tensor([0.3, 1.0, 1.7]).double()
    assert torch.autograd.gradcheck(
        lambda x: balanced_weighted_cross_entropy(x, targets, weights, normaliser), (logits,)
    )


@pytest.mark.parametrize("normaliser", ["weighted_mean", "batch"])
@pytest.mark.parametrize("epoch", [1, 20, 35, 50, 51, 75, 100])
def test_equal_counts_and_equal_f1_give_plain_ce(epoch, normaliser):
    logits, targets = torch.randn(6, 3, dtype=torch.float64), torch.tensor([0, 0, 0, 1, 1, 2])
    counts, f1 = torch.full((3,), 40.0).double(), torch.full((3,), 0.6).double()
    weights = class_weights(epoch, STAGE_ENDS, counts, f1)
    loss = balanced_weighted_cross_entropy(logits, targets, weights, normaliser)
    torch.testing.assert_close(loss, F.cross_entropy(logits, targets), rtol=1e-12, atol=0)


def test_weights_at_the_ends_of_the_stages():
    counts = torch.tensor([84, 195, 69, 4023, 308, 659, 667], dtype=torch.float64)
    f1 = torch.tensor([0.85, 0.65, 0.6, 0.93, 0.82, 0.7, 0.62], dtype=torch.float64)
    assert class_weights(20, STAGE_ENDS, counts, f1).tolist() == [1.0] * 7
    full = [2.1908, 0.9437, 2.6671, 0.0457, 0.5975, 0.2793, 0.2759]
    assert class_weights(50, STAGE_ENDS, counts, f1).tolist() == pytest.approx(full, abs=5e-5)
    last = 7 * (1 / f1) / (1 / f1).sum()
    torch.testing.assert_close(class_weights(100, STAGE_ENDS, counts, f1), last)


def test_floor_bounds_the_f1_weights():
    counts, f1 = torch.ones(2).double(), torch.tensor([0.0, 1.0]).double()
    weights = class_weights(100, STAGE_ENDS, counts, f1, f1_floor=0.1)
    assert (weights[0] / weights[1]).item() == pytest.approx(10)


@pytest.mark.parametrize("scale", [1e4, -1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bwce_of_extreme_logits(scale, dtype):
    logits = (scale * torch.eye(3)).to(dtype).requires_grad_()
    loss = balanced_weighted_cross_entropy(logits, torch.tensor([1, 1, 1]), torch.ones(3))
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    assert logits.grad.isfinite().all()


def test_weighted_mean_over_two_devices_is_that_of_one():
    losses = torch.tensor([1.0, 2.0, 3.0, 4.0]).double()
    weights = torch.tensor([0.1, 0.1, 2.0, 5.0]).double()
    parts = [
        weighted_mean(losses[s], weights[s], lambda _: weights) for s in (slice(2), slice(2, 4))
    ]
    torch.testing.assert_close(sum(parts) / 2, (losses * weights).sum() / weights.sum())


def report_of(predicted: list[int], targets: list[int], num_classes: int) -> ClassReport:
    rows = []
    for c in range(num_classes):
        hits = sum(p == t == c for p, t in zip(predicted, targets, strict=True))
        chosen, support = predicted.count(c), targets.count(c)
        precision, recall = hits / chosen if chosen else 0.0, hits / support if support else 0.0
        f1 = 2 * hits / (chosen + support) if chosen + support else 0.0
        rows.append((precision, recall, f1, support))
    return ClassReport(*torch.tensor(rows, dtype=torch.float64).T)


@pytest.mark.parametrize(
    ("hits", "chosen", "support", "f1"),
    [(1, 160, 2, 0.0122), (131, 162, 160, 0.8137), (77, 160, 171, 0.4652)],
)
def test_f1_is_rounded_as_numpy_rounds(hits, chosen, support, f1):
    """1 / 160 is 0.00625: NumPy's four decimals are 0.0062, Python's 0.0063."""
    others = 400
    predicted = [0] * hits + [1] * (support - hits) + [0] * (chosen - hits)
    predicted += [1] * (others - chosen + hits)
    report = report_of(predicted, [0] * support + [1] * others, 2)
    assert float(authors_f1(report)[0]) == f1


def test_golden_f1_feedback(golden, meets):
    for case in golden("ecl_f1_feedback")["cases"]:
        report = report_of(case["pred"], case["label"], case["num_classes"])
        meets(f"ecl_f1_feedback/{case['name']}", authors_f1(report), case["official_f1"])
        meets(f"ecl_f1_feedback/{case['name']}", report.f1, case["exact_f1"])


@pytest.fixture
def make_ecl(make_task):
    def make(task=None, **settings):
        torch.manual_seed(0)
        return ECL(ECL.Config(**{"embedding_dim": 4} | settings), task or make_task())

    return make


class NoSync(TorchDispatchMode):
    """Refuses operators that make the host wait for the device."""

    forbidden = ("_local_scalar_dense", "nonzero", "masked_select", "bincount", "unique", "equal.")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = str(func)
        assert not any(word in name for word in self.forbidden), name
        if "aten.index" in name and isinstance(args[1], (list, tuple)):
            assert all(i is None or i.dtype != torch.bool for i in args[1]), name
        return func(*args, **(kwargs or {}))


ALL_STEPS = [
    {},
    {"contrastive": False},
    {"classifier_loss": "ce"},
    {"denominator": "paper", "normaliser": "batch", "temperature": 0.01},
    {"proxies": 3, "cycle_update": False},
]


@pytest.mark.parametrize("settings", ALL_STEPS)
@pytest.mark.parametrize("epoch", [0, 40, 99])
def test_step_reaches_all_parameters_without_a_sync(make_ecl, make_batch, settings, epoch):
    method = make_ecl(**settings)
    batch = make_batch([0, 0, 0, 0, 1, 1, 2, 2])
    with NoSync():
        outputs = method.training_step(batch, progress(epoch))
        outputs["loss"].backward()
    expected = {"loss", "bwce", "classes_at_f1_floor"} | (
        {"bhp"} if method.config.contrastive else set()
    )
    assert set(outputs) == expected
    assert all(value.ndim == 0 for value in outputs.values())
    for name, parameter in method.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    assert not outputs["bwce"].requires_grad


def test_loss_is_the_weighted_sum(make_ecl, make_batch):
    method = make_ecl(contrastive_weight=3.0, classifier_weight=5.0)
    outputs = method.training_step(make_batch([0, 0, 1, 2]), progress(0))
    torch.testing.assert_close(outputs["loss"], 3 * outputs["bhp"] + 5 * outputs["bwce"])


def test_classifier_sees_the_first_view_alone_and_views_pass_separately(make_ecl, make_batch):
    method, batch = make_ecl(), make_batch([0, 0, 1, 2])
    first = method.training_step(batch, progress(0))
    assert method.backbone.bn.num_batches_tracked == 2
    assert method.embedding[1].num_batches_tracked == 2
    other = batch._replace(views=(batch.views[0], 2 * batch.views[0] + 1))
    second = method.training_step(other, progress(0))
    torch.testing.assert_close(first["bwce"], second["bwce"])
    assert first["bhp"] != second["bhp"]
    want = F.cross_entropy(method.predict(batch.images), batch.targets)
    torch.testing.assert_close(first["bwce"].float(), want)


def test_contrast_uses_directions_alone(make_ecl, make_batch):
    method, batch = make_ecl(), make_batch([0, 0, 1, 2])
    before = method.training_step(batch, progress(0))["bhp"]
    with torch.no_grad():
        method.proxies.mul_(torch.tensor([[0.3], [1], [2], [5], [7], [9]]))
        method.embedding[3].weight.mul_(4)
        method.embedding[3].bias.mul_(4)
    after = method.training_step(batch, progress(0))["bhp"]
    torch.testing.assert_close(after, before)


def test_step_in_bfloat16_keeps_the_losses_in_float32(make_ecl, make_batch):
    method, batch = make_ecl(temperature=0.01), make_batch([0, 0, 1, 2])
    want = method.training_step(batch, progress(40))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = method.training_step(batch, progress(40))
    assert got["loss"].dtype == torch.float32
    torch.testing.assert_close(got["bwce"], want["bwce"], rtol=0.05, atol=0.05)


def test_feedback_of_the_previous_epoch_weighs_the_next(make_ecl, make_batch):
    method, batch = make_ecl(contrastive=False), make_batch([0, 0, 1, 2], num_views=1)
    unit = F.cross_entropy(method.predict(batch.images), batch.targets)
    torch.testing.assert_close(method.training_step(batch, progress(99))["bwce"], unit)
    report = report_of([0, 0, 1, 0], [0, 0, 1, 2], 3)
    method.on_epoch_end(progress(98), report)
    method.on_epoch_end(progress(98), None)
    torch.testing.assert_close(method.state_dict()["validation_f1"], report.f1)
    weights = class_weights(100, STAGE_ENDS, method.class_counts, report.f1)
    want = F.cross_entropy(method.predict(batch.images), batch.targets, weight=weights.float())
    torch.testing.assert_close(method.training_step(batch, progress(99))["bwce"], want)


def test_feedback_with_the_authors_rounding(make_ecl):
    method = make_ecl(f1_rounding=True)
    method.on_epoch_end(progress(0), report_of([0, 0, 0, 0], [0, 0, 1, 2], 3))
    assert method.validation_f1.tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(("epochs", "first", "second"), [(100, 20, 50), (60, 12, 30), (10, 2, 5)])
def test_stages_scale_with_the_run(make_ecl, monkeypatch, epochs, first, second):
    method = make_ecl()
    seen = []
    monkeypatch.setattr(
        "ltbench.methods.ecl.class_weights", lambda e, ends, *rest: seen.append((e, tuple(ends)))
    )
    method._class_weights(progress(7, epochs))
    assert seen == [(8, (first, second, epochs))]


@pytest.mark.parametrize("epochs", [1, 2, 3])
@pytest.mark.parametrize("starts", [(0.2, 0.5), (0.0, 0.0), (1.0, 1.0), (0.5, 0.5)])
def test_weights_of_short_runs_are_finite(make_ecl, epochs, starts):
    method = make_ecl(stage_two_start=starts[0], stage_three_start=starts[1])
    for epoch in range(epochs):
        weights = method._class_weights(progress(epoch, epochs))
        assert weights.isfinite().all()
        assert (weights > 0).all()


def test_proxies_and_their_optimizer(make_ecl, make_task):
    method = make_ecl()
    assert method.proxies.shape == (6, 4)
    assert method.proxy_labels.tolist() == [0, 1, 1, 2, 2, 2]
    bound = math.sqrt(6 / (6 + 4))
    assert method.proxies.abs().max() <= bound
    (stage,) = method.stages()
    network, proxies = method.optimizers(stage)
    assert (network.every, proxies.every) == ("batch", "epoch")
    assert proxies.params_list == (method.proxies,)
    assert len(network.params_list) + 1 == len(list(method.parameters()))
    assert make_ecl(cycle_update=False).optimizers(stage)[1].every == "batch"
    assert make_ecl(proxies=3).proxy_labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert make_ecl(contrastive=False).optimizers(stage) is None


def test_streams(make_ecl):
    method = make_ecl()
    (stage,) = method.stages()
    assert method.streams(stage)["main"].views == ("classify", "contrast")
    assert make_ecl(contrastive=False).streams(stage)["main"].views == ("classify",)


def test_inference_is_the_classifier_alone(make_ecl, make_batch):
    method, images = make_ecl().eval(), make_batch([0, 1]).images
    torch.testing.assert_close(method.predict(images), method.head(method.backbone(images)))


def test_state_goes_round(make_ecl, tmp_path):
    method = make_ecl()
    method.on_epoch_end(progress(0), report_of([0, 1, 1], [0, 1, 2], 3))
    torch.save(method.state_dict(), tmp_path / "state.pt")
    other = make_ecl()
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert other.validation_f1.tolist() == method.validation_f1.tolist()


@pytest.mark.parametrize(
    ("changes", "settings", "words"),
    [
        ({"validation_counts": None}, {}, "feedback_split=inner"),
        ({"validation_counts": (3, 0, 2)}, {}, "no validation image, so its F1 is undefined: b"),
        ({"class_counts": (60, 20, 0)}, {}, "without a training image: c"),
        ({"batch_size": 1, "steps_per_epoch": 84}, {}, "drop_last=true"),
        ({"class_counts": (61, 20, 0 + 8), "steps_per_epoch": 12}, {}, "drop_last=true"),
    ],
)
def test_check_refuses(make_task, changes, settings, words):
    with pytest.raises(UsageError, match=words):
        ECL.check(ECL.Config(**settings), make_task(**changes))


@pytest.mark.parametrize(
    ("changes", "settings"),
    [
        ({}, {}),
        ({"validation_counts": None}, {"classifier_loss": "ce"}),
        ({"batch_size": 1, "steps_per_epoch": 84}, {"contrastive": False}),
        ({"steps_per_epoch": 11}, {}),
    ],
)
def test_check_accepts(make_task, changes, settings):
    ECL.check(ECL.Config(**settings), make_task(**changes))


def test_uses_validation():
    assert ECL.uses_validation(ECL.Config())
    assert not ECL.uses_validation(ECL.Config(classifier_loss="ce"))


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0},
        {"proxies": 0},
        {"proxies": "many"},
        {"embedding_dim": 1},
        {"f1_floor": 0},
        {"stage_two_start": 0.6},
        {"tau": 0.1},
    ],
)
def test_config_refuses(settings):
    with pytest.raises(ValueError):
        ECL.Config(**settings)


def test_declared_settings_are_fields():
    assert set(ECL.search_space) <= set(ECL.Config.model_fields)
    assert all(field.description for field in ECL.Config.model_fields.values())
    for preset in (*ECL.presets.values(), *ECL.ablations.values()):
        own = {k[7:]: v for k, v in preset.settings.items() if k.startswith("method.")}
        ECL.Config(**own)
        roots = {key.split(".")[0] for key in preset.settings}
        assert roots <= {"method", "views", "normalise", "schedule", "select"}


def test_ablations_are_the_rows_of_table_2():
    assert list(ECL.ablations) == [
        "classifier_ce",
        "classifier_bwce",
        "dual_ce",
        "proxies_2",
        "proxies_3",
        "proxies_4",
        "no_cycle",
        "full",
    ]


def test_metadata():
    info = METHODS.info("ecl")
    assert (info.name, info.year) == ("ecl", 2023)
    assert info.file.stem == "ecl"
    assert "zylbuaa/ECL@3fb6668" in info.source


def test_step_gathers_each_view_with_gradients(make_task, make_batch):
    calls = []

    class Recorder(Collective):
        def gather(self, x, *, grad=False):
            calls.append((tuple(x.shape), grad))
            return x

    method = ECL(ECL.Config(embedding_dim=4), make_task(collective=Recorder()))
    method.training_step(make_batch([0, 0, 1, 2]), progress(40))
    assert calls == [((4,), False), ((4, 4), True), ((4, 4), True), ((4,), False)]


TWO_DEVICES = """
from two_devices import Progress, check_gradients, run

now = Progress("train", 40, 100, 0, 9)
run(lambda rank: check_gradients(rank, "ecl", 2, now))
"""


@pytest.mark.slow
def test_two_devices_have_the_gradients_of_one(on_two_devices):
    on_two_devices(TWO_DEVICES)
