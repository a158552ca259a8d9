"""Balanced soft-max: golden numbers of the authors' code, a naive reference, its properties."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from ltbench.method import METHODS, Progress
from ltbench.testing import tiny_run
from ltbench.testing.traps import no_host_sync

METHODS["balanced_softmax"]  # imports the plugin, as the harness does

from ltbench.methods.balanced_softmax import (  # noqa: E402
    BalancedSoftmax,
    balanced_softmax_losses,
)

PROGRESS = Progress("train", epoch=0, epochs=10, step=0, steps=10)


@pytest.fixture
def make(make_method):
    return partial(make_method, BalancedSoftmax)


def random_case(num=7, classes=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(num, classes, generator=generator, dtype=torch.float64)
    return logits, torch.randint(classes, (num,), generator=generator)


@pytest.mark.parametrize(
    "name", ["equal_counts", "missing_class", "single_sample_class", "zero_count"]
)
def test_golden(name, make, golden, meets):
    case, name = golden(f"balsoftmax_{name}"), f"balsoftmax_{name}"
    logits = torch.tensor(case["inputs"]["logits"], dtype=torch.float64, requires_grad=True)
    targets = torch.tensor(case["inputs"]["labels"])
    losses = make(case["inputs"]["counts"]).per_sample_loss(logits, targets, PROGRESS)
    losses.mean().backward()
    meets(name, losses, case["outputs"]["per_sample"])
    meets(name, losses.mean(), case["outputs"]["loss"])
    meets(name, logits.grad, case["outputs"]["grad_logits"])


def test_golden_priorce_but_for_its_floor(make, golden, meets):
    case = golden("priorce_ordinary")
    logits = torch.tensor(case["inputs"]["logits"], dtype=torch.float64)
    targets = torch.tensor(case["inputs"]["labels"])
    losses = make(case["inputs"]["counts"]).per_sample_loss(logits, targets, PROGRESS)
    # PriorCE adds 1e-9 to the prior.
    meets("priorce_ordinary/unfloored", losses.mean(), case["outputs"]["loss"], 1e-7)


def test_against_double_loop(make):
    counts, (logits, targets) = (60, 20, 4), random_case()
    got = make(counts).per_sample_loss(logits, targets, PROGRESS)
    want = []
    for row, y in zip(logits.tolist(), targets.tolist(), strict=True):
        total = sum(n * math.exp(x) for n, x in zip(counts, row, strict=True))
        want.append(-math.log(counts[y] * math.exp(row[y]) / total))
    assert got.tolist() == pytest.approx(want, rel=1e-12)


def test_gradcheck():
    logits, targets = random_case(4)
    counts = torch.tensor([60, 20, 4]).double()
    assert torch.autograd.gradcheck(
        lambda x: balanced_softmax_losses(x, targets, counts), (logits.requires_grad_(),)
    )


def test_equal_counts_are_cross_entropy(make):
    logits, targets = random_case()
    got = make((7, 7, 7)).per_sample_loss(logits, targets, PROGRESS)
    want = F.cross_entropy(logits, targets, reduction="none")
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-14)


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
    for same in (
        make([10 * n for n in counts]).per_sample_loss(logits, targets, PROGRESS),
        make(counts).per_sample_loss(logits + 5, targets, PROGRESS),
    ):
        torch.testing.assert_close(same, before)
    twice = make(counts).per_sample_loss(logits.repeat(2, 1), targets.repeat(2), PROGRESS)
    torch.testing.assert_close(twice.mean(), before.mean())


def test_an_undecided_model_is_pushed_to_the_rare_class():
    logits = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    counts = torch.tensor([60, 20, 4]).double()
    balanced_softmax_losses(logits, torch.tensor([0, 2]), counts).sum().backward()
    assert -logits.grad[1, 2] > -logits.grad[0, 0] > 0


@pytest.mark.parametrize("scale", [1e4, -1e4, 100.0, -100.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("counts", [(5000, 30, 1), (300, 40, 0), (3_000_000, 1, 1)])
def test_extremes(scale, dtype, counts, make):
    logits = (scale * torch.eye(3)).to(dtype).requires_grad_()
    losses = make(counts).per_sample_loss(logits, torch.tensor([1, 1, 0]), PROGRESS)
    losses.mean().backward()
    assert losses.dtype == torch.float32
    assert losses.isfinite().all()
    assert logits.grad.isfinite().all()


def test_step_reaches_all_parameters_without_a_sync(make, make_batch):
    method, batch = make(), make_batch([0, 0, 1, 2], num_views=1)
    with no_host_sync():
        loss = method.training_step(batch, PROGRESS)
        loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in method.parameters())
    assert "class_counts" not in method.state_dict()
    torch.testing.assert_close(method.predict(batch.images), method.logits(batch.images))


def test_metadata():
    info = METHODS.info("balanced_softmax")
    assert (info.name, info.year, info.file.stem) == ("balanced_softmax", 2020, "balanced_softmax")


@pytest.mark.parametrize("method", ["balanced_softmax@mixup+drw", "balanced_softmax@cmo"])
def test_composes(method, tmp_path):
    outcome = tiny_run(method, tmp_path, {"epochs": 2, "reweight.start": 0.5})
    assert all(math.isfinite(row["train"]["loss"]) for row in outcome.folder.epochs())
