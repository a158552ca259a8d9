"""`bench.py figures` and its Python twin."""

from __future__ import annotations

import json
import shutil
from xml.etree import ElementTree

import pytest
from made_figures import made_folder

import ltbench
from ltbench.errors import UsageError


def below(folder):
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


def test_figures_of_one_run(root, bench, tmp_path):
    run = next(root.glob("*/*/ce/*/seed-1"))
    key = run.parent.name
    answer = bench("figures", f"{key}/seed-1", "--results", root, "--out", tmp_path)
    assert answer.code == 0
    names = ("confusion", "coverage_risk", "precision_recall", "reliability", "roc", "training")
    assert below(tmp_path) == sorted(
        f"{key}/seed-1/{name}.{ending}" for name in names for ending in ("svg", "txt")
    )
    assert f"Wrote {tmp_path}/{key}/seed-1/roc.svg\n" in answer.out
    text = (tmp_path / key / "seed-1" / "roc.txt").read_text("utf-8")
    assert text.startswith("ROC curves\n\n")
    assert f"Run {key}/seed-1 of ce" in text


def test_figures_of_a_selection(root, bench, tmp_path):
    flags = ["--methods", "ce", "--results", root, "--out", tmp_path]
    answer = bench("figures", *flags)
    assert answer.code == 0, answer.err
    (row,) = {path.parent.name for path in (tmp_path / "made" / "group").rglob("confusion.svg")}
    assert row.startswith("ce-")
    assert [name for name in below(tmp_path) if name.endswith(".svg")] == [
        f"made/group/{row}/confusion.svg",
        f"made/group/{row}/training.svg",
        "made/group/coverage_risk.svg",
        "made/group/f1_by_class_size.svg",
    ]
    assert "Left out critical_difference: A critical-difference diagram needs" in answer.out
    for file in tmp_path.rglob("*.svg"):
        ElementTree.parse(file)


def test_only_one_and_other_formats(root, bench, tmp_path):
    flags = ["--results", root, "--out", tmp_path]
    for kind in ("svg", "pdf", "png"):
        answer = bench("figures", "--only", "f1-by-class-size", "--format", kind, *flags)
        assert answer.code == 0, answer.err
    assert below(tmp_path) == [
        f"made/group/f1_by_class_size.{ending}" for ending in ("pdf", "png", "svg", "txt")
    ]


def test_json(root, bench, tmp_path):
    flags = ["--results", root, "--out", tmp_path, "--only", "f1_by_class_size", "--json"]
    found = json.loads(bench("figures", *flags).out)
    assert found["files"] == [f"{tmp_path}/made/group/f1_by_class_size.svg"]
    assert found["left_out"] == {}


def test_two_splits_have_folders_of_their_own(bench, tmp_path):
    made_folder(tmp_path / "runs", "ce")
    made_folder(tmp_path / "runs", "ce", key="f" * 16, split_digest="2" * 64)
    flags = ["--only", "f1_by_class_size", "--results", tmp_path / "runs", "--out", tmp_path / "o"]
    assert bench("figures", *flags).code == 0
    assert {name.split("/")[2] for name in below(tmp_path / "o")} == {"11111111-1", "22222222-2"}


def test_names_of_records_lead_nowhere_else(bench, tmp_path):
    folder = made_folder(tmp_path / "runs", "ce", 0)
    names = {"dataset": "../../a", "protocol": "/b", "key": "/../../../../c"}
    folder.write_record(folder.record() | names)
    out = tmp_path / "within" / "figures"
    before = below(tmp_path)
    answer = bench("figures", "--results", tmp_path / "runs", "--out", out)
    assert answer.code == 0, answer.err
    assert below(out)
    assert set(below(tmp_path)) - set(before) == {f"within/figures/{file}" for file in below(out)}


def test_an_external_test_of_a_run(tmp_path, bench):
    run = made_folder(tmp_path / "runs", "ce")
    folder = run.path / "external" / "other-0123"
    folder.mkdir(parents=True)
    shutil.copy(run.path / "predictions.npz", folder)
    record = run.record()
    test = {name: record[name] for name in ("label", "seed", "schema_version")}
    test |= {
        "trained_on": {},
        "dataset": "other",
        "protocol": "all images",
        "metrics": {"test": record["metrics"]["test"]},
        "digests": {"test": record["digests"]["test"]},
    }
    (folder / "record.json").write_text(json.dumps(test), encoding="utf-8")
    answer = bench("figures", folder, "--results", tmp_path / "runs", "--out", tmp_path / "out")
    assert answer.code == 0, answer.err
    text = next((tmp_path / "out").rglob("external/other-0123/roc.txt")).read_text("utf-8")
    assert "Test part of other, protocol all images: 160 images" in text
    assert f"Run {run.name} of ce" in text


@pytest.mark.parametrize(
    ("flags", "code", "said"),
    [
        (["--only", "rock"], 2, "Did you mean 'roc'?"),
        (["--only", "roc"], 2, "not one of several runs"),
        (["KEY", "--only", "budget"], 2, "not one of a single run"),
        (["KEY", "--method", "ce"], 2, "Leave one out"),
        (["nokey"], 2, "No run 'nokey'"),
        (["--method", "none"], 3, "There are no runs of method 'none'"),
        (["--only", "critical_difference"], 3, "No figure could be drawn"),
    ],
)
def test_bad_input(root, bench, tmp_path, flags, code, said):
    key = f"{next(root.glob('*/*/ce/*')).name}/seed-0"
    given = [key if flag == "KEY" else flag for flag in flags]
    answer = bench("figures", *given, "--results", root, "--out", tmp_path / "out")
    assert answer.code == code
    assert said in answer.err
    assert "Traceback" not in answer.err
    assert not (tmp_path / "out").exists()


def test_a_run_that_is_not_done(tmp_path, bench):
    run = made_folder(tmp_path / "runs", "ce")
    (run.path / "record.json").unlink()
    (run.path / "config.json").write_text("{}", encoding="utf-8")
    answer = bench("figures", run.path, "--out", tmp_path / "out")
    assert answer.code == 3


def test_a_file_in_the_way(root, tmp_path, bench):
    (tmp_path / "made").write_text("", encoding="utf-8")
    answer = bench("figures", "--only", "f1_by_class_size", "--results", root, "--out", tmp_path)
    assert answer.code == 2
    assert "a file of that name is in the way" in answer.err


def test_letters_without_a_font_are_said(root, tmp_path, bench, monkeypatch):
    from ltbench.figures import fonts

    monkeypatch.setattr(fonts, "_families_with", lambda letters: ((), letters))
    flags = ["--only", "f1_by_class_size", "--results", root, "--out", tmp_path]
    answer = bench("figures", "--format", "png", *flags)
    assert answer.code == 0
    assert "No font of this machine has the letters" in answer.err
    assert "黑" in answer.err
    assert bench("figures", *flags).err == ""


def test_the_python_twin(root, tmp_path):
    written = ltbench.write_figures(tmp_path, results=root, only=["f1_by_class_size"])
    assert [file.name for file in written.files] == ["f1_by_class_size.svg"]
    run = next(root.glob("*/*/ce/*/seed-0"))
    assert len(ltbench.write_figures(tmp_path, [run]).files) == 6
    with pytest.raises(UsageError):
        ltbench.write_figures(tmp_path, [run], results=[root, tmp_path])
