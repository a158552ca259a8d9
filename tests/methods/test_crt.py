"""cRT: two stages, what the second may change, and what it draws."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ltbench.config import resolve
from ltbench.data.samplers import class_probabilities
from ltbench.method import METHODS, Progress
from ltbench.run_config import OptimizerConfig, ScheduleConfig
from ltbench.testing.tiny import tiny_request, tiny_run, weights
from ltbench.testing.traps import no_host_sync
from ltbench.training.optimizers import make_optimizers

METHODS["crt"]  # imports the plugin, as the harness does

from ltbench.methods.crt import CRT, cosine_factor  # noqa: E402

RECIPE = OptimizerConfig(lr=0.2, weight_decay=5e-4)


def progress(stage, epoch=0, epochs=10):
    return Progress(stage, epoch=epoch, epochs=epochs, step=0, steps=10)


@pytest.fixture
def make_crt(make_task):
    def make(epochs=90, **settings):
        torch.manual_seed(0)
        return CRT(CRT.Config(**settings), make_task(epochs=epochs))

    return make


def start(method, name):
    stage = next(s for s in method.stages() if s.name == name)
    method.on_stage_start(stage, None)
    method.train()
    method.on_epoch_start(progress(name), None)
    return stage


def step(method, batch, name, lr=0.5):
    """One step of plain SGD on what the stage trains."""
    trained = [p for p in method.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=lr)
    loss = method.training_step(batch, progress(name))
    loss.backward()
    optimizer.step()
    return loss


@pytest.mark.parametrize(
    ("epochs", "part", "expected"),
    [
        (90, 1 / 9, (90, 10)),
        (100, 1 / 9, (100, 11)),
        (60, 0.5, (60, 30)),
        (100, 0.001, (100, 1)),
        (2, 1 / 9, (2, 1)),
        (1, 1 / 9, (1, 1)),
    ],
)
def test_lengths_scale_with_the_run(make_crt, epochs, part, expected):
    stages = make_crt(epochs, classifier_epochs=part).stages()
    assert [s.name for s in stages] == ["features", "classifier"]
    assert tuple(s.epochs for s in stages) == expected


@pytest.mark.parametrize(("carry", "selects"), [("last", False), ("best", True)])
def test_what_is_carried(make_crt, carry, selects):
    first, second = make_crt(carry=carry).stages()
    assert (first.carry, first.select, first.validate) == (carry, selects, True)
    assert (second.select, second.validate) == (True, True)


def test_samplers(make_crt):
    method = make_crt()
    features, classifier = (method.streams(s)["main"].sampler for s in method.stages())
    assert (features, classifier) == (None, "balanced")
    probabilities = class_probabilities(classifier, np.array([60, 20, 4]), epoch=0, epochs=10)
    np.testing.assert_allclose(probabilities, 1 / 3, rtol=1e-15)
    other = make_crt(classifier_sampler="sqrt")
    assert other.streams(other.stages()[1])["main"].sampler == "sqrt"


@pytest.mark.parametrize("epochs", [1, 2, 100])
def test_cosine_starts_at_one_and_ends_above_zero(epochs):
    factors = [cosine_factor(e, epochs) for e in range(epochs)]
    assert factors[0] == 1.0
    assert factors == sorted(factors, reverse=True)
    assert factors[-1] > 0
    assert factors[-1] == pytest.approx((1 - math.cos(math.pi / epochs)) / 2)


def test_optimizers(make_crt):
    method = make_crt(classifier_lr_factor=3.0)
    start(method, "features")
    features, classifier = method.stages()
    assert method.optimizers(features) is None
    start(method, "classifier")
    # The recipe's warm-up has no say in the second stage.
    schedule = ScheduleConfig(name="step", warmup=0.5, milestones=(0.6,))
    (optimizer,) = make_optimizers(method, classifier, RECIPE, schedule)
    assert optimizer.params == tuple(method.head.parameters())
    rates = [optimizer.set_epoch(e, 10) for e in range(10)]
    assert rates == pytest.approx([0.6 * (1 + math.cos(math.pi * e / 10)) / 2 for e in range(10)])
    assert optimizer.optimizer.param_groups[0]["weight_decay"] == RECIPE.weight_decay


def test_features_stage_is_plain_cross_entropy_on_everything(make_crt, make_batch):
    method, batch = make_crt(), make_batch([0, 0, 1, 2], num_views=1)
    start(method, "features")
    with no_host_sync():
        loss = method.training_step(batch, progress("features"))
        loss.backward()
    torch.testing.assert_close(loss, F.cross_entropy(method.logits(batch.images), batch.targets))
    assert all(p.grad.isfinite().all() for p in method.parameters())
    assert method.backbone.bn.num_batches_tracked == 2


def test_classifier_stage_leaves_the_backbone_alone(make_crt, make_batch):
    method, batch = make_crt(), make_batch([0, 0, 1, 2], num_views=1)
    start(method, "features")
    step(method, batch, "features")
    before = {k: v.clone() for k, v in method.state_dict().items()}
    start(method, "classifier")
    with no_host_sync():
        step(method, batch, "classifier")
    for name, value in method.state_dict().items():
        assert torch.equal(value, before[name]) is name.startswith("backbone."), name
    assert not method.backbone.training
    assert method.head.training


def test_classifier_is_drawn_anew(make_crt, make_batch):
    method = make_crt()
    with torch.no_grad():
        method.head.weight.fill_(7)
        method.head.bias.fill_(7)
    start(method, "classifier")
    bound = method.backbone.num_features**-0.5
    assert method.head.weight.abs().max() <= bound
    assert method.head.bias.abs().max() <= bound
    assert method.head.weight.unique().numel() == method.head.weight.numel()


def test_batchnorm_of_the_authors_code_goes_on_moving(make_crt, make_batch):
    method, batch = make_crt(frozen_batchnorm=False), make_batch([0, 0, 1, 2], num_views=1)
    start(method, "classifier")
    before = method.backbone.conv.weight.clone()
    step(method, batch, "classifier")
    assert method.backbone.training
    assert method.backbone.bn.num_batches_tracked == 1
    assert torch.equal(method.backbone.conv.weight, before)


def test_frozen_features_of_a_batch_of_one(make_crt, make_batch):
    method = make_crt()
    start(method, "classifier")
    loss = step(method, make_batch([2], num_views=1), "classifier")
    assert loss.isfinite()


@pytest.mark.parametrize("scale", [1e4, -1e4])
def test_loss_of_extreme_logits_is_finite(make_crt, scale):
    logits = torch.tensor([[scale, 0.0, -scale], [0.0, scale, scale]], requires_grad=True)
    targets = torch.tensor([2, 0])
    losses = make_crt().per_sample_loss(logits, targets, progress("features"))
    losses.sum().backward()
    assert losses.isfinite().all()
    assert logits.grad.isfinite().all()


def test_loss_against_loop(make_crt):
    logits = torch.randn(4, 3, dtype=torch.float64)
    targets = [0, 2, 1, 0]
    want = [
        math.log(sum(math.exp(x) for x in row)) - row[t]
        for row, t in zip(logits.tolist(), targets, strict=True)
    ]
    got = make_crt().per_sample_loss(logits, torch.tensor(targets), progress("classifier"))
    assert got.tolist() == pytest.approx(want, rel=1e-12)


def test_run_reports_the_second_stage_and_its_costs(tmp_path):
    outcome = tiny_run("crt", tmp_path, {"epochs": 3, "method.classifier_epochs": 0.7})
    rows = outcome.folder.epochs()
    assert [row["stage"] for row in rows] == ["features"] * 3 + ["classifier"] * 2
    rates = [row["learning_rates"] for row in rows if row["stage"] == "classifier"]
    assert rates == [[0.05], [pytest.approx(0.025)]]
    assert all(row["val"] is not None for row in rows)
    state = weights(outcome)
    assert state["head.weight"].shape == (4, 64)


def test_presets():
    config = resolve(tiny_request("crt@authors")).method
    assert (config.carry, config.frozen_batchnorm) == ("best", False)


@pytest.mark.parametrize(
    "settings",
    [
        {"classifier_epochs": 0},
        {"classifier_lr_factor": 0},
        {"classifier_sampler": "class_aware"},
        {"carry": "first"},
        {"lr": 0.1},
    ],
)
def test_config_refuses(settings):
    with pytest.raises(ValueError):
        CRT.Config(**settings)


def test_metadata():
    info = METHODS.info("crt")
    assert (info.name, info.year, info.file.stem) == ("crt", 2020, "crt")
    assert "facebookresearch/classifier-balancing@f162ade" in info.source
