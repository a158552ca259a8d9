"""Arrays of your own: pictures and labels in an npz file, as MedMNIST is published."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from ltbench.dataset import DATASETS, Dataset, Source, Split, place_field
from ltbench.datasets._arrays import source_of_arrays
from ltbench.datasets._own import (
    PROTOCOLS,
    FoldSettings,
    PositiveSettings,
    fitting_protocol,
    split_by,
)
from ltbench.errors import UsageError
from ltbench.intake.arrays import arrays_from_npz


@DATASETS.register(
    "npz",
    paper="your own pictures",
    source="--set dataset.npz=FILE, with {train,val,test}_{images,labels}, or images and labels",
    licence="your own",
    tags=("own-data", "pictures", "arrays"),
)
class Npz(Dataset):
    """An npz file of pictures of one size, held in memory; classes are called by their numbers."""

    class Config(FoldSettings, PositiveSettings):
        """Settings of npz."""

        npz: Path | None = place_field(None, description="the file; needed")

    protocols: ClassVar[Mapping[str, str]] = {
        name: text for name, text in PROTOCOLS.items() if name != "group"
    } | {
        "auto": "given where the file has parts, else random",
        "random": "image by image, every class divided 3:1:1",
        "kfold": "dataset.num_folds folds, image by image; dataset.fold is the test part",
    }
    default_protocol = "auto"
    default_recipe = "medmnist"
    config: Config

    def choose_protocol(self, protocol: str) -> str:
        """By whether the file has parts, where "auto" was asked for."""
        if protocol != "auto":
            return protocol
        return fitting_protocol(self._source.partition, None)

    def load(self, protocol: str) -> Source:
        """Every picture of the file.

        Raises: as `ltbench.intake.arrays.arrays_from_npz`.
        """
        return self._source

    @cached_property
    def _source(self) -> Source:
        file = self.config.npz
        if file is None:
            raise UsageError("Data set 'npz' needs a file: give --set dataset.npz=FILE.")
        table = arrays_from_npz(file)
        names = [str(label) for label in range(table.num_classes)]
        self.config.class_groups(names)
        return source_of_arrays(
            table,
            file.stem,
            names,
            groups_note="An npz file says nothing of lesions or patients: images of one may lie in "
            "different parts.",
        )

    def class_groups(self) -> Mapping[str, tuple[str, ...]]:
        """What the user named."""
        return self.config.class_groups()

    def split(self, source: Source, protocol: str, seed: int) -> Split:
        """See `protocols`."""
        return split_by(source, protocol, seed, self.config)

    @classmethod
    def opens(cls, path: Path) -> Mapping[str, Any] | None:
        """Files with the suffix .npz."""
        return {"npz": str(path)} if path.is_file() and path.suffix.lower() == ".npz" else None
