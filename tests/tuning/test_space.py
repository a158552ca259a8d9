"""What is searched, and what is refused before anything trains."""

from __future__ import annotations

from dataclasses import replace

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from ltbench.errors import UsageError
from ltbench.registry import METHODS
from ltbench.testing.tiny import tiny_request
from ltbench.tuning.space import parse_ranges, space_of


def request(method="ecl", **settings):
    """Without the learning rate that `tiny_request` fixes as a user would."""
    found = tiny_request(method, settings)
    kept = {k: v for k, v in found.settings.items() if k != "optimizer.lr" or k in settings}
    return replace(found, settings=kept)


def test_both_parts_of_the_space():
    own = {f"method.{key}" for key in METHODS["ecl"].search_space}
    recipe = {"optimizer.lr", "optimizer.weight_decay"}
    assert own
    assert set(space_of(request()).ranges) == own | recipe
    assert set(space_of(request(), "method").ranges) == own
    assert set(space_of(request(), "recipe").ranges) == recipe


def test_the_recipe_is_searched_a_decade_either_side():
    space = space_of(request("ce"))
    assert space.ranges["optimizer.lr"] == FloatDistribution(0.01, 1.0, log=True)
    assert space.defaults == {"optimizer.lr": 0.1, "optimizer.weight_decay": 5e-4}
    none = space_of(request("ce", **{"optimizer.weight_decay": 0.0}), own=None)
    assert set(none.ranges) == {"optimizer.lr"}


def test_a_weight_decay_of_nought_is_searched_where_it_begins_to_act(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "epochs: 1\nbatch_size: 8\nbackbone: resnet8_cifar\noptimizer: {lr: 0.1, weight_decay: 0}\n"
        "views: {classify: [], eval: []}\n"
    )
    found = tiny_request("ce", {"recipe": str(recipe)})
    space = space_of(found, "recipe")
    assert space.ranges["optimizer.weight_decay"] == FloatDistribution(1e-6, 1e-3, log=True)
    assert not space.holds_defaults


def test_what_the_user_fixed_leaves_the_space():
    space = space_of(request("ecl", **{"method.temperature": 0.2, "optimizer.lr": 0.3}))
    assert space.fixed == ("method.temperature", "optimizer.lr")
    assert not {*space.fixed} & {*space.ranges}


def test_ranges_of_the_user_join_or_replace():
    own = {
        **{"optimizer.lr": "0.01:0.5:log", "optimizer.momentum": "0.5:0.99"},
        **{"batch_size": "8:64:log", "optimizer.nesterov": "true,false"},
        "optimizer.clip_norm": "null,1.0,5",
    }
    space = space_of(request("ce", **{"optimizer.lr": 0.2}), own=own)
    assert space.ranges["optimizer.lr"] == FloatDistribution(0.01, 0.5, log=True)
    assert space.defaults["optimizer.lr"] == 0.2, "a value beside a range is where it begins"
    assert space.ranges["optimizer.momentum"] == FloatDistribution(0.5, 0.99)
    assert space.ranges["batch_size"] == IntDistribution(8, 64, log=True)
    assert space.ranges["optimizer.nesterov"] == CategoricalDistribution([True, False])
    assert space.ranges["optimizer.clip_norm"] == CategoricalDistribution([None, 1.0, 5])
    assert space.holds_defaults
    assert not space_of(request("ce"), own={"optimizer.lr": "0.5:0.9"}).holds_defaults


@pytest.mark.parametrize(("own", "words"), [
    ({"optimizer.lrs": "1:2"}, "Unknown setting 'optimizer.lrs'. Did you mean 'optimizer.lr'"),
    ({"method.temperature": "1:2"}, "Unknown setting 'method.temperature'"),
    ({"epochs": "5:20"}, "trials must share it"),
    ({"dataset.noise": "0:1"}, "trials must share it"),
    ({"optimizer.lr": "2:1"}, "with LOW below HIGH"),
    ({"optimizer.lr": "0:1:log"}, "above 0 for log"),
    ({"optimizer.lr": "0.1"}, "a range has two ends"),
    ({"optimizer.lr": "a:b"}, "could not convert"),
    ({"optimizer.lr": "1:2:3"}, "not known: 3"),
    ({"optimizer.momentum": "0.5:1"}, "expected number >= 0, < 1; got 1"),
    ({"optimizer.name": "sgd,adam"}, "expected sgd | adamw"),
])  # fmt: skip
def test_ranges_that_cannot_be_searched_are_refused(own, words):
    with pytest.raises(UsageError) as error:
        space_of(request("ce"), own=own)
    assert words in str(error.value)


def test_an_empty_space_is_refused():
    with pytest.raises(UsageError, match="offers nothing for this method"):
        space_of(request("ce"), "method")
    with pytest.raises(UsageError, match="which the command fixes"):
        space_of(request("ce", **{"optimizer.lr": 1, "optimizer.weight_decay": 0}))
    with pytest.raises(UsageError, match="Unknown search space 'methods'"):
        space_of(request("ce"), "methods")


def test_texts_of_ranges():
    assert parse_ranges(["optimizer.lr=0.1:1:log", "a-b=x,y"]) == {
        "optimizer.lr": "0.1:1:log",
        "a_b": "x,y",
    }
    for text in ("optimizer.lr", "=1:2", "optimizer.lr="):
        with pytest.raises(UsageError, match="--search takes KEY=LOW:HIGH"):
            parse_ranges([text])
