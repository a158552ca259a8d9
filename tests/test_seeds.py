"""Seeds of the split, of the initial weights and of the loader move one source of chance each."""

import pytest
import torch

from ltbench.cell import prepare
from ltbench.config import resolve
from ltbench.runner import build_method
from ltbench.testing import tiny_run
from ltbench.testing.tiny import tiny_request
from ltbench.training.devices import make_fabric

TWO = {"epochs": 2}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return tiny_run("ce", tmp_path_factory.mktemp("plain"), TWO).record


def digest(tmp_path, **settings):
    return tiny_run("ce", tmp_path, {**TWO, **settings}).record["digest"]


def test_the_run_seed_stands_for_both(plain, tmp_path):
    assert plain["seeds"] == {"split": 0, "init": 0, "loader": 0}
    assert digest(tmp_path, seed=5, init_seed=0, loader_seed=0) == plain["digest"]


@pytest.mark.parametrize("name", ["init_seed", "loader_seed"])
def test_each_moves_the_result_alone(name, plain, tmp_path):
    assert digest(tmp_path, **{name: 1}) != plain["digest"]


def initial_weights(tmp_path, **settings):
    config = resolve(tiny_request("ce", settings))
    cell = prepare(config, results=tmp_path, data_root=None)
    return build_method(cell, make_fabric(config)).state_dict()


@pytest.mark.parametrize(("settings", "same"), [
    ({"loader_seed": 1}, True), ({"seed": 1, "init_seed": 0}, True), ({"split_seed": 1}, True),
    ({"init_seed": 1}, False), ({"seed": 1}, False),
])  # fmt: skip
def test_initial_weights_follow_their_seed_alone(settings, same, tmp_path):
    before, after = initial_weights(tmp_path), initial_weights(tmp_path, **settings)
    assert all(torch.equal(before[key], after[key]) for key in before) == same


def first_batch(tmp_path, **settings):
    cell = prepare(resolve(tiny_request("ce", settings)), results=tmp_path, data_root=None)
    return cell.task().composition.seed, cell.split_digest


def test_split_and_loader_do_not_follow_the_other_seeds(tmp_path):
    plain = first_batch(tmp_path)
    assert first_batch(tmp_path, init_seed=1) == plain
    assert first_batch(tmp_path, seed=1, loader_seed=0) == plain
    assert first_batch(tmp_path, loader_seed=1)[0] != plain[0]
