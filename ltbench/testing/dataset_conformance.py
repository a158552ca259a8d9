"""What every data set must do, as a test class that any plugin's tests inherit.

class TestMine(DatasetConformance):
    dataset = "my_set"
    plugins = (Path("my_set.py"),)      # not needed for data sets of this project
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from ltbench.config import recipe_names
from ltbench.data.lists import stored_split
from ltbench.dataset import Dataset, Source
from ltbench.registry import DATASETS, add_plugins


class DatasetConformance:
    """The contract of a data set.

    Attributes:
        settings: of the data set, where the defaults need data that are not here.
        data_root: where its files lie.
        without: protocols that the files at hand lack something for, such as an official test.
    """

    dataset: ClassVar[str]
    plugins: ClassVar[tuple[Path, ...]] = ()
    settings: ClassVar[Mapping[str, Any]] = {}
    data_root: ClassVar[Path | None] = None
    without: ClassVar[frozenset[str]] = frozenset()

    def protocols_of(self, dataset: Dataset) -> set[str]:
        """Those that the data at hand have what they need for."""
        return set(dataset.protocols) - self.without

    @pytest.fixture(scope="class")
    @classmethod
    def plugin(cls) -> type[Dataset]:
        """The plugin's class."""
        add_plugins(cls.plugins)
        found: type[Dataset] = DATASETS[cls.dataset]
        return found

    @pytest.fixture(scope="class")
    @classmethod
    def loaded(cls, plugin: type[Dataset]) -> tuple[Dataset, Source]:
        """The data set and its images."""
        made = plugin(plugin.Config.model_validate(dict(cls.settings)), cls.data_root)
        return made, made.load(made.choose_protocol(made.default_protocol))

    def test_metadata(self, plugin: type[Dataset]) -> None:
        """Name, source, protocols and recipe."""
        assert plugin.info.file is not None, "the class must be defined in a file"
        assert plugin.info.name == plugin.info.file.stem
        assert plugin.info.source, "@DATASETS.register(..., source=...) is missing"
        assert plugin.default_protocol in plugin.protocols
        recipe = plugin.default_recipe
        assert recipe in recipe_names() or Path(recipe).is_file(), f"no recipe '{recipe}'"
        bare = [n for n, field in plugin.Config.model_fields.items() if not field.description]
        assert not bare, f"settings without a description: {bare}"

    def test_source(self, loaded: tuple[Dataset, Source]) -> None:
        """Images, ids, targets and groups belong together."""
        source = loaded[1]
        count = len(source.images)
        assert count == len(source.ids) == len(source.targets) > 0
        assert len(set(source.ids.tolist())) == count, "ids must be unique"
        assert source.ids.dtype.kind == "U"
        assert source.targets.dtype == np.int64
        assert set(source.targets.tolist()) == set(range(len(source.class_names)))
        assert source.groups is None or len(source.groups) == count
        assert all(len(values) == count for values in source.metadata.values())

    def test_class_groups(self, loaded: tuple[Dataset, Source]) -> None:
        """Classes that reports set against the rest are classes, and leave a rest."""
        dataset, source = loaded
        for group, names in dataset.class_groups().items():
            assert set(names) & set(source.class_names), f"{group}: none of {names} is a class"
            assert not set(source.class_names) <= set(names), f"{group} leaves no rest"
            assert len(set(names)) == len(names), f"{group} names a class twice"

    def test_images(self, loaded: tuple[Dataset, Source]) -> None:
        """Pictures, sizes and subsets agree."""
        images = loaded[1].images
        last = len(images) - 1
        assert images.sizes.shape == (len(images), 2)
        assert images.channels in (1, 3)
        picture = images.picture(last)
        assert picture.dtype == np.uint8
        assert picture.shape == (*images.sizes[last], images.channels)
        one = images.subset(np.array([last, 0]))
        assert np.array_equal(one.picture(0), picture)
        taken = images.take(np.array([last]))
        assert taken.dtype == torch.uint8
        assert np.array_equal(taken[0].permute(1, 2, 0).numpy(), picture)
        assert one.digest() != images.digest() or len(images) == 2
        marks = one.fingerprints()
        assert len(marks.pixels) == 2
        assert marks.files is None or len(marks.files) == 2

    def test_images_are_stable(self, loaded: tuple[Dataset, Source]) -> None:
        """Loaded twice, every pixel is the same."""
        dataset, source = loaded
        again = dataset.load(dataset.choose_protocol(dataset.default_protocol))
        assert again.images.digest() == source.images.digest()

    def test_splits(self, loaded: tuple[Dataset, Source], tmp_path: Path) -> None:
        """Disjoint parts, every class in train and test, the same lists for the same seed."""
        dataset = loaded[0]
        for name in dataset.protocols:
            protocol = dataset.choose_protocol(name)
            if protocol not in self.protocols_of(dataset):
                continue
            source = dataset.load(protocol)
            split = dataset.split(source, protocol, 0)
            parts = [p for p in (split.train, split.val, split.test) if p is not None]
            joined = np.concatenate(parts)
            assert len(np.unique(joined)) == len(joined), f"{protocol}: parts share images"
            for part in (split.train, split.test):
                assert len(np.unique(source.targets[part])) == len(source.class_names), protocol
            again = dataset.split(source, protocol, 0)
            assert np.array_equal(again.train, split.train), protocol
            assert np.array_equal(again.test, split.test), protocol
            stored, digest = stored_split(dataset, source, protocol, 0, tmp_path)
            assert np.array_equal(stored.train, split.train), protocol
            assert stored_split(dataset, source, protocol, 0, tmp_path)[1] == digest
