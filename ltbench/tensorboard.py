"""Epoch rows as TensorBoard scalars, beside the record; needs the extra `tensorboard`."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ltbench.errors import DataMissingError

_NOT_SCALARS = {"per_class"}


class TensorBoardLog:
    """Writes each epoch's training terms, validation metrics and learning rates.

    Raises:
        DataMissingError: the package is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            tensorboard: Any = importlib.import_module("torch.utils.tensorboard")
        except ModuleNotFoundError as error:
            raise DataMissingError(
                "--log tensorboard needs a package that is not installed: "
                "pip install 'ltbench[tensorboard]'"
            ) from error
        self._writer: Any = tensorboard.SummaryWriter(str(folder / "tensorboard"))

    def __call__(self, row: Mapping[str, Any]) -> None:
        """Take in the row of one epoch."""
        stage, epoch = row["stage"], row["epoch"]
        for group in ("train", "val"):
            for name, value in (row[group] or {}).items():
                if name not in _NOT_SCALARS and value is not None:
                    self._writer.add_scalar(f"{stage}/{group}/{name}", value, epoch)
        for i, rate in enumerate(row["learning_rates"]):
            self._writer.add_scalar(f"{stage}/learning_rate/{i}", rate, epoch)
        self._writer.flush()
