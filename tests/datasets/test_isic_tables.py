import hashlib
import json

import numpy as np
import pytest

from ltbench.datasets import _isic
from ltbench.datasets._isic import (
    CLASSES,
    ECL_SHA256,
    ECL_URL,
    isic2018_test,
    isic2018_training,
    isic2019_test,
    isic2019_training,
    read_ecl_lists,
    refuse_changed_ecl_lists,
    with_test_part,
)
from ltbench.errors import DataMissingError, VerificationError

LABELS_2018 = {"ISIC_3": "MEL", "ISIC_1": "AKIEC", "ISIC_2": "NV", "ISIC_4": "NV"}
LESIONS = {"ISIC_1": "HAM_1", "ISIC_2": "HAM_2", "ISIC_3": "HAM_3", "ISIC_4": "HAM_2"}
LABELS_2019 = {"ISIC_1": "AK", "ISIC_2_downsampled": "NV", "ISIC_3": "SCC", "ISIC_4": "NV"}
FACTS_2019 = [
    ["ISIC_1", "55", "head/neck", "HAM_1", "female"],
    ["ISIC_2_downsampled", "", "", "", ""],
    ["ISIC_3", "80.0", "palms/soles", "BCN_7", "male"],
    ["ISIC_4", "30", "", "MSK4_9", "unknown"],
]
TRUTH_2018 = "ISIC2018_Task3_Training_GroundTruth"
LESIONS_2018 = "ISIC2018_Task3_Training_LesionGroupings"
TEST_2018 = "ISIC2018_Task3_Test_GroundTruth"
TRUTH_2019 = "ISIC_2019_Training_GroundTruth"
METADATA_2019 = "ISIC_2019_Training_Metadata"
TEST_2019 = "ISIC_2019_Test_GroundTruth"


def write(path, header, rows, *, end="\n", bom=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [",".join(map(str, cells)) for cells in (header, *rows)]
    path.write_bytes((bom + end.join([*lines, ""])).encode())
    return path


def one_hot(labels, columns, one="1.0", zero="0.0"):
    return [
        [image, *(one if label == c else zero for c in columns)] for image, label in labels.items()
    ]


def write_truth(path, labels, dataset, *, unk=True, **how):
    columns = [*CLASSES[dataset], *(["UNK"] if unk and dataset == "ISIC2019" else [])]
    how_written = {key: how.pop(key) for key in ("one", "zero") if key in how}
    return write(path, ["image", *columns], one_hot(labels, columns, **how_written), **how)


def write_ham(folder, labels=LABELS_2018, lesions=LESIONS, *, name="HAM10000_metadata.csv", **how):
    header = ["lesion_id", "image_id", "dx", "dx_type", "age", "sex", "localization", "dataset"]
    rows = [
        [lesions[image], image, label.lower(), "histo", "80.0", "unknown", "scalp", "rosendahl"]
        for image, label in labels.items()
    ]
    return write(folder / name, header, rows, **how)


def write_groupings(folder, lesions=LESIONS):
    rows = [[image, lesion, "confocal microscopy"] for image, lesion in lesions.items()]
    header = ["image", "lesion_id", "diagnosis_confirm_type"]
    return write(folder / f"{LESIONS_2018}.csv", header, rows)


def write_2018(folder):
    write_truth(folder / TRUTH_2018 / f"{TRUTH_2018}.csv", LABELS_2018, "ISIC2018")
    write_groupings(folder)
    write_ham(folder)


def write_2019(folder, labels=LABELS_2019, facts=FACTS_2019):
    write_truth(folder / f"{TRUTH_2019}.csv", labels, "ISIC2019", end="\r\n")
    header = ["image", "age_approx", "anatom_site_general", "lesion_id", "sex"]
    write(folder / f"{METADATA_2019}.csv", header, facts, end="\r\n")


def classes_of(table):
    names = np.array(table.class_names)[table.targets]
    return dict(zip(table.ids.tolist(), names.tolist(), strict=True))


def refused(read, *arguments, error=VerificationError):
    with pytest.raises(error) as caught:
        read(*arguments)
    return str(caught.value)


# ISIC 2018, training


def test_2018_is_read_from_all_its_tables(tmp_path):
    write_2018(tmp_path)
    table = isic2018_training(tmp_path, {"ISIC_2": tmp_path / "x" / "ISIC_2.JPG"})
    assert table.ids.tolist() == sorted(LABELS_2018)
    assert classes_of(table) == LABELS_2018
    assert table.class_names == ("MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC")
    assert table.targets.dtype == np.int64
    assert table.groups.tolist() == [LESIONS[name] for name in sorted(LESIONS)]
    assert table.partition is None
    assert table.files == (
        tmp_path / "ISIC_1.jpg",
        tmp_path / "x" / "ISIC_2.JPG",
        tmp_path / "ISIC_3.jpg",
        tmp_path / "ISIC_4.jpg",
    )
    facts = {name: values[0] for name, values in table.metadata.items()}
    assert facts == {
        **{"age": "80", "sex": "", "site": "scalp", "source": "rosendahl", "lesion": "HAM_1"},
        "confirmation": "confocal microscopy",
    }
    assert "lesion_id. Patients are not recorded" in table.groups_note


def test_files_may_be_found_by_a_function(tmp_path):
    write_2018(tmp_path)
    table = isic2018_training(tmp_path, lambda name: tmp_path / "deep" / f"{name}.png")
    assert table.files[0] == tmp_path / "deep" / "ISIC_1.png"


def test_ham10000_alone_gives_labels_lesions_and_confirmations(tmp_path):
    write_ham(tmp_path, name="HAM10000_metadata", end="\r\n", bom="\ufeff")
    table = isic2018_training(tmp_path, {})
    assert classes_of(table) == LABELS_2018
    assert table.groups.tolist() == ["HAM_1", "HAM_2", "HAM_3", "HAM_2"]
    assert table.metadata["confirmation"].tolist() == ["histopathology"] * 4


def test_whichever_files_are_there_the_order_is_the_same(tmp_path):
    write_ham(tmp_path / "a", dict(reversed(LABELS_2018.items())))
    write_truth(tmp_path / "b" / f"{TRUTH_2018}.csv", LABELS_2018, "ISIC2018", one="1", zero="0")
    write_groupings(tmp_path / "b")
    tables = [isic2018_training(tmp_path / name, {}) for name in "ab"]
    for field in ("ids", "targets", "groups"):
        assert np.array_equal(*(getattr(table, field) for table in tables))


def test_labels_without_lesions_are_not_enough(tmp_path):
    write_truth(tmp_path / f"{TRUTH_2018}.csv", LABELS_2018, "ISIC2018")
    message = refused(isic2018_training, tmp_path, {}, error=DataMissingError)
    assert "LesionGroupings.csv or HAM10000_metadata.csv" in message


def test_no_labels_at_all(tmp_path):
    write_groupings(tmp_path)
    message = refused(isic2018_training, tmp_path, {}, error=DataMissingError)
    assert f"{TRUTH_2018}.csv or HAM10000_metadata.csv, or pictures in folders named MEL" in message
    assert "challenge.isic-archive.com" in message


@pytest.mark.parametrize(
    ("cells", "came"),
    [
        (["0.0"] * 7, "row 3 ('ISIC_9': all 0)"),
        (["1.0", "1.0", *["0.0"] * 5], "row 3 ('ISIC_9': MEL 1.0, NV 1.0)"),
        (["0.5", "0.5", *["0.0"] * 5], "row 3 ('ISIC_9': MEL 0.5, NV 0.5)"),
        (["2.0", "-1.0", *["0.0"] * 5], "row 3 ('ISIC_9': MEL 2.0, NV -1.0)"),
        (["yes", *["0.0"] * 6], "row 3 ('ISIC_9': MEL yes)"),
        (["1.0", "", *["0.0"] * 5], "row 3 ('ISIC_9': MEL 1.0, NV empty)"),
        (["nan", "1.0", *["0.0"] * 5], "row 3 ('ISIC_9': MEL nan, NV 1.0)"),
    ],
)
def test_rows_that_name_no_single_class_are_refused(tmp_path, cells, came):
    rows = [*one_hot({"ISIC_1": "NV"}, CLASSES["ISIC2018"]), ["ISIC_9", *cells]]
    path = write(tmp_path / f"{TRUTH_2018}.csv", ["image", *CLASSES["ISIC2018"]], rows)
    message = refused(isic2018_training, tmp_path, {})
    assert str(path) in message
    assert came in message


def test_an_image_with_two_rows_is_refused(tmp_path):
    write_2018(tmp_path)
    path = tmp_path / TRUTH_2018 / f"{TRUTH_2018}.csv"
    path.write_text(path.read_text() + one_line("ISIC_1", "NV"))
    message = refused(isic2018_training, tmp_path, {})
    assert "row 6 ('ISIC_1', as in row 3)" in message


def one_line(image, label, dataset="ISIC2018"):
    return ",".join(one_hot({image: label}, CLASSES[dataset])[0]) + "\n"


def test_a_row_without_an_image_is_refused(tmp_path):
    write_truth(tmp_path / f"{TRUTH_2018}.csv", {"ISIC_1": "NV", "": "MEL"}, "ISIC2018")
    assert "row 3 (no name)" in refused(isic2018_training, tmp_path, {})


def test_a_missing_column_is_named(tmp_path):
    write(tmp_path / f"{TRUTH_2018}.csv", ["image", "MEL", "NV"], [["ISIC_1", "1", "0"]])
    assert "no 'BCC', no 'AKIEC'" in refused(isic2018_training, tmp_path, {})


@pytest.mark.parametrize("change", ["one too few", "one too many"])
def test_files_of_other_images_are_refused(tmp_path, change):
    write_2018(tmp_path)
    lesions = {**LESIONS, "ISIC_5": "HAM_5"} if change == "one too many" else dict(LESIONS)
    if change == "one too few":
        del lesions["ISIC_4"]
    write_groupings(tmp_path, lesions)
    message = refused(isic2018_training, tmp_path, {})
    alone = (
        f"'ISIC_5' in {LESIONS_2018}" if change == "one too many" else f"'ISIC_4' in {TRUTH_2018}"
    )
    assert f"{alone}.csv alone" in message


def test_many_images_in_one_file_alone_are_told_at_once(tmp_path):
    write_2018(tmp_path)
    many = {f"ISIC_{i}": f"HAM_{i}" for i in range(10, 40)}
    write_groupings(tmp_path, {**LESIONS, **many})
    message = refused(isic2018_training, tmp_path, {})
    assert "'ISIC_19' in" in message
    assert "'ISIC_20' in" not in message
    assert "and 20 more" in message


def test_labels_that_contradict_are_refused(tmp_path):
    write_2018(tmp_path)
    write_ham(tmp_path, {**LABELS_2018, "ISIC_2": "DF"})
    message = refused(isic2018_training, tmp_path, {})
    assert "the same class in both; found: 'ISIC_2' is 'NV' and 'DF'" in message
    assert TRUTH_2018 in message
    assert "HAM10000_metadata.csv" in message


def test_lesions_that_contradict_are_refused(tmp_path):
    write_2018(tmp_path)
    write_ham(tmp_path, lesions={**LESIONS, "ISIC_3": "HAM_8"})
    message = refused(isic2018_training, tmp_path, {})
    assert "the same lesion in both; found: 'ISIC_3' is 'HAM_3' and 'HAM_8'" in message


def test_an_unknown_diagnosis_is_refused(tmp_path):
    write_ham(tmp_path, {**LABELS_2018, "ISIC_3": "SCC"})
    message = refused(isic2018_training, tmp_path, {})
    assert "mel, nv, bcc, akiec, bkl, df, vasc" in message
    assert "'scc' of 'ISIC_3'" in message


# Class folders


def write_pictures(root, labels, rename=None):
    for image, label in labels.items():
        place = root / (rename or {}).get(label, label)
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{image}.jpg").write_bytes(b"")


def test_class_folders_give_the_labels(tmp_path):
    write_pictures(tmp_path / "ISIC2018_Dataset", LABELS_2018, {"AKIEC": "AK"})
    (tmp_path / "ISIC2018_Dataset" / "MEL" / "notes.txt").write_text("no picture")
    write_pictures(tmp_path, {"ISIC_8": "elsewhere"})
    table = isic2018_training(tmp_path, {})
    assert classes_of(table) == LABELS_2018
    assert table.groups is None
    assert (
        "Lesions are not known: put ISIC2018_Task3_Training_LesionGroupings.csv"
        in table.groups_note
    )


def test_class_folders_with_a_lesion_table_have_groups(tmp_path):
    write_pictures(tmp_path, LABELS_2018)
    write_groupings(tmp_path)
    assert isic2018_training(tmp_path, {}).groups.tolist() == ["HAM_1", "HAM_2", "HAM_3", "HAM_2"]


def test_class_folders_of_2019_know_both_names_of_actinic_keratosis(tmp_path):
    write_pictures(tmp_path, LABELS_2019, {"AK": "AKIEC"})
    assert classes_of(isic2019_training(tmp_path, {})) == LABELS_2019


def test_a_picture_in_two_class_folders_is_refused(tmp_path):
    write_pictures(tmp_path, LABELS_2018)
    write_pictures(tmp_path, {"ISIC_2": "MEL"})
    message = refused(isic2018_training, tmp_path, {})
    assert "'ISIC_2' as MEL/ISIC_2.jpg and NV/ISIC_2.jpg" in message


def test_tables_go_before_class_folders(tmp_path):
    write_2018(tmp_path)
    write_pictures(tmp_path, {"ISIC_1": "MEL"})
    assert classes_of(isic2018_training(tmp_path, {})) == LABELS_2018


# ISIC 2019, training


def test_2019_is_read_with_sources_and_groups(tmp_path):
    write_2019(tmp_path)
    table = isic2019_training(tmp_path, {})
    assert classes_of(table) == LABELS_2019
    assert table.class_names == ("MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC")
    assert table.groups.tolist() == ["HAM_1", "img:ISIC_2_downsampled", "BCN_7", "MSK4_9"]
    assert {fact: values.tolist() for fact, values in table.metadata.items()} == {
        "age": ["55", "", "80", "30"],
        "site": ["head/neck", "", "palms/soles", ""],
        "sex": ["female", "", "male", ""],
        "lesion": ["HAM_1", "", "BCN_7", "MSK4_9"],
        "source": ["HAM", "", "BCN", "MSK"],
    }
    assert "; 1 images without one are groups of their own." in table.groups_note


def test_2019_may_lack_the_column_of_the_unknown(tmp_path):
    write_2019(tmp_path)
    write_truth(tmp_path / f"{TRUTH_2019}.csv", LABELS_2019, "ISIC2019", unk=False)
    assert classes_of(isic2019_training(tmp_path, {})) == LABELS_2019


def test_an_unknown_training_image_is_refused(tmp_path):
    write_2019(tmp_path, {**LABELS_2019, "ISIC_3": "UNK"})
    assert "no training image of class UNK; found: ISIC_3" in refused(
        isic2019_training, tmp_path, {}
    )


@pytest.mark.parametrize(
    ("facts", "alone"),
    [
        (FACTS_2019[:-1], f"'ISIC_4' in {TRUTH_2019}.csv alone"),
        ([*FACTS_2019, ["ISIC_5", "", "", "", ""]], f"'ISIC_5' in {METADATA_2019}.csv alone"),
    ],
)
def test_2019_metadata_of_other_images_are_refused(tmp_path, facts, alone):
    write_2019(tmp_path, facts=facts)
    assert alone in refused(isic2019_training, tmp_path, {})


def test_2019_needs_its_metadata(tmp_path):
    write_truth(tmp_path / f"{TRUTH_2019}.csv", LABELS_2019, "ISIC2019")
    message = refused(isic2019_training, tmp_path, {}, error=DataMissingError)
    assert f"{METADATA_2019}.csv" in message


def test_2019_metadata_without_lesions_are_refused(tmp_path):
    write_2019(tmp_path)
    write(tmp_path / f"{METADATA_2019}.csv", ["image", "sex"], [[n, "male"] for n in LABELS_2019])
    assert "no 'lesion_id'" in refused(isic2019_training, tmp_path, {})


# Test parts


def test_the_synthetic_image_is_left_out_of_the_test_of_2018(tmp_path):
    labels = {"ISIC_0034525": "NV", "ISIC_0035068": "NV", "ISIC_0034524": "MEL"}
    write_truth(tmp_path / TEST_2018 / f"{TEST_2018}.csv", labels, "ISIC2018")
    table = isic2018_test(tmp_path, {})
    assert table.ids.tolist() == ["ISIC_0034524", "ISIC_0034525"]
    assert table.groups.tolist() == ["img:ISIC_0034524", "img:ISIC_0034525"]
    assert "synthetic" in table.notes["not_scored"]["ISIC_0035068"]
    assert "lesions of the ISIC2018 test set are not published" in table.groups_note


@pytest.mark.parametrize(("read", "stem"), [(isic2018_test, TEST_2018), (isic2019_test, TEST_2019)])
def test_a_test_part_needs_its_ground_truth(tmp_path, read, stem):
    message = refused(read, tmp_path, {}, error=DataMissingError)
    assert f"Expected {stem}.csv in {tmp_path}" in message


def test_unknown_images_are_left_out_of_the_test_of_2019_and_counted(tmp_path):
    labels = {"ISIC_6": "SCC", "ISIC_7": "UNK", "ISIC_8": "UNK", "ISIC_0035068": "NV"}
    write_truth(tmp_path / f"{TEST_2019}.csv", labels, "ISIC2019")
    table = isic2019_test(tmp_path, {})
    assert classes_of(table) == {"ISIC_6": "SCC"}
    assert table.notes["not_scored"]["class UNK"].startswith("2 images")
    assert "ISIC_0035068" in table.notes["not_scored"]
    json.dumps(dict(table.notes))
    header = ["image", "age_approx", "anatom_site_general", "sex"]
    rows = [[name, "70", "", "male"] for name in labels]
    metadata = write(tmp_path / "ISIC_2019_Test_Metadata.csv", header, rows)
    assert isic2019_test(tmp_path, {}).metadata["age"].tolist() == ["70"]
    write(metadata, ["image"], [[name] for name in labels])
    assert classes_of(isic2019_test(tmp_path, {})) == {"ISIC_6": "SCC"}
    write(metadata, header, rows[:-1])
    assert f"'ISIC_0035068' in {TEST_2019}.csv alone" in refused(isic2019_test, tmp_path, {})


def test_an_ordinary_test_part_leaves_nothing_out(tmp_path):
    write_truth(tmp_path / f"{TEST_2019}.csv", {"ISIC_6": "SCC"}, "ISIC2019")
    assert isic2019_test(tmp_path, {}).notes == {}


def test_training_and_test_are_joined(tmp_path):
    write_2019(tmp_path)
    write_truth(tmp_path / f"{TEST_2019}.csv", {"ISIC_0": "AK", "ISIC_9": "UNK"}, "ISIC2019")
    files = {"ISIC_0": tmp_path / "test.jpg"}
    training, test = isic2019_training(tmp_path, files), isic2019_test(tmp_path, files)
    table = with_test_part(training, test)
    assert table.ids.tolist() == [*training.ids.tolist(), "ISIC_0"]
    assert table.partition.tolist() == ["train"] * 4 + ["test"]
    assert classes_of(table) == {**LABELS_2019, "ISIC_0": "AK"}
    assert table.groups.tolist() == [*training.groups.tolist(), "img:ISIC_0"]
    assert table.files[-1] == tmp_path / "test.jpg"
    assert table.metadata["source"].tolist() == ["HAM", "", "BCN", "MSK", ""]
    assert "class UNK" in table.notes["not_scored"]
    assert training.groups_note in table.groups_note
    assert test.groups_note in table.groups_note


def test_parts_that_overlap_are_not_joined(tmp_path):
    write_2019(tmp_path)
    write_truth(tmp_path / f"{TEST_2019}.csv", {"ISIC_1": "AK"}, "ISIC2019")
    parts = isic2019_training(tmp_path, {}), isic2019_test(tmp_path, {})
    assert "1 common images (ISIC_1)" in refused(with_test_part, *parts)


def test_joined_without_lesions_has_no_groups(tmp_path):
    write_pictures(tmp_path, LABELS_2019)
    write_truth(tmp_path / f"{TEST_2019}.csv", {"ISIC_7": "AK"}, "ISIC2019")
    parts = isic2019_training(tmp_path, {}), isic2019_test(tmp_path, {})
    assert with_test_part(*parts).groups is None


# The lists of ECL

ROWS = {
    "train": [("ISIC_1", "AKIEC", 1), ("ISIC_3", "MEL", 6)],
    "val": [("ISIC_2", "NV", 3)],
    "test": [("ISIC_4", "NV", 3)],
}


def write_lists(folder, rows=ROWS, dataset="ISIC2018", **how):
    for part, found in rows.items():
        write(folder / f"{dataset}_{part}.csv", ["image", "category", "label"], found, **how)


@pytest.mark.parametrize("below", [".", "ISIC2018"])
def test_lists_go_by_category(tmp_path, below):
    write_lists(tmp_path / below)
    assert read_ecl_lists(tmp_path, "ISIC2018") == {
        "train": [("ISIC_1", "AKIEC"), ("ISIC_3", "MEL")],
        "val": [("ISIC_2", "NV")],
        "test": [("ISIC_4", "NV")],
    }


@pytest.mark.parametrize(
    ("dataset", "category", "name"), [("ISIC2018", "AK", "AKIEC"), ("ISIC2019", "AKIEC", "AK")]
)
def test_both_names_of_actinic_keratosis_are_understood(tmp_path, dataset, category, name):
    write_lists(tmp_path, {**ROWS, "train": [("ISIC_1", category, 1)]}, dataset)
    assert read_ecl_lists(tmp_path, dataset)["train"] == [("ISIC_1", name)]


@pytest.mark.parametrize(
    ("row", "came"),
    [
        (("ISIC_5", "SCC", 7), "ISIC2018_test.csv row 3: 'SCC' 7"),
        (("ISIC_5", "MEL", 3), "ISIC2018_test.csv row 3: 'MEL' 3, but before 'NV' 3 or 'MEL' 6"),
        (("ISIC_5", "NV", 9), "ISIC2018_test.csv row 3: 'NV' 9, but before 'NV' 9 or 'NV' 3"),
    ],
)
def test_categories_and_labels_go_one_to_one(tmp_path, row, came):
    write_lists(tmp_path, {**ROWS, "test": [*ROWS["test"], row]})
    message = refused(read_ecl_lists, tmp_path, "ISIC2018")
    assert came in message
    assert ECL_URL in message


def test_missing_lists_are_named_with_their_address(tmp_path):
    write_lists(tmp_path, {"train": ROWS["train"]})
    for read in (read_ecl_lists, refuse_changed_ecl_lists):
        message = refused(read, tmp_path, "ISIC2018", error=DataMissingError)
        assert "found no ISIC2018_val.csv, ISIC2018_test.csv" in message
        assert f"{ECL_URL}/ISIC2018" in message


def test_changed_lists_are_refused_but_not_for_their_line_ends(tmp_path, monkeypatch):
    write_lists(tmp_path)
    digests = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in tmp_path.iterdir()
    }
    assert "not the list that was released" in refused(
        refuse_changed_ecl_lists, tmp_path, "ISIC2018"
    )
    monkeypatch.setattr(_isic, "ECL_SHA256", digests)
    refuse_changed_ecl_lists(tmp_path, "ISIC2018")
    write_lists(tmp_path, end="\r\n")
    refuse_changed_ecl_lists(tmp_path, "ISIC2018")
    write_lists(tmp_path, {**ROWS, "val": [("ISIC_2", "NV", 4)]})
    message = refused(refuse_changed_ecl_lists, tmp_path, "ISIC2018")
    assert f"{tmp_path / 'ISIC2018_val.csv'} is not" in message


def test_digests_of_all_six_lists_are_known():
    names = [f"{dataset}_{part}.csv" for dataset in CLASSES for part in ("train", "val", "test")]
    assert list(ECL_SHA256) == names
    assert len(set(ECL_SHA256.values())) == 6
