"""Bundles as they are made, boards as they are built, checked, and trained again."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

import ltbench
from ltbench.bundles import making, rerun, training
from ltbench.bundles.manifest import sources_digest
from ltbench.bundles.members import zip_bytes
from ltbench.bundles.portable import command, portable
from ltbench.bundles.reading import open_bundle
from ltbench.bundles.work import Rerun, add, build, check, make_bundle
from ltbench.cell import plugin_digest
from ltbench.errors import (
    DataMissingError,
    LtbenchError,
    RunFailedError,
    UsageError,
    VerificationError,
)
from ltbench.files import read_json
from ltbench.registry import METHODS, source_files
from ltbench.testing import tiny_run
from ltbench.testing.tiny import TOY_BLOBS

BOARDS = Path(__file__).parents[2] / "results" / "boards"

OWN = '''
"""A method of somebody else."""

import os
import torch.nn.functional as F
from ltbench.method import METHODS, Method

if "LTBENCH_MARK" in os.environ:
    open(os.environ["LTBENCH_MARK"], "a").write("ran")


@METHODS.register("own_method", paper="none", year=2026, source="none")
class Own(Method):
    """Cross-entropy."""

    def per_sample_loss(self, logits, targets, progress):
        """CE."""
        return F.cross_entropy(logits, targets, reduction="none")
'''


def test_committed_boards_hold_what_their_predictions_give():
    """What CI runs: every number of our boards, computed again."""
    boards = sorted(header.parent for header in BOARDS.glob("*/board.json"))
    assert boards
    for found in check(boards):
        assert found["problems"] == []
        assert found["rows"] >= 4
        assert found["numbers"] > 1000
    assert sum(file.stat().st_size for file in BOARDS.rglob("*") if file.is_file()) < 2 * 2**20


def test_the_same_runs_give_the_same_bytes(tiny_runs, good_members, tmp_path):
    results, runs = tiny_runs
    assert making.bundle_members(runs) == good_members
    first = make_bundle(results, runs[0].path.parent.name[:6], tmp_path / "a" / "one.zip")
    again = make_bundle(results, str(runs[1].path), tmp_path / "two.zip")
    folder = make_bundle(results, runs[0].path.parent.name, tmp_path / "folder")
    assert (tmp_path / "a/one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    assert first.manifest.digest == again.manifest.digest == folder.manifest.digest
    with zipfile.ZipFile(tmp_path / "two.zip") as archive:
        assert {entry.date_time[0] for entry in archive.infolist()} == {1980}


def test_what_a_bundle_holds(tiny_runs, good):
    _, runs = tiny_runs
    bundle = open_bundle(good)
    for seed, run in enumerate(runs):
        stored = run.read_predictions("test")
        came = bundle.predictions(seed)["test"]
        assert np.array_equal(came.logits, stored.logits)
        assert came.ids.tolist() == stored.ids.tolist()
        assert bundle.records[seed]["ledger"] == run.record()["ledger"]
        assert bundle.configs[seed] == run.config()
    assert ("ce.py", METHODS.info("ce").file.read_text()) in bundle.sources


def test_the_digest_of_sources_is_the_keys():
    for name in ("ce", "ecl", "tsc"):
        texts = [(f.name, f.read_text("utf-8")) for f in source_files(METHODS.info(name).file)]
        assert sources_digest(texts) == plugin_digest(METHODS[name])


def test_no_path_of_this_machine_is_in_a_bundle(tmp_path, own_registries):
    plugin = tmp_path / "a place" / "own_method.py"
    plugin.parent.mkdir()
    plugin.write_text(OWN)
    run = tiny_run("own_method", tmp_path / "results", {"epochs": 1}, plugins=[plugin]).folder
    record = json.loads((run.path / "record.json").read_text())
    record["command"] = f"python bench.py run --plugin '{plugin}' --set weights={tmp_path}/w.pt"
    record["data_notes"] = {"table": f"{tmp_path}/lesions.csv", "url": "https://example.org/a/b"}
    (run.path / "record.json").write_text(json.dumps(record))
    members = making.bundle_members([run])
    told = json.loads(members["seed-0/record.json"])
    assert told["command"] == "python bench.py run --plugin own_method.py --set weights=w.pt"
    assert told["data_notes"] == {"table": "lesions.csv", "url": "https://example.org/a/b"}
    for name, data in members.items():
        assert os.fsencode(tmp_path) not in data, name


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/home/me/x.csv", "x.csv"),
        ("~/x.csv", "x.csv"),
        (r"C:\Users\me\x.csv", "x.csv"),
        ("read /a/b.csv, /c/d.csv", "read b.csv, d.csv"),
        ("weights=/a/b.pt", "weights=b.pt"),
        ("TP / (TP + FN)", "TP / (TP + FN)"),
        ("train 104/74/53", "train 104/74/53"),
        ("results/runs/x", "results/runs/x"),
        ("https://example.org/a", "https://example.org/a"),
        ("images / class", "images / class"),
        ("and/or", "and/or"),
        ({"a": ["/b/c", 1, None]}, {"a": ["c", 1, None]}),
    ],
)
def test_portable(text, expected):
    assert portable(text) == expected


def test_commands_keep_their_words():
    assert command("python bench.py run --set a='b c' --results /x/y") == (
        "python bench.py run --set 'a=b c' --results y"
    )


def test_the_source_must_be_that_of_the_run(tiny_runs, monkeypatch):
    _, runs = tiny_runs
    monkeypatch.setattr(making, "sources_digest", lambda texts: "0" * 64)
    with pytest.raises(VerificationError, match="The source of the method 'ce' is not the one"):
        making.bundle_members(runs)


def test_what_cannot_be_bundled(tiny_runs, tmp_path):
    results, runs = tiny_runs
    with pytest.raises(UsageError, match="No run 'ffff'"):
        make_bundle(results, "ffff", tmp_path / "x.zip")
    with pytest.raises(DataMissingError, match=r"with seed 9\. Finished: 0, 1"):
        make_bundle(results, runs[0].path.parent.name, tmp_path / "x.zip", [0, 9])
    other = tiny_run("ce", tmp_path / "other", {"epochs": 1}).folder
    with pytest.raises(UsageError, match="these runs have the keys"):
        making.bundle_members([runs[0], other])
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("")
    with pytest.raises(UsageError, match="Expected a new folder"):
        make_bundle(results, runs[0].path.parent.name, tmp_path / "full")


def test_a_board_shows_its_rows_and_how_they_were_checked(board, good):
    add(good, board=board)
    text = (board / "README.md").read_text()
    assert text.count("re-scored") >= 3
    assert "test labels are public" in text
    assert json.loads((board / "board.json").read_text())["dataset"] == "toy_blobs"
    (found,) = check([board])
    assert found["problems"] == []
    assert found["split"] == "as the data set here has it"
    assert found["images"] == 24 * 2 * 3


def test_the_same_row_is_not_added_twice(board, good):
    add(good, board=board)
    with pytest.raises(UsageError, match=r"has the configuration \w+ already, as 'ce"):
        add(good, board=board)


def test_dry_run_writes_nothing(board, good):
    before = {file: file.read_bytes() for file in board.rglob("*") if file.is_file()}
    assert add(good, board=board, dry_run=True).file is None
    assert before == {file: file.read_bytes() for file in board.rglob("*") if file.is_file()}


def test_a_new_board_is_of_the_split_made_here(good, tmp_path):
    added = add(good, board=tmp_path / "new")
    assert added.board == tmp_path / "new"
    (found,) = check([tmp_path / "new"])
    assert found["problems"] == []


def test_the_board_is_found_by_its_split(board, good, tmp_path):
    assert add(good, boards=board.parent).board == board
    with pytest.raises(UsageError, match="Expected one board of split"):
        add(good, boards=tmp_path / "none")


def test_build_takes_runs_bundles_and_boards(tiny_runs, board, good, tmp_path):
    results, runs = tiny_runs
    rows = [build([path], tmp_path / str(n))[1] for n, path in enumerate(
        [results, runs[0].path.parent, good, board]
    )]  # fmt: skip
    assert [row["seeds"] for of in rows[:3] for row in of] == [[0, 1]] * 3
    assert rows[0] == rows[1] == rows[2]
    assert [row["seeds"] for row in rows[3]] == [[0]]
    _, one_seed = build([runs[1].path], tmp_path / "one")
    assert one_seed[0]["seeds"] == [1]
    _, joined = build([board, good], tmp_path / "joined")
    assert len(joined) == 2
    assert build([board, good], tmp_path / "joined")[1] == []  # once more: nothing to do
    with pytest.raises(UsageError, match="No finished run and no bundle"):
        build([tmp_path / "joined" / "rows"], tmp_path / "x")


def test_build_refuses_two_splits(tiny_runs, tmp_path):
    results, _ = tiny_runs
    other = tmp_path / "other"
    tiny_run("ce", other, {"epochs": 1, "dataset.noise": 0.3})
    with pytest.raises(UsageError, match="A board is about one split"):
        build([results, *other.glob("toy_blobs/*/*/*"), *_digits(other)], tmp_path / "board")


def _digits(folder):
    ltbench.run(*("ce", "digits_lt"), results=folder, settings={"epochs": 1, "machine.threads": 1})
    return folder.glob("digits_lt/*/*/*")


def change_json(path, change):
    told = json.loads(path.read_text())
    change(told)
    path.write_text(json.dumps(told))


def inflate(row):
    row["test"]["macro_f1"]["mean"] += 1e-6


def promote(row):
    row["level"] = "re-run"


DAMAGE = {
    "row": (lambda b: change_json(next(b.glob("rows/*")), inflate), "test.macro_f1.mean: the"),
    "rerun": (
        lambda b: change_json(next(b.glob("rows/*")), lambda told: told.update(rerun="yes")),
        "is no row of a board",
    ),
    "level": (lambda b: change_json(next(b.glob("rows/*")), promote), "level: the board says"),
    "table": (lambda b: (b / "README.md").write_text("| ce | 100 |"), "README.md is not what"),
    "bundle": (lambda b: next(b.glob("bundles/*")).write_bytes(b""), "is no bundle"),
    "no bundle": (lambda b: next(b.glob("bundles/*")).unlink(), "found nothing there"),
    "stranger": (lambda b: (b / "bundles/x.zip").write_bytes(b""), "x.zip belongs to no row"),
    "groups": (
        lambda b: change_json(
            b / "groups.json", lambda told: told["groups"].update(test=["g"] * 24)
        ),
        "expected groups to be known",
    ),
    "split": (
        lambda b: change_json(
            b / "split.json", lambda told: told["parts"]["test"].__setitem__(0, "toy-9")
        ),
        "were changed: expected digest",
    ),
    "header": (lambda b: (b / "board.json").unlink(), "found no board.json"),
    "schema": (
        lambda b: change_json(b / "board.json", lambda told: told.update(schema_version=7)),
        "expected a board of schema version 1",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("damage", "message"), DAMAGE.values(), ids=DAMAGE)
def test_check_finds(damage, message, board, bench):
    damage(board)
    answer = bench("leaderboard", "check", board)
    assert answer.code == 4
    assert message in answer.err


def test_check_compares_the_split_with_the_data_set(board, good, monkeypatch):
    """A board whose lists were made up in one go fits itself, and not the data."""
    from ltbench.bundles import work
    from ltbench.bundles.reference import Reference

    made = work.of_data

    def other(record, data_root=None):
        reference = made(record, data_root)
        return Reference(reference.lists, {**reference.groups, "test": ("g",) * 24}, {
            **reference.facts, "groups_note": "other"
        })  # fmt: skip

    monkeypatch.setattr(work, "of_data", other)
    (found,) = check([board])
    assert found["problems"] == [
        "the groups differ from those of the data set here",
        "groups_note differ from those of the data set here",
    ]


@pytest.fixture
def in_process(monkeypatch):
    """Runs that would have a process of their own are trained in this one, which is quicker."""

    def train_here(words, **_):
        try:
            training.train(read_json(Path(words[-1])))
        except LtbenchError as error:
            return subprocess.CompletedProcess(words, 1, "", f"error: {error}")
        return subprocess.CompletedProcess(words, 0, "", "")

    monkeypatch.setattr(rerun.subprocess, "run", train_here)


def test_rerun_of_a_known_method_gives_the_same_bits(board, good, in_process):
    said = []
    again = Rerun(plugins=(TOY_BLOBS,), say=said.append)
    row = add(good, board=board, again=again).row
    assert row["level"] == "re-run"
    assert row["rerun"]["equal"] == "bit for bit"
    assert row["rerun"]["largest_difference"] == 0
    assert row["rerun"]["other_machine"] == []
    assert [line.partition(" of ce")[0] for line in said] == ["training seed 0", "training seed 1"]
    assert "re-run (bit for bit)" in (board / "README.md").read_text()
    (found,) = check([board])
    assert found["problems"] == []


def test_rerun_finds_invented_logits(board, forger, in_process):
    """Perfect predictions with records that fit: nothing but training again betrays them."""

    def invent(arrays):
        targets = arrays["test/targets"]
        arrays["test/logits"] = np.eye(4, dtype=np.float32)[targets] * 9

    path = forger.arrays(invent).record_fits().write()
    assert add(path, board=board, dry_run=True).row["test"]["accuracy"]["by_seed"]["0"] == 1
    with pytest.raises(VerificationError, match=r"seed 0, trained again: test \w+: claimed 1\.0"):
        add(path, board=board, again=Rerun(plugins=(TOY_BLOBS,)))
    assert len(list((board / "rows").glob("*.json"))) == 1


def test_rerun_by_a_version_with_more_settings(good):
    """A setting that the row's version did not have yet, at its default, is no other row."""
    bundle = open_bundle(good)
    found = json.loads(json.dumps(bundle.first))
    assert rerun._key_problems(bundle.first, found) == ([], set())
    found["key_parts"]["config"]["brand_new"] = "off"
    assert rerun._key_problems(bundle.first, found) == ([], {"config.brand_new"})
    found["key_parts"]["config"]["epochs"] = 99
    assert rerun._key_problems(bundle.first, found)[0] == ["config: another one than in its key."]
    found["key_parts"]["threads"] = 8
    found["train_counts"][0] = 7
    problems, other = rerun._key_problems(bundle.first, found)
    assert other == {"threads"}
    assert "train_counts: claimed" in problems[1]


@pytest.fixture
def own_bundle(tmp_path, monkeypatch, own_registries):
    """A bundle of a method that is known to its maker alone; what marks that its code ran."""
    plugin = tmp_path / "theirs" / "own_method.py"
    plugin.parent.mkdir()
    plugin.write_text(OWN)
    run = tiny_run("own_method", tmp_path / "results", {"epochs": 1}, plugins=[plugin]).folder
    path = tmp_path / "own.zip"
    path.write_bytes(zip_bytes(making.bundle_members([run])))
    METHODS._files.pop("own_method")
    METHODS._classes.pop("own_method")
    sys.modules.pop("ltbench_plugin_own_method")
    shutil.rmtree(plugin.parent)
    mark = tmp_path / "mark"
    monkeypatch.setenv("LTBENCH_MARK", str(mark))
    return path, mark


def test_a_strangers_plugin_is_not_run_unless_it_is_trusted(own_bundle, board):
    path, mark = own_bundle
    again = Rerun(plugins=(TOY_BLOBS,))
    assert add(path, board=board, dry_run=True).row["level"] == "re-scored"
    with pytest.raises(UsageError, match=r"plugin/own_method\.py of the bundle must be run"):
        add(path, board=board, again=again)
    assert not mark.exists()


@pytest.mark.slow
def test_a_strangers_plugin_runs_in_a_process_of_its_own(own_bundle, board, bench):
    path, mark = own_bundle
    words = ("leaderboard", "add", path, "--board", board, "--plugin", TOY_BLOBS, "--rerun")
    assert bench(*words).code == 2
    answer = bench(*words, "--trust-plugin")
    assert answer.code == 0, answer.err
    assert "re-run, bit for bit" in answer.out
    assert mark.exists()
    assert "own_method" not in METHODS
    (found,) = check([board])
    assert found["problems"] == []


def test_a_known_method_with_another_source_is_not_run(board, good, monkeypatch):
    monkeypatch.setattr("ltbench.bundles.rerun.sources_digest", lambda texts: "0" * 64)
    with pytest.raises(VerificationError, match="the method 'ce' here has digest 000000000000"):
        add(good, board=board, again=Rerun(plugins=(TOY_BLOBS,), trust_plugin=True))


@pytest.mark.slow
def test_a_rerun_that_fails_says_why(board, good):
    with pytest.raises(RunFailedError, match=r"seed 0 could not be trained again \(exit code 1"):
        add(good, board=board, again=Rerun(plugins=()))


def test_what_a_bundle_alone_cannot_repeat(forger, board):
    for seed in (0, 1):
        forger.json(f"seed-{seed}/config.json", lambda config: config.update(init_from="abc"))
    with pytest.raises(UsageError, match="starts from another run's weights"):
        add(forger.write(), board=board, again=Rerun(plugins=(TOY_BLOBS,)))


def test_commands(tiny_runs, board, tmp_path, bench):
    results, runs = tiny_runs
    key, out = runs[0].path.parent.name, tmp_path / "one.zip"
    answer = bench(
        "leaderboard", "bundle", key, "--out", out, "--results", results, "--seeds", "0-1"
    )
    assert (answer.code, answer.err) == (0, "")
    assert "seeds 0, 1; digest" in answer.out
    answer = bench("leaderboard", "add", out, "--board", board, "--dry-run", "--json")
    assert json.loads(answer.out)["row"]["seeds"] == [0, 1]
    answer = bench("leaderboard", "add", out, "--board", board)
    assert (answer.code, answer.err) == (0, "")
    assert f"({key}): re-scored; 2 seeds, macro F1" in answer.out
    answer = bench("leaderboard", "check", board, "--json")
    assert answer.code == 0
    assert json.loads(answer.out)[0]["rows"] == 2
    answer = bench(
        "leaderboard", "build", results, "--out", tmp_path / "b", "--dataset", "toy_blobs"
    )
    assert (answer.code, answer.err) == (0, "")
    assert "1 rows added" in answer.out
    out.write_bytes(b"")
    answer = bench("leaderboard", "add", out, "--board", board)
    assert (answer.code, answer.out) == (4, "")
    assert bench("leaderboard", "chekc").code == 2


def test_twins(tiny_runs, tmp_path):
    results, runs = tiny_runs
    told = ltbench.bundle(runs[0].path, tmp_path / "b.zip", results=results)
    assert told["seeds"] == (0, 1) or told["seeds"] == [0, 1]
    made = ltbench.build_board([tmp_path / "b.zip"], tmp_path / "board")
    assert made["added"][0]["level"] == "re-scored"
    assert ltbench.check_boards([tmp_path / "board"])[0]["problems"] == []
    ltbench.bundle(runs[0].path, tmp_path / "c.zip", results=results, seeds=[0])
    with pytest.raises(UsageError, match="already"):
        ltbench.add_to_board(tmp_path / "c.zip", tmp_path / "board")
