"""A table of your own: image, label and, where known, group, part and further facts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ltbench.dataset import DATASETS, place_field
from ltbench.datasets._own import OwnConfig, OwnPictures
from ltbench.errors import DataMissingError, UsageError
from ltbench.intake.csv_table import ColumnChoice, table_from_csv
from ltbench.intake.table import ImageTable


def _column(what: str) -> Any:
    return place_field(None, description=f"the column that holds {what}; found by its name if not")


@DATASETS.register(
    "csv",
    paper="your own pictures",
    source="--set dataset.csv=FILE; pictures beside the file, or below --data-root DIR",
    licence="your own",
    tags=("own-data", "pictures"),
)
class Csv(OwnPictures):
    """A CSV file of images and labels, its columns found by name or named."""

    class Config(OwnConfig):
        """Settings of csv. What the columns are called decides nothing; what they hold does."""

        csv: Path | None = place_field(None, description="the file; needed")
        image_column: str | None = _column("the names or paths of the images")
        label_column: str | None = _column("the class of each image")
        group_column: str | None = _column("what must not be divided: patient, lesion")
        split_column: str | None = _column("the part of each image: train, val or test")
        delimiter: str | None = place_field(
            None, description="comma, semicolon, tab or the character; found if not given"
        )
        metadata: tuple[str, ...] = place_field(
            (), description="further columns to carry along with predictions"
        )

    config: Config

    def read(self) -> ImageTable:
        """Every row of the table."""
        file = self.config.csv
        if file is None:
            raise UsageError("Data set 'csv' needs a table: give --set dataset.csv=FILE.")
        if not file.is_file():
            raise DataMissingError(
                f"Expected a table at {file}, found none. Give it with --set dataset.csv=FILE."
            )
        columns = ColumnChoice(
            image=self.config.image_column,
            label=self.config.label_column,
            group=self.config.group_column,
            split=self.config.split_column,
            metadata=self.config.metadata,
        )
        table = table_from_csv(
            file,
            image_root=self.root,
            columns=columns,
            delimiter=self.config.delimiter,
            for_training=self.for_training,
        )
        column = str(table.notes["columns"]["group"] or "").lower()
        nouns = [noun for noun in ("patient", "lesion") if noun in column]
        return replace(table, group_noun=nouns[0]) if nouns else table

    @property
    def root(self) -> Path:
        """Where the pictures lie: the data root, else beside the table."""
        if self.data_root is not None:
            return self.data_root
        return self.config.csv.parent if self.config.csv else Path()

    def _place(self) -> str:
        # Two tables may name pictures of one folder, and each has a store of its own.
        return f"{super()._place()} {(self.config.csv or self.root).resolve()}"

    @classmethod
    def opens(cls, path: Path) -> Mapping[str, Any] | None:
        """Files with a table's suffix."""
        if not path.is_file() or path.suffix.lower() not in (".csv", ".tsv", ".txt"):
            return None
        return {"csv": str(path)}
