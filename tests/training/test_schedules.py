"""Learning rates against their closed forms."""

import math

import pytest

from ltbench.run_config import ScheduleConfig
from ltbench.training.schedules import lr_factor


def factors(epochs, **settings):
    schedule = ScheduleConfig(**settings)
    return [lr_factor(schedule, epoch, epochs) for epoch in range(epochs)]


@pytest.mark.parametrize("epochs", [1, 2, 7, 100])
def test_cosine(epochs):
    expected = [(1 + math.cos(math.pi * e / epochs)) / 2 for e in range(epochs)]
    assert factors(epochs) == pytest.approx(expected, abs=1e-15)
    assert factors(epochs)[0] == 1.0
    assert factors(epochs)[-1] > 0


def test_constant():
    assert factors(5, name="constant") == [1.0] * 5


def test_early_step_is_the_authors_formula():
    """lr(e) = lr0 / 2 (1 + cos(pi e / T)) in the 1-based epoch e; the last one moves nothing."""
    expected = [(1 + math.cos(math.pi * e / 100)) / 2 for e in range(1, 101)]
    assert factors(100, early_step=True) == pytest.approx(expected, abs=1e-15)
    assert factors(100, early_step=True)[-1] == pytest.approx(0, abs=1e-15)


def test_warmup_rises_to_the_base_rate_then_the_cosine_begins():
    rates = factors(20, warmup=0.25)
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[5:] == pytest.approx(factors(15))


def test_warmup_of_cifar_lt():
    """5 epochs of 200 at (e + 1) / 5; x 0.01 from 160 on, x 0.0001 from 180 on."""
    rates = factors(200, name="step", warmup=0.025, milestones=(0.8, 0.9), gamma=0.01)
    assert rates[:6] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])
    assert (rates[159], rates[160], rates[179], rates[180], rates[199]) == pytest.approx(
        (1.0, 0.01, 0.01, 0.0001, 0.0001)
    )


@pytest.mark.parametrize("epochs", [10, 60, 200])
def test_milestones_scale_with_the_run(epochs):
    rates = factors(epochs, name="step", milestones=(0.6, 0.8), gamma=0.1)
    drops = [e for e in range(1, epochs) if rates[e] != rates[e - 1]]
    assert drops == [round(0.6 * epochs), round(0.8 * epochs)]


def test_early_step_moves_milestones_and_warmup_one_epoch_forward():
    settings = {"name": "step", "warmup": 0.2, "milestones": (0.5,)}
    late, early = factors(10, **settings), factors(10, early_step=True, **settings)
    assert early[:-1] == late[1:]


def test_warmup_shorter_than_half_an_epoch_is_none():
    assert factors(5, warmup=0.05) == factors(5)


@pytest.mark.parametrize("early_step", [False, True])
@pytest.mark.parametrize("epochs", [1, 2, 3, 5])
def test_the_first_epoch_of_a_short_run_is_before_every_milestone(epochs, early_step):
    settings = {"name": "step", "milestones": (0.3, 0.5, 0.7), "gamma": 0.1}
    assert factors(epochs, early_step=early_step, **settings)[0] == 1.0
