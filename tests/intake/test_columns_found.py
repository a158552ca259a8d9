import pytest

from ltbench.errors import UsageError
from ltbench.intake.columns_found import ColumnChoice, find_columns
from ltbench.intake.csv_files import CsvRows


def found(header, cells="x", path="t.csv", **choice):
    """Columns of a table of two rows whose cells are all `cells`, or as given by column."""
    names = header.split(",")
    values = cells if isinstance(cells, dict) else dict.fromkeys(names, [cells] * 2)
    values = {name: values.get(name, ["x", "y"]) for name in names}
    return find_columns(CsvRows(path, tuple(names), values, (2, 3)), ColumnChoice(**choice))


def refusal(*arguments, **choice):
    with pytest.raises(UsageError) as caught:
        found(*arguments, **choice)
    return str(caught.value)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("image,label", ("image", "label", None, None)),
        ("lesion_id,image_id,dx,dx_type,age", ("image_id", "dx", "lesion_id", None)),
        ("Patient ID,img-id,Diagnostic,FOLD", ("img-id", "Diagnostic", "Patient ID", "FOLD")),
        ("id_code,diagnosis", ("id_code", "diagnosis", None, None)),
        ("DDI_file,finding,partition", ("DDI_file", "finding", None, "partition")),
        ("md5hash,fitzpatrick_scale,label,qc", ("md5hash", "label", None, None)),
        ("isic_id,class,case_num,set", ("isic_id", "class", "case_num", "set")),
    ],
)
def test_columns_are_found_by_their_usual_names(header, expected):
    columns = found(header)
    assert (columns.image, columns.label, columns.group, columns.split) == expected
    assert columns.one_hot == ()
    assert columns.note() == dict(zip(("image", "label", "group", "split"), expected, strict=True))


def test_named_columns_win_over_aliases():
    columns = found(
        "image,path,label,dx,patient_id,lesion_id,split,fold",
        image="path", label="dx", group="lesion_id", split="split",
    )  # fmt: skip
    picked = (columns.image, columns.label, columns.group, columns.split)
    assert picked == ("path", "dx", "lesion_id", "split")


def test_a_named_column_has_no_other_role():
    assert found("image,label,group", label="group").group is None
    assert found("image,dx_type", label="dx_type").metadata == ()


def test_no_name_means_none():
    columns = found("image,label,group,set", group="", split="")
    assert (columns.group, columns.split) == (None, None)


@pytest.mark.parametrize(
    ("header", "role", "names"),
    [
        ("image,filename,label", "image", "'image' and 'filename'"),
        ("Image,image,label", "image", "'Image' and 'image'"),
        ("image,label,category", "label", "'label' and 'category'"),
        ("image,label,case_id,group", "group", "'case_id' and 'group'"),
        ("image,label,split,fold", "split", "'split' and 'fold'"),
    ],
)
def test_two_that_match_are_refused(header, role, names):
    message = refusal(header)
    assert f"Expected one {role} column, found {names}" in message
    assert f"--set dataset.{role}_column=" in message


def test_a_patient_is_recommended_before_a_lesion():
    message = refusal("image,label,lesion_id,patient_id")
    assert "'lesion_id' and 'patient_id'" in message
    assert "dataset.group_column=patient_id. The patient" in message


def test_all_faults_are_said_at_once():
    message = refusal("a,lesion_id,patient_id", label="lable_", metadata=("lesion",))
    for words in (
        "t.csv",
        "dataset.label_column: Unknown column 'lable_'",
        "dataset.metadata: Unknown column 'lesion'. Did you mean 'lesion_id'?",
        "Expected a column for the image, called one of image, image_id",
        "found a, lesion_id, patient_id",
        "dataset.group_column=patient_id",
    ):
        assert words in message


def test_one_column_cannot_have_two_roles():
    message = refusal("image,label", label="image", group="image")
    assert "'image' is named by dataset.label_column and dataset.group_column" in message


def test_metadata_known_by_name_and_named():
    columns = found("image,label,Age_Approx,sex,weight,colour,lesion-id", metadata=("colour",))
    assert columns.metadata == ("Age_Approx", "sex", "colour")
    assert found("image,label,sex", metadata=("sex",)).metadata == ("sex",)
    assert found("image,label,lesion_id", metadata=("lesion_id",)).metadata == ("lesion_id",)


BITS = {"MEL": ["1.0", "0.0"], "NV": ["0", "1"], "sex": ["0", "1"], "score_weight": ["1", "0"]}


def test_one_hot_columns_are_those_without_another_meaning():
    cells = BITS | {"fold": ["0", "1"], "smoker": ["1", "0"]}
    header = "image,sex,MEL,extra,fold,NV,smoker,score_weight"
    columns = found(header, cells, metadata=("smoker",))
    assert columns.one_hot == ("MEL", "NV")
    assert columns.label is None
    assert columns.note()["label"] == ["MEL", "NV"]
    assert columns.metadata == ("sex", "smoker")


def test_a_part_that_is_not_used_is_no_class():
    assert found("image,MEL,NV,fold", BITS | {"fold": ["0", "1"]}, split="").one_hot == (
        "MEL",
        "NV",
    )


def test_one_hot_and_a_label_need_a_decision():
    message = refusal("image,dx,MEL,NV", BITS)
    assert "found both: 'dx' and MEL, NV" in message
    assert "dataset.label_column=dx" in message
    assert found("image,dx,MEL,NV", BITS, label="dx").one_hot == ()
    assert found("image,dx,MEL,NV", BITS, label="").one_hot == ("MEL", "NV")
    assert found("image,dx,MEL", BITS).label == "dx"


@pytest.mark.parametrize("header", ["image,age", "image,MEL", "image,MEL,score_weight"])
def test_no_label_at_all(header):
    message = refusal(header, BITS)
    assert "Expected a column for the label, called one of label, class" in message
    assert "columns of 0 and 1" in message
