import json
import os

import pytest

from ltbench.errors import DataMissingError, UsageError, VerificationError
from ltbench.intake.folders import table_from_folder


@pytest.fixture
def refusal(images):
    def make(*files, empty=()):
        root = images(*files)
        for folder in empty:
            (root / folder).mkdir(parents=True)
        with pytest.raises(VerificationError) as caught:
            table_from_folder(root)
        assert str(root) in str(caught.value)
        return str(caught.value)

    return make


def test_class_folders(images):
    root = images("nv/a.JPG", "nv/a.png", "mel/deep/b.tif", ".DS_Store", ".x/c.jpg", "mel/n.txt")
    found = table_from_folder(root)
    assert found.ids.tolist() == ["mel/deep/b.tif", "nv/a.JPG", "nv/a.png"]
    assert found.files == tuple(root / name for name in found.ids.tolist())
    assert found.class_names == ("mel", "nv")
    assert found.targets.tolist() == [0, 1, 1]
    assert found.partition is None
    assert found.groups is None
    assert "lesions or patients" in found.groups_note
    assert json.loads(json.dumps(found.notes)) == {
        "other_files": {"count": 1, "first": ["mel/n.txt"]}
    }


def test_folders_called_by_numbers_are_ordered_as_numbers(images):
    found = table_from_folder(images("10/a.jpg", "9/a.jpg"))
    assert found.class_names == ("9", "10")


@pytest.mark.parametrize("val", ["val", "Valid", "VALIDATION", "dev"])
def test_folders_of_parts(images, val):
    root = images("Train/nv/a.jpg", "Train/mel/b.jpg", f"{val}/nv/a.jpg", "TEST/nv/x/c.jpg")
    found = table_from_folder(root)
    parts = dict(zip(found.ids.tolist(), found.partition.tolist(), strict=True))
    assert parts == {
        "Train/nv/a.jpg": "train",
        "Train/mel/b.jpg": "train",
        f"{val}/nv/a.jpg": "val",
        "TEST/nv/x/c.jpg": "test",
    }
    assert found.class_names == ("mel", "nv")
    assert found.targets.tolist() == [int("nv" in name) for name in found.ids.tolist()]
    assert found.notes["absent_classes"] == {"val": ["mel"], "test": ["mel"]}


def test_a_class_that_training_lacks(refusal):
    message = refusal("train/a/1.jpg", "train/b/1.jpg", "test/c/1.jpg", "test/a/1.jpg")
    assert "a training image of every class; found: 'c' (1 image in test). " in message


def test_folders_beside_those_of_the_parts(refusal):
    message = refusal("train/a/1.jpg", "train/b/1.jpg", "tset/a/1.jpg")
    assert "there is 'train'; found: 'tset'; did you mean 'test'?" in message


def test_two_folders_of_one_part(refusal):
    message = refusal("train/a/1.jpg", "train/b/1.jpg", "val/a/1.jpg", "valid/a/2.jpg")
    assert "one folder for the part val; found: 'val', 'valid'" in message


def test_no_folder_to_train_on(refusal):
    message = refusal("test/a/1.jpg", "test/b/1.jpg")
    assert "Expected a folder 'train' beside the other parts; found: 'test'" in message


def test_everything_else_at_once(refusal):
    message = refusal("stray.jpg", "a/1.jpg", "A/1.jpg", "b/notes.txt", empty=("c/deep",))
    for words in (
        "image without label; found: stray.jpg. ",
        "empty; found: 'b', 'c'. ",
        "found: 'A' and 'a'. ",
    ):
        assert words in message


def test_images_beside_class_folders_of_a_part(refusal):
    message = refusal("train/a/1.jpg", "train/b/1.jpg", "test/2.jpg", "3.jpg")
    assert "image without label; found: 3.jpg, test/2.jpg" in message


def test_an_empty_class_folder_of_a_part(refusal):
    message = refusal("train/a/1.jpg", "train/b/1.jpg", "test/a/1.jpg", empty=["test/b"])
    assert "empty; found: 'test/b'. " in message


@pytest.mark.parametrize(
    ("files", "words"), [((), "none"), (("a.jpg",), "none"), (("a/b.jpg",), "only 'a'")]
)
def test_fewer_than_two_class_folders(refusal, files, words):
    assert f"at least two classes; found: {words}" in refusal(*files)


def test_file_names_that_are_no_text(images):
    root = images("a/1.jpg", "b/2.jpg")
    (root / "a" / os.fsdecode(b"\xff.jpg")).touch()
    with pytest.raises(VerificationError, match=r"UTF-8; found: 'a/\\udcff\.jpg'"):
        table_from_folder(root)


def test_no_folder(write, tmp_path):
    with pytest.raises(DataMissingError, match="nowhere"):
        table_from_folder(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="found a file"):
        table_from_folder(write("a.zip", "x"))
