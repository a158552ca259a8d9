import gzip
import hashlib
import struct
from pathlib import Path

import numpy as np
import pytest
import torchvision.datasets
from pydantic import ValidationError

from ltbench.data.places import data_home
from ltbench.dataset import DATASETS, FetchRequest
from ltbench.datasets import fashion_mnist_lt
from ltbench.datasets.fashion_mnist_lt import MD5, FashionMnistLT, parse_idx
from ltbench.errors import DataMissingError, VerificationError

NUM_IMAGES = {"train": 120, "t10k": 30}
DEBIAN_FOLDER = fashion_mnist_lt.DEBIAN_FOLDER
real_files = pytest.mark.skipif(
    not all((DEBIAN_FOLDER / f"{name}.gz").is_file() for name in MD5),
    reason="the real files are not here: apt-get install dataset-fashion-mnist",
)


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def small_files() -> dict[str, bytes]:
    rng = np.random.default_rng(0)
    files = {}
    for prefix, num_images in NUM_IMAGES.items():
        pixels = rng.integers(0, 256, (num_images, 4, 3)).astype(np.uint8)
        labels = np.arange(num_images, dtype=np.uint8) % 10
        files[f"{prefix}-images-idx3-ubyte"] = idx(pixels)
        files[f"{prefix}-labels-idx1-ubyte"] = idx(labels)
    return files


@pytest.fixture(autouse=True)
def default_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("LTBENCH_DATA", str(tmp_path / "default"))


@pytest.fixture
def world(tmp_path, monkeypatch):
    """Small files are the expected ones, and every folder that is searched lies in tmp_path."""
    digests = {name: hashlib.md5(data).hexdigest() for name, data in small_files().items()}
    monkeypatch.setattr(fashion_mnist_lt, "MD5", digests)
    monkeypatch.setattr(fashion_mnist_lt, "DEBIAN_FOLDER", tmp_path / "debian")
    return tmp_path


def put(folder: Path, *, packed: bool = False) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in small_files().items():
        if packed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(data))
        else:
            (folder / name).write_bytes(data)


def dataset(data_root: Path | None = None, **settings) -> FashionMnistLT:
    return FashionMnistLT(FashionMnistLT.Config(**settings), data_root)


def test_is_registered_with_all_it_says_of_itself():
    assert DATASETS["fashion_mnist_lt"] is FashionMnistLT
    info = DATASETS.info("fashion_mnist_lt")
    assert info.paper
    assert info.source
    assert (info.year, info.licence) == (2017, "MIT")
    assert set(FashionMnistLT.protocols) == {"held_out", "published"}
    assert FashionMnistLT.default_protocol == "held_out"
    assert FashionMnistLT.default_recipe == "fashion"


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    "place",
    [
        *("root", "root/FashionMNIST/raw", "root/fashion-mnist"),
        *("default", "default/FashionMNIST/raw", "default/fashion-mnist", "debian"),
    ],
)
def test_finds_the_files(world, place, packed):
    put(world / place, packed=packed)
    source = dataset(world / "root" if place.startswith("root") else None).load("held_out")
    assert len(source.images) == 150
    assert source.images.shape == (1, 4, 3)
    assert source.ids[[0, 119, 120, 149]].tolist() == [
        *("fashion-train-00000", "fashion-train-00119", "fashion-test-00000", "fashion-test-00029")
    ]
    assert source.partition.tolist() == ["train"] * 120 + ["test"] * 30
    assert source.targets.dtype == np.int64
    assert source.targets.tolist() == [i % 10 for i in (*range(120), *range(30))]
    first = np.frombuffer(small_files()["t10k-images-idx3-ubyte"], np.uint8, offset=16)[:12]
    assert source.images.take(np.array([120])).flatten().tolist() == first.tolist()


def test_a_named_data_root_is_the_only_place(world):
    put(world / "root")
    put(world / "debian")
    for file in (world / "debian").iterdir():
        file.write_bytes(b"damaged")
    dataset(world / "root").load("held_out")
    with pytest.raises(VerificationError, match="debian"):
        dataset().load("held_out")
    with pytest.raises(DataMissingError, match="elsewhere"):
        dataset(world / "elsewhere").load("held_out")


def test_default_folder_without_the_variable(monkeypatch):
    monkeypatch.delenv("LTBENCH_DATA")
    assert data_home() == Path.home() / ".cache" / "ltbench"


def test_missing_files_name_the_folder_and_the_ways(world):
    with pytest.raises(DataMissingError) as error:
        dataset(world / "root").load("held_out")
    message = str(error.value)
    for name in MD5:
        assert name in message
    assert f"into {world / 'root'}" in message
    assert str(world / "default") not in message  # a folder that was named is the only one
    assert "python bench.py data fetch fashion_mnist_lt" in message
    assert "apt-get install dataset-fashion-mnist" in message


def test_one_missing_file_is_named(world):
    put(world / "root")
    (world / "root" / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DataMissingError, match="no t10k-labels-idx1-ubyte in"):
        dataset(world / "root").load("held_out")


@pytest.mark.parametrize("packed", [False, True])
def test_a_damaged_file_is_named_with_both_digests(world, packed):
    put(world / "root", packed=packed)
    name = "train-labels-idx1-ubyte"
    data = small_files()[name][:-1] + b"\x01"
    file = world / "root" / (f"{name}.gz" if packed else name)
    file.write_bytes(gzip.compress(data) if packed else data)
    with pytest.raises(VerificationError) as error:
        dataset(world / "root").load("held_out")
    message = str(error.value)
    assert str(file) in message
    assert fashion_mnist_lt.MD5[name] in message
    assert hashlib.md5(data).hexdigest() in message
    assert "data fetch fashion_mnist_lt" in message


@pytest.mark.parametrize("keep", [0, 5, 40])
def test_a_cut_gz_file_is_damaged(world, keep):
    put(world / "root", packed=True)
    file = world / "root" / "train-images-idx3-ubyte.gz"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(VerificationError, match=r"train-images-idx3-ubyte\.gz is damaged"):
        dataset(world / "root").load("held_out")


def test_images_without_labels_are_refused(world, monkeypatch):
    files = small_files() | {"t10k-labels-idx1-ubyte": idx(np.zeros(29, dtype=np.uint8))}
    (world / "root").mkdir()
    for name, data in files.items():
        (world / "root" / name).write_bytes(data)
        monkeypatch.setitem(fashion_mnist_lt.MD5, name, hashlib.md5(data).hexdigest())
    with pytest.raises(VerificationError, match="test part has 30 images and 29 labels"):
        dataset(world / "root").load("held_out")


def test_parse_idx():
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    np.testing.assert_array_equal(parse_idx(idx(array), Path("x")), array)
    np.testing.assert_array_equal(parse_idx(idx(array[0, 0]), Path("x")), array[0, 0])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not an idx file"),
        (b"\x00\x00\x08", "not an idx file"),
        (b"\x00\x00\x08\x03\x00\x00", "not an idx file"),
        (b"<html>" * 9, "found 3c 68 74 6d"),
        (b"\x00\x00\x0d" + idx(np.zeros(3, np.uint8))[3:], "not an idx file"),
        (idx(np.zeros((2, 2), np.uint8)), "not an idx file"),
        (idx(np.zeros(3, np.uint8))[:-1], "expected 3 values after the header, found 2"),
        (idx(np.zeros(3, np.uint8)) + b"\x00", "expected 3 values after the header, found 4"),
    ],
)
def test_parse_idx_refuses(data, message):
    with pytest.raises(VerificationError, match=message):
        parse_idx(data, Path("x"))


def test_fetch_downloads_into_the_data_root_or_the_default_folder(world, monkeypatch):
    def download(root, download):
        assert download
        put(Path(root) / "FashionMNIST" / "raw")

    monkeypatch.setattr(torchvision.datasets, "FashionMNIST", download)
    for data_root, folder in ((None, "default"), (world / "mine", "mine")):
        dataset(data_root).fetch(FetchRequest())
        assert (world / folder / "FashionMNIST" / "raw").is_dir()
        dataset(data_root).load("held_out")


@pytest.mark.parametrize("error", [OSError("no network"), RuntimeError("Error downloading")])
def test_a_failed_fetch_names_the_other_ways(world, monkeypatch, error):
    def download(root, download):
        raise error

    monkeypatch.setattr(torchvision.datasets, "FashionMNIST", download)
    with pytest.raises(DataMissingError, match="apt-get install dataset-fashion-mnist"):
        dataset().fetch(FetchRequest())


def test_fetch_checks_what_came(world, monkeypatch):
    def download(root, download):
        put(Path(root))
        (Path(root) / "train-labels-idx1-ubyte").write_bytes(b"not it")

    monkeypatch.setattr(torchvision.datasets, "FashionMNIST", download)
    with pytest.raises(VerificationError, match="train-labels-idx1-ubyte is damaged"):
        dataset(world / "mine").fetch(FetchRequest())


def test_protocols_on_small_files(world):
    put(world / "root")
    plugin = dataset(world / "root", imbalance=4, balanced_validation=True)
    source = plugin.load("held_out")
    held = plugin.split(source, "held_out", 0)
    assert held.notes["counts"]["train"][0] == 10
    assert held.notes["counts"]["val"] == [2] * 10
    assert held.notes["counts"]["test"] == [3] * 10
    whole = plugin.split(source, "published", 0)
    assert whole.val is None
    assert whole.notes["counts"]["train"][0] == 12
    assert len(whole.test) == 30


def test_a_factor_is_refused():
    with pytest.raises(ValidationError, match="write 100"):
        FashionMnistLT.Config(imbalance=0.01)


@real_files
def test_real_files():
    plugin = dataset(DEBIAN_FOLDER)
    source = plugin.load("held_out")
    assert len(source.images) == 70_000
    assert source.images.shape == (1, 28, 28)
    assert np.bincount(source.targets[:60_000]).tolist() == [6000] * 10
    assert np.bincount(source.targets[60_000:]).tolist() == [1000] * 10
    assert source.images.digest() == (
        "3370c0589c9b2324c78c5b035cc00028e469ced0c94966da0323d71d82a0077b"
    )
    held = plugin.split(source, "held_out", 0)
    assert held.notes["counts"] == {
        "train": [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50],
        "val": [1000, 599, 359, 215, 129, 77, 46, 27, 16, 10],
        "test": [1000] * 10,
    }
    assert not np.isin(held.val, held.train).any()
    whole = plugin.split(source, "published", 0)
    assert whole.val is None
    assert whole.notes["counts"]["train"] == [
        *(6000, 3596, 2156, 1292, 774, 464, 278, 166, 100, 60)
    ]
    np.testing.assert_array_equal(whole.test, np.arange(60_000, 70_000))
