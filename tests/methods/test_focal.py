"""Focal loss: golden numbers of four published codes, a naive reference, and its properties."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from ltbench.errors import UsageError
from ltbench.functional import effective_number_weights, weighted_mean
from ltbench.method import METHODS, Progress, Stage
from ltbench.testing import tiny_run
from ltbench.testing.traps import no_host_sync

METHODS["focal"]  # imports the plugin, as the harness does

from ltbench.methods.focal import (  # noqa: E402
    Focal,
    focal_modulated,
    one_vs_rest,
    sigmoid_focal_losses,
)

PROGRESS = Progress("train", epoch=0, epochs=10, step=0, steps=10)
FORMS = [
    {},
    {"gamma": 0.5, "alpha": "effective"},
    {"gamma": 1.0, "alpha": "effective", "weight_position": "inside"},
    {"form": "sigmoid"},
    {"form": "sigmoid", "gamma": 0.5, "alpha": "effective", "beta": 0.99},
]


@pytest.fixture
def make(make_method):
    return partial(make_method, Focal)


def random_case(num=7, classes=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(num, classes, generator=generator, dtype=torch.float64)
    return logits, torch.randint(classes, (num,), generator=generator)


def inputs_of(case):
    logits = torch.tensor(case["inputs"]["logits"], dtype=torch.float64, requires_grad=True)
    return logits, torch.tensor(case["inputs"]["labels"])


def meets_loss(meets, name, loss, logits, outputs, rtol=1e-9):
    loss.backward()
    meets(name, loss, outputs["loss"], rtol)
    meets(name, logits.grad, outputs["grad_logits"], rtol)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("focal_g0_is_ce", {"gamma": 0.0}),
        ("focal_ordinary_g1", {"gamma": 1.0}),
        ("focal_ordinary_g2", {}),
        ("focal_large_logits", {}),
        ("focal_tformer_ordinary", {"probability_floor": 1e-4}),
        ("focal_tformer_large_logits", {"probability_floor": 1e-4}),
    ],
)
def test_golden_softmax(name, settings, make, golden, meets):
    case = golden(name)
    logits, targets = inputs_of(case)
    focal = make([9] * logits.shape[1], **settings)
    assert focal.config.gamma == case["params"]["gamma"]
    loss = focal.per_sample_loss(logits, targets, PROGRESS).mean()
    meets_loss(meets, name, loss, logits, case["outputs"])


@pytest.mark.parametrize(
    ("position", "outputs"), [("inside", "outputs"), ("outside", "textbook_outputs")]
)
def test_golden_weights_inside_and_outside_the_modulator(position, outputs, make, golden, meets):
    name = "focal_weighted_code_quirk"
    case = golden(name)
    logits, targets = inputs_of(case)
    focal = make([500, 200, 80, 20, 5], alpha="effective", weight_position=position)
    meets(f"{name}/weights", focal.class_weights, case["params"]["weight"])
    loss = focal.per_sample_loss(logits, targets, PROGRESS).mean()
    meets_loss(meets, f"{name}/{position}", loss, logits, case[outputs])


@pytest.mark.parametrize("name", ["g2", "beta0", "missing", "single"])
def test_golden_class_balanced_focal(name, make, golden, meets):
    case = golden(f"cb_focal_{name}")
    logits, targets = inputs_of(case)
    params = {key: case["params"][key] for key in ("gamma", "beta")}
    focal = make(case["inputs"]["counts"], form="sigmoid", alpha="effective", **params)
    meets(f"cb_focal_{name}", focal.class_weights, case["outputs"]["class_weights"])
    loss = focal.per_sample_loss(logits, targets, PROGRESS).mean()
    meets_loss(meets, f"cb_focal_{name}", loss, logits, case["outputs"])


@pytest.mark.parametrize("name", ["missing", "single"])
def test_golden_class_balanced_softmax(name, make, golden, meets):
    case = golden(f"cb_softmax_{name}")
    logits, targets = inputs_of(case)
    beta = case["params"]["beta"]
    focal = make(case["inputs"]["counts"], gamma=0.0, alpha="effective", beta=beta)
    loss = focal.per_sample_loss(logits, targets, PROGRESS).mean()
    # The published helper casts its weights to float32.
    meets_loss(meets, f"cb_softmax_{name}", loss, logits, case["outputs"], rtol=1e-7)


def test_golden_class_balanced_weights(golden, meets):
    case = golden("cb_weights")
    for i, row in enumerate(case["inputs"]["rows"]):
        counts = torch.tensor(row["counts"], dtype=torch.float64)
        got = effective_number_weights(counts, row["beta"])
        meets(f"cb_weights/{i}", got, case["outputs"]["weights"][i])


def test_golden_weighted_mean_of_the_softmax_form(make, golden, meets):
    case = golden("mbit_focal_ce")
    logits, targets = inputs_of(case)
    weights = torch.tensor(case["outputs"]["class_weights"], dtype=torch.float64)
    losses = make([9] * 5).per_sample_loss(logits, targets, PROGRESS)
    loss = weighted_mean(losses, weights[targets])
    meets_loss(meets, "mbit_focal_ce", loss, logits, case["outputs"])


def naive(logits, target, weight, config):
    """One sample's loss, in Python floats."""
    if config.form == "softmax":
        total = sum(math.exp(x) for x in logits)
        p = math.exp(logits[target]) / total
        ce = -math.log(p)
        if config.weight_position == "inside":
            return (1 - p**weight) ** config.gamma * weight * ce
        return weight * (1 - p) ** config.gamma * ce
    loss = 0.0
    for c, x in enumerate(logits):
        q = 1 / (1 + math.exp(-x if c == target else x))
        loss += (1 - q) ** config.gamma * -math.log(q)
    return weight * loss


@pytest.mark.parametrize("settings", FORMS)
def test_against_double_loop(settings, make):
    focal, (logits, targets) = make(**settings), random_case()
    got = focal.per_sample_loss(logits, targets, PROGRESS).tolist()
    weights = focal.class_weights.tolist()
    want = [
        naive(row, target, weights[target], focal.config)
        for row, target in zip(logits.tolist(), targets.tolist(), strict=True)
    ]
    assert got == pytest.approx(want, rel=1e-10)


@pytest.mark.parametrize("settings", FORMS)
def test_gradcheck(settings, make):
    focal, (logits, targets) = make(**settings), random_case(4)
    assert torch.autograd.gradcheck(
        lambda x: focal.per_sample_loss(x, targets, PROGRESS), (logits.requires_grad_(),)
    )


def test_softmax_form_with_gamma_0_is_cross_entropy_and_never_above_it(make):
    logits, targets = random_case()
    ce = F.cross_entropy(logits, targets, reduction="none")
    got = make(gamma=0.0).per_sample_loss(logits, targets, PROGRESS)
    torch.testing.assert_close(got, ce, rtol=1e-12, atol=0)
    losses = make(gamma=2.0).per_sample_loss(logits, targets, PROGRESS)
    assert ((losses >= 0) & (losses <= ce)).all()


def test_sigmoid_form_with_gamma_0_is_binary_cross_entropy(make):
    logits, targets = random_case()
    own = F.one_hot(targets, 3).double()
    want = F.binary_cross_entropy_with_logits(logits, own, reduction="none").sum(1)
    torch.testing.assert_close(sigmoid_focal_losses(logits, targets, 0.0), want)


@pytest.mark.parametrize("form", ["softmax", "sigmoid"])
@pytest.mark.parametrize(
    ("counts", "beta"), [((9, 9, 9), 0.9999), ((60, 20, 4), 0.0), ((1, 1, 1), 0.5)]
)
def test_equal_counts_and_beta_0_remove_the_weights(form, counts, beta, make):
    logits, targets = random_case()
    weighted = make(counts, form=form, alpha="effective", beta=beta)
    plain = make(counts, form=form)
    torch.testing.assert_close(
        weighted.per_sample_loss(logits, targets, PROGRESS),
        plain.per_sample_loss(logits, targets, PROGRESS),
    )


def test_positions_agree_for_gamma_0(make):
    logits, targets = random_case()
    inside, outside = (
        make(gamma=0.0, alpha="effective", weight_position=position).per_sample_loss(
            logits, targets, PROGRESS
        )
        for position in ("inside", "outside")
    )
    torch.testing.assert_close(inside, outside)


def test_one_vs_rest_signs():
    logits = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    want = [[-1.0, -2.0, 3.0], [4.0, -5.0, -6.0]]
    assert one_vs_rest(logits, torch.tensor([2, 0])).tolist() == want


@pytest.mark.parametrize("settings", FORMS)
def test_invariances(settings, make):
    counts, (logits, targets) = (60, 20, 4), random_case()
    before = make(counts, **settings).per_sample_loss(logits, targets, PROGRESS)
    order = torch.randperm(len(targets))
    shuffled = make(counts, **settings).per_sample_loss(logits[order], targets[order], PROGRESS)
    torch.testing.assert_close(shuffled, before[order])
    names = torch.tensor([2, 0, 1])  # class c becomes names[c]
    back = names.argsort()
    relabelled = make([counts[i] for i in back], **settings)
    after = relabelled.per_sample_loss(logits[:, back], names[targets], PROGRESS)
    torch.testing.assert_close(after, before)
    twice = make(counts, **settings).per_sample_loss(
        logits.repeat(2, 1), targets.repeat(2), PROGRESS
    )
    torch.testing.assert_close(twice.mean(), before.mean())


def test_softmax_form_ignores_a_constant_added_to_a_row(make):
    logits, targets = random_case()
    losses = [make().per_sample_loss(x, targets, PROGRESS) for x in (logits, logits + 7)]
    torch.testing.assert_close(*losses)


@pytest.mark.parametrize("settings", [*FORMS, {"gamma": 0.1}, {"probability_floor": 1e-4}])
@pytest.mark.parametrize("scale", [1e4, -1e4, 100.0, -100.0, 0.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_extreme_logits(settings, scale, dtype, make):
    logits = (scale * torch.eye(3)).to(dtype).requires_grad_()
    for targets in ([0, 1, 2], [1, 1, 1]):
        logits.grad = None
        losses = make(**settings).per_sample_loss(logits, torch.tensor(targets), PROGRESS)
        losses.mean().backward()
        assert losses.dtype == torch.float32
        assert losses.isfinite().all()
        assert logits.grad.isfinite().all()


@pytest.mark.parametrize("gamma", [0.01, 0.5, 0.999])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("gap", [1.0, 20.0, 36.0, 40.0, 90.0, 800.0])
def test_saturated_samples_have_finite_gradients_for_gamma_below_1(gamma, dtype, gap, make):
    logits = torch.tensor([[gap, 0.0, 0.0]], dtype=dtype, requires_grad=True)
    make(gamma=gamma).per_sample_loss(logits, torch.tensor([0]), PROGRESS).sum().backward()
    assert logits.grad.isfinite().all()
    if gap > 100:
        assert logits.grad.abs().max() == 0


def test_hardest_positive_keeps_its_modulator():
    logits = torch.tensor([[-200.0, -300.0, -300.0]], requires_grad=True)
    loss = sigmoid_focal_losses(logits, torch.tensor([0]), 2.0)
    loss.sum().backward()
    assert loss.item() == pytest.approx(200)
    assert logits.grad[0, 0] == pytest.approx(-1)


def test_floor_silences_the_hardest_samples(make):
    logits = torch.tensor([[0.0, 12.0, 0.0], [0.0, 6.0, 0.0]], requires_grad=True)
    focal = make(probability_floor=1e-4)
    focal.per_sample_loss(logits, torch.tensor([0, 0]), PROGRESS).sum().backward()
    assert logits.grad[0].abs().max() == 0
    assert logits.grad[1].abs().max() > 0.1


@pytest.mark.parametrize("settings", FORMS)
def test_missing_classes_and_a_class_of_one(settings, make):
    focal = make((5000, 30, 1), **settings)
    logits, _ = random_case(3)
    for targets in ([0, 0, 0], [2, 2, 2], [1, 2, 1]):
        x = logits.clone().requires_grad_()
        loss = focal.per_sample_loss(x, torch.tensor(targets), PROGRESS).mean()
        loss.backward()
        assert loss.isfinite()
        assert (x.grad.abs() > 0).all()  # an absent class is a negative, not inert


def test_modulated_at_zero():
    ce = torch.zeros(1, requires_grad=True)
    focal_modulated(ce, 0.5).sum().backward()
    assert 0 <= ce.grad.item() < 1e-18


def test_sigmoid_form_starts_at_the_prior_without_decay_of_its_bias(make):
    focal = make((9,) * 5, form="sigmoid")
    torch.testing.assert_close(focal.head.bias, torch.full((5,), 0.2).logit())
    network, bias = focal.optimizers(Stage("train", epochs=1))
    assert bias.params_list == (focal.head.bias,)
    assert bias.weight_decay == 0
    assert network.weight_decay is None
    assert {id(p) for p in focal.parameters()} == {
        id(p) for p in (*network.params_list, *bias.params_list)
    }
    assert make().optimizers(Stage("train", epochs=1)) is None


@pytest.mark.parametrize("settings", FORMS)
def test_step_reaches_all_parameters_without_a_sync(settings, make, make_batch):
    focal, batch = make(**settings), make_batch([0, 0, 1, 2], num_views=1)
    with no_host_sync():
        loss = focal.training_step(batch, PROGRESS)
        loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in focal.parameters())
    assert set(focal.state_dict()) == {name for name, _ in focal.named_parameters()} | {
        f"backbone.bn.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")
    }


def test_config_refuses():
    for wrong in (
        {"gamma": -0.1},
        {"beta": 1.0},
        {"form": "sigmoid", "weight_position": "inside"},
        {"form": "sigmoid", "probability_floor": 1e-4},
    ):
        with pytest.raises(ValueError):
            Focal.Config(**wrong)


def test_check_refuses_one_class_in_the_sigmoid_form(make_task):
    one = make_task(class_names=("a",), class_counts=(5,))
    with pytest.raises(UsageError, match="2 or more classes"):
        Focal.check(Focal.Config(form="sigmoid"), one)
    Focal.check(Focal.Config(), one)


def test_metadata():
    info = METHODS.info("focal")
    assert (info.name, info.year, info.file.stem) == ("focal", 2017, "focal")


@pytest.mark.parametrize("method", ["focal@mixup+drw", "focal@paper+cutmix"])
def test_composes(method, tmp_path):
    outcome = tiny_run(method, tmp_path, {"epochs": 2, "reweight.start": 0.5})
    assert all(math.isfinite(row["train"]["loss"]) for row in outcome.folder.epochs())
