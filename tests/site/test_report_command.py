"""`bench.py report`, its Python twin, boards in place of results, several processes."""

from __future__ import annotations

import json
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from html_pages import body_rows, read, table
from site_runs import row

import ltbench
from ltbench.errors import VerificationError
from ltbench.files import alone

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def root(tmp_path):
    row(tmp_path / "runs", "ce", 2.0, seeds=1)
    return tmp_path / "runs"


def test_the_command_and_its_twin(root, tmp_path, bench):
    flags = ["--no-figures", "--no-bold", "--jobs", 1, "--title", "T & <b>"]
    answer = bench("report", "--results", root, "--out", tmp_path / "a", *flags)
    assert answer.code == 0, answer.err
    assert answer.err == "1 of 1 run pages to make.\n"
    assert answer.out.splitlines()[-1] == f"Open {tmp_path / 'a' / 'index.html'}"
    assert next(read(tmp_path / "a" / "index.html").all("h1")).text == "T & <b>"
    made = ltbench.write_site(
        tmp_path / "b", results=root, dataset="made", figures=False, bold=False, title="T & <b>"
    )
    assert made.num_runs == 1
    for file in (tmp_path / "a").rglob("*"):
        if file.is_file():
            other = tmp_path / "b" / file.relative_to(tmp_path / "a")
            assert other.read_bytes() == file.read_bytes()


def test_selection(root, tmp_path, bench):
    row(root, "ecl", 1.0, seeds=1)
    row(root, "mine", 1.0, seeds=1, protocol="paper")
    flags = ["--no-figures", "--method", "ecl,mine", "--protocol", "group", "--sort", "name"]
    answer = bench("report", "--results", root, "--out", tmp_path / "site", *flags)
    assert answer.code == 0, answer.err
    rows = body_rows(table(read(tmp_path / "site" / "index.html"), "made-group-table"))
    assert [cells[0].text for cells in rows] == ["ecl"]


OWN = """
import torch.nn.functional as F
from ltbench.method import METHODS, Method


@METHODS.register("made_here", paper="A paper of ours", year=2026, source="none")
class MadeHere(Method):
    \"\"\"Cross-entropy, told on a card.\"\"\"

    def per_sample_loss(self, logits, targets, progress):
        return F.cross_entropy(logits, targets, reduction="none")
"""


def test_a_method_of_ones_own_has_its_card(tmp_path, bench, own_registries):
    row(tmp_path / "runs", "made_here", 1.0, seeds=1)
    (tmp_path / "made_here.py").write_text(OWN)
    flags = ["--results", tmp_path / "runs", "--out", tmp_path / "site", "--no-figures"]
    page = tmp_path / "site" / "methods" / "made_here.html"
    assert bench("report", *flags).code == 0
    assert "told on a card" not in read(page).text
    answer = bench("report", *flags, "--plugin", tmp_path / "made_here.py")
    assert answer.code == 0, answer.err
    assert "Cross-entropy, told on a card." in read(page).text
    assert "A paper of ours" in read(page).text


def test_two_commands_write_one_after_the_other(root, tmp_path):
    out = tmp_path / "site"
    out.mkdir()
    with ThreadPoolExecutor(1) as pool:
        with alone(out):
            made = pool.submit(ltbench.write_site, out, results=root, figures=False, bold=False)
            with pytest.raises(TimeoutError):
                made.result(timeout=1.5)
            assert not any(out.iterdir())
        assert made.result(timeout=60).num_runs == 1


@pytest.mark.parametrize(
    ("flags", "code", "told"),
    [
        (["--method", "elc"], 3, "There are no runs of method 'elc'"),
        (["--sort", "speed"], 2, "No column 'speed'"),
        (["--jobs", "0"], 2, "Expected 1 process"),
        (["--board", "nowhere"], 2, "not both"),
    ],
)
def test_mistakes_are_told(root, tmp_path, bench, flags, code, told):
    out = tmp_path / "site"
    answer = bench("report", "--results", root, "--out", out, "--no-figures", *flags)
    assert answer.code == code
    assert told in answer.err
    assert not out.exists()


def test_a_folder_of_somebody_else_is_refused(root, bench):
    answer = bench("report", "--results", root, "--out", root, "--no-figures")
    assert answer.code == 2
    assert "something else is there" in answer.err


@pytest.fixture(scope="module")
def small_board(tmp_path_factory):
    """The committed board, cut to two rows."""
    folder = tmp_path_factory.mktemp("board") / "digits"
    shutil.copytree(ROOT / "results" / "boards" / "digits_lt", folder)
    for kind in ("rows", "bundles"):
        for file in sorted((folder / kind).iterdir())[2:]:
            file.unlink()
    return folder


def test_a_board_in_place_of_results(small_board, tmp_path):
    made = ltbench.write_site(
        tmp_path / "site", boards=small_board, figures=False, bold=False, pictures=False
    )
    assert (made.num_boards, made.num_runs) == (1, 10)
    index = read(tmp_path / "site" / "index.html")
    rows = body_rows(table(index, "digits_lt-held_out-table"))
    assert {cells[1].text for cells in rows} == {"re-run (bit for bit)"}
    assert "trained again here" in index.text
    again = ltbench.write_site(
        tmp_path / "site", boards=small_board, figures=False, bold=False, pictures=False
    )
    assert again.num_written == 0


def test_a_level_is_that_of_its_own_row(small_board, tmp_path):
    """Whatever key and level a row's file claims."""
    folder = shutil.copytree(small_board, tmp_path / "board")
    first, second = sorted((folder / "rows").iterdir())
    told, other = (json.loads(file.read_text()) for file in (first, second))
    first.write_text(json.dumps(told | {"rerun": None, "key": other["key"]}))
    ltbench.write_site(tmp_path / "site", boards=folder, figures=False, bold=False, pictures=False)
    index = read(tmp_path / "site" / "index.html")
    rows = body_rows(table(index, "digits_lt-held_out-table"))
    levels = {cells[0].text.removesuffix(" †"): cells[1].text for cells in rows}
    assert levels == {told["label"]: "re-scored", other["label"]: "re-run (bit for bit)"}
    first.write_text(json.dumps(told | {"rerun": "yes"}))
    with pytest.raises(VerificationError, match=r"rerun: expected equal, .* came 'yes'"):
        ltbench.write_site(tmp_path / "no", boards=folder, figures=False, pictures=False)


@pytest.mark.slow
def test_several_processes_write_the_same(tmp_path):
    root = tmp_path / "runs"
    for name in ("ce", "ecl", "focal", "crt"):
        row(root, name, 1.0, seeds=5)
    for jobs in (1, 2):
        ltbench.write_site(tmp_path / str(jobs), results=root, jobs=jobs)
    files = [file for file in (tmp_path / "1").rglob("*") if file.is_file()]
    assert len(files) > 100
    for file in files:
        other = tmp_path / "2" / file.relative_to(tmp_path / "1")
        assert other.read_bytes() == file.read_bytes(), file
