"""Cross-entropy against golden numbers, and as the smallest plugin."""

import pytest
import torch

from ltbench.functional import weighted_mean
from ltbench.method import METHODS, Progress

PROGRESS = Progress("train", epoch=0, epochs=10, step=0, steps=10)


@pytest.fixture
def ce(make_task):
    cls = METHODS["ce"]
    return cls(cls.Config(), make_task())


def test_golden_large_logits(ce, golden, meets):
    case = golden("ce_large")
    logits = torch.tensor(case["inputs"]["logits"], dtype=torch.float64, requires_grad=True)
    loss = ce.per_sample_loss(logits, torch.tensor(case["inputs"]["labels"]), PROGRESS).mean()
    loss.backward()
    meets("ce_large", loss, case["outputs"]["loss"])
    meets("ce_large", logits.grad, case["outputs"]["grad_logits"])


def test_golden_weighted(ce, golden, meets):
    case = golden("ce_weighted")
    logits = torch.tensor(case["inputs"]["logits"], dtype=torch.float64, requires_grad=True)
    targets = torch.tensor(case["inputs"]["labels"])
    weights = torch.tensor(case["params"]["weight"], dtype=torch.float64)[targets]
    loss = weighted_mean(ce.per_sample_loss(logits, targets, PROGRESS), weights)
    loss.backward()
    meets("ce_weighted", loss, case["outputs"]["loss"])
    meets("ce_weighted", logits.grad, case["outputs"]["grad_logits"])


def test_uniform_prediction_is_log_classes(ce):
    losses = ce.per_sample_loss(torch.zeros(4, 3).double(), torch.tensor([0, 1, 2, 0]), PROGRESS)
    torch.testing.assert_close(losses, torch.full((4,), 3.0).double().log())


@pytest.mark.parametrize("scale", [1e4, -1e4])
def test_extreme_logits_stay_finite(ce, scale):
    logits = (scale * torch.eye(3)).requires_grad_()
    loss = ce.per_sample_loss(logits, torch.tensor([1, 1, 1]), PROGRESS).mean()
    loss.backward()
    assert loss.isfinite()
    assert logits.grad.isfinite().all()


def test_step_reaches_all_parameters(ce, make_batch):
    loss = ce.training_step(make_batch([0, 0, 1, 2], num_views=1), PROGRESS)
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in ce.parameters())


def test_metadata():
    info = METHODS.info("ce")
    assert (info.name, info.tags, info.file.stem) == ("ce", ("baseline",), "ce")
    assert not METHODS["ce"].uses_validation(METHODS["ce"].Config())
