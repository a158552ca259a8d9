"""Which parameters each optimizer steps, when, and by how much."""

import pytest
import torch
from torch import nn

from ltbench.errors import UsageError
from ltbench.method import OptimizerSpec, Stage
from ltbench.run_config import OptimizerConfig, ScheduleConfig
from ltbench.training.optimizers import gathered_gradients, make_optimizers

STAGE = Stage("train", 10)
CONSTANT = ScheduleConfig(name="constant")


class Pair(nn.Module):
    """Two parameters, and optimizers as the test says."""

    def __init__(self, specs=lambda pair: None):
        super().__init__()
        self.first = nn.Parameter(torch.tensor([3.0, 4.0]))
        self.second = nn.Parameter(torch.tensor([6.0, 8.0]))
        self.specs = specs

    def optimizers(self, stage):
        return self.specs(self)


def made(pair, schedule=CONSTANT, **settings):
    config = OptimizerConfig(**({"lr": 0.1, "momentum": 0.0, "weight_decay": 0.0} | settings))
    return make_optimizers(pair, STAGE, config, schedule)


def set_gradients(pair):
    """The gradient of half the squared length, norms 5 and 10."""
    for parameter in (pair.first, pair.second):
        parameter.grad = parameter.detach().clone()


def test_none_is_the_recipes_over_all_that_is_trainable():
    pair = Pair()
    pair.second.requires_grad_(False)
    (one,) = made(pair, momentum=0.9, weight_decay=0.01)
    assert [id(p) for p in one.params] == [id(pair.first)]
    group = one.optimizer.param_groups[0]
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.1, 0.9, 0.01)


def test_spec_overrides_the_recipe_value_by_value():
    specs = [
        OptimizerSpec(p, every=every, lr=lr, weight_decay=0.5, momentum=0.3, schedule=schedule)
        for p, every, lr, schedule in [
            ([Pair().first], "batch", 0.0, None),
            ([Pair().second], "epoch", 2.0, lambda epoch, epochs: (epoch + 1) / epochs),
        ]
    ]
    pair = Pair(lambda _: specs)
    pair.first, pair.second = (spec.params_list[0] for spec in specs)
    frozen, epochwise = made(pair, ScheduleConfig(name="step", milestones=(0.5,)))
    assert (frozen.every, epochwise.every) == ("batch", "epoch")
    assert frozen.set_epoch(0, 10) == 0.0
    assert [epochwise.set_epoch(e, 10) for e in (0, 9)] == pytest.approx([0.2, 2.0])
    assert epochwise.optimizer.param_groups[0]["weight_decay"] == 0.5
    assert epochwise.optimizer.param_groups[0]["momentum"] == 0.3


@pytest.mark.parametrize(
    "specs",
    [
        lambda pair: [OptimizerSpec([pair.first])],
        lambda pair: [OptimizerSpec([pair.first, pair.second]), OptimizerSpec([pair.second])],
        lambda pair: [OptimizerSpec([pair.first, pair.second, pair.second])],
        lambda pair: [],
    ],
    ids=["in none", "in two", "twice in one", "no optimizer at all"],
)
def test_every_trainable_parameter_in_exactly_one(specs):
    with pytest.raises(UsageError, match=r"Pair\.optimizers\('train'\).*exactly one.*second"):
        made(Pair(specs))


def test_a_parameter_of_nobody_is_refused():
    """It would be trained, but neither saved nor resumed."""
    stray = nn.Parameter(torch.zeros(7))
    pair = Pair(lambda pair: [OptimizerSpec(pair.parameters()), OptimizerSpec([stray])])
    with pytest.raises(UsageError, match=r"not the method's own.*\(7,\)"):
        made(pair)


def test_frozen_parameters_may_be_left_out():
    pair = Pair(lambda pair: [OptimizerSpec([pair.first])])
    pair.second.requires_grad_(False)
    assert len(made(pair)) == 1


def test_a_stage_that_trains_nothing_has_no_optimizer():
    assert made(Pair().requires_grad_(False)) == []


def test_clipping_touches_only_those_that_step():
    pair = Pair(
        lambda pair: [OptimizerSpec([pair.first]), OptimizerSpec([pair.second], every="epoch")]
    )
    set_gradients(pair)
    made(pair)[0].step(clip_norm=1.0)
    torch.testing.assert_close(pair.first.grad, torch.tensor([0.6, 0.8]))
    torch.testing.assert_close(pair.first.data, torch.tensor([2.94, 3.92]))
    assert pair.second.grad.tolist() == [6.0, 8.0]
    assert pair.second.tolist() == [6.0, 8.0]


def test_clipping_leaves_short_gradients_alone():
    pair = Pair()
    set_gradients(pair)
    made(pair)[0].step(clip_norm=100.0)
    assert pair.first.grad.tolist() == [3.0, 4.0]


def sgd_by_hand(start, steps, lr, momentum, weight_decay, nesterov):
    """x of f(x) = x^2 / 2, by the update rule of torch's documentation."""
    x, velocity = start, None
    for _ in range(steps):
        g = x + weight_decay * x
        velocity = g if velocity is None else momentum * velocity + g
        x -= lr * (g + momentum * velocity if nesterov else velocity)
    return x


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_with_momentum(nesterov):
    pair = Pair()
    (one,) = made(pair, momentum=0.9, weight_decay=0.05, nesterov=nesterov)
    for _ in range(4):
        set_gradients(pair)
        one.step(None)
    expected = sgd_by_hand(3.0, 4, 0.1, 0.9, 0.05, nesterov)
    assert float(pair.first[0].detach()) == pytest.approx(expected, rel=1e-6)


def test_nesterov_goes_without_momentum_where_a_spec_has_none():
    """The recipe's nesterov meets a spec with momentum 0, which torch would refuse."""
    pair = Pair(lambda pair: [OptimizerSpec(pair.parameters(), momentum=0.0)])
    (one,) = made(pair, momentum=0.9, nesterov=True)
    assert one.optimizer.param_groups[0]["nesterov"] is False


def test_adamw_decays_apart_from_the_gradient():
    """First step: x (1 - lr wd) - lr sign(g), whatever the size of g."""
    pair = Pair()
    (one,) = made(pair, name="adamw", lr=0.01, weight_decay=0.1, momentum=0.9)
    set_gradients(pair)
    one.step(None)
    assert isinstance(one.optimizer, torch.optim.AdamW)
    torch.testing.assert_close(pair.first.data, torch.tensor([3.0, 4.0]) * 0.999 - 0.01)


def test_gathered_gradients_are_those_of_epochwise_optimizers():
    pair = Pair(
        lambda pair: [OptimizerSpec([pair.first]), OptimizerSpec([pair.second], every="epoch")]
    )
    set_gradients(pair)
    gathered = gathered_gradients(pair, made(pair))
    assert {name: value.tolist() for name, value in gathered.items()} == {"second": [6.0, 8.0]}
    pair.second.grad.zero_()
    assert gathered["second"].tolist() == [6.0, 8.0], "a checkpoint must hold a copy"
