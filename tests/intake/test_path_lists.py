import pytest

from ltbench.errors import DataMissingError, UsageError, VerificationError
from ltbench.intake.path_lists import table_from_lists

TRAIN = "train/n01/a.jpg 0\ntrain/n02/b c.jpg 1\ntrain/n02/d.jpg 1\n"
TEST = "val/n02/x.jpg 1\nval/n01/y.jpg 0\n"
FILES = [line[:-2] for line in (TRAIN + TEST).splitlines()]


@pytest.fixture
def table(write, images):
    def make(train=TRAIN, test=TEST, files=FILES, **settings):
        lists = {"train": write("train.txt", train), "test": write("test.txt", test)}
        return table_from_lists(lists, image_root=images(*files), **settings)

    return make


@pytest.fixture
def refusal(table):
    def make(*texts, error=VerificationError, **settings):
        with pytest.raises(error) as caught:
            table(*texts, **settings)
        return str(caught.value)

    return make


@pytest.mark.parametrize("change", [str, lambda text: "\ufeff" + text.replace("\n", "\r\n") + "\n"])
def test_two_lists(table, images, change):
    found = table(change(TRAIN), change(TEST))
    assert found.ids.tolist() == FILES
    assert found.files == tuple(images() / name for name in FILES)
    assert found.targets.tolist() == [0, 1, 1, 1, 0]
    assert found.partition.tolist() == ["train"] * 3 + ["test"] * 2
    assert found.class_names == ("n01", "n02")
    assert found.groups is None


def test_parts_come_in_their_order_and_lacking_classes_are_noted(write, images):
    lists = {
        "test": write("a", TEST),
        "val": write("b", "./v/z.jpg 1\n"),
        "train": write("c", TRAIN),
    }
    found = table_from_lists(lists, image_root=images(*FILES, "v/z.jpg"))
    assert found.partition.tolist() == ["train"] * 3 + ["val"] + ["test"] * 2
    assert found.ids[3] == "v/z.jpg"
    assert found.notes == {"absent_classes": {"val": ["n01"]}}


@pytest.mark.parametrize(
    "train",
    ["s/1.jpg 0\ns/2.jpg 1\n", "s/1.jpg 0\nt/2.jpg 0\nu/3.jpg 1\n", "1.jpg 0\nt/2.jpg 1\n"],
)
def test_numbers_name_classes_whose_folders_do_not(table, train):
    files = [line[:-2] for line in train.splitlines()]
    found = table(train, "x/y.jpg 0\n", [*files, "x/y.jpg"])
    assert found.class_names == ("0", "1")


def test_given_names(table, refusal):
    assert table(class_names=["ant", "bee"]).class_names == ("ant", "bee")
    message = refusal(TRAIN + "t/c.jpg 2\n", class_names=["ant", "bee"], files=[*FILES, "t/c.jpg"])
    assert "labels from 0 to 1; found: " in message
    assert "train.txt line 4 (2)" in message
    assert "'cat' (no image at all)" in refusal(class_names=["ant", "bee", "cat"])


@pytest.mark.parametrize(
    "line", ["a.jpg", "a.jpg x", "a.jpg -1", "a.jpg 1.0", "a.jpg\t1", "a.jpg  1", "1", "a,1"]
)
def test_bad_lines(refusal, line):
    message = refusal(f"{TRAIN}\n{line}\n", f"{line}\n{TEST}")
    assert "Expected lines 'relative/path label'" in message
    assert f"train.txt line 5 ({line!r})" in message
    assert "test.txt line 1 " in message


def test_absurd_labels(refusal):
    message = refusal(TRAIN + "a.jpg 100000\n")
    assert "labels from 0 to 99999; found: " in message
    assert "train.txt line 4 (100000)" in message


def test_a_path_twice(refusal):
    message = refusal(TRAIN + "./train/n01/a.jpg 0\n", TEST + "train/n02/d.jpg 1\n")
    assert "train.txt line 1 and " in message
    assert "train.txt line 4 ('train/n01/a.jpg')" in message
    assert "test.txt line 3 ('train/n02/d.jpg')" in message


def test_a_class_without_training_images(refusal):
    message = refusal(TRAIN, TEST + "val/n04/z.jpg 3\n")
    assert "'2' (no image at all), '3' (1 image in test). " in message


def test_a_single_class(refusal):
    assert "found: only 'n01'" in refusal("train/n01/a.jpg 0\n", "val/n01/y.jpg 0\n")


def test_some_files_missing(refusal):
    message = refusal(files=[*FILES[:3], "n02/x.jpg", FILES[4]])
    assert "none for " in message
    assert "test.txt line 1 ('val/n02/x.jpg'). " in message
    assert "line 2" not in message


def test_all_files_missing(refusal, images):
    message = refusal(files=["a.jpg", "b c.jpg"], error=DataMissingError)
    assert str(images()) in message
    assert "none of 5 paths" in message
    assert "--data-root" in message


def test_every_kind_at_once(refusal):
    message = refusal(TRAIN + "bad\n" + "train/n01/gone.jpg 0\n", TEST + "val/n02/x.jpg 1\n")
    assert "has 3 kinds of problems" in message
    for words in ("line 4 ('bad')", "('val/n02/x.jpg')", "line 5 ('train/n01/gone.jpg')"):
        assert words in message


def test_which_lists(write, images):
    for lists in ({}, {"test": write("a", TEST)}, {"train": write("a", TRAIN), "holdout": "b"}):
        with pytest.raises(UsageError, match="Expected lists for train"):
            table_from_lists(lists, image_root=images())
    with pytest.raises(DataMissingError, match=r"gone\.txt"):
        table_from_lists({"train": write("a", "").with_name("gone.txt")}, image_root=images())
    with pytest.raises(VerificationError, match=r"a path list, found an HTML page"):
        table_from_lists({"train": write("a", "<html>")}, image_root=images())
