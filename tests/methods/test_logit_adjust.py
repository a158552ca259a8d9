"""Logit adjustment: golden numbers of the authors' code, both signs, and its reductions."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from ltbench.config import Request, resolve
from ltbench.method import METHODS, Progress
from ltbench.testing import tiny_run
from ltbench.testing.traps import no_host_sync
from ltbench.training.schedules import lr_factor

METHODS["logit_adjust"]  # imports the plugin, as the harness does
METHODS["balanced_softmax"]

from ltbench.methods.balanced_softmax import balanced_softmax_losses  # noqa: E402
from ltbench.methods.logit_adjust import LogitAdjust, adjusted_losses, log_priors  # noqa: E402

PROGRESS = Progress("train", epoch=0, epochs=10, step=0, steps=10)
LOSS_CASES = (
    "logitadj_baseline",
    "logitadj_missing_class",
    "logitadj_single_sample_class",
    "logitadj_tau0_is_ce",
    "logitadj_zero_prior",
    "logitadj_zero_prior_tau2",
    "priorce_ordinary",
)


@pytest.fixture
def make(make_method):
    return partial(make_method, LogitAdjust)


def random_case(num=7, classes=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(num, classes, generator=generator, dtype=torch.float64)
    return logits, torch.randint(classes, (num,), generator=generator)


@pytest.mark.parametrize("name", LOSS_CASES)
def test_golden_loss_form(name, make, golden, meets):
    case = golden(name)
    # "baseline" is the code's plain CE; PriorCE is tau 1 with a floor of its own.
    settings = {
        "form": "posthoc" if name == "logitadj_baseline" else "loss",
        "tau": case["params"].get("tau", 1.0),
        "floor": case["params"]["eps"],
    }
    logits = torch.tensor(case["inputs"]["logits"], dtype=torch.float64, requires_grad=True)
    targets = torch.tensor(case["inputs"]["labels"])
    method = make(case["inputs"]["counts"], **settings)
    loss = method.per_sample_loss(logits, targets, PROGRESS).mean()
    loss.backward()
    meets(name, loss, case["outputs"]["loss"])
    meets(name, logits.grad, case["outputs"]["grad_logits"])


def test_golden_posthoc_form(make, golden, meets, monkeypatch):
    case = golden("logitadj_posthoc")
    for i, row in enumerate(case["inputs"]["rows"]):
        method = make(row["counts"], form="posthoc", tau=row["tau"])
        raw = torch.tensor(row["logits"], dtype=torch.float64)
        monkeypatch.setattr(method, "logits", lambda _, raw=raw: raw)
        adjusted = method.predict(torch.zeros(0))
        meets(f"logitadj_posthoc/{i}", adjusted, case["outputs"]["adjusted_logits"][i])
        assert adjusted.argmax(1).tolist() == case["outputs"]["prediction"][i]


@pytest.mark.parametrize("tau", [0.5, 1.0, 2.0])
def test_against_double_loop(tau, make):
    counts, (logits, targets) = (60, 20, 4), random_case()
    got = make(counts, tau=tau).per_sample_loss(logits, targets, PROGRESS)
    want = []
    for row, y in zip(logits.tolist(), targets.tolist(), strict=True):
        pairs = zip(counts, row, strict=True)
        a = [math.log((n / sum(counts)) ** tau + 1e-12) + x for n, x in pairs]
        want.append(math.log(sum(math.exp(x) for x in a)) - a[y])
    assert got.tolist() == pytest.approx(want, rel=1e-12)


def test_shifts_of_isic2018():
    counts = torch.tensor([4023, 667, 659, 308, 195, 84, 69], dtype=torch.float64)
    want = [-0.4006, -2.1976, -2.2096, -2.9702, -3.4273, -4.2695, -4.4662]
    assert log_priors(counts, 1.0).tolist() == pytest.approx(want, abs=5e-5)


def test_gradcheck():
    logits, targets = random_case(4)
    shifts = log_priors(torch.tensor([60.0, 20, 4]).double(), 1.5)
    assert torch.autograd.gradcheck(
        lambda x: adjusted_losses(x, targets, shifts), (logits.requires_grad_(),)
    )


def test_the_loss_favours_rare_classes_and_so_does_the_inference(make, make_batch):
    logits = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    make().per_sample_loss(logits, torch.tensor([0, 2]), PROGRESS).sum().backward()
    # An undecided model is pushed further up on a rare class than on a frequent one.
    assert -logits.grad[1, 2] > -logits.grad[0, 0] > 0
    images = make_batch([0, 1, 2], num_views=1).images
    method = make(form="posthoc").eval()
    gained = (method.predict(images) - method.logits(images))[0]
    assert gained[2] > gained[1] > gained[0] > 0


@pytest.mark.parametrize(
    ("counts", "settings"),
    [
        ((60, 20, 4), {"tau": 0.0}),
        ((9, 9, 9), {"tau": 1.0}),
        ((9, 9, 9), {"tau": 2.5}),
        ((60, 20, 4), {"form": "posthoc"}),
    ],
)
def test_reduces_to_cross_entropy(counts, settings, make):
    logits, targets = random_case()
    got = make(counts, **settings).per_sample_loss(logits, targets, PROGRESS)
    want = F.cross_entropy(logits, targets, reduction="none")
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-14)


def test_tau_1_is_balanced_softmax_but_for_the_floor(make):
    counts, (logits, targets) = (60, 20, 4), random_case()
    want = balanced_softmax_losses(logits, targets, torch.tensor(counts).double())
    got = make(counts).per_sample_loss(logits, targets, PROGRESS)
    torch.testing.assert_close(got, want, rtol=1e-10, atol=0)
    exact = make(counts, floor=0.0).per_sample_loss(logits, targets, PROGRESS)
    torch.testing.assert_close(exact, want, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("form", ["loss", "posthoc"])
@pytest.mark.parametrize("tau", [0.0, 1.0])
def test_forms_are_never_both_at_work(form, tau, make, make_batch):
    method, images = make(form=form, tau=tau).eval(), make_batch([0, 1], num_views=1).images
    logits, targets = random_case()
    plain = F.cross_entropy(logits, targets, reduction="none")
    in_loss = not torch.allclose(method.per_sample_loss(logits, targets, PROGRESS), plain)
    at_test = not torch.allclose(method.predict(images), method.logits(images))
    assert (in_loss, at_test) == (form == "loss" and tau > 0, form == "posthoc" and tau > 0)


def test_invariances(make):
    counts, (logits, targets) = (60, 20, 4), random_case()
    before = make(counts).per_sample_loss(logits, targets, PROGRESS)
    order = torch.randperm(len(targets))
    shuffled = make(counts).per_sample_loss(logits[order], targets[order], PROGRESS)
    torch.testing.assert_close(shuffled, before[order])
    names = torch.tensor([2, 0, 1])
    back = names.argsort()
    relabelled = make([counts[i] for i in back])
    after = relabelled.per_sample_loss(logits[:, back], names[targets], PROGRESS)
    torch.testing.assert_close(after, before)
    twice = make(counts).per_sample_loss(logits.repeat(2, 1), targets.repeat(2), PROGRESS)
    torch.testing.assert_close(twice.mean(), before.mean())
    shifts = log_priors(torch.tensor(counts).double(), 1.0)
    torch.testing.assert_close(adjusted_losses(logits, targets, shifts + 3), before)


@pytest.mark.parametrize("scale", [1e4, -1e4, 100.0, -100.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("counts", [(5000, 30, 1), (300, 40, 0)])
def test_extremes(scale, dtype, counts, make):
    logits = (scale * torch.eye(3)).to(dtype).requires_grad_()
    for form in ("loss", "posthoc"):
        logits.grad = None
        method = make(counts, form=form, tau=3.0)
        losses = method.per_sample_loss(logits, torch.tensor([1, 1, 0]), PROGRESS)
        losses.mean().backward()
        assert losses.dtype == torch.float32
        assert losses.isfinite().all()
        assert logits.grad.isfinite().all()


@pytest.mark.parametrize("form", ["loss", "posthoc"])
def test_step_reaches_all_parameters_without_a_sync(form, make, make_batch):
    method, batch = make(form=form), make_batch([0, 0, 1, 2], num_views=1)
    with no_host_sync():
        loss = method.training_step(batch, PROGRESS)
        loss.backward()
        method.predict(batch.images)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in method.parameters())
    assert "shifts" not in method.state_dict()


def test_inference_under_autocast_is_shifted_in_float32(make, make_batch):
    method, images = make(form="posthoc").eval(), make_batch([0, 1], num_views=1).images
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits, adjusted = method.logits(images), method.predict(images)
    assert adjusted.dtype == torch.float32
    torch.testing.assert_close(adjusted, logits.float() - method.shifts.float())


@pytest.mark.parametrize(
    ("preset", "epochs", "drops", "warmup"),
    [
        ("authors_cifar10", 1241, (604, 926, 1128), 20),
        ("authors_cifar100", 1419, (691, 1059, 1290), 22),
    ],
)
def test_authors_schedule(preset, epochs, drops, warmup):
    config = resolve(Request(method=f"logit_adjust@{preset}", dataset="digits_lt"))
    assert (config.epochs, config.batch_size, config.method.form) == (epochs, 128, "posthoc")
    factors = [lr_factor(config.schedule, e, epochs) for e in range(epochs)]
    changes = [e for e in range(warmup, epochs) if factors[e] < factors[e - 1]]
    assert changes == list(drops)
    assert [factors[d] for d in drops] == pytest.approx([0.1, 0.01, 0.001])
    assert factors[warmup - 1] == 1 > factors[warmup - 2]


def test_config_refuses():
    for wrong in ({"tau": -1.0}, {"floor": 0.1}, {"form": "both"}):
        with pytest.raises(ValueError):
            LogitAdjust.Config(**wrong)


def test_metadata():
    info = METHODS.info("logit_adjust")
    assert (info.name, info.year, info.file.stem) == ("logit_adjust", 2021, "logit_adjust")


@pytest.mark.parametrize("method", ["logit_adjust@mixup+drw", "logit_adjust@posthoc+remix"])
def test_composes(method, tmp_path):
    outcome = tiny_run(method, tmp_path, {"epochs": 2, "reweight.start": 0.5})
    assert all(math.isfinite(row["train"]["loss"]) for row in outcome.folder.epochs())
