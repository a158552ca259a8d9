"""Hybrid-SC and Hybrid-PSC: golden numbers, naive references, and the sliding weight."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ltbench.config import resolve
from ltbench.errors import UsageError
from ltbench.functional import parabolic_weight, supervised_contrastive_loss
from ltbench.method import METHODS, Collective, Progress
from ltbench.testing.tiny import tiny_request
from ltbench.testing.traps import no_host_sync

METHODS["hybrid_sc"]  # imports the plugin, as the harness does

from ltbench.methods.hybrid_sc import (  # noqa: E402
    HybridSC,
    curriculum_loss,
    prototypical_contrastive_loss,
)

SC_CASES = ("hybrid_sc_start", "hybrid_sc_mid", "hybrid_sc_end", "hybrid_sc_single_sample")
PSC_CASES = ("hybrid_psc_tau1", "hybrid_psc_missing_class")


def progress(epoch, epochs=100):
    return Progress("train", epoch=epoch, epochs=epochs, step=0, steps=10)


def random_psc(targets=(0, 0, 0, 1, 1, 2), num_classes=4, dim=5, seed=0):
    """Unit embeddings (N, d), targets and unit prototypes (C, d), float64."""
    generator = torch.Generator().manual_seed(seed)
    draw = [
        torch.randn(n, dim, generator=generator, dtype=torch.float64)
        for n in (len(targets), num_classes)
    ]
    embeddings, prototypes = (F.normalize(x, dim=-1) for x in draw)
    return embeddings, torch.tensor(targets), prototypes


@pytest.mark.parametrize("name", SC_CASES)
def test_golden_sc(name, golden, meets):
    case = golden(name)
    given, wanted = case["inputs"], case["outputs"]
    features = torch.tensor(given["features"], dtype=torch.float64, requires_grad=True)
    logits = torch.tensor(given["logits"], dtype=torch.float64, requires_grad=True)
    contrast = supervised_contrastive_loss(
        features, torch.tensor(given["sc_labels"]), given["temperature"]
    )
    classifier = F.cross_entropy(logits, torch.tensor(given["ce_labels"]))
    alpha = parabolic_weight(given["epoch_T"], given["T_max"])
    loss = curriculum_loss(contrast, classifier, alpha)
    loss.backward()
    meets(name, alpha, wanted["alpha"])
    meets(name, contrast, wanted["loss_sc"])
    meets(name, classifier, wanted["loss_ce"])
    meets(name, loss, wanted["loss"])
    meets(name, features.grad, wanted["grad_features"])
    meets(name, logits.grad, wanted["grad_logits"])


@pytest.mark.parametrize("name", PSC_CASES)
def test_golden_psc(name, golden, meets):
    case = golden(name)
    given, wanted = case["inputs"], case["outputs"]
    embeddings = torch.tensor(given["features"], dtype=torch.float64, requires_grad=True)
    prototypes = torch.tensor(given["prototypes"], dtype=torch.float64, requires_grad=True)
    targets, temperature = torch.tensor(given["labels"]), given["temperature"]
    loss = prototypical_contrastive_loss(embeddings, targets, prototypes, temperature)
    loss.backward()
    meets(name, loss, wanted["loss"])
    meets(name, embeddings.grad, wanted["grad_features"])
    meets(name, prototypes.grad, wanted["grad_prototypes"])
    softmax = F.cross_entropy(embeddings @ prototypes.T / temperature, targets)
    meets(name, softmax, wanted["loss_positive_in_denominator"])


def test_golden_alpha_schedule(golden, meets):
    case = golden("hybrid_alpha_schedule")
    for row in case["alpha"]:
        name = f"hybrid_alpha_schedule/{row['T']}"
        meets(name, parabolic_weight(row["T"], case["T_max"]), row["alpha"])


@pytest.mark.parametrize("temperature", [0.1, 1.0])
@pytest.mark.parametrize("targets", [(0, 0, 0, 1, 1, 2), (3,), (2, 2)])
def test_psc_against_loops(targets, temperature):
    embeddings, labels, prototypes = random_psc(targets, seed=2)
    total = 0.0
    for z, y in zip(embeddings.tolist(), targets, strict=True):
        s = [
            sum(a * b for a, b in zip(z, p, strict=True)) / temperature for p in prototypes.tolist()
        ]
        others = sum(math.exp(s[c]) for c in range(4) if c != y)
        total -= math.log(math.exp(s[y]) / others)
    got = prototypical_contrastive_loss(embeddings, labels, prototypes, temperature)
    assert got.item() == pytest.approx(total / len(targets), rel=1e-12)


def test_psc_gradcheck():
    embeddings, targets, prototypes = random_psc((0, 1, 1), 3, 3)
    assert torch.autograd.gradcheck(
        lambda z, p: prototypical_contrastive_loss(z, targets, p, 0.5),
        (embeddings.requires_grad_(), prototypes.requires_grad_()),
    )


def test_softmax_exceeds_psc_by_minus_log_of_one_minus_p():
    embeddings, _, prototypes = random_psc()
    for z, y in itertools.product(embeddings, range(4)):
        target, logits = torch.tensor([y]), (z @ prototypes.T)[None] / 0.3
        psc = prototypical_contrastive_loss(z[None], target, prototypes, 0.3)
        softmax = F.cross_entropy(logits, target)
        torch.testing.assert_close(softmax, psc + torch.log1p(torch.exp(-psc)), rtol=1e-12, atol=0)
        probability = logits.softmax(dim=1)[0, y]
        torch.testing.assert_close(softmax - psc, -torch.log1p(-probability), rtol=1e-9, atol=1e-12)


def test_psc_ignores_what_is_added_to_all_similarities():
    embeddings, targets, prototypes = random_psc()
    before = prototypical_contrastive_loss(embeddings, targets, prototypes, 0.3)
    # A component of all prototypes along one more axis adds the same number to each s_ic.
    extra = torch.full((6, 1), 0.7, dtype=torch.float64), torch.full((4, 1), 5.0).double()
    z, p = (torch.cat(pair, dim=1) for pair in zip((embeddings, prototypes), extra, strict=True))
    after = prototypical_contrastive_loss(z, targets, p, 0.3)
    torch.testing.assert_close(after, before, rtol=1e-12, atol=0)


@pytest.mark.parametrize("temperature", [0.005, 0.1, 1.0])
def test_psc_can_be_negative_and_has_its_bound(temperature):
    prototypes = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
    loss = prototypical_contrastive_loss(prototypes[:1], torch.tensor([0]), prototypes, temperature)
    assert loss.item() == pytest.approx(math.log(2) - 2 / temperature, rel=1e-12)
    assert loss < 0


def test_psc_of_identical_vectors_is_log_of_the_other_classes():
    one = F.normalize(torch.ones(1, 5), dim=1).double()
    loss = prototypical_contrastive_loss(
        one.expand(6, 5), torch.tensor([0, 0, 1, 1, 2, 3]), one.expand(4, 5), 0.01
    )
    assert loss.item() == pytest.approx(math.log(3), rel=1e-12)


def test_prototype_of_a_missing_class_only_repels():
    embeddings, targets, prototypes = random_psc()
    prototypes.requires_grad_()
    prototypical_contrastive_loss(embeddings, targets, prototypes, 0.5).backward()
    # Its gradient is a sum of embeddings with positive weights: descent leads away from them.
    weights = (embeddings @ prototypes.detach().T / 0.5).exp()
    weights = weights / weights.masked_fill(F.one_hot(targets, 4).bool(), 0).sum(1, keepdim=True)
    want = (weights[:, 3:] * embeddings).sum(0) / 6 / 0.5
    torch.testing.assert_close(prototypes.grad[3], want)


def test_psc_is_invariant_to_order_names_and_copies():
    embeddings, targets, prototypes = random_psc()
    before = prototypical_contrastive_loss(embeddings, targets, prototypes, 0.1)
    order, names = torch.tensor([4, 0, 5, 2, 1, 3]), torch.tensor([2, 0, 3, 1])
    for z, y, p in [
        (embeddings[order], targets[order], prototypes),
        (embeddings, names[targets], prototypes[names.argsort()]),
        (embeddings.repeat(2, 1), targets.repeat(2), prototypes),
    ]:
        after = prototypical_contrastive_loss(z, y, p, 0.1)
        torch.testing.assert_close(after, before, rtol=1e-12, atol=0)


@pytest.mark.parametrize("scale", [100, -100])
def test_psc_of_extreme_logits_is_finite(scale):
    embeddings, targets, prototypes = random_psc()
    z, p = (scale * embeddings).float().requires_grad_(), (100 * prototypes).float()
    for temperature in (1.0, 0.005):
        loss = prototypical_contrastive_loss(z, targets, p, temperature)
        loss.backward()
        assert loss.isfinite()
        assert z.grad.isfinite().all()


def test_schedule():
    assert parabolic_weight(50, 100) == 0.75
    for epochs in (1, 2, 100):
        from_zero = [parabolic_weight(e, epochs) for e in range(epochs)]
        from_one = [parabolic_weight(e + 1, epochs) for e in range(epochs)]
        assert from_zero[0] == 1
        assert from_zero[-1] > 0
        assert from_one[-1] == 0
        assert all(a > b for a, b in itertools.pairwise(from_zero))
    slope = (parabolic_weight(30.001, 100) - parabolic_weight(29.999, 100)) / 0.002
    assert slope == pytest.approx(-2 * 30 / 100**2, rel=1e-6)


@pytest.fixture
def make_hybrid(make_task):
    def make(**settings):
        torch.manual_seed(0)
        return HybridSC(HybridSC.Config(**{"embedding_dim": 4} | settings), make_task())

    return make


@pytest.fixture
def make_both(make_batch):
    """Two views, and a batch for the classifier alone beside them."""

    def make(targets):
        own = make_batch([2, 1, 0, 2], num_views=1)
        return make_batch(targets)._replace(
            also={"classifier": own._replace(views=(own.images.flip(2),))}
        )

    return make


VARIANTS = [
    {},
    {"contrast": "psc"},
    {"classifier_sampler": "balanced"},
    {"contrast": "psc", "classifier_sampler": "balanced"},
    {"temperature": 0.005},
]


@pytest.mark.parametrize("settings", VARIANTS)
@pytest.mark.parametrize("epoch", [0, 50, 99])
def test_step_reaches_what_it_should_without_a_sync(make_hybrid, make_both, settings, epoch):
    method = make_hybrid(**settings)
    batch = make_both([0, 0, 0, 0, 1, 1, 2, 2])
    with no_host_sync():
        outputs = method.training_step(batch, progress(epoch))
        outputs["loss"].backward()
    assert set(outputs) == {"loss", "contrast", "classifier", "alpha"}
    assert all(value.ndim == 0 for value in outputs.values())
    assert [name for name, value in outputs.items() if value.requires_grad] == ["loss"]
    for name, parameter in method.named_parameters():
        learns = epoch > 0 or not name.startswith("head.")
        assert parameter.grad.isfinite().all(), name
        assert bool(parameter.grad.abs().max() > 0) is learns, name


@pytest.mark.parametrize("contrast", ["sc", "psc"])
def test_last_epoch_counted_from_one_trains_the_classifier_alone(make_hybrid, make_both, contrast):
    method = make_hybrid(first_epoch=1, contrast=contrast)
    outputs = method.training_step(make_both([0, 0, 1, 2]), progress(99))
    outputs["loss"].backward()
    assert outputs["alpha"] == 0
    for name, parameter in method.named_parameters():
        learns = name.startswith(("backbone.", "head."))
        assert bool(parameter.grad.abs().max() > 0) is learns, name


@pytest.mark.parametrize("contrast", ["sc", "psc"])
def test_step_is_the_formula(make_hybrid, make_batch, contrast):
    method, batch = make_hybrid(contrast=contrast), make_batch([0, 0, 1, 2])
    got = method.training_step(batch, progress(60))
    assert method.backbone.bn.num_batches_tracked == 1
    features = method.backbone(torch.cat(batch.views))
    z = F.normalize(method.embedding(features), dim=-1)
    if contrast == "sc":
        views = torch.stack([z[:4], z[4:]], dim=1)
        want = supervised_contrastive_loss(views, batch.targets, 0.1)
    else:
        prototypes = F.normalize(method.prototypes, dim=-1)
        parts = [
            prototypical_contrastive_loss(v, batch.targets, prototypes, 0.1) for v in (z[:4], z[4:])
        ]
        want = (parts[0] + parts[1]) / 2
    classifier = F.cross_entropy(method.head(features[:4]), batch.targets)
    torch.testing.assert_close(got["contrast"], want.detach())
    torch.testing.assert_close(got["classifier"], classifier.detach())
    torch.testing.assert_close(got["loss"], 0.64 * want + 0.36 * classifier)
    torch.testing.assert_close(got["alpha"], torch.tensor(0.64))


def test_classifier_batch_passes_after_the_views_in_a_call_of_its_own(make_hybrid, make_both):
    method, batch = make_hybrid(classifier_sampler="balanced"), make_both([0, 0, 1, 2])
    sizes = []
    method.backbone.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    got = method.training_step(batch, progress(60))
    assert sizes == [8, 4]
    own = batch.also["classifier"]
    want = F.cross_entropy(method.logits(own.images), own.targets)
    torch.testing.assert_close(got["classifier"], want.detach())


def test_only_directions_of_prototypes_and_embeddings_count(make_hybrid, make_batch):
    method, batch = make_hybrid(contrast="psc"), make_batch([0, 0, 1, 2])
    before = method.training_step(batch, progress(0))["contrast"]
    with torch.no_grad():
        method.prototypes.mul_(torch.tensor([[0.3], [1], [7]]))
        method.embedding[2].weight.mul_(4)
        method.embedding[2].bias.mul_(4)
    torch.testing.assert_close(method.training_step(batch, progress(0))["contrast"], before)


def test_streams_and_heads(make_hybrid):
    method = make_hybrid(embedding_dim=128)
    (stage,) = method.stages()
    streams = method.streams(stage)
    assert {n: (s.views, s.sampler) for n, s in streams.items()} == {
        "main": (("classify", "contrast"), None)
    }
    other = make_hybrid(classifier_sampler="balanced", contrast="psc").streams(stage)
    assert (other["classifier"].views, other["classifier"].sampler) == (("classify",), "balanced")
    assert list(other) == ["main", "classifier"]
    layers = list(method.embedding)
    assert [type(layer) for layer in layers] == [nn.Linear, nn.ReLU, nn.Linear]
    assert tuple(layers[2].weight.shape) == (128, 6)
    assert not hasattr(method, "prototypes")
    assert make_hybrid(contrast="psc").prototypes.shape == (3, 4)
    assert method.optimizers(stage) is None


def test_inference_is_the_classifier_alone(make_hybrid, make_batch):
    method, images = make_hybrid().eval(), make_batch([0, 1]).images
    torch.testing.assert_close(method.predict(images), method.head(method.backbone(images)))


@pytest.mark.parametrize("contrast", ["sc", "psc"])
def test_step_in_bfloat16_keeps_the_losses_in_float32(make_hybrid, make_batch, contrast):
    method, batch = make_hybrid(contrast=contrast), make_batch([0, 0, 1, 2])
    want = method.training_step(batch, progress(50))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = method.training_step(batch, progress(50))
    assert got["loss"].dtype == torch.float32
    torch.testing.assert_close(got["loss"], want["loss"], rtol=0.05, atol=0.05)


@pytest.mark.parametrize(
    ("contrast", "expected"),
    [
        ("sc", [((4, 4), True), ((4, 4), True), ((4,), False)]),
        ("psc", []),
    ],
)
def test_sample_contrast_gathers_each_view_with_gradients(
    make_task, make_batch, contrast, expected
):
    calls = []

    class Recorder(Collective):
        def gather(self, x, *, grad=False):
            calls.append((tuple(x.shape), grad))
            return x

    config = HybridSC.Config(embedding_dim=4, contrast=contrast)
    method = HybridSC(config, make_task(collective=Recorder()))
    method.training_step(make_batch([0, 0, 1, 2]), progress(40))
    assert calls == expected


def test_check(make_task):
    one = make_task(class_names=("a",), class_counts=(60,))
    HybridSC.check(HybridSC.Config(), one)
    HybridSC.check(HybridSC.Config(contrast="psc"), make_task())
    with pytest.raises(UsageError, match=r"method\.contrast=psc"):
        HybridSC.check(HybridSC.Config(contrast="psc"), one)


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0},
        {"contrast": "both"},
        {"first_epoch": 2},
        {"embedding_dim": 1},
        {"classifier_sampler": "random"},
        {"tau": 0.1},
    ],
)
def test_config_refuses(settings):
    with pytest.raises(ValueError):
        HybridSC.Config(**settings)


def test_presets():
    psc = resolve(tiny_request("hybrid_sc@psc")).method
    assert (psc.contrast, psc.temperature) == ("psc", 1.0)
    assert resolve(tiny_request("hybrid_sc@balanced_classifier")).method.classifier_sampler


def test_metadata():
    info = METHODS.info("hybrid_sc")
    assert (info.name, info.year, info.file.stem) == ("hybrid_sc", 2021, "hybrid_sc")
    assert "no official code" in info.source
