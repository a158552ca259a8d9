"""BCL: golden numbers of the authors' code, a naive reference, and what the losses must obey."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ltbench.errors import UsageError
from ltbench.functional import view_major
from ltbench.method import METHODS, Collective, Progress
from ltbench.testing.traps import no_host_sync

METHODS["bcl"]  # imports the plugin, as the harness does

from ltbench.methods.bcl import (  # noqa: E402
    BCL,
    authors_lr_factor,
    balanced_contrastive_loss,
    compensated_cross_entropy,
    cosine_logits,
)

PROGRESS = Progress("train", epoch=3, epochs=100, step=0, steps=10)


def random_case(
    targets: list[int], num_classes: int, dim: int = 5, num_views: int = 2
) -> tuple[Tensor, Tensor, Tensor]:
    """features (B, V, d), targets, centres; unit vectors, float64."""
    generator = torch.Generator().manual_seed(5)
    shapes = ((len(targets), num_views, dim), (num_classes, dim))
    features, centres = (
        F.normalize(torch.randn(*s, generator=generator, dtype=torch.float64), dim=-1)
        for s in shapes
    )
    return features, torch.tensor(targets), centres


ORDINARY = random_case([0, 0, 0, 1, 1, 2], 4)


def naive_bcl(features, targets, centres, temperature: float, denominator: str = "code") -> float:
    """The formula, entry by entry, in Python floats."""
    num_classes, anchors = len(centres), view_major(features).tolist()
    entries = anchors + centres.tolist()
    labels = targets.tolist() * features.shape[1] + list(range(num_classes))
    sizes, losses = Counter(labels), []

    def similarity(i: int, j: int) -> float:
        return sum(a * b for a, b in zip(entries[i], entries[j], strict=True)) / temperature

    for i in range(len(anchors)):
        total = 0.0
        for c in range(num_classes):
            members = [j for j, label in enumerate(labels) if label == c]
            if denominator == "code":
                members = [j for j in members if j != i]
                divisor = sizes[c] - (c == labels[i])
            else:
                divisor = sizes[c]
            total += sum(math.exp(similarity(i, j)) for j in members) / divisor
        positives = [j for j, label in enumerate(labels) if label == labels[i] and j != i]
        assert len(positives) == sizes[labels[i]] - 1
        pairs = [math.log(math.exp(similarity(i, j)) / total) for j in positives]
        losses.append(-sum(pairs) / len(positives))
    return sum(losses) / len(losses)


@pytest.mark.parametrize(
    "name",
    [
        "bcl_all_one_class",
        "bcl_imbalanced_tau007",
        "bcl_isic_like",
        "bcl_one_image",
        "bcl_single_sample",
    ],
)
def test_golden_bcl(name, golden, meets):
    case = golden(name)
    given, want = case["inputs"], case["outputs"]
    features, centres = (
        torch.tensor(given[key], dtype=torch.float64, requires_grad=True)
        for key in ("features", "class_centers")
    )
    targets = torch.tensor(given["targets"])
    loss = balanced_contrastive_loss(features, targets, centres, given["temperature"])
    loss.backward()
    meets(name, loss, want["loss"])
    meets(name, features.grad, want["grad_features"])
    meets(name, centres.grad, want["grad_class_centers"])


@pytest.mark.parametrize("denominator", ["code", "paper"])
@pytest.mark.parametrize("temperature", [0.1, 0.7])
@pytest.mark.parametrize("targets", [[0, 0, 0, 1, 1, 2], [3, 3], [2], [0, 1, 2, 3], [1, 1, 1, 1]])
def test_bcl_against_double_loop(targets, temperature, denominator):
    case = random_case(targets, 4)
    got = balanced_contrastive_loss(*case, temperature, denominator)
    assert got.item() == pytest.approx(naive_bcl(*case, temperature, denominator), rel=1e-12)


@pytest.mark.parametrize("num_views", [1, 3])
def test_bcl_with_other_numbers_of_views(num_views):
    case = random_case([0, 0, 1, 2], 3, num_views=num_views)
    got = balanced_contrastive_loss(*case, 0.3)
    assert got.item() == pytest.approx(naive_bcl(*case, 0.3), rel=1e-12)


def test_bcl_gradcheck():
    features, targets, centres = random_case([1, 1, 2], 4, dim=3)
    for denominator in ("code", "paper"):
        assert torch.autograd.gradcheck(
            lambda z, g, d=denominator: balanced_contrastive_loss(z, targets, g, 0.5, d),
            (features.requires_grad_(), centres.requires_grad_()),
        )


@pytest.mark.parametrize("denominator", ["code", "paper"])
@pytest.mark.parametrize("targets", [[0, 0, 0, 0, 1, 2], [0, 1, 2], [2]])
def test_bcl_of_identical_entries_is_log_of_classes(targets, denominator):
    features, targets, centres = random_case(targets, 3)
    one = F.normalize(torch.ones(5, dtype=torch.float64), dim=0)
    loss = balanced_contrastive_loss(
        one.expand_as(features), targets, one.expand_as(centres), 0.01, denominator
    )
    assert loss.item() == pytest.approx(math.log(3), rel=1e-12)


@pytest.mark.parametrize("targets", [[0, 1, 2], [0, 0, 0, 0, 0, 0, 1, 2], [1, 1, 1]])
@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_bcl_at_simplex_collapse_does_not_depend_on_the_batch(targets, temperature):
    angles = torch.arange(3, dtype=torch.float64) * 2 * math.pi / 3
    vertices = torch.stack([angles.cos(), angles.sin()], dim=1)
    targets = torch.tensor(targets)
    features = vertices[targets][:, None].expand(-1, 2, -1)
    loss = balanced_contrastive_loss(features, targets, vertices, temperature)
    want = math.log(1 + 2 * math.exp(-3 / (2 * temperature)))
    assert loss.item() == pytest.approx(want, rel=1e-9)


def rotated(case):
    features, targets, centres = case
    matrix = np.random.default_rng(0).normal(size=(5, 5))
    turn = torch.from_numpy(np.linalg.qr(matrix)[0])
    return features @ turn, targets, centres @ turn


def reordered(case):
    features, targets, centres = case
    order = torch.tensor([4, 0, 5, 2, 1, 3])
    return features[order], targets[order], centres


def views_swapped(case):
    features, targets, centres = case
    return features.flip(1), targets, centres


def relabelled(case):
    features, targets, centres = case
    names = torch.tensor([2, 0, 3, 1])
    return features, names[targets], centres[names.argsort()]


@pytest.mark.parametrize("denominator", ["code", "paper"])
@pytest.mark.parametrize("change", [rotated, reordered, views_swapped, relabelled])
def test_bcl_is_invariant(change, denominator):
    before = balanced_contrastive_loss(*ORDINARY, 0.1, denominator)
    after = balanced_contrastive_loss(*change(ORDINARY), 0.1, denominator)
    torch.testing.assert_close(after, before, rtol=1e-12, atol=0)


def test_centres_are_no_anchors():
    # One anchor: the centre of an absent class is pushed along it and along nothing else.
    features, targets, centres = random_case([0], 3, num_views=1)
    centres.requires_grad_()
    balanced_contrastive_loss(features, targets, centres, 0.1).backward()
    anchor = features[0, 0]
    for gradient in centres.grad[1:]:
        torch.testing.assert_close(gradient, (gradient @ anchor) * anchor)
        assert gradient @ anchor > 0


@pytest.mark.parametrize("copies", [2, 5])
def test_copying_an_absent_class_leaves_the_anchors_of_others_alone(copies):
    features, targets, centres = random_case([0, 0, 1], 3)
    more = torch.cat([features, centres[2].expand(copies, 2, 5)])
    more_targets = torch.cat([targets, torch.full((copies,), 2)])
    few = 6 * balanced_contrastive_loss(features, targets, centres, 0.1)
    many = (6 + 2 * copies) * balanced_contrastive_loss(more, more_targets, centres, 0.1)
    # The copies coincide with their centre, so each of them has the loss of one such anchor.
    other = torch.cat([features, centres[2].expand(1, 2, 5)])
    once = 8 * balanced_contrastive_loss(
        other, torch.cat([targets, torch.tensor([2])]), centres, 0.1
    )
    torch.testing.assert_close(many, few + copies * (once - few), rtol=1e-12, atol=0)


@pytest.mark.parametrize("denominator", ["code", "paper"])
@pytest.mark.parametrize("temperature", [0.005, 0.01])
def test_bcl_is_finite_in_a_tiny_cold_batch(temperature, denominator):
    # Near-opposite views in float32: with self in the maximum all else underflows.
    features = torch.tensor([[[1.0, 0.0], [-1.0, 0.05]], [[0.0, 1.0], [0.1, -1.0]]])
    features = F.normalize(features, dim=-1).requires_grad_()
    centres = F.normalize(torch.tensor([[-1.0, 0.1], [0.2, -1.0], [-1, -1]]), dim=-1)
    centres.requires_grad_()
    targets = torch.tensor([0, 1])
    loss = balanced_contrastive_loss(features, targets, centres, temperature, denominator)
    loss.backward()
    with torch.no_grad():
        wide = balanced_contrastive_loss(
            features.double(), targets, centres.double(), temperature, denominator
        )
    assert loss.item() == pytest.approx(wide.item(), rel=1e-5)
    assert features.grad.isfinite().all()
    assert centres.grad.isfinite().all()


def test_bcl_with_logits_of_ten_thousand():
    features, targets, centres = ORDINARY
    loss = balanced_contrastive_loss(features, targets, centres, 1e-4)
    assert loss.isfinite()
    assert loss > 0


def test_golden_classifier_branch(golden, meets):
    case = golden("bcl_classifier_branch")
    given, want = case["inputs"], case["outputs"]
    features, weight = (
        torch.tensor(given[key], dtype=torch.float64, requires_grad=True)
        for key in ("features", "weight_in_by_C")
    )
    counts = torch.tensor(given["class_counts"], dtype=torch.float64)
    logits = cosine_logits(features, weight, given["scale"])
    loss = compensated_cross_entropy(logits, torch.tensor(given["targets"]), counts)
    loss.backward()
    meets("bcl_classifier_branch", logits, want["cosine_logits"])
    meets("bcl_classifier_branch", loss, want["loss"])
    meets("bcl_classifier_branch", features.grad, want["grad_features"])
    meets("bcl_classifier_branch", weight.grad, want["grad_weight"])


def test_compensated_cross_entropy_against_loop():
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    targets, counts = [0, 2, 1, 2], [60, 20, 4]
    want = 0.0
    for row, target in zip(logits.tolist(), targets, strict=True):
        parts = [n / 84 * math.exp(x) for n, x in zip(counts, row, strict=True)]
        want -= math.log(parts[target] / sum(parts)) / 4
    tensor = torch.tensor(counts, dtype=torch.float64)
    got = compensated_cross_entropy(logits, torch.tensor(targets), tensor)
    assert got.item() == pytest.approx(want, rel=1e-12)


def test_equal_counts_leave_the_cross_entropy():
    logits, targets = torch.randn(6, 3), torch.tensor([0, 1, 2, 2, 1, 0])
    counts = torch.full((3,), 17.0, dtype=torch.float64)
    got = compensated_cross_entropy(logits, targets, counts)
    torch.testing.assert_close(got, F.cross_entropy(logits, targets))


@pytest.mark.parametrize("size", [1e4, -1e4])
def test_compensated_cross_entropy_of_large_logits(size):
    logits = torch.tensor([[size, 0.0, -size]], requires_grad=True)
    counts = torch.tensor([60.0, 20.0, 4.0], dtype=torch.float64)
    loss = compensated_cross_entropy(logits, torch.tensor([1]), counts)
    loss.backward()
    assert loss.isfinite()
    assert logits.grad.isfinite().all()


def test_compensation_and_cosine_gradcheck():
    generator = torch.Generator().manual_seed(2)
    features, weight = (
        torch.randn(*shape, generator=generator, dtype=torch.float64, requires_grad=True)
        for shape in ((4, 3), (3, 5))
    )
    targets, counts = torch.tensor([0, 4, 2, 2]), torch.tensor([9.0, 5, 3, 2, 1]).double()
    assert torch.autograd.gradcheck(
        lambda h, w: compensated_cross_entropy(cosine_logits(h, w, 30.0), targets, counts),
        (features, weight),
    )


def test_cosine_logits_ignore_norms():
    features, weight = torch.randn(4, 3).double(), torch.randn(3, 5).double()
    torch.testing.assert_close(
        cosine_logits(7 * features, 0.1 * weight, 30.0), cosine_logits(features, weight, 30.0)
    )
    assert cosine_logits(features, features.T, 30.0).diagonal().tolist() == pytest.approx([30] * 4)


def test_golden_lr_schedule(golden, meets):
    for case in golden("bcl_lr_schedule")["schedules"]:
        epochs, warmup = case["epochs"], case["warmup_epochs"]
        got = [case["base_lr"] * authors_lr_factor(e, epochs, warmup) for e in range(epochs)]
        meets(f"bcl_lr_schedule/{epochs}", got, case["lr_per_epoch_0based"])


@pytest.mark.parametrize("epochs", [1, 2, 3, 200])
@pytest.mark.parametrize("part", [0.0, 0.025, 0.5, 0.99])
def test_lr_factor_is_positive_in_runs_of_any_length(epochs, part):
    warmup = round(part * epochs)
    factors = [authors_lr_factor(e, epochs, warmup) for e in range(epochs)]
    assert all(0 < factor <= 1 for factor in factors)


@pytest.fixture
def make_bcl(make_task):
    def make(task=None, **settings):
        torch.manual_seed(0)
        return BCL(BCL.Config(**{"embedding_dim": 4} | settings), task or make_task())

    return make


@pytest.mark.parametrize(
    "settings", [{}, {"denominator": "paper", "temperature": 0.01}, {"hidden_dim": 3}]
)
def test_step_reaches_all_parameters_without_a_sync(make_bcl, make_batch, settings):
    method, batch = make_bcl(**settings), make_batch([0, 0, 0, 0, 1, 1, 2, 2], num_views=3)
    with no_host_sync():
        outputs = method.training_step(batch, PROGRESS)
        outputs["loss"].backward()
    assert set(outputs) == {"loss", "ce", "bcl"}
    assert all(value.ndim == 0 for value in outputs.values())
    assert not outputs["ce"].requires_grad
    for name, parameter in method.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_loss_is_the_weighted_sum(make_bcl, make_batch):
    method = make_bcl(contrastive_weight=3.0, classifier_weight=5.0)
    outputs = method.training_step(make_batch([0, 0, 1, 2], num_views=3), PROGRESS)
    torch.testing.assert_close(outputs["loss"], 5 * outputs["ce"] + 3 * outputs["bcl"])


def test_step_is_its_formula_on_one_call_of_the_network(make_bcl, make_batch):
    method, batch = make_bcl(), make_batch([0, 0, 1, 2], num_views=3)
    outputs = method.training_step(batch, PROGRESS)
    assert method.backbone.bn.num_batches_tracked == 1
    assert method.embedding[1].num_batches_tracked == 1
    features = method.backbone(torch.cat(batch.views))
    logits = 30 * F.normalize(features[:4]) @ F.normalize(method.head.weight, dim=0)
    prior = torch.tensor([60, 20, 4]) / 84
    want = F.cross_entropy(logits + prior.log(), batch.targets)
    torch.testing.assert_close(outputs["ce"], want)
    embedded = F.normalize(method.embedding(features)).reshape(3, 4, 4)
    centres = F.normalize(method.centre_embedding(method.head.weight.T))
    contrast = embedded[1:].transpose(0, 1)
    want = naive_bcl(contrast, batch.targets, centres, 0.1)
    assert outputs["bcl"].item() == pytest.approx(want, rel=1e-5)


def test_contrast_moves_the_classifier(make_bcl, make_batch):
    method = make_bcl()
    features = method.backbone(torch.cat(make_batch([0, 0, 1, 2], num_views=3).views))
    method._contrast(features, torch.tensor([0, 0, 1, 2])).backward()
    assert method.head.weight.grad.abs().sum() > 0


def test_one_image_a_batch(make_bcl, make_batch):
    method = make_bcl()
    outputs = method.training_step(make_batch([1], num_views=3), PROGRESS)
    outputs["loss"].backward()
    assert outputs["loss"].isfinite()
    assert all(p.grad.isfinite().all() for p in method.parameters())


def test_classifier_starts_with_unit_columns(make_bcl):
    weight = make_bcl().head.weight
    assert weight.shape == (6, 3)
    torch.testing.assert_close(weight.norm(dim=0), torch.ones(3))


def test_inference_is_the_cosine_without_the_prior(make_bcl, make_batch):
    method, images = make_bcl().eval(), make_batch([0, 1]).images
    features = method.backbone(images)
    want = 30 * F.normalize(features) @ F.normalize(method.head.weight, dim=0)
    torch.testing.assert_close(method.predict(images), want)


def test_step_in_bfloat16_keeps_the_losses_in_float32(make_bcl, make_batch):
    method, batch = make_bcl(temperature=0.05), make_batch([0, 0, 1, 2], num_views=3)
    want = method.training_step(batch, PROGRESS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = method.training_step(batch, PROGRESS)
    assert got["loss"].dtype == torch.float32
    torch.testing.assert_close(got["ce"], want["ce"], rtol=0.05, atol=0.05)


def test_widths(make_bcl):
    method = make_bcl(hidden_dim=9, embedding_dim=5)
    for mlp in (method.embedding, method.centre_embedding):
        assert [tuple(p.shape) for p in mlp.parameters()] == [
            (9, 6),
            (9,),
            (9,),
            (9,),
            (5, 9),
            (5,),
        ]
    assert make_bcl().embedding[0].out_features == 6
    assert BCL.Config().embedding_dim == 128


def test_streams_and_optimizers(make_bcl):
    method = make_bcl()
    (stage,) = method.stages()
    assert method.streams(stage)["main"].views == ("strong", "contrast", "contrast")
    assert method.optimizers(stage) is None
    (spec,) = make_bcl(lr_schedule="authors", warmup=0.025).optimizers(stage)
    assert [spec.schedule(e, 200) for e in (0, 4, 5)] == [
        0.2,
        1.0,
        authors_lr_factor(5, 200, 5),
    ]
    assert len(spec.params_list) == len(list(method.parameters()))


def test_check_refuses_a_class_without_images(make_task):
    with pytest.raises(UsageError, match="without a training image: c"):
        BCL.check(BCL.Config(), make_task(class_counts=(60, 20, 0)))
    BCL.check(BCL.Config(), make_task())


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0},
        {"contrastive_weight": 0},
        {"embedding_dim": 1},
        {"denominator": "mine"},
        {"warmup": 1.0},
        {"tau": 0.1},
    ],
)
def test_config_refuses(settings):
    with pytest.raises(ValueError):
        BCL.Config(**settings)


def test_declared_settings_are_fields():
    assert set(BCL.search_space) <= set(BCL.Config.model_fields)
    assert all(field.description for field in BCL.Config.model_fields.values())
    for preset in BCL.presets.values():
        BCL.Config(**{k[7:]: v for k, v in preset.settings.items() if k.startswith("method.")})


def test_metadata():
    info = METHODS.info("bcl")
    assert (info.name, info.year, info.file.stem) == ("bcl", 2022, "bcl")
    assert "Balanced-Contrastive-Learning@f72d070" in info.source


def test_step_gathers_the_two_views_of_the_contrast_with_gradients(make_task, make_batch):
    calls = []

    class Recorder(Collective):
        def gather(self, x, *, grad=False):
            calls.append((tuple(x.shape), grad))
            return x

    method = BCL(BCL.Config(embedding_dim=5), make_task(collective=Recorder()))
    method.training_step(make_batch([0, 0, 1, 2], num_views=3), PROGRESS)
    assert calls == [((4, 5), True), ((4, 5), True), ((4,), False)]


TWO_DEVICES = """
from two_devices import Progress, check_gradients, run

now = Progress("train", 4, 100, 0, 9)
run(lambda rank: check_gradients(rank, "bcl", 3, now))
"""


@pytest.mark.slow
def test_two_devices_have_the_gradients_of_one(on_two_devices):
    on_two_devices(TWO_DEVICES)
