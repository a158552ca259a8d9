from pathlib import Path

import numpy as np
import pytest

from ltbench.dataset import DATASETS
from ltbench.datasets.npz import Npz
from ltbench.errors import DataMissingError, UsageError, VerificationError
from ltbench.testing import DatasetConformance

PARTS = {"train": 40, "val": 10, "test": 20}


def arrays(parts=PARTS, colour=True):
    rng, made = np.random.default_rng(0), {}
    for part, count in parts.items():
        shape = (count, 9, 7, 3) if colour else (count, 9, 7)
        prefix = f"{part}_" if part else ""
        made[f"{prefix}images"] = rng.integers(0, 256, shape).astype(np.uint8)
        made[f"{prefix}labels"] = np.arange(count) % 4
    return made


def put(file, made):
    np.savez(file, **made)
    return file


def opened(file=None, **settings):
    return Npz(Npz.Config(npz=file, **settings))


@pytest.mark.parametrize("colour", [True, False])
def test_reads_the_parts_of_a_file(colour, tmp_path):
    made = arrays(colour=colour)
    plugin = opened(put(tmp_path / "mine.npz", made))
    assert plugin.choose_protocol("auto") == "given"
    source = plugin.load("given")
    assert source.images.shape == (3 if colour else 1, 9, 7)
    assert source.ids[[0, 40, 69]].tolist() == [
        *("mine-train-000000", "mine-val-000000", "mine-test-000019")
    ]
    assert source.class_names == ("0", "1", "2", "3")
    picture = made["val_images"][3].reshape(9, 7, -1)
    np.testing.assert_array_equal(source.images.picture(43), picture)
    split = plugin.split(source, "given", 0)
    assert [len(part) for part in (split.train, split.val, split.test)] == [40, 10, 20]
    assert "says nothing of lesions" in source.groups_note


def test_validation_is_carved_where_there_is_none(tmp_path):
    parts = {"train": 40, "test": 20}
    plugin = opened(put(tmp_path / "mine.npz", arrays(parts)))
    split = plugin.split(plugin.load("given"), plugin.choose_protocol("auto"), 0)
    assert [len(part) for part in (split.train, split.val, split.test)] == [32, 8, 20]


def test_a_file_without_parts_is_divided_at_random(tmp_path):
    plugin = opened(put(tmp_path / "mine.npz", arrays({"": 60})))
    assert plugin.choose_protocol("auto") == "random"
    assert plugin.choose_protocol("kfold") == "kfold"
    source = plugin.load("random")
    assert source.partition is None
    assert source.ids[59] == "mine-all-000059"
    split = plugin.split(source, "random", 0)
    assert [len(part) for part in (split.train, split.val, split.test)] == [36, 12, 12]


def test_folds_are_chosen_by_settings(tmp_path):
    file = put(tmp_path / "mine.npz", arrays({"": 60}))
    tests = []
    for fold in range(4):
        plugin = opened(file, num_folds=4, fold=fold)
        tests += plugin.split(plugin.load("kfold"), "kfold", 0).test.tolist()
    assert sorted(tests) == list(range(60))
    assert "group" not in Npz.protocols


def test_where_the_file_lies_decides_nothing(tmp_path):
    assert opened(tmp_path / "a.npz").config.identity() == {"num_folds": 5, "fold": 0}


def test_opens_npz_files_alone(tmp_path):
    file = put(tmp_path / "mine.NPZ.npz", arrays())
    upper = file.rename(tmp_path / "mine.NPZ")
    assert Npz.opens(upper) == {"npz": str(upper)}
    assert Npz.opens(tmp_path) is None
    assert Npz.opens(Path(__file__)) is None
    assert Npz.opens(tmp_path / "none.npz") is None
    assert "own-data" in DATASETS.info("npz").tags


def test_a_file_is_needed(tmp_path):
    with pytest.raises(UsageError, match=r"--set dataset\.npz=FILE"):
        opened().load("given")
    with pytest.raises(DataMissingError, match="found none"):
        opened(tmp_path / "none.npz").load("given")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"train_labels": np.arange(40) % 4 + 1}, "every class from 0 to 4"),
        ({"train_labels": np.arange(39) % 4}, "40 and 39"),
        ({"test_labels": np.full(20, -1)}, "-1 at position 0"),
        ({"train_labels": np.array([{}] * 40)}, "never unpickled"),
        ({"train_images": np.zeros((40, 9, 7, 4), np.uint8)}, "1 or 3"),
    ],
)
def test_damaged_files_are_refused(change, said, tmp_path):
    file = put(tmp_path / "mine.npz", arrays() | change)
    with pytest.raises(VerificationError) as error:
        opened(file).load("given")
    assert str(file) in str(error.value)
    assert said in str(error.value)


def test_a_cut_file_is_refused(tmp_path):
    file = put(tmp_path / "mine.npz", arrays())
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(VerificationError, match="cut short"):
        opened(file).load("given")


def test_commands_take_the_path_of_a_file(bench, tmp_path):
    file = put(tmp_path / "mine.npz", arrays())
    shown = bench("data", "show", file)
    assert shown.code == 0, shown.err
    assert "70, 9x7 pixels" in shown.out
    fetched = bench("data", "fetch", file)
    assert "npz needs no download" in fetched.out + fetched.err


def test_one_epoch(one_epoch, tmp_path):
    file = put(tmp_path / "mine.npz", arrays())
    one_epoch("npz", "--set", f"dataset.npz={file}")


class TestConformance(DatasetConformance):
    dataset = "npz"

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def file(cls, tmp_path_factory):
        cls.settings = {"npz": put(tmp_path_factory.mktemp("npz") / "mine.npz", arrays())}
