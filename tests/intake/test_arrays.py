import zipfile

import numpy as np
import pytest

from ltbench.errors import DataMissingError, RunFailedError, UsageError, VerificationError
from ltbench.intake.arrays import arrays_from_npz


def arrays(colour=True, **changes):
    """MedMNIST's keys: 6, 2 and 3 pictures of 4 x 5 pixels, 2 classes."""
    made = {}
    for part, count in (("train", 6), ("val", 2), ("test", 3)):
        shape = (count, 4, 5, 3) if colour else (count, 4, 5)
        made[f"{part}_images"] = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
        made[f"{part}_labels"] = np.arange(count, dtype=np.uint8)[:, None] % 2
    made |= changes
    return {key: array for key, array in made.items() if array is not None}


@pytest.fixture
def saved(tmp_path):
    def make(**changes):
        np.savez_compressed(tmp_path / "a.npz", **arrays(**changes))
        return tmp_path / "a.npz"

    return make


@pytest.fixture
def refusal(saved):
    def make(path=None, **changes):
        path = path or saved(**changes)
        with pytest.raises(VerificationError) as caught:
            arrays_from_npz(path)
        assert str(path) in str(caught.value)
        return str(caught.value)

    return make


@pytest.mark.parametrize("colour", [True, False])
def test_parts(saved, colour):
    table = arrays_from_npz(saved(colour=colour))
    given = arrays(colour=colour)
    assert list(table.pixels) == list(table.labels) == ["train", "val", "test"]
    assert table.num_classes == 2
    for part, pixels in table.pixels.items():
        images = given[f"{part}_images"]
        expected = np.moveaxis(images, 3, 1) if colour else images[:, None]
        np.testing.assert_array_equal(pixels, expected)
        assert pixels.dtype == np.uint8
        np.testing.assert_array_equal(table.labels[part], given[f"{part}_labels"][:, 0])
        assert table.labels[part].dtype == np.int64


def test_no_validation_flat_labels_and_further_keys(saved):
    changes = {"val_images": None, "val_labels": None, "train_labels": np.array([0, 1, 2, 0, 1, 2])}
    table = arrays_from_npz(saved(extra=np.array(["x"]), **changes))
    assert list(table.pixels) == ["train", "test"]
    assert table.num_classes == 3


def test_a_plain_pair(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, images=np.zeros((2, 4, 4, 1), dtype=np.uint8), labels=np.array([1, 0]))
    table = arrays_from_npz(path)
    assert table.pixels["all"].shape == (2, 1, 4, 4)
    assert table.labels["all"].tolist() == [1, 0]


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        (["train_labels"], "no 'train_labels'. "),
        (["test_images", "test_labels"], "no 'test_images', no 'test_labels'. "),
        (["val_images"], "no 'val_images'. "),
    ],
)
def test_missing_keys(refusal, missing, words):
    message = refusal(**dict.fromkeys(missing))
    assert f"found: {words}" in message
    assert "Its keys are" in message


def test_missing_keys_of_a_plain_pair(refusal, tmp_path):
    np.savez(tmp_path / "b.npz", images=np.zeros(3))
    assert "no 'labels'. " in refusal(tmp_path / "b.npz")
    np.savez(tmp_path / "c.npz", arr_0=np.zeros(3))
    assert "Its keys are arr_0" in refusal(tmp_path / "c.npz")


class Trap:
    def __reduce__(self):
        return print, ("unpickled",)


def test_pickles_are_never_opened(refusal, capsys):
    message = refusal(test_labels=np.array([Trap()] * 3, dtype=object))
    assert "'test_labels' as a sound array" in message
    assert "never unpickled" in message
    assert capsys.readouterr().out == ""


IMAGES = np.zeros((6, 4, 5, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"train_images": IMAGES.astype(np.float32)}, "found: float32 (6, 4, 5, 3)"),
        ({"train_images": IMAGES.transpose(0, 3, 1, 2)}, "found: uint8 (6, 3, 4, 5)"),
        ({"train_images": IMAGES[..., :2]}, "found: uint8 (6, 4, 5, 2)"),
        ({"train_images": IMAGES[0, 0]}, "found: uint8 (5, 3)"),
        ({"train_images": IMAGES[:0]}, "found: uint8 (0, 4, 5, 3)"),
        ({"train_images": IMAGES[:5]}, "as many 'train_images' as 'train_labels'; found: 5 and 6"),
        ({"train_images": IMAGES[..., 0]}, "(1, 4, 5) in 'train_images', (3, 4"),
        ({"train_images": IMAGES[:, :3]}, "(3, 3, 5) in 'train_images'"),
        ({"train_labels": np.zeros(6)}, "'train_labels' as integers (N,) or (N, 1)"),
        ({"train_labels": np.zeros((6, 14), dtype=int)}, "found: int64 (6, 14)"),
        ({"train_labels": np.zeros(6, dtype=bool)}, "found: bool (6,)"),
        ({"train_labels": np.array([0, 1, -1, 0, 1, -2])}, "-1 at position 2, -2 at position 5"),
        ({"test_labels": np.array([0, 100_000, 1])}, "'test_labels'; found: 100000 at"),
        ({"test_labels": np.array([0, 3, 3])}, "'2' (no image at all), '3' (2 images in test)"),
        ({"train_labels": np.zeros(6, dtype=int)}, "'1' (1 image in val, 1 image in test)"),
    ],
)  # fmt: skip
def test_bad_arrays(refusal, changes, words):
    assert words in refusal(**changes)


def test_a_single_class(refusal, tmp_path):
    np.savez(tmp_path / "b.npz", images=IMAGES, labels=np.zeros(6, dtype=int))
    assert "only '0'" in refusal(tmp_path / "b.npz")
    np.savez(tmp_path / "b.npz", images=IMAGES, labels=np.array([0, 2, 2, 0, 0, 0]))
    message = refusal(tmp_path / "b.npz")
    assert "from 0 to 2 in 'labels'; found: '1' (no image at all)" in message


def test_every_kind_at_once(refusal):
    message = refusal(train_images=IMAGES.astype(float), test_labels=np.zeros(2, dtype=int))
    assert "'train_images'" in message
    assert "as many 'test_images' as 'test_labels'; found: 3 and 2" in message


def test_other_files(refusal, tmp_path):
    for content in (b"", b"<html>", b"\x93NUMPY"):
        (tmp_path / "a.npz").write_bytes(content)
        assert "a zip archive of arrays" in refusal(tmp_path / "a.npz")
    with pytest.raises(DataMissingError, match=r"gone\.npz, found none"):
        arrays_from_npz(tmp_path / "gone.npz")
    with pytest.raises(UsageError, match="found a folder"):
        arrays_from_npz(tmp_path)


def test_damaged_files(refusal, saved, tmp_path):
    path = tmp_path / "big.npz"
    np.savez(path, images=np.zeros((9, 90, 90), dtype=np.uint8), labels=np.arange(9))
    whole = path.read_bytes()
    path.write_bytes(whole[:2000])
    assert "cut short" in refusal(path)
    path.write_bytes(whole[:30_000] + b"\1" + whole[30_001:])
    assert "'images' as a sound array" in refusal(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images.npy", b"no array")
        archive.writestr("labels.npy", b"")
    message = refusal(path)
    assert "'images'" in message
    assert "'labels'" in message


def test_arrays_that_do_not_fit_into_memory(tmp_path):
    header = {"descr": "|u1", "fortran_order": False, "shape": (10**15, 10, 10)}
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        with archive.open("images.npy", "w") as member:
            np.lib.format.write_array_header_1_0(member, header)
        archive.writestr("labels.npy", b"")
    with pytest.raises(RunFailedError, match="'images' does not fit into memory"):
        arrays_from_npz(tmp_path / "a.npz")
