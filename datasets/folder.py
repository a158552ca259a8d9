"""A folder of your own: one folder a class, or one a part with one a class in each."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ltbench.dataset import DATASETS
from ltbench.datasets._own import OwnPictures
from ltbench.errors import DataMissingError, UsageError
from ltbench.intake.folders import table_from_folder
from ltbench.intake.table import ImageTable


@DATASETS.register(
    "folder",
    paper="your own pictures",
    source="--data-root DIR, which holds one folder a class, or train, val and test with such",
    licence="your own",
    tags=("own-data", "pictures"),
)
class Folder(OwnPictures):
    """Class folders below `--data-root`; the folder's name is the class."""

    def read(self) -> ImageTable:
        """Every picture below the data root."""
        if self.data_root is None:
            raise UsageError("Data set 'folder' needs to know where it is: give --data-root DIR.")
        if not self.data_root.is_dir():
            raise DataMissingError(
                f"Expected a folder of class folders at {self.data_root}, found none. Give the "
                "folder with --data-root DIR."
            )
        return table_from_folder(self.data_root)

    @classmethod
    def opens(cls, path: Path) -> Mapping[str, Any] | None:
        """Any folder."""
        return {} if path.is_dir() else None
