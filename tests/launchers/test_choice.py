"""From what a user says to a launcher, and to the places for jobs on this machine."""

import pytest
import torch

from ltbench.errors import UsageError
from ltbench.launchers.choice import LaunchOptions, _local_slots, launcher_of


@pytest.fixture
def devices(monkeypatch):
    """devices(4, "2,3"): so many CUDA devices, and what CUDA_VISIBLE_DEVICES says."""

    def pretend(number, visible=None):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: number > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: number)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if visible is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    return pretend


def slots(**options):
    return [slot.get("CUDA_VISIBLE_DEVICES") for slot in _local_slots(LaunchOptions(**options))]


@pytest.mark.parametrize(
    ("number", "visible", "options", "expected"),
    [
        (2, None, {}, ["0", "1"]),
        (2, None, {"slots_per_device": 2}, ["0", "1", "0", "1"]),
        (2, None, {"slots_per_device": 2, "num_at_once": 3}, ["0", "1", "0"]),
        (4, "4,5,6,7", {"devices": 2}, ["4,5", "6,7"]),
        (3, None, {"devices": 2}, ["0,1"]),
        (2, None, {"on_cuda": False, "num_at_once": 3}, [None] * 3),
        (0, None, {"num_at_once": 2}, [None] * 2),
        (0, None, {"cpus": 10_000}, [None]),
    ],
)
def test_slots(number, visible, options, expected, devices):
    devices(number, visible)
    assert slots(**options) == expected


def test_more_devices_than_there_are(devices):
    devices(1)
    with pytest.raises(UsageError, match="uses 2 CUDA devices, and 1 are visible"):
        slots(devices=2)


def test_an_unknown_launcher(tmp_path):
    with pytest.raises(UsageError, match="Did you mean 'slurm'"):
        launcher_of("slrum", LaunchOptions(), folder=tmp_path)
