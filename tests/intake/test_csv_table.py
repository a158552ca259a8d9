import json
import os
from pathlib import Path

import numpy as np
import pytest

from ltbench.errors import DataMissingError, UsageError, VerificationError
from ltbench.intake.csv_table import ColumnChoice, table_from_csv


@pytest.fixture
def table(write, images):
    """The table of a text, with images called as in its first column unless given."""

    def make(text, *files, **settings):
        path = write("t.csv", text)
        names = [line.split(",")[0] for line in text.splitlines()[1:]]
        root = images(*(files or [f"{name}.jpg" for name in names if name]))
        return table_from_csv(path, image_root=root, **settings)

    return make


@pytest.fixture
def refusal(table):
    def make(*arguments, error=VerificationError, **settings):
        with pytest.raises(error) as caught:
            table(*arguments, **settings)
        assert "t.csv" in str(caught.value)
        return str(caught.value)

    return make


SPLIT = "image,label,split\na,mel,train\nb,nv,Training\nc,nv,VAL\nd,mel,dev\ne,nv,testing\n"


def test_a_whole_table(table, images):
    found = table(
        "image,label,lesion_id,split,age,note\n"
        "a,nv,L1,train,60,x\nb,mel,,train,,y\nc,nv,L2,evaluation,5,\n",
        "a.JPG", "sub/b.png", "c.jpeg", "d.jpg", "e.txt",
    )  # fmt: skip
    root = images()
    assert found.ids.tolist() == ["a", "b", "c"]
    assert found.files == (root / "a.JPG", root / "sub/b.png", root / "c.jpeg")
    assert found.class_names == ("mel", "nv")
    assert found.targets.tolist() == [1, 0, 1]
    assert found.targets.dtype == np.int64
    assert found.groups.tolist() == ["L1", "img:b", "L2"]
    assert found.partition.tolist() == ["train", "train", "test"]
    assert {name: values.tolist() for name, values in found.metadata.items()} == {
        "age": ["60", "", "5"]
    }
    assert found.groups_note == (
        "Groups are the values of column 'lesion_id'; a patient may have several lesions, so "
        "lesion-disjoint is not patient-disjoint. 1 image without a value: each a group of its own."
    )
    assert json.loads(json.dumps(found.notes)) == {
        "columns": {"image": "image", "label": "label", "group": "lesion_id", "split": "split"},
        "groups_fallback": 1,
        "unlisted_files": {"count": 1, "first": ["d.jpg"]},
        "absent_classes": {"test": ["mel"]},
    }


@pytest.mark.parametrize(
    ("column", "words"),
    [
        ("patient_id", "no patient is in two parts"),
        ("subject_id", "no patient is in two parts"),
        ("case_id", "does not say whether a patient"),
        ("other", "no group column"),
    ],
)
def test_what_groups_separate_is_said(table, column, words):
    assert words in table(f"image,label,{column}\na,x,1\nb,y,1\n").groups_note


def test_without_groups_and_parts(table):
    found = table("image,label\na,x\nb,y\n")
    assert found.groups is None
    assert found.partition is None
    assert found.metadata == {}
    assert list(found.notes) == ["columns"]


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (("10", "9", "1"), ("1", "9", "10")),
        (("b", "10", "9"), ("10", "9", "b")),
        (("nv", "NV-2", "mel"), ("NV-2", "mel", "nv")),
        (("-1", "2", "0"), ("-1", "0", "2")),
    ],
)
def test_class_order(table, labels, names):
    text = "image,label\n" + "".join(f"i{i},{label}\n" for i, label in enumerate(labels))
    assert table(text).class_names == names


def test_parts_in_any_words(table):
    assert table(SPLIT).partition.tolist() == ["train", "train", "val", "val", "test"]


def test_ids_of_names_with_suffix_and_with_folders(table, images):
    found = table(
        "image,label\na.jpg,x\n./sub/b.jpg,y\nsub\\c,x\nd.v2,y\n",
        "deep/a.JPG", "sub/b.jpg", "sub/c.png", "d.v2.png",
    )  # fmt: skip
    assert found.ids.tolist() == ["a", "sub/b.jpg", "sub/c", "d.v2"]
    names = [str(file.relative_to(images())) for file in found.files]
    assert names == ["deep/a.JPG", "sub/b.jpg", "sub/c.png", "d.v2.png"]


def test_one_hot_columns(table):
    text = "image,MEL,NV,UNK,sex\r\na,0.0,1.0,0.0,0\r\nb,1,0,0,1\r\nc,0,1,0,0\r\n"
    found = table(text)
    assert found.class_names == ("MEL", "NV")
    assert found.targets.tolist() == [1, 0, 1]
    assert found.notes["dropped_classes"] == ["UNK"]
    assert found.metadata["sex"].tolist() == ["0", "1", "0"]
    assert table(text.replace("c,0,1,0", "c,0,0,1")).class_names == ("MEL", "NV", "UNK")


def test_class_names_decide_the_order_of_one_hot_columns(table):
    text = "image,MEL,NV,UNK\na,0,1,0\nb,1,0,0\n"
    found = table(text, class_names=("UNK", "NV", "MEL"))
    assert found.class_names == ("UNK", "NV", "MEL")
    assert found.targets.tolist() == [1, 2]
    assert "dropped_classes" not in found.notes


def test_one_hot_rows_that_name_no_class_or_two(refusal):
    message = refusal("image,MEL,NV\na,0,1\nb,0,0\nc,1,1\nd,1,0\n")
    assert "a single 1 in each row" in message
    assert "found: row 3 (none), row 4 (MEL, NV). " in message
    assert "dataset.metadata" in message


def test_a_broken_one_hot_cell_does_not_hide_its_column(refusal):
    message = refusal("image,MEL,NV,BCC\na,0,1,0\nb,x,0,0\nc,1,0,0\nd,,0,1\ne,1,0,0\n")
    assert "Expected 0 or 1 in the one-hot column 'MEL'; found: row 3 ('x'), row 5 ('')" in message
    assert "a single 1" not in message


def test_labels_outside_the_given_classes(refusal, table):
    message = refusal("image,label\na,mel\nb,nev\nc,\nd,zzz\n", class_names=("mel", "nv"))
    assert "row 3 ('nev'; did you mean 'nv'?), row 5 ('zzz')" in message
    assert "Expected the classes mel, nv" in message
    assert "column 'label'; found: nothing in row 4. " in message


def test_given_classes_need_not_all_occur_without_parts_or_without_training(table):
    assert table("image,label\na,nv\n", class_names=("mel", "nv")).targets.tolist() == [1]
    external = table("image,label,split\na,nv,test\n", class_names=("mel", "nv"))
    assert external.partition.tolist() == ["test"]


def test_empty_cells(refusal):
    message = refusal("image,label,split\na,,train\n,x,train\nc,y,\nd,z,train\n")
    for column, row in (("label", 2), ("image", 3), ("split", 4)):
        assert f"column '{column}'; found: nothing in row {row}. " in message


def test_words_that_are_no_part(refusal):
    message = refusal("image,label,split\na,x,train\nb,y,trian\nc,x,holdout\n")
    assert "row 3 ('trian'; did you mean 'train'?), row 4 ('holdout')" in message


def test_many_words_that_are_no_part(refusal):
    message = refusal("image,label,split\n" + "".join(f"i{i},x,w{i}\n" for i in range(12)))
    assert "row 11 ('w9') and 2 more. " in message


def test_folds_are_no_parts(refusal, table):
    text = "image,label,fold\na,x,1\nb,y,2\nc,x,1\n"
    message = refusal(text)
    assert "column 'fold'; found: numbers: 1, 2. Folds are no parts" in message
    assert "kfold" in message
    assert table(text, columns=ColumnChoice(split="")).partition is None


def test_rows_of_one_image(refusal):
    message = refusal(
        "image,label\na,x\nb,y\na,x\na.jpg,y\nsub/c.jpg,x\nc,x\n", "a.jpg", "b.jpg", "sub/c.jpg"
    )
    assert "duplicated; found: rows 2 and 4 ('a'), rows 6 and 7 ('c')" in message
    assert "contradicting; found: rows 2 and 5 ('a': 'x' and 'y')" in message


def test_two_files_of_one_name(refusal, table):
    message = refusal("image,label\na,x\np/a.jpg,y\n", "p/a.jpg", "q/a.png")
    assert "row 2 ('a' may be p/a.jpg, q/a.png)" in message
    assert "contradicting" not in message
    files = "p/a.jpg", "q/a.png", "b.jpg", "c.jpg", "c.png"
    assert len(table("image,label\nq/a.png,x\nc.png,y\n", *files)) == 2


def test_names_that_differ_in_their_suffix_alone(refusal):
    message = refusal("image,label\na.jpg,x\na.png,y\n", "a.jpg", "a.png")
    assert "rows 2 and 3 ('a': a.jpg and a.png)" in message


def test_some_files_missing(refusal):
    message = refusal("image,label\na,x\nb,y\nc.png,y\n", "a.jpg", "c.jpg")
    assert "none for row 3 ('b'), none for row 4 ('c.png')" in message


def test_all_files_missing(refusal, images):
    message = refusal("image,label\na,x\nb,y\n", "z.jpg", error=DataMissingError)
    for words in (str(images()), "none of its 2 rows", "row 2 ('a')", ".jpg .jpeg", "--data-root"):
        assert words in message


def test_all_files_missing_and_more(refusal):
    message = refusal("image,label\na,x\nb,y\na,x\n", "z.jpg")
    assert "rows 2 and 4 ('a')" in message
    assert "none for row 3 ('b')" in message


def test_no_folder_of_images(write, tmp_path):
    path = write("t.csv", "image,label\na,x\n")
    with pytest.raises(DataMissingError, match="nowhere"):
        table_from_csv(path, image_root=tmp_path / "nowhere")
    with pytest.raises(UsageError, match="found a file"):
        table_from_csv(path, image_root=path)


def test_a_class_without_training_images(refusal):
    message = refusal(SPLIT + "f,bcc,test\ng,bcc,test\nh,bcc,val\ni,df,val\n")
    found = "'bcc' (1 image in val, 2 images in test), 'df' (1 image in val). "
    assert f"a training image of every class; found: {found}" in message


def test_no_training_rows_at_all(refusal):
    message = refusal("image,label,split\na,x,test\nb,y,test\n")
    assert "found: 'x' (1 image in test), 'y' (1 image in test). " in message


def test_too_few_classes_and_look_alikes(refusal):
    assert "at least two classes; found: only 'x'" in refusal("image,label\na,x\nb,x\n")
    message = refusal("image,label\na,Mel\nb,mel\nc,nv\n")
    assert "found: 'Mel' and 'mel'" in message
    assert "found: '1' and '1.0'" in refusal("image,label\na,1\nb,1.0\nc,2\n")


def test_every_kind_of_problem_is_said_at_once(refusal):
    lines = "".join(f"m{i},x,train\n" for i in range(13))
    text = f"image,label,split\na,,train\na,y,tset\nb,x,train\nb,z,train\n{lines}"
    message = refusal(text, "a.jpg", "b.jpg")
    for words in (
        "column 'label'",
        "'tset'",
        "duplicated; found: rows 2 and 3 ('a'). ",
        "contradicting; found: rows 4 and 5 ('b': 'x' and 'z'). ",
        "none for row 6 ('m0')",
        "none for row 15 ('m9') and 3 more. ",
    ):
        assert words in message
    assert "row 16" not in message


def test_the_folder_is_walked_once_and_no_row_is_looked_up(write, images, monkeypatch):
    path = write("t.csv", "image,label\n" + "".join(f"i{i},{i % 7}\n" for i in range(50)))
    root = images(*(f"{i % 2}/i{i}.jpg" for i in range(50)))
    walked = []
    scandir = os.scandir

    def looked_up(*_, **__):
        raise AssertionError("a row was looked up on the disk")

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", lambda folder: walked.append(folder) or scandir(folder))
        for owner in (os, Path):
            patch.setattr(owner, "stat", looked_up)
        found = table_from_csv(path, image_root=root)
    assert len(found) == 50
    assert len(walked) == 3
