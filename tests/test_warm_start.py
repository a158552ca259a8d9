"""`init_from`: a run that starts from the weights of a finished one."""

import shutil

import pytest
import torch

from ltbench import runner
from ltbench.cell import prepare
from ltbench.config import resolve
from ltbench.errors import DataMissingError, LtbenchError, UsageError, VerificationError
from ltbench.runner import Place, build_method
from ltbench.testing.tiny import TOY_BLOBS, tiny_request, tiny_run, weights
from ltbench.training.devices import make_fabric


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return tiny_run("ce", tmp_path_factory.mktemp("source"), {"epochs": 2})


@pytest.fixture
def results(source, tmp_path):
    shutil.copytree(source.folder.path.parents[4], tmp_path, dirs_exist_ok=True)
    return tmp_path


def cell_of(method, results, settings):
    return prepare(resolve(tiny_request(method, settings)), results=results, data_root=None)


def built(method, results, **settings):
    cell = cell_of(method, results, settings)
    return build_method(cell, make_fabric(cell.config))


def test_the_first_weights_are_the_runs_last(source, results):
    method, state = built("ce", results, init_from=source.folder.name), weights(source)
    assert all(torch.equal(value, state[name]) for name, value in method.state_dict().items())


def test_a_method_takes_what_fits(source, results):
    """Backbone and the classifier of the same name; a projection head is its own."""
    method, state = built("scl", results, init_from=source.folder.name), weights(source)
    own = method.state_dict()
    for name in state:
        assert torch.equal(own[name], state[name]), name
    assert any(name.startswith("projection") for name in own)


def test_a_doubled_last_block_starts_from_it_too(source, results):
    method, state = built("bbn", results, init_from=source.folder.name), weights(source)
    block = "backbone.net.layer3.0."
    for name, value in method.rebalancing.state_dict().items():
        assert torch.equal(value, state[block + name]), name


def test_the_record_says_so(source, results):
    outcome = tiny_run("ce", results, {"init_from": source.folder.name, "epochs": 1})
    told = outcome.record["init_from"]
    assert told["run"] == source.folder.name
    assert told["digest"] == source.record["digests"]["weights"]
    assert told["parameters"] == ["head.weight", "head.bias"]
    assert outcome.record["weights"] == source.record["weights"]
    assert source.record["init_from"] is None
    assert "init_from=" in outcome.record["label"]


def test_names_of_one_run_make_one_cell(source, results):
    key = source.folder.path.parent.name
    one = [f"{key}/seed-0", f"{key[:6]}/seed-0", str(source.folder.path)]
    by_seed = [key, key[:6]]
    cells = [
        {cell_of("ce", results, {"init_from": name}).key for name in names}
        for names in (one, by_seed)
    ]
    assert [len(keys) for keys in cells] == [1, 1]
    assert len({cell_of("ce", results, {}).key}.union(*cells)) == 3


def test_a_key_means_the_run_with_the_same_seed(source, results):
    key = source.folder.path.parent.name
    with pytest.raises(UsageError, match="own seed"):
        cell_of("ce", results, {"init_from": key, "seed": 3})
    other = tiny_run("ce", results, {"epochs": 2, "seed": 3})
    cell = cell_of("ce", results, {"init_from": key, "seed": 3})
    assert cell.start.folder.name == other.folder.name
    # So that a table averages them.
    assert cell.key == cell_of("ce", results, {"init_from": key}).key


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"init_from": "nothing"}, "init_from: No run 'nothing"),
        ({"backbone": "resnet14_cifar"}, "does not fit backbone 'resnet14_cifar'"),
        ({"dataset.train_counts": [24, 11, 5, 1]}, "another split"),
    ],
    ids=["unknown", "backbone", "split"],
)
def test_refused_when_the_run_is_configured(source, results, settings, words):
    with pytest.raises(UsageError, match=words):
        cell_of("ce", results, {"init_from": source.folder.name, **settings})


@pytest.mark.parametrize(
    ("file", "error"), [("record.json", DataMissingError), ("best.pt", DataMissingError)]
)
def test_unfinished(source, results, file, error):
    (folder,) = results.rglob(source.folder.path.name)
    (folder / file).unlink()
    with pytest.raises(error, match="init_from"):
        cell_of("ce", results, {"init_from": source.folder.name})


def test_other_weights_than_the_records(source, results):
    (folder,) = results.rglob(source.folder.path.name)
    state = weights(source)
    state["head.bias"] += 1
    torch.save(state, folder / "best.pt")
    with pytest.raises(VerificationError, match="digest"):
        cell_of("ce", results, {"init_from": source.folder.name})


def test_other_classes_leave_the_classifier_alone(source, results):
    cell = cell_of("ce", results, {"init_from": source.folder.name})
    method = build_method(cell, make_fabric(cell.config))
    assert cell.start.shared(method, ["other"] * 4) == []


def test_stop_and_resume(source, results, tmp_path):
    settings = {"init_from": str(source.folder.path), "epochs": 2}
    whole = tiny_run("ce", tmp_path / "whole", settings)
    looks = iter([None] * 3 + [15])
    with pytest.raises(LtbenchError):
        tiny_run("ce", results, settings, stop_signal=lambda: next(looks, None))
    assert tiny_run("ce", results, settings).record["digest"] == whole.record["digest"]


@pytest.mark.slow
def test_runs_on_two_devices(source, results):
    settings = {"init_from": source.folder.name, "epochs": 1, "machine.devices": 2}
    outcome = tiny_run("ce", results, settings)
    assert outcome.record["init_from"]["run"] == source.folder.name
    assert outcome.record["batchnorm"] == "per device"
    assert runner.folder_of(cell_of("ce", results, settings), results).is_done()


def test_every_seed_of_a_grid_is_checked_before_the_first_trains(source, results):
    request = tiny_request("ce", {"init_from": source.folder.path.parent.name})
    place = Place(results, plugins=(TOY_BLOBS,))
    runner.check(request, [0], place)
    with pytest.raises(UsageError, match="own seed"):
        runner.check(request, [0, 9], place)
