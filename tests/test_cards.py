"""Conformance cards: what the project shows of each method, in `describe` and docs/methods."""

import json
import re
from pathlib import Path

import pytest

from ltbench.catalogue import about, cards, render
from ltbench.evidence import golden_checks, settings_beside
from ltbench.registry import METHODS, add_plugins
from ltbench.report.cards import card

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "methods"
TOY = Path(__file__).parent / "plugins" / "toy_rows.py"


def test_committed_cards_are_those_of_the_code():
    committed = {file.name: file.read_text("utf-8") for file in FOLDER.iterdir()}
    assert committed == cards(), "run: python bench.py describe --cards docs/methods"


@pytest.mark.parametrize("name", METHODS.own_names())
def test_a_card_leaves_nothing_out(name):
    method, text = METHODS[name], cards()[f"{name}.md"]
    for setting in method.Config.model_fields:
        assert f"| `method.{setting}" in text
    for row in (*method.presets, *method.ablations):
        assert f"- `{name}@{row}`: " in text
    part = text.partition("## Departures")[2].partition("## Golden")[0]
    assert len(re.findall(r"^\d+\. ", part, re.M)) == len(method.departures)
    for line in text.splitlines():
        if line.startswith("| "):
            assert len(re.findall(r"(?<!\\)\|", line)) in (5, 6, 7)


def test_golden_checks_name_files_that_exist_and_errors_that_are_allowed():
    files = {file.stem for file in (ROOT / "tests" / "golden").glob("*.json")}
    for name in METHODS.own_names():
        checks = (golden_checks(name) or {"checks": []})["checks"]
        assert {check["case"] for check in checks} <= files
        assert all(0 <= check["error"] <= check["allowed"] <= 1e-6 for check in checks)


def test_settings_beside_have_the_presets_values():
    rows = {row["setting"]: row for row in settings_beside(METHODS["ldam_drw"])}
    assert rows["reweight.name"] == {
        "setting": "reweight.name",
        "ours": "effective",
        "paper": "inverse",
        "authors": "effective",
    }


def test_a_setting_of_a_preset_alone_is_the_recipes_elsewhere():
    add_plugins([TOY])
    rows = {row["setting"]: row for row in settings_beside(METHODS["toy_rows"])}
    assert rows["epochs"] == {
        "setting": "epochs",
        "ours": "(recipe)",
        "paper": "-",
        "authors": 1,
    }
    assert (rows["method.smoothing"]["ours"], rows["method.smoothing"]["authors"]) == (0.1, 0.3)


def test_a_method_from_elsewhere_has_a_card_without_golden_checks():
    add_plugins([TOY])
    facts = about("toy_rows")
    assert "none recorded" in render(facts)
    text = card(facts)
    assert "No numbers of published code are recorded" in text
    assert "Broken \\| on purpose" in text
    assert "toy_rows.md" not in cards()


def test_describe_shows_the_evidence(bench):
    text = bench("describe", "ldam_drw").out
    assert "m_c = m_max (N_min / N_c)^(1/4)" in text
    assert re.search(r"^reweight\.name +effective +inverse +effective$", text, re.M)
    assert re.search(r"^ldam_ordinary +\d+ +\S+ +1e-09$", text, re.M)
    facts = json.loads(bench("describe", "ldam_drw", "--json").out)
    assert {"class_margins", "ldam_losses"} <= {one["name"] for one in facts["equations"]}


def test_cards_are_written_and_written_again(bench, tmp_path):
    folder = tmp_path / "cards" / "of methods"
    for _ in range(2):
        answer = bench("describe", "--cards", str(folder))
        assert (answer.code, answer.err) == (0, "")
    assert {file.name: file.read_text("utf-8") for file in folder.iterdir()} == cards()


@pytest.mark.parametrize("arguments", [[], ["ecl", "--cards", "x"]])
def test_describe_wants_one_name_or_a_folder(bench, arguments):
    answer = bench("describe", *arguments)
    assert (answer.code, answer.out) == (2, "")
    assert "expected the NAME of one thing, or --cards FOLDER" in answer.err


def test_cards_below_a_file_are_refused(bench, tmp_path):
    (tmp_path / "file").write_text("here", encoding="utf-8")
    answer = bench("describe", "--cards", str(tmp_path / "file" / "cards"))
    assert answer.code != 0
    assert answer.err.startswith("error: ")
    assert "Traceback" not in answer.err


def test_what_no_preset_says_is_not_made_up():
    text = cards()["hybrid_sc.md"]
    assert "there is no preset `paper` or `authors`" in text
    settings = text.partition("## Settings")[2].partition("\n##")[0]
    rows = [line for line in settings.splitlines() if line.startswith("| `")]
    assert rows
    assert all(line.split(" | ")[2:4] == ["-", "-"] for line in rows)
    assert "Settings that are not the same" not in render(about("hybrid_sc"))
