"""Path lists of your own: lines of "path label", as ImageNet-LT and Places-LT are published."""

from __future__ import annotations

from pathlib import Path

from ltbench.dataset import DATASETS, place_field
from ltbench.datasets._own import OwnConfig, OwnPictures
from ltbench.errors import DataMissingError, UsageError
from ltbench.intake.path_lists import table_from_lists
from ltbench.intake.table import ImageTable


@DATASETS.register(
    "lists",
    paper="your own pictures",
    source="--set dataset.train=FILE --set dataset.test=FILE, paths below --data-root DIR",
    licence="your own",
    tags=("own-data", "pictures"),
)
class Lists(OwnPictures):
    """One text file a part; each line holds a path and, after the last space, a class number."""

    class Config(OwnConfig):
        """Settings of lists."""

        train: Path | None = place_field(None, description="the list to train on; needed")
        val: Path | None = place_field(None, description="the list to validate on")
        test: Path | None = place_field(None, description="the list to test on; needed")

    config: Config

    def read(self) -> ImageTable:
        """Every line of the lists."""
        files = {part: getattr(self.config, part) for part in ("train", "val", "test")}
        lists = {part: file for part, file in files.items() if file is not None}
        if self.data_root is None or not {"train", "test"} <= set(lists):
            raise UsageError(
                "Data set 'lists' needs lists and the folder their paths start from: give --set "
                "dataset.train=FILE --set dataset.test=FILE --data-root DIR."
            )
        absent = [str(file) for file in lists.values() if not file.is_file()]
        if absent:
            raise DataMissingError(f"Expected path lists at {', '.join(absent)}, found none.")
        return table_from_lists(lists, image_root=self.data_root)

    def _place(self) -> str:
        # Other lists name other pictures of the folder, and have a store of their own.
        files = (self.config.train, self.config.val, self.config.test)
        return " ".join([super()._place(), *(str(file and file.resolve()) for file in files)])
