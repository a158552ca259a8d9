"""`ablate`: the rows a method declares, run and printed as one table."""

from __future__ import annotations

from pathlib import Path

import pytest

import ltbench
from ltbench.ablation import ablation_rows
from ltbench.config import Request, resolve
from ltbench.errors import UsageError
from ltbench.registry import METHODS, add_plugins
from ltbench.testing.tiny import TOY_BLOBS

TOY_ROWS = Path(__file__).with_name("plugins") / "toy_rows.py"
PAPERS_ROWS = [
    "Classifier branch-CE, HPM",
    "Classifier branch-BWCE, HPM",
    "Dual branch-CE+BHP, HPM",
    "Dual branch-BWCE+BHP, 2 proxies per-class",
    "Dual branch-BWCE+BHP, 3 proxies per-class",
    "Dual branch-BWCE+BHP, 4 proxies per-class",
    "Dual branch-BWCE+BHP, w/o cycle strategy",
    "Dual branch-BWCE+BHP, HPM",
]


@pytest.fixture
def ablate(bench, tmp_path):
    """The command on a toy method and toy data, two epochs a run."""

    def call(*arguments, method="toy_rows"):
        files = ("--plugin", TOY_ROWS, "--plugin", TOY_BLOBS, "--results", tmp_path / "runs")
        run = ("--dataset", "toy_blobs", "--backbone", "resnet8_cifar", "--threads", 1)
        short = ("--epochs", 2, "--batch-size", 8)
        return bench("ablate", "--method", method, *run, *short, *files, *arguments)

    return call


def rows_of(text):
    return [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("|")][2:]


def test_the_tables_rows_stand_in_their_declared_order(ablate):
    answer = ablate("--only", "full,plain", "--seeds", "0-1")
    assert answer.code == 0, answer.err
    assert [row.split(" batch")[0] for row in rows_of(answer.out)] == [
        "Without smoothing",
        "Whole",
    ]
    for column in (" Acc ", " Sen ", " Pre ", " F1 ", " AUC ", "2 (provisional)"):
        assert column in answer.out
    assert "Split: " in answer.out


def test_again_trains_nothing_and_prints_the_same_table(ablate):
    first = ablate("--only", "full", "--seed", "3")
    again = ablate("--only", "full", "--seed", "3")
    assert "already done" in again.out
    assert "train epoch" not in again.out
    table = first.out[first.out.index("| method") :]
    assert again.out.endswith(table)


def test_a_row_that_fails_does_not_stop_the_others(ablate):
    answer = ablate()
    assert answer.code == 5
    assert len(rows_of(answer.out)) == 2
    assert "toy_rows@broken, seed 0: The loss is not finite" in answer.err
    assert "1 of 3 cells failed" in answer.err


def test_every_row_failed(ablate):
    answer = ablate("--only", "broken")
    assert answer.code == 5
    assert rows_of(answer.out) == []


def test_a_mistake_is_found_before_anything_trains(ablate, tmp_path):
    answer = ablate("--set", "method.smoothing=2")
    assert answer.code == 2
    assert not list(tmp_path.rglob("seed-*"))


def test_written_to_a_file(ablate, tmp_path):
    answer = ablate("--only", "full", "--format", "csv", "--out", tmp_path / "deep" / "rows.csv")
    assert answer.code == 0
    lines = (tmp_path / "deep" / "rows.csv").read_text("utf-8").splitlines()
    assert len(lines) == 1 + 5
    assert all(",Whole batch_size=8" in line for line in lines[1:])


def test_a_row_in_a_joined_base_is_refused():
    with pytest.raises(UsageError, match=r"'no_cycle' of .* is itself a row"):
        ablation_rows("ecl@no_cycle+authors_losses", ["proxies_2"])


def test_rows_on_a_preset(ablate):
    answer = ablate("--only", "full", method="toy_rows@authors")
    assert answer.code == 0
    assert rows_of(answer.out)[0].startswith("Whole@authors")


@pytest.mark.parametrize(
    ("method", "only", "words"),
    [
        ("toy_rows", "ful", "Did you mean 'full'"),
        ("ce", "", "declares no ablations"),
        ("toy_rows@full", "", "itself a row"),
        ("toy_row", "", "Did you mean 'toy_rows'"),
    ],
)
def test_what_cannot_be_run(ablate, method, only, words):
    answer = ablate(*(("--only", only) if only else ()), method=method)
    assert answer.code == 2
    assert words in answer.err


def test_presets_that_contradict_each_other_are_refused():
    """Joined in either order, one would silently win."""
    add_plugins([TOY_ROWS, TOY_BLOBS])
    (row,) = ablation_rows("toy_rows@authors", ["plain"])
    with pytest.raises(UsageError, match=r"method\.smoothing different values"):
        resolve(Request(row, "toy_blobs", settings={"backbone": "resnet8_cifar"}))


def test_from_python(tmp_path):
    ablation = ltbench.ablate(
        "toy_rows",
        "toy_blobs",
        only=["full"],
        settings={"epochs": 1, "batch_size": 8, "machine.threads": 1},
        results=tmp_path,
        plugins=[TOY_ROWS, TOY_BLOBS],
    )
    (table,) = ablation.tables()
    assert ablation.failures == []
    assert [row.label.split(" batch")[0] for row in table.rows] == ["Whole"]


def test_ecl_has_the_papers_eight_rows():
    method = METHODS["ecl"]
    assert [row.summary for row in method.ablations.values()] == PAPERS_ROWS
    assert len(ablation_rows("ecl")) == 8
