"""SCL: golden numbers of the authors' code, a naive reference, and its two stages."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ltbench.config import resolve
from ltbench.functional import supervised_contrastive_loss
from ltbench.method import METHODS, Batch, Collective, Progress
from ltbench.run_config import OptimizerConfig, ScheduleConfig
from ltbench.testing.tiny import tiny_request, tiny_run
from ltbench.testing.traps import no_host_sync
from ltbench.training.optimizers import make_optimizers

METHODS["scl"]  # imports the plugin, as the harness does

from ltbench.methods.scl import SCL, linear_lr_factor, temperature_factor  # noqa: E402

CASES = (
    "scl_balanced_absent_class",
    "scl_imbalanced_tau01_base007",
    "scl_large_logits",
    "scl_mode_one",
    "scl_one_view_singletons",
    "scl_single_sample_two_views",
    "scl_three_views",
)
RECIPE = OptimizerConfig(lr=0.002, weight_decay=1e-4)


def progress(stage="contrast", epoch=0, epochs=10):
    return Progress(stage, epoch=epoch, epochs=epochs, step=0, steps=10)


def random_case(targets, num_views=2, dim=5, seed=0):
    """Unit features (B, V, d) in float64, and targets."""
    generator = torch.Generator().manual_seed(seed)
    draw = torch.randn(len(targets), num_views, dim, generator=generator, dtype=torch.float64)
    return F.normalize(draw, dim=-1), torch.tensor(targets)


def naive_loss(features, targets, temperature, num_anchor_views):
    """The formula, entry by entry, in Python floats."""
    num_images, num_views = features.shape[:2]
    entries = [
        (features[b, v].tolist(), int(targets[b]))
        for v in range(num_views)
        for b in range(num_images)
    ]
    losses = []
    for i, (anchor, own) in enumerate(entries[: num_anchor_views * num_images]):
        s = [sum(a * b for a, b in zip(anchor, z, strict=True)) / temperature for z, _ in entries]
        others = [j for j in range(len(entries)) if j != i]
        positives = [j for j in others if entries[j][1] == own]
        total = sum(math.exp(s[j]) for j in others)
        pairs = [-math.log(math.exp(s[p]) / total) for p in positives]
        losses.append(sum(pairs) / len(pairs) if pairs else 0.0)
    return sum(losses) / len(losses)


@pytest.mark.parametrize("name", CASES)
def test_golden(name, golden, meets):
    case = golden(name)
    given = case["inputs"]
    features = torch.tensor(given["features"], dtype=torch.float64, requires_grad=True)
    temperature = given["temperature"]
    loss = temperature_factor(temperature, given["base_temperature"]) * supervised_contrastive_loss(
        features, torch.tensor(given["labels"]), temperature, given["contrast_mode"]
    )
    loss.backward()
    meets(name, loss, case["outputs"]["loss"])
    meets(name, features.grad, case["outputs"]["grad_features"])


@pytest.mark.parametrize("anchors", ["all", "one"])
@pytest.mark.parametrize("temperature", [0.1, 0.7])
@pytest.mark.parametrize("num_views", [1, 2, 3])
@pytest.mark.parametrize("targets", [[0, 0, 0, 1, 1, 2], [3, 1], [0, 0, 0]])
def test_loss_against_loops(targets, num_views, temperature, anchors):
    features, labels = random_case(targets, num_views, seed=3)
    got = supervised_contrastive_loss(features, labels, temperature, anchors)
    want = naive_loss(features, labels, temperature, 1 if anchors == "one" else num_views)
    assert got.item() == pytest.approx(want, rel=1e-12)


@pytest.mark.parametrize("anchors", ["all", "one"])
def test_gradcheck(anchors):
    features, targets = random_case([0, 0, 1, 2], dim=3)
    assert torch.autograd.gradcheck(
        lambda z: supervised_contrastive_loss(z, targets, 0.5, anchors), features.requires_grad_()
    )


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_distinct_labels_are_nt_xent(temperature):
    features, targets = random_case([0, 1, 2, 3, 4])
    entries = features.transpose(0, 1).flatten(0, 1)
    logits = (entries @ entries.T / temperature).fill_diagonal_(-torch.inf)
    want = F.cross_entropy(logits, torch.arange(10).roll(5))
    got = supervised_contrastive_loss(features, targets, temperature)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=0)


@pytest.mark.parametrize("anchors", ["all", "one"])
@pytest.mark.parametrize("targets", [[0, 0, 0, 0, 1, 2], [0, 1], [2, 2, 2]])
@pytest.mark.parametrize("temperature", [0.005, 1.0])
def test_identical_features_give_log_of_the_other_entries(targets, temperature, anchors):
    features, labels = random_case(targets)
    same = F.normalize(torch.ones(5, dtype=torch.float64), dim=0).expand_as(features)
    got = supervised_contrastive_loss(same, labels, temperature, anchors)
    assert got.item() == pytest.approx(math.log(2 * len(targets) - 1), rel=1e-12)


def test_loss_at_simplex_collapse_depends_on_the_counts():
    angles = torch.arange(3, dtype=torch.float64) * 2 * math.pi / 3
    vertices = torch.stack([angles.cos(), angles.sin()], dim=1)
    targets = torch.tensor([0, 0, 0, 1, 2])
    got = supervised_contrastive_loss(vertices[targets][:, None].expand(-1, 2, -1), targets, 0.5)
    sizes, far = {0: 6, 1: 2, 2: 2}, math.exp(-3 / (2 * 0.5))
    terms = [math.log(sizes[c] - 1 + (10 - sizes[c]) * far) for c in targets.tolist()]
    assert got.item() == pytest.approx(sum(terms) / 5, rel=1e-12)


@pytest.mark.parametrize("anchors", ["all", "one"])
def test_loss_is_invariant(anchors):
    features, targets = random_case([0, 0, 0, 1, 1, 2])
    before = supervised_contrastive_loss(features, targets, 0.1, anchors)
    turn = torch.from_numpy(np.linalg.qr(np.random.default_rng(0).normal(size=(5, 5)))[0])
    order, names = torch.tensor([4, 0, 5, 2, 1, 3]), torch.tensor([7, 0, 3])
    for z, y in [
        (features @ turn, targets),
        (features[order], targets[order]),
        (features, names[targets]),
    ]:
        after = supervised_contrastive_loss(z, y, 0.1, anchors)
        torch.testing.assert_close(after, before, rtol=1e-12, atol=0)
    if anchors == "all":
        swapped = supervised_contrastive_loss(features.flip(1), targets, 0.1)
        torch.testing.assert_close(swapped, before, rtol=1e-12, atol=0)


def test_gradient_is_orthogonal_to_the_raw_embedding():
    features, targets = random_case([0, 0, 1, 2])
    raw = (3 * features).requires_grad_()
    supervised_contrastive_loss(F.normalize(raw, dim=-1), targets, 0.1).backward()
    torch.testing.assert_close((raw.grad * raw).sum(-1), torch.zeros(4, 2).double())


def test_loss_is_finite_in_a_tiny_cold_batch():
    # Near-opposite views at tau 0.005 in float32: with self in the maximum all else underflows.
    raw = torch.tensor([[[1.0, 0.0], [-1.0, 0.05]], [[0.0, 1.0], [0.1, -1.0]]])
    features = F.normalize(raw, dim=-1).requires_grad_()
    loss = supervised_contrastive_loss(features, torch.tensor([0, 1]), 0.005)
    loss.backward()
    want = naive_loss(features.detach().double(), torch.tensor([0, 1]), 0.005, 2)
    assert loss.item() == pytest.approx(want, rel=1e-5)
    assert features.grad.isfinite().all()


@pytest.mark.parametrize("anchors", ["all", "one"])
def test_loss_with_logits_of_ten_thousand(anchors):
    features, targets = random_case([0, 0, 1, 2])
    large = (100 * features).float().requires_grad_()
    loss = supervised_contrastive_loss(large, targets, 1.0, anchors)
    loss.backward()
    assert loss.isfinite()
    assert large.grad.isfinite().all()


@pytest.mark.parametrize(("num_views", "want"), [(1, 0.0), (2, 0.0), (3, math.log(2))])
def test_batch_of_one(num_views, want):
    features = torch.ones(1, num_views, 4, requires_grad=True)
    loss = supervised_contrastive_loss(features / 2, torch.tensor([3]), 0.1)
    loss.backward()
    assert loss.item() == pytest.approx(want)
    assert features.grad.isfinite().all()


def test_singletons_of_one_view_add_nothing_and_count_in_the_mean():
    features, targets = random_case([0, 0, 1, 2], num_views=1)
    features.requires_grad_()
    loss = supervised_contrastive_loss(features, targets, 0.5)
    pair = naive_loss(features.detach(), targets, 0.5, 1)
    assert loss.item() == pytest.approx(pair, rel=1e-12)
    alone = supervised_contrastive_loss(features, torch.arange(4), 0.5)
    alone.backward()
    assert alone.item() == 0
    assert features.grad.abs().max() == 0


def test_loss_of_bfloat16_is_computed_in_float32_also_under_autocast():
    features, targets = random_case([0, 0, 1, 2])
    low = features.bfloat16()
    want = supervised_contrastive_loss(low.float(), targets, 0.01)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = supervised_contrastive_loss(low, targets, 0.01)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, want)


@pytest.fixture
def make_scl(make_task):
    def make(epochs=100, collective=None, **settings):
        torch.manual_seed(0)
        task = make_task(epochs=epochs, collective=collective or Collective())
        return SCL(SCL.Config(**{"embedding_dim": 4} | settings), task)

    return make


def start(method, name):
    stage = next(s for s in method.stages() if s.name == name)
    method.on_stage_start(stage, None)
    method.train()
    method.on_epoch_start(progress(name), None)
    return stage


@pytest.mark.parametrize(
    ("epochs", "part", "expected"),
    [(100, 0.1, (100, 10)), (250, 0.4, (250, 100)), (2, 0.1, (2, 1)), (1, 0.1, (1, 1))],
)
def test_lengths_scale_with_the_run(make_scl, epochs, part, expected):
    contrast, linear = make_scl(epochs, linear_epochs=part).stages()
    assert (contrast.epochs, linear.epochs) == expected
    assert (contrast.validate, contrast.select, contrast.carry) == (False, False, "last")
    assert (linear.validate, linear.select) == (True, True)


def test_streams(make_scl):
    method = make_scl(linear_sampler="balanced")
    contrast, linear = (method.streams(s)["main"] for s in method.stages())
    assert (contrast.views, contrast.sampler) == (("contrast", "contrast"), None)
    assert (linear.views, linear.sampler) == (("classify",), "balanced")
    natural = make_scl()
    assert natural.streams(natural.stages()[1])["main"].sampler == "instance"


def test_linear_rate_drops_thrice():
    factors = [round(linear_lr_factor(e, 100), 6) for e in (0, 59, 60, 74, 75, 89, 90, 99)]
    assert factors == [1, 1, 0.2, 0.2, 0.04, 0.04, 0.008, 0.008]
    assert [linear_lr_factor(e, 2) for e in range(2)] == [1.0, 0.2]
    assert linear_lr_factor(0, 1) == 1.0


def test_optimizers(make_scl):
    method = make_scl(linear_lr=5.0)
    contrast = start(method, "contrast")
    assert method.optimizers(contrast) is None
    (optimizer,) = make_optimizers(method, contrast, RECIPE, ScheduleConfig())
    head = {id(p) for p in method.head.parameters()}
    assert {id(p) for p in optimizer.params} == {id(p) for p in method.parameters()} - head
    linear = start(method, "linear")
    (optimizer,) = make_optimizers(method, linear, RECIPE, ScheduleConfig(warmup=0.5))
    assert {id(p) for p in optimizer.params} == head
    # Batches of 8 in the task: 5 * 8 / 256.
    assert optimizer.set_epoch(0, 10) == pytest.approx(0.15625)
    assert optimizer.set_epoch(6, 10) == pytest.approx(0.03125)
    assert optimizer.optimizer.param_groups[0]["weight_decay"] == 0


def test_projection_has_one_hidden_layer_as_wide_as_the_features(make_scl):
    layers = list(make_scl(embedding_dim=128).projection)
    assert [type(layer) for layer in layers] == [nn.Linear, nn.ReLU, nn.Linear]
    shapes = [tuple(layer.weight.shape) for layer in (layers[0], layers[2])]
    assert shapes == [(6, 6), (128, 6)]


@pytest.mark.parametrize(
    "settings", [{}, {"contrast_mode": "one"}, {"base_temperature": 0.07}, {"temperature": 0.005}]
)
def test_contrast_step(make_scl, make_batch, settings):
    method, batch = make_scl(**settings), make_batch([0, 0, 0, 0, 1, 1, 2, 2])
    start(method, "contrast")
    with no_host_sync():
        outputs = method.training_step(batch, progress())
        outputs["loss"].backward()
    for name, parameter in method.named_parameters():
        assert (parameter.grad is None) is name.startswith("head."), name
        assert parameter.grad is None or parameter.grad.isfinite().all(), name
    # One pass with both views: BatchNorm's statistics are shared.
    assert method.backbone.bn.num_batches_tracked == 1
    z = F.normalize(method.projection(method.backbone(torch.cat(batch.views))), dim=-1)
    views = torch.stack([z[:8], z[8:]], dim=1).detach().double()
    tau, one = method.config.temperature, method.config.contrast_mode == "one"
    want = naive_loss(views, batch.targets, tau, 1 if one else 2)
    want *= tau / (method.config.base_temperature or tau)
    assert outputs["loss"].item() == pytest.approx(want, rel=1e-4)


def test_linear_stage_trains_the_head_alone(make_scl, make_batch):
    method, batch = make_scl(), make_batch([0, 0, 1, 2], num_views=1)
    start(method, "contrast")
    start(method, "linear")
    before = {k: v.clone() for k, v in method.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.5)
    with no_host_sync():
        loss = method.training_step(batch, progress("linear"))["loss"]
        loss.backward()
    want = F.cross_entropy(method.head(method.backbone(batch.images)), batch.targets)
    torch.testing.assert_close(loss, want)
    optimizer.step()
    for name, value in method.state_dict().items():
        assert torch.equal(value, before[name]) is not name.startswith("head."), name
    assert not method.backbone.training
    assert loss.isfinite()


def test_linear_stage_of_a_batch_of_one(make_scl, make_batch):
    method = make_scl()
    start(method, "linear")
    loss = method.training_step(make_batch([2], num_views=1), progress("linear"))["loss"]
    assert loss.isfinite()


def test_inference_is_the_linear_layer(make_scl, make_batch):
    method, images = make_scl().eval(), make_batch([0, 1]).images
    torch.testing.assert_close(method.predict(images), method.head(method.backbone(images)))


def test_step_in_bfloat16_keeps_the_loss_in_float32(make_scl, make_batch):
    method, batch = make_scl(), make_batch([0, 0, 1, 2])
    for name in ("contrast", "linear"):
        start(method, name)
        want = method.training_step(batch, progress(name))["loss"]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            got = method.training_step(batch, progress(name))["loss"]
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, want, rtol=0.05, atol=0.05)


class Devices(Collective):
    """Two devices, one after the other: the other's rows are known, without gradient.

    Each row's gradient is asked for by both devices, and both have the same loss; averaged over
    the devices, the gradients of the rows of each add up.
    """

    world_size = 2

    def __init__(self, rank):
        self.rank, self.calls, self.others = rank, [], []

    def gather(self, x, *, grad=False):
        self.calls.append((tuple(x.shape), grad))
        if not self.others:
            self.seen = [*getattr(self, "seen", []), x.detach()]
            return x
        other = self.others.pop(0)
        return torch.cat([x, other] if self.rank == 0 else [other, x])


def test_two_devices_have_the_gradient_of_one(make_scl, make_batch, monkeypatch):
    whole = make_batch([0, 0, 0, 1, 1, 2, 0, 2])
    halves = [
        Batch(tuple(v[s] for v in whole.views), whole.targets[s], whole.indices[s])
        for s in (slice(4), slice(4, 8))
    ]

    def build(collective):
        method = make_scl(collective=collective).double()
        start(method, "contrast")
        method.backbone.bn.eval()  # each device's own statistics are no part of this test
        return method

    def run(method, batch):
        batch = batch._replace(views=tuple(v.double() for v in batch.views))
        loss = method.training_step(batch, progress())["loss"]
        loss.backward()
        return loss.detach(), {
            n: p.grad for n, p in method.named_parameters() if p.grad is not None
        }

    loss, gradients = run(build(Collective()), whole)
    devices = [Devices(rank) for rank in range(2)]
    for device, half in zip(devices, halves, strict=True):
        run(build(device), half)
    results = []
    for device, other, half in zip(devices, devices[::-1], halves, strict=True):
        device.others = list(other.seen)
        results.append(run(build(device), half))
    assert devices[0].calls[:3] == [((4, 4), True), ((4, 4), True), ((4,), False)]
    for got, _ in results:
        torch.testing.assert_close(got, loss)
    for name, gradient in gradients.items():
        torch.testing.assert_close(sum(g[name] for _, g in results), gradient, msg=name)


def test_run_records_both_stages(tmp_path):
    outcome = tiny_run("scl", tmp_path, {"epochs": 3, "method.linear_epochs": 0.7})
    rows = outcome.folder.epochs()
    assert [row["stage"] for row in rows] == ["contrast"] * 3 + ["linear"] * 2
    assert [row["val"] is None for row in rows] == [True] * 3 + [False] * 2


def test_presets():
    authors = resolve(tiny_request("scl@authors")).method
    assert temperature_factor(authors.temperature, authors.base_temperature) == 0.1 / 0.07
    medical = resolve(tiny_request("scl@medical"))
    assert (medical.sampler, medical.method.linear_epochs) == ("balanced", 0.4)
    assert temperature_factor(0.1, None) == 1


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0},
        {"base_temperature": 0},
        {"contrast_mode": "two"},
        {"embedding_dim": 1},
        {"linear_epochs": 0},
        {"linear_sampler": "random"},
        {"tau": 0.1},
    ],
)
def test_config_refuses(settings):
    with pytest.raises(ValueError):
        SCL.Config(**settings)


def test_metadata():
    info = METHODS.info("scl")
    assert (info.name, info.year, info.file.stem) == ("scl", 2020, "scl")
    assert "HobbitLong/SupContrast@66a8fe5" in info.source
