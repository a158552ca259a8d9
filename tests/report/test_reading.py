"""Records as they are found: damaged, old, foreign, given twice."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from table_records import made, made_board, made_run

from ltbench import migrations
from ltbench.errors import VerificationError
from ltbench.report.footer import footer
from ltbench.report.reading import read
from ltbench.report.tables import comparison, sheets, to_markdown
from ltbench.results import run_folders


@pytest.fixture(scope="module")
def made_once(tmp_path_factory):
    return made_board(tmp_path_factory.mktemp("runs"))


@pytest.fixture
def root(made_once, tmp_path):
    return shutil.copytree(made_once, tmp_path / "runs")


def labels(records):
    return [record["label"] for record in records]


def edited(folder, **changes):
    """Change fields of a record as a text editor would; a change to `...` takes a field away."""
    file = Path(folder) / "record.json"
    record = json.loads(file.read_text("utf-8")) | changes
    record = {name: value for name, value in record.items() if value is not ...}
    file.write_text(json.dumps(record), encoding="utf-8")


def first(root):
    return next(run_folders(root)).path


def test_what_tables_show_survives_the_cut(root):
    cut, notes = read([root], per_class=True)
    whole = [
        json.loads((run.path / "record.json").read_text("utf-8")) | {"folder": str(run.path)}
        for run in run_folders(root)
    ]
    assert notes == []
    for layout in ("plain", "tail", "clinical", "compute"):
        assert sheets(cut, layout, classes=True) == sheets(whole, layout, classes=True)
    assert "confusion" not in cut[0]["metrics"]["test"]
    assert "val" not in cut[0]["metrics"]


def test_equal_facts_are_kept_once(root):
    records, _ = read([root])
    assert len({id(record["protocol_notes"]) for record in records}) <= 2
    assert len({id(record["versions"]) for record in records}) == 1


@pytest.mark.parametrize(("changes", "words"), [
    ({"label": ...}, "Field required at 'label'"),
    ({"metrics": None}, "at 'metrics'"),
    ({"metrics": {"val": None}}, "Field required at 'metrics.test'"),
    ({"metrics": {"test": {"accuracy": "0.9"}}}, "valid number at 'metrics.test.accuracy'"),
    ({"metrics": {"test": {"per_class": 3}}}, "at 'metrics.test.per_class'"),
    ({"seed": "0"}, "valid integer at 'seed'"),
    ({"key": ""}, "at 'key'"),
    ({"leak": {}}, "at 'leak.sentence'"),
    ({"versions": 3, "git": 4}, "2 such fields"),
    ({"selected": [{"stage": "train"}]}, "at 'selected.0.epochs'"),
    ({"overlaps": [{"kind": "pixels", "parts": ["a"], "num_images": 1}]}, "overlaps.0.parts"),
])  # fmt: skip
def test_a_record_that_is_not_whole_is_named_and_left_out(root, changes, words):
    folder = first(root)
    edited(folder, **changes)
    records, (note,) = read([root], per_class=True)
    assert len(records) == 14
    assert note.startswith(f"Left out: {folder / 'record.json'}: it is not a whole record")
    assert words in note


@pytest.mark.parametrize("text", [
    "", '{"schema_version": 1, "label": "c', "[]", "{}", "null", '{"schema_version": "1"}',
    '{"schema_version": 1, "x": NaN}', "[" * 100_000, "\x00\xff", '{"schema_version": 1e999}',
])  # fmt: skip
def test_a_damaged_file_is_named_and_left_out(root, text):
    folder = first(root)
    (folder / "record.json").write_text(text, encoding="latin-1")
    records, (note,) = read([root])
    assert len(records) == 14
    assert str(folder) in note


def test_an_infinite_number_is_damage(root):
    file = first(root) / "record.json"
    text = file.read_text("utf-8")
    file.write_text(text.replace('"num_tied": 0', '"num_tied": 0, "nll": 1e999', 1), "utf-8")
    record = json.loads(file.read_text("utf-8"))
    del record["metrics"]["val"]
    file.write_text(json.dumps(record).replace("Infinity", "1e999"), encoding="utf-8")
    records, notes = read([root])
    assert len(records) + len(notes) == 15


def test_a_folder_in_place_of_a_record_is_left_out(root):
    folder = first(root)
    (folder / "record.json").unlink()
    (folder / "record.json").mkdir()
    records, (note,) = read([root])
    assert len(records) == 14
    assert "could not be read" in note


def test_another_schema_version_is_named_and_left_out(root):
    edited(first(root), schema_version=99)
    records, (note,) = read([root])
    assert len(records) == 14
    assert "schema version 99, expected 1" in note


def test_an_older_schema_version_is_brought_up_to_date(root, monkeypatch):
    edited(first(root), schema_version=-1, label=..., title="an old name")

    def rename(record):
        return {**record, "label": record["title"]}

    monkeypatch.setattr(migrations, "RULES", {-1: rename, 0: lambda record: record})
    records, notes = read([root])
    assert notes == []
    assert "an old name" in labels(records)


def test_a_chain_of_rules_with_a_gap_is_no_way():
    assert migrations.migrated({"schema_version": 0}, 1) is None
    assert migrations.migrated({"schema_version": 1, "a": 2}, 1) == {"schema_version": 1, "a": 2}


def test_two_folders_at_once(root, tmp_path):
    other = tmp_path / "others"
    made_run(other, "bcl", 0)
    records, notes = read([root, other])
    assert labels(records).count("bcl") == 1
    assert len(records) == 16
    assert notes == []


def test_a_folder_given_twice_is_read_once(root, monkeypatch):
    monkeypatch.chdir(root)
    records, notes = read([root, Path(), Path("..") / "runs"])
    assert len(records) == 15
    assert notes == []


def test_copies_of_runs_are_counted_once_and_said(root, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(root, copy)
    records, (note,) = read([root, copy])
    assert len(records) == 15
    assert note.startswith("Counted once: 15 runs")
    assert str(copy) in note
    comparison(records)


def test_two_results_of_one_run_are_refused(root, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(root, copy)
    edited(first(copy), digest="0" * 64)
    with pytest.raises(VerificationError, match="one run with different results"):
        read([root, copy])


def test_a_missing_folder_among_several_is_said(root, tmp_path):
    records, (note,) = read([root, tmp_path / "nowhere"])
    assert len(records) == 15
    assert "there is no folder" in note
    assert read([tmp_path / "nowhere"]) == ([], [])


def test_methods_come_in_the_order_they_were_given(root):
    records, _ = read([root], methods=["focal", "ecl@authors", "ce"], datasets=["isic2018"])
    assert list(dict.fromkeys(labels(records))) == ["focal", "ecl@authors", "ce"]
    assert list(dict.fromkeys(labels(read([root])[0]))) == ["ce", "ecl@authors", "focal"]


def test_names_with_half_a_letter_are_printed(root):
    edited(first(root), label="a\ud800b")
    text = to_markdown(comparison(read([root])[0])[0])
    assert "a\N{REPLACEMENT CHARACTER}b" in text
    text.encode("utf-8")


def test_awkward_types_of_notes_do_not_stop_a_footer():
    notes = {"left_out": 3, "mixed": [None, "a", 1] * 10, "deep": {"a": [1.5, None]}, "none": None}
    (table,) = comparison([made(protocol_notes=notes, data_notes={"label_map": {"a": "b"}})])
    assert (
        "left out: 3; mixed: 30 values, 1 to 1; deep: a 1.5/; label map: 1." in footer([table])[1]
    )
