"""LDAM-DRW: golden numbers of the authors' code, a naive reference, head, margins and schedule."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from ltbench.composition import Composition, ReweightConfig
from ltbench.config import Request, load_recipe, resolve
from ltbench.functional import weighted_mean
from ltbench.method import METHODS, Progress
from ltbench.run_config import ScheduleConfig
from ltbench.testing import tiny_run
from ltbench.testing.traps import no_host_sync
from ltbench.training.schedules import lr_factor

METHODS["ldam_drw"]  # imports the plugin, as the harness does

from ltbench.methods.ldam_drw import (  # noqa: E402
    LDAMDRW,
    CosineHead,
    class_margins,
    ldam_losses,
)

PROGRESS = Progress("train", epoch=0, epochs=10, step=0, steps=10)
ISIC2018 = (4023, 667, 659, 308, 195, 84, 69)


@pytest.fixture
def make(make_method):
    return partial(make_method, LDAMDRW)


def random_case(num=7, classes=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    cosines = 2 * torch.rand(num, classes, generator=generator, dtype=torch.float64) - 1
    return cosines, torch.randint(classes, (num,), generator=generator)


@pytest.mark.parametrize(
    "name", ["ordinary", "drw_after", "missing_class", "single_sample_class", "unscaled_s1"]
)
def test_golden_ldam(name, make, golden, meets):
    case, name = golden(f"ldam_{name}"), f"ldam_{name}"
    params = case["params"]
    ldam = make(case["inputs"]["counts"], max_margin=params["max_m"], scale=params["s"])
    cosines = torch.tensor(case["inputs"]["cosines"], dtype=torch.float64, requires_grad=True)
    targets = torch.tensor(case["inputs"]["labels"])
    losses = ldam.per_sample_loss(cosines, targets, PROGRESS)
    weights = torch.tensor(params["weight"] or [1.0] * cosines.shape[1], dtype=torch.float64)
    loss = weighted_mean(losses, weights[targets])
    loss.backward()
    meets(name, ldam.margins, case["outputs"]["margins"])
    meets(name, loss, case["outputs"]["loss"])
    meets(name, cosines.grad, case["outputs"]["grad_logits"])


def test_golden_ldam_of_mbit(make, golden, meets):
    case = golden("mbit_ldam_cls")
    cosines = torch.tensor(case["inputs"]["logits"], dtype=torch.float64, requires_grad=True)
    targets = torch.tensor(case["inputs"]["labels"])
    weights = torch.tensor(case["outputs"]["class_weights"], dtype=torch.float64)
    losses = make(case["inputs"]["counts"]).per_sample_loss(cosines, targets, PROGRESS)
    loss = weighted_mean(losses, weights[targets])
    loss.backward()
    meets("mbit_ldam_cls", loss, case["outputs"]["loss"])
    meets("mbit_ldam_cls", cosines.grad, case["outputs"]["grad_logits"])


def test_golden_learning_rates_are_those_of_the_cifar_recipe(golden, meets):
    case, recipe = golden("ldam_lr_schedule"), load_recipe("cifar_lt")
    schedule, base = ScheduleConfig(**recipe["schedule"]), recipe["optimizer"]["lr"]
    assert base == case["params"]["base_lr"]
    got = [base * lr_factor(schedule, e, recipe["epochs"]) for e in case["inputs"]["epochs"]]
    meets("ldam_lr_schedule", got, case["outputs"]["lr"])


def test_margins_of_isic2018():
    want = [0.1809, 0.2836, 0.2844, 0.3440, 0.3856, 0.4760, 0.5000]
    assert class_margins(ISIC2018, 0.5).tolist() == pytest.approx(want, abs=5e-5)


@pytest.mark.parametrize(("scale", "max_margin"), [(30.0, 0.5), (1.0, 0.3), (10.0, 1.0)])
def test_against_double_loop(scale, max_margin, make):
    counts, (cosines, targets) = (60, 20, 4), random_case()
    got = make(counts, scale=scale, max_margin=max_margin).per_sample_loss(
        cosines, targets, PROGRESS
    )
    want = []
    for row, y in zip(cosines.tolist(), targets.tolist(), strict=True):
        margin = max_margin * (min(counts) / counts[y]) ** 0.25
        z = [scale * (u - margin) if c == y else scale * u for c, u in enumerate(row)]
        want.append(math.log(sum(math.exp(x - z[y]) for x in z)))
    assert got.tolist() == pytest.approx(want, rel=1e-12)


def test_gradcheck():
    cosines, targets = random_case(4)
    margins = class_margins((60, 20, 4), 0.5)
    assert torch.autograd.gradcheck(
        lambda u: ldam_losses(u, targets, margins, 5.0), (cosines.requires_grad_(),)
    )
    head = CosineHead(5, 3).double()
    features = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda h, _: head(h), (features, head.weight))


def test_gradient_is_the_scaled_error():
    cosines, targets = random_case()
    margins = class_margins((60, 20, 4), 0.5)
    cosines.requires_grad_()
    ldam_losses(cosines, targets, margins, 30.0).sum().backward()
    z = 30 * (cosines.detach() - margins[targets][:, None] * F.one_hot(targets, 3).double())
    want = 30 * (z.softmax(1) - F.one_hot(targets, 3))
    torch.testing.assert_close(cosines.grad, want)


def test_margin_0_is_cross_entropy_of_scaled_cosines(make):
    cosines, targets = random_case()
    got = make(max_margin=0.0, scale=7.0).per_sample_loss(cosines, targets, PROGRESS)
    want = F.cross_entropy(7 * cosines, targets, reduction="none")
    torch.testing.assert_close(got, want, rtol=1e-12, atol=0)


def test_margins_obey_their_law():
    counts = (5000, 300, 17, 1)
    margins = class_margins(counts, 0.7)
    constants = margins * torch.tensor(counts).double() ** 0.25
    torch.testing.assert_close(constants, torch.full((4,), 0.7).double())
    assert margins.max() == 0.7
    assert class_margins((9, 9), 0.4).tolist() == [0.4, 0.4]


def test_a_margin_raises_the_loss():
    cosines, targets = random_case()
    losses = [ldam_losses(cosines, targets, class_margins((9, 3, 1), m), 30.0) for m in (0, 0.5)]
    assert (losses[1] > losses[0]).all()


def test_invariances(make):
    counts, (cosines, targets) = (60, 20, 4), random_case()
    before = make(counts).per_sample_loss(cosines, targets, PROGRESS)
    order = torch.randperm(len(targets))
    shuffled = make(counts).per_sample_loss(cosines[order], targets[order], PROGRESS)
    torch.testing.assert_close(shuffled, before[order])
    names = torch.tensor([2, 0, 1])
    back = names.argsort()
    relabelled = make([counts[i] for i in back])
    after = relabelled.per_sample_loss(cosines[:, back], names[targets], PROGRESS)
    torch.testing.assert_close(after, before)
    twice = make(counts).per_sample_loss(cosines.repeat(2, 1), targets.repeat(2), PROGRESS)
    torch.testing.assert_close(twice.mean(), before.mean())


@pytest.mark.parametrize("scale", [1e4, -1e4, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_extremes(scale, dtype, make):
    logits = (scale * torch.eye(3)).to(dtype).requires_grad_()
    for targets in ([0, 1, 2], [1, 1, 1], [2, 2, 2]):
        logits.grad = None
        losses = make((5000, 30, 1)).per_sample_loss(logits, torch.tensor(targets), PROGRESS)
        losses.mean().backward()
        assert losses.dtype == torch.float32
        assert losses.isfinite().all()
        assert logits.grad.isfinite().all()


def test_a_batch_without_most_classes_still_pushes_them_away(make):
    cosines = random_case(3)[0].requires_grad_()
    targets = torch.tensor([2, 2, 2])
    make((5000, 30, 1), scale=5.0).per_sample_loss(cosines, targets, PROGRESS).sum().backward()
    assert (cosines.grad[:, :2] > 0).all()
    assert (cosines.grad[:, 2] < 0).all()


def test_head_gives_cosines_of_any_length():
    torch.manual_seed(0)
    head, features = CosineHead(6, 4), torch.randn(5, 6)
    want = F.cosine_similarity(features[:, None], head.weight[None], dim=2)
    torch.testing.assert_close(head(features), want)
    with torch.no_grad():
        head.weight.mul_(torch.tensor([[0.1], [3.0], [7.0], [1.0]]))
    torch.testing.assert_close(head(100 * features), want)
    assert [name for name, _ in head.named_parameters()] == ["weight"]
    torch.testing.assert_close(CosineHead(6, 4).weight.norm(dim=1), torch.ones(4))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_head_takes_zeros_and_half_precision(dtype):
    head = CosineHead(6, 4)
    features = torch.stack([torch.zeros(6), torch.full((6,), 3e-5), torch.full((6,), 6e4)])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cosines = head(features.to(dtype))
    assert cosines.dtype == torch.float32
    assert cosines.isfinite().all()
    assert cosines[0].abs().max() == 0
    assert cosines.abs().max() <= 1 + 1e-6


def test_inference_logits_are_cosines_without_margins(make, make_batch):
    images = make_batch([0, 1, 2], num_views=1).images
    plain, scaled = make().eval(), make(scaled_inference=True, scale=12.0).eval()
    cosines = plain.predict(images)
    torch.testing.assert_close(cosines, plain.logits(images))
    assert cosines.abs().max() <= 1 + 1e-6
    torch.testing.assert_close(scaled.predict(images), 12 * cosines)


def test_step_reaches_all_parameters_without_a_sync(make, make_batch):
    ldam, batch = make(), make_batch([0, 0, 1, 2], num_views=1)
    with no_host_sync():
        loss = ldam.training_step(batch, PROGRESS)
        loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in ldam.parameters())
    assert "margins" not in ldam.state_dict()
    assert "head.bias" not in ldam.state_dict()


@pytest.mark.parametrize(
    ("epochs", "first"), [(200, 160), (100, 80), (10, 8), (3, 2), (2, None), (1, None)]
)
def test_deferred_re_weighting_of_the_defaults(epochs, first):
    settings = {key.partition(".")[2]: value for key, value in LDAMDRW.defaults.items()}
    composition = Composition(reweight=ReweightConfig(**settings), class_counts=(60, 20, 4))
    fired = [
        composition.class_weights(PROGRESS._replace(epoch=e, epochs=epochs), torch.zeros(()))
        is not None
        for e in range(epochs)
    ]
    assert fired == [first is not None and e >= first for e in range(epochs)]


def test_presets_reach_the_re_weighting():
    def reweight(method):
        config = resolve(Request(method=method, dataset="digits_lt"))
        return config.reweight.name, config.reweight.beta, config.reweight.start

    assert reweight("ldam_drw") == ("effective", 0.9999, 0.8)
    assert reweight("ldam_drw@paper")[0] == "inverse"
    assert reweight("ldam_drw@no_drw")[0] == "none"


def test_equal_counts_make_both_stages_alike(make, make_batch, make_task):
    reweight = ReweightConfig(name="effective", start=0.5)
    counts = (9, 9, 9)
    task = make_task(
        class_counts=counts, composition=Composition(reweight=reweight, class_counts=counts)
    )
    torch.manual_seed(0)
    ldam, batch = LDAMDRW(LDAMDRW.Config(), task), make_batch([0, 0, 1, 2], num_views=1)
    before, after = (ldam.training_step(batch, PROGRESS._replace(epoch=e)) for e in (0, 9))
    torch.testing.assert_close(before, after)


def test_config_refuses():
    for wrong in ({"max_margin": -0.1}, {"scale": 0.0}, {"bias": True}):
        with pytest.raises(ValueError):
            LDAMDRW.Config(**wrong)


def test_metadata():
    info = METHODS.info("ldam_drw")
    assert (info.name, info.year, info.file.stem) == ("ldam_drw", 2019, "ldam_drw")


@pytest.mark.parametrize("method", ["ldam_drw@mixup", "ldam_drw@cutmix"])
def test_composes(method, tmp_path):
    outcome = tiny_run(method, tmp_path, {"epochs": 2, "reweight.start": 0.5})
    assert all(math.isfinite(row["train"]["loss"]) for row in outcome.folder.epochs())
