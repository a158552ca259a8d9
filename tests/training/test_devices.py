"""The devices of a run: BatchNorm's choice, and workers that leave an outer launcher alone."""

from __future__ import annotations

import pytest
from torch import nn

from ltbench.cell import prepare
from ltbench.config import resolve
from ltbench.errors import UsageError
from ltbench.models import BackboneFactory
from ltbench.runner import build_method
from ltbench.testing.tiny import tiny_request
from ltbench.training.devices import Seat, _Seated, has_batchnorm, make_fabric


def cell_of(folder, device="cuda", **settings):
    """A cell may be planned for devices that are not here."""
    settings["machine__device"] = device
    dotted = {name.replace("__", "."): value for name, value in settings.items()}
    return prepare(resolve(tiny_request("ecl", dotted)), results=folder, data_root=None)


def test_batchnorm_of_one_device_or_two_in_words(tmp_path):
    assert cell_of(tmp_path).batchnorm == "one device"
    assert cell_of(tmp_path, sync_batchnorm=True).batchnorm == "one device"
    assert cell_of(tmp_path, machine__devices=2).batchnorm == "per device"
    assert cell_of(tmp_path, machine__devices=2, sync_batchnorm=True).batchnorm == "synchronised"


def test_batchnorms_choice_is_part_of_the_key(tmp_path):
    per_device, synchronised = (
        cell_of(tmp_path, machine__devices=2, sync_batchnorm=choice) for choice in (False, True)
    )
    assert per_device.key != synchronised.key
    differing = {
        name
        for name, value in per_device.key_parts["config"].items()
        if synchronised.key_parts["config"][name] != value
    }
    assert differing == {"sync_batchnorm"}


def test_synchronised_reaches_every_batchnorm(tmp_path):
    """The backbone's, and those of a method's own layers."""
    cell = cell_of(tmp_path, machine__devices=2, sync_batchnorm=True)
    method = build_method(
        cell, make_fabric(resolve(tiny_request("ecl", {"machine.device": "cpu"})))
    )
    kinds = [type(m) for m in method.modules() if "BatchNorm" in type(m).__name__]
    assert len(kinds) > 2
    assert set(kinds) == {nn.SyncBatchNorm}
    assert isinstance(method.embedding[1], nn.SyncBatchNorm)


def test_synchronised_is_refused_on_cpu(tmp_path):
    with pytest.raises(UsageError, match="sync_batchnorm needs CUDA"):
        cell_of(tmp_path, "cpu", sync_batchnorm=True)


def test_has_batchnorm():
    resnet = BackboneFactory("resnet8_cifar", 1)()
    assert has_batchnorm(resnet)
    assert has_batchnorm(nn.SyncBatchNorm.convert_sync_batchnorm(resnet))
    assert not has_batchnorm(nn.Sequential(nn.Linear(2, 2), nn.GroupNorm(1, 2)))


def test_a_worker_hears_nothing_of_an_outer_launcher(monkeypatch):
    for name in ("LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "RANK", "WORLD_SIZE"):
        monkeypatch.setenv(name, "7")
    seat = _Seated(Seat(1, 2, "cpu", "32"))
    assert (seat.local_rank(), seat.node_rank(), seat.creates_processes_externally) == (1, 0, True)
