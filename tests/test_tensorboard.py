"""Epoch rows as TensorBoard scalars."""

from __future__ import annotations

import importlib
import sys

import pytest

from ltbench.errors import DataMissingError
from ltbench.tensorboard import TensorBoardLog

ROW = {
    "stage": "train",
    "epoch": 3,
    "learning_rates": [0.1],
    "train": {"loss": 0.5},
    "val": {"accuracy": 0.75, "per_class": {"f1": [1.0]}},
}


class Writer:
    def __init__(self, folder):
        self.folder, self.scalars = folder, {}

    def add_scalar(self, name, value, step):
        self.scalars[name] = (value, step)

    def flush(self):
        self.flushed = True


def test_scalars(tmp_path, monkeypatch):
    module = type(sys)("torch.utils.tensorboard")
    module.SummaryWriter = Writer
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    log = TensorBoardLog(tmp_path)
    log(ROW)
    assert log._writer.folder == str(tmp_path / "tensorboard")
    assert log._writer.scalars == {
        "train/train/loss": (0.5, 3),
        "train/val/accuracy": (0.75, 3),
        "train/learning_rate/0": (0.1, 3),
    }
    assert log._writer.flushed


def test_missing_package(tmp_path, monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(name="tensorboard")

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(DataMissingError, match=r"pip install 'ltbench\[tensorboard\]'"):
        TensorBoardLog(tmp_path)
