"""One optimizer step: parts, precision, gradients over an epoch, and the watch on the loss."""

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import nn

from ltbench.errors import UsageError
from ltbench.method import METHODS, Batch, OptimizerSpec, Progress, Stage, Task
from ltbench.registry import add_plugins
from ltbench.run_config import OptimizerConfig, ScheduleConfig
from ltbench.training.engine import LossWatch, StepEngine, split_batch
from ltbench.training.optimizers import make_optimizers

PLUGINS = Path(__file__).parents[1] / "plugins"
PROGRESS = Progress("train", epoch=0, epochs=3, step=0, steps=5)
CPU = torch.device("cpu")


def batch_of(size, seed=0, **also):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(size, 1, 8, 8, generator=generator)
    return Batch((images,), torch.arange(size) % 3, torch.arange(size), also)


@pytest.fixture
def plain():
    add_plugins([PLUGINS / "toy_plain.py"])
    cls = METHODS["toy_plain"]
    torch.manual_seed(0)
    return cls(
        cls.Config(),
        Task(
            class_names=("a", "b", "c"),
            class_counts=(5, 5, 5),
            validation_counts=None,
            input_shape=(1, 8, 8),
            epochs=3,
            batch_size=8,
            steps_per_epoch=5,
            make_backbone=nn.Identity,
        ),
    )


def engine_for(method, *, precision="32-true", accumulate=1, lr=0.1, **settings):
    fabric = Fabric(accelerator="cpu", devices=1, precision=precision)
    module = fabric.setup_module(method)
    module.mark_forward_method("training_step")
    config = OptimizerConfig(lr=lr, momentum=0.0, weight_decay=0.0)
    optimizers = make_optimizers(method, Stage("train", 3), config, ScheduleConfig())
    return StepEngine(fabric, module, optimizers, clip_norm=None, accumulate=accumulate, **settings)


class TestParts:
    @pytest.mark.parametrize(("size", "parts"), [(8, 2), (8, 4), (7, 3), (5, 2), (5, 4), (3, 4)])
    def test_gradient_of_the_whole_batch(self, plain, size, parts):
        """Also where the batch does not divide evenly."""
        batch = batch_of(size)
        plain.training_step(batch, PROGRESS).backward()
        whole = [p.grad.clone() for p in plain.parameters()]
        start = [p.detach().clone() for p in plain.parameters()]
        outputs = engine_for(plain, accumulate=parts).run(plain, batch, PROGRESS)
        for parameter, gradient, before in zip(plain.parameters(), whole, start, strict=True):
            torch.testing.assert_close(parameter.grad, gradient, rtol=1e-6, atol=1e-6)
            torch.testing.assert_close(before - 0.1 * gradient, parameter.data)
        logits = batch.images.flatten(1) @ start[0].T + start[1]
        torch.testing.assert_close(outputs["loss"], F.cross_entropy(logits, batch.targets))

    def test_steps_once_a_batch(self, plain, monkeypatch):
        steps = []
        monkeypatch.setattr(torch.optim.SGD, "step", lambda self, *_: steps.append(self))
        engine_for(plain, accumulate=4).run(plain, batch_of(8), PROGRESS)
        assert len(steps) == 1

    def test_split_is_contiguous_and_takes_all(self):
        parts = split_batch(batch_of(7, also=batch_of(9, seed=1)), 3)
        assert [len(p.targets) for p in parts] == [3, 2, 2]
        assert [len(p.also["also"].targets) for p in parts] == [3, 3, 3]
        assert torch.cat([p.indices for p in parts]).tolist() == list(range(7))
        assert torch.equal(torch.cat([p.images for p in parts]), batch_of(7).images)

    def test_no_part_of_a_single_image(self):
        """BatchNorm cannot train on one, in this batch or in one beside it."""
        assert [len(p.targets) for p in split_batch(batch_of(5), 4)] == [3, 2]
        assert len(split_batch(batch_of(8, also=batch_of(4)), 4)) == 2
        assert len(split_batch(batch_of(1), 4)) == 1


class Proxies(nn.Module):
    """A weight stepped each batch and one stepped each epoch."""

    def __init__(self):
        super().__init__()
        self.fast = nn.Parameter(torch.tensor(1.0))
        self.slow = nn.Parameter(torch.tensor(1.0))

    def optimizers(self, stage):
        return [OptimizerSpec([self.fast]), OptimizerSpec([self.slow], every="epoch")]

    def training_step(self, batch, progress):
        return {"loss": (self.fast + self.slow) * batch.images.mean()}

    def update(self, engine, batch, progress):
        outputs = engine.loss(batch, progress)
        engine.backward(outputs["loss"])
        engine.zero_grad()  # as a second pass would
        engine.backward(engine.loss(batch, progress)["loss"])
        engine.step()
        return outputs

    def after_step(self, outputs, progress):
        assert not torch.is_grad_enabled()


class TestEpochwise:
    def test_gradients_add_up_and_survive_zero_grad(self):
        method = Proxies()
        engine = engine_for(method)
        batches = [batch_of(4, seed) for seed in range(3)]
        for batch in batches:
            engine.run(method, batch, PROGRESS)
        means = [float(batch.images.mean()) for batch in batches]
        # Two passes a step, of which the sum keeps both; the fast one saw the last pass alone.
        assert float(method.slow.grad) == pytest.approx(2 * sum(means), rel=1e-6)
        assert float(method.fast.grad) == pytest.approx(means[-1], rel=1e-6)
        assert float(method.fast.detach()) == pytest.approx(1 - 0.1 * sum(means), rel=1e-6)
        assert float(method.slow.detach()) == 1.0

    def test_sam_adds_nothing_to_them(self, monkeypatch):
        """The first, climbing pass leaves no gradient behind."""
        method = Proxies()
        monkeypatch.setattr(Proxies, "update", METHODS["ce"].update)
        engine = engine_for(method, sam_rho=0.05)
        batches = [batch_of(4, seed) for seed in range(2)]
        for batch in batches:
            engine.run(method, batch, PROGRESS)
        expected = sum(float(batch.images.mean()) for batch in batches)
        assert float(method.slow.grad) == pytest.approx(expected, rel=1e-6)
        assert float(method.fast.detach()) == pytest.approx(1 - 0.1 * expected, rel=1e-6)


class TestPrecision:
    @pytest.mark.parametrize(
        ("precision", "expected"), [("32-true", torch.float32), ("bf16-mixed", torch.bfloat16)]
    )
    def test_matrix_products_run_in_it(self, plain, precision, expected):
        seen = []
        plain.head.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
        engine_for(plain, precision=precision).run(plain, batch_of(4), PROGRESS)
        assert seen == [expected]
        assert {p.dtype for p in plain.parameters()} == {torch.float32}
        assert {p.grad.dtype for p in plain.parameters()} == {torch.float32}


class TestOutputs:
    @pytest.mark.parametrize(
        ("outputs", "message"),
        [
            ({"total": torch.ones(())}, r"'loss' is a scalar; got \['total'\]"),
            ({"loss": torch.ones(4)}, r"a loss of shape \(4,\)"),
            ({"loss": torch.ones(()), "acc": 0.5}, r"no tensor for \['acc'\]"),
        ],
    )
    def test_what_cannot_be_used_is_refused(self, plain, monkeypatch, outputs, message):
        monkeypatch.setattr(type(plain), "training_step", lambda *_: outputs)
        with pytest.raises(UsageError, match=message):
            engine_for(plain).loss(batch_of(4), PROGRESS)


class TestLossWatch:
    def watch(self, *steps):
        watch = LossWatch(CPU)
        for number, terms in enumerate(steps):
            watch.add({k: torch.tensor(v) for k, v in terms.items()}, number)
        return watch

    def test_nothing_bad(self):
        assert self.watch({"loss": 1.0}, {"loss": 2.0}).first_bad() is None

    @pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
    def test_first_step_and_its_component_before_the_sum(self, bad):
        fine, broken = {"loss": 1.0, "part": 1.0, "other": 1.0}, {"loss": bad, "part": bad}
        found = self.watch(fine, broken | {"other": 1.0}, fine, broken | {"other": bad}).first_bad()
        assert (found.step, found.term) == (1, "part")

    def test_the_sum_where_no_component_is_to_blame(self):
        found = self.watch({"loss": math.nan, "zeta": 1.0}).first_bad()
        assert (found.step, found.term) == (0, "loss")

    def test_an_earlier_sum_before_a_later_component(self):
        steps = {"loss": math.nan, "part": 1.0}, {"loss": math.nan, "part": math.nan}
        assert self.watch(*steps).first_bad().term == "loss"

    def test_means_over_the_steps_that_logged_a_term(self):
        watch = self.watch({"loss": 1.0}, {"loss": 3.0, "late": 10.0})
        assert watch.means() == {"loss": 2.0, "late": 10.0}

    def test_tensors_are_not_logged(self):
        watch = LossWatch(CPU)
        watch.add({"loss": torch.tensor(1.0), "keys": torch.full((3,), math.nan)}, 0)
        assert watch.first_bad() is None
        assert list(watch.means()) == ["loss"]

    def test_goes_on_where_its_state_was_taken(self):
        steps = [{"loss": 0.1 * i, "part": 1 / (i + 1)} for i in range(6)]
        whole, half = self.watch(*steps), self.watch(*steps[:3])
        again = LossWatch(CPU)
        again.load(half.state())
        for number in range(3, 6):
            again.add({k: torch.tensor(v) for k, v in steps[number].items()}, number)
        assert again.means() == whole.means()
        assert again.first_bad() is None
