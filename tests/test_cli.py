"""The commands, as a user gives them."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from ltbench.cli import parse_seeds
from ltbench.columns import columns
from ltbench.config import Request, resolve
from ltbench.errors import InterruptedRunError, UsageError
from ltbench.registry import DATASETS, METHODS
from ltbench.repeat import repeat_command
from ltbench.results import RunFolder
from ltbench.runner import Place
from ltbench.settings import parse_assignments

Bench = Callable[..., Any]

ROOT = Path(__file__).parents[1]
CE = ["run", "--method", "ce", "--dataset", "digits_lt", "--epochs", "1", "--threads", "1"]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of two seeds of `ce`, made by a real process."""
    folder = tmp_path_factory.mktemp("results")
    done = subprocess.run(
        [sys.executable, ROOT / "bench.py", *CE, "--seeds", "0-1", "--results", folder],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        cwd=folder,
    )
    assert (done.returncode, done.stderr) == (0, "")
    (folder / "stdout.txt").write_text(done.stdout)
    return folder


_CHILDREN = ("children_user", "children_system")
QUICK = [["--help"], ["run", "--help"], ["list", "methods"], ["list", "recipes", "--json"]]


@pytest.mark.parametrize("arguments", QUICK, ids=" ".join)
def test_quick_commands_import_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys; from ltbench.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit as stop: assert not stop.code\n"
        "heavy = {'torch', 'timm', 'pandas', 'sklearn', 'scipy', 'numpy', 'optuna', 'pydantic'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, *arguments], check=True, timeout=60)


def least_cpu_s(*command: object) -> float:
    """The least processor time of several starts, which a busy machine does not lengthen much."""
    times = []
    for _ in range(5):
        before = os.times()
        subprocess.run([sys.executable, *map(str, command)], check=True, capture_output=True)
        after = os.times()
        user, system = (getattr(after, n) - getattr(before, n) for n in _CHILDREN)
        times.append(user + system)
    return min(times)


def test_quick_commands_are_quick() -> None:
    interpreter = least_cpu_s("-c", "pass")
    for arguments in (["--help"], ["list", "methods"]):
        assert least_cpu_s(ROOT / "bench.py", *arguments) - interpreter < 0.4, arguments


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("methods", "ecl"),
        ("datasets", "digits_lt"),
        ("recipes", "ecl_paper"),
        ("presets", "ecl@no_cycle"),
        ("metrics", "macro_f1"),
        ("backbones", "resnet32_cifar"),
    ],
)
def test_list(bench: Bench, kind: str, name: str) -> None:
    text, rows = bench("list", kind), bench("list", kind, "--json")
    assert (text.code, text.err, rows.code, rows.err) == (0, "", 0, "")
    names = [row["name"] for row in json.loads(rows.out)]
    assert name in names
    assert all(one in text.out for one in names)


def test_list_of_something_else_is_refused(bench: Bench) -> None:
    answer = bench("list", "method")
    assert (answer.code, answer.out) == (2, "")
    assert "Did you mean 'methods'" in answer.err


def test_lists_are_cut_on_a_terminal_only(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    paper = METHODS.info("ecl").paper
    assert paper in bench("list", "methods").out
    monkeypatch.setattr("ltbench.columns.terminal_width", lambda: 100)
    cut = bench("list", "methods").out
    assert paper not in cut
    assert "…" in cut
    assert max(map(len, cut.splitlines())) <= 100
    assert paper in json.dumps(json.loads(bench("list", "methods", "--json").out))


def test_columns_are_wrapped_or_cut_to_the_width() -> None:
    rows = [{"name": "one", "text": "some words that are many", "none": ""}]
    assert (
        columns(rows)
        == "name  text\n----  ------------------------\none   some words that are many"
    )
    wrapped = columns(rows, width=20).splitlines()
    assert wrapped[2:] == ["one   some words", "      that are many"]
    assert columns(rows, width=20, cut=True).splitlines()[2:] == ["one   some words th…"]


def test_describe_tells_every_setting_of_a_method(bench: Bench) -> None:
    answer = bench("describe", "ecl")
    assert (answer.code, answer.err) == (0, "")
    ecl = METHODS["ecl"]
    wanted = [f"method.{name}" for name in ecl.Config.model_fields]
    wanted += [f"ecl@{name}" for name in {**ecl.presets, **ecl.ablations}]
    assert [text for text in wanted if text not in answer.out] == []
    one_line = " ".join(answer.out.split())
    assert all(" ".join(text.split()) in one_line for text in ecl.departures)
    assert "number 0.001..10 0.01 .. 1 (log) tau; 0.01 in the paper" in one_line
    assert "hybrid hybrid | integer 1..100" in one_line
    assert "method.f1_rounding false true | false" in one_line
    assert max(map(len, answer.out.splitlines())) <= 120
    assert not re.search(r"typing\.|Annotated|Distribution\(|<class", answer.out)


def test_describe_shows_what_presets_change(bench: Bench) -> None:
    text = bench("describe", "ecl").out
    shown = text[text.index("ecl@paper:") : text.index("ecl@authors:")]
    assert "views.eval" in shown
    assert "temperature" in shown
    assert "(changes nothing)" in text[text.index("ecl@full") :]


def test_describe_as_json(bench: Bench) -> None:
    facts = json.loads(bench("describe", "ecl@no-cycle", "--json").out)
    rows = {row["setting"]: row for row in facts["settings"]}
    assert rows["method.f1_rounding"]["default"] is False
    assert rows["method.temperature"]["search"] == "0.01 .. 1 (log)"
    assert facts["ablations"]["no_cycle"]["settings"] == {"method.cycle_update": False}


@pytest.mark.parametrize("name", [*METHODS.names(), *DATASETS.names(), "ecl_paper", "digits-lt"])
def test_describe_everything(bench: Bench, name: str) -> None:
    answer = bench("describe", name)
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.splitlines()[0].endswith(name.replace("-", "_"))
    assert "typing." not in answer.out
    assert json.loads(bench("describe", name, "--json").out)["text"]


@pytest.mark.parametrize(
    ("name", "hint"),
    [("elc", "'ecl'"), ("digit_lt", "'digits_lt'"), ("ecl@no_cicle", "'no_cycle'")],
)
def test_describe_of_something_else_is_refused(bench: Bench, name: str, hint: str) -> None:
    answer = bench("describe", name)
    assert (answer.code, answer.out) == (2, "")
    assert f"Did you mean {hint}?" in answer.err


def test_run_tells_folder_key_and_command(results: Path) -> None:
    text = (results / "stdout.txt").read_text()
    folders = re.findall(r"^run: +(.*)$", text, re.MULTILINE)
    keys = re.findall(r"^key: +(\w+)$", text, re.MULTILINE)
    assert [Path(folder).name for folder in folders] == ["seed-0", "seed-1"]
    assert [Path(folder).parent.name for folder in folders] == keys
    assert all((Path(folder) / "record.json").is_file() for folder in folders)
    commands = re.findall(r"^repeat: +(.*)$", text, re.MULTILINE)
    assert shlex.split(commands[1])[:3] == ["python", "bench.py", "run"]
    assert "--seed 1" in commands[1]
    assert str(results) in commands[1]


def test_the_told_command_repeats_the_run(bench: Bench, results: Path) -> None:
    command = re.findall(r"^repeat: +(.*)$", (results / "stdout.txt").read_text(), re.MULTILINE)[1]
    answer = bench(*shlex.split(command)[2:])
    assert (answer.code, answer.err) == (0, "")
    assert "seed 1: already done, nothing was trained" in answer.out


def test_a_done_cell_is_not_trained_again(bench: Bench, results: Path) -> None:
    record = next(results.glob("*/*/ce/*/seed-0/record.json"))
    before = record.read_bytes()
    answer = bench(*CE, "--results", results)
    assert answer.out.count("already done") == 1
    assert record.read_bytes() == before


def test_dry_run_trains_nothing(bench: Bench, tmp_path: Path) -> None:
    answer = bench(*CE, "--seeds", "3,5", "--dry-run", "--results", tmp_path)
    assert (answer.code, answer.err) == (0, "")
    assert [line.split("/")[-1] for line in re.findall(r"folder: .*", answer.out)] == [
        "seed-3",
        "seed-5",
    ]
    assert "learning" not in answer.out
    assert list(tmp_path.rglob("record.json")) == list(tmp_path.rglob("epochs.jsonl")) == []


def test_all_runs_are_checked_before_the_first(bench: Bench, tmp_path: Path) -> None:
    answer = bench(*CE[:1], "--method", "ce,ecl@odd", *CE[3:], "--results", tmp_path)
    assert (answer.code, answer.out) == (2, "")
    assert "Unknown preset of ecl 'odd'" in answer.err
    assert list(tmp_path.iterdir()) == []


def test_a_refusal_of_the_last_cell_comes_before_the_first_trains(
    bench: Bench, tmp_path: Path
) -> None:
    answer = bench(*CE[:1], "--method", "ce,ecl@mixup", *CE[3:], "--results", tmp_path)
    assert (answer.code, answer.out) == (2, "")
    assert "method 'ecl' has a training step of its own" in answer.err
    assert not list(tmp_path.rglob("seed-*"))


@pytest.mark.parametrize("backbone", ["vit_tiny_patch16_224", "convnext_atto"])
def test_a_backbone_that_does_not_take_the_pictures(bench: Bench, backbone: str) -> None:
    answer = bench(*CE, "--backbone", backbone, "--dry-run")
    assert (answer.code, answer.out) == (2, "")
    assert f"backbone '{backbone}' does not take the recipe's pictures of 8 x 8" in answer.err


@pytest.mark.parametrize("method", ["ce@mixup+mixup", "ecl@no-cycle+no_cycle"])
def test_a_preset_named_twice_is_refused(bench: Bench, method: str) -> None:
    answer = bench(*CE[:1], "--method", method, *CE[3:], "--dry-run")
    assert (answer.code, answer.out) == (2, "")
    assert "twice" in answer.err


def test_describe_offers_only_compositions_that_run(bench: Bench) -> None:
    assert "ecl@mixup" not in bench("describe", "ecl").out
    assert "ecl@balanced" in bench("describe", "ecl").out
    assert "focal@mixup" in bench("describe", "focal").out


def test_describe_never_breaks_a_name(bench: Bench) -> None:
    text = bench("describe", "crt").out
    for setting in ("classifier_epochs", "classifier_lr_factor", "classifier_sampler"):
        assert f"method.{setting} " in text


def test_repeated_commands_mean_the_same_settings() -> None:
    settings = {
        "precision": "32",
        "epochs": 3,
        "optimizer.clip_norm": None,
        "optimizer.lr": 1e-5,
        "weights": "no",
        "optimizer.nesterov": True,
        "views.eval": [{"hflip": {"p": 0.5}}],
        "seed": 4,
    }
    command = shlex.split(
        repeat_command(Request("ce", "digits_lt", settings=settings), 4, Place(Path("x")))
    )
    given = parse_assignments([w for f, w in pairwise(command) if f == "--set"])
    assert resolve(Request("ce", "digits_lt", settings={**given, "seed": 4})) == resolve(
        Request("ce", "digits_lt", settings=settings)
    )


def test_an_interrupted_run_says_how_to_go_on(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object) -> None:
        raise InterruptedRunError("Stopped; all is saved.", 15)

    monkeypatch.setattr("ltbench.runner.run", stopped)
    answer = bench(*CE, "--results", tmp_path)
    assert answer.code == 143
    assert "To go on from there: python bench.py run --method ce" in answer.err


@pytest.mark.parametrize(
    ("text", "seeds"),
    [("0-2", [0, 1, 2]), ("0,2,5", [0, 2, 5]), ("3", [3]), ("1-2,2-3", [1, 2, 3])],
)
def test_seeds(text: str, seeds: list[int]) -> None:
    assert parse_seeds(text, None) == seeds


@pytest.mark.parametrize("text", ["", "a", "-1", "1-", "2-1", "0..3", "1,,2", "²"])
def test_bad_seeds_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--seeds takes 0-4 or 0,2,5"):
        parse_seeds(text, None)


def test_tables(bench: Bench, results: Path, tmp_path: Path) -> None:
    markdown = bench("table", "--results", results)
    assert (markdown.code, markdown.err) == (0, "")
    assert re.search(r"^\| *ce .*±", markdown.out, re.MULTILINE)
    rows = list(
        csv.reader(io.StringIO(bench("table", "--results", results, "--format", "csv").out))
    )
    assert any("ce epochs=1" in row for row in rows)
    file = tmp_path / "table.md"
    assert bench("table", "--results", results, "--out", file).out == f"Wrote {file}\n"
    assert file.read_text() == markdown.out


def test_table_without_runs_says_what_to_do(bench: Bench, results: Path, tmp_path: Path) -> None:
    for arguments in (["--results", tmp_path], ["--results", results, "--method", "ecl"]):
        answer = bench("table", *arguments)
        assert (answer.code, answer.out) == (3, "")
        assert "Run one first: python bench.py run" in answer.err


def test_status(bench: Bench, results: Path, tmp_path: Path) -> None:
    rows = json.loads(bench("status", "--results", results, "--json").out)
    assert [(row["method"], row["state"], row["epochs"]) for row in rows] == [
        ("ce", "done", "train 1/1"),
        ("ce", "done", "train 1/1"),
    ]
    assert bench("status", "--results", results).out.endswith("2 done\n")
    assert bench("status", "--results", tmp_path).out == "No runs yet.\n"


def test_status_of_damaged_files_changes_nothing(bench: Bench, tmp_path: Path) -> None:
    run = tmp_path / "digits_lt" / "held_out" / "ce" / "12345678e9012345" / "seed-0"
    run.mkdir(parents=True)
    (run / "record.json").write_text('{"schema')
    (run / "epochs.jsonl").write_text("{no\n")
    (row,) = json.loads(bench("status", "--results", tmp_path, "--json").out)
    assert (row["state"], row["epochs"]) == ("damaged", "damaged")
    assert "12345678e9012345/seed-0" in bench("status", "--results", tmp_path).out
    assert sorted(file.name for file in run.iterdir()) == ["epochs.jsonl", "record.json"]


def test_status_of_a_failed_run(bench: Bench, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "digits_lt" / "held_out" / "ce" / "12345678e9012345" / "seed-0")
    folder.write_failure({"message": "the loss is not finite"})
    (row,) = json.loads(bench("status", "--results", tmp_path, "--json").out)
    assert row["state"] == "failed"
    folder.clear_failure()
    (row,) = json.loads(bench("status", "--results", tmp_path, "--json").out)
    assert row["state"] == "stopped"


@pytest.mark.usefixtures("own_registries")
def test_doctor(bench: Bench, tmp_path: Path) -> None:
    answer = bench("doctor", "--results", tmp_path, "--json")
    checks = {check["check"]: check for check in json.loads(answer.out)}
    assert answer.code == 0
    assert checks["results folder"]["state"] == "ok"
    assert "torch" in checks["libraries"]["finding"]
    assert checks["data: digits_lt"]["finding"].startswith("1797 images")
    plugin = tmp_path / "shaky.py"
    plugin.write_text("raise RuntimeError('shaky')\n@METHODS.register('shaky')\nclass A: pass\n")
    METHODS.add_file(plugin)
    (tmp_path / "file").touch()
    answer = bench("doctor", "--results", tmp_path / "file" / "runs")
    assert answer.code == 1
    assert re.search(r"^results folder +failed", answer.out, re.MULTILINE)
    assert re.search(r"^methods +failed +.*'shaky' could not be imported", answer.out, re.MULTILINE)
    assert re.search(r"^data: digits_lt +ok", answer.out, re.MULTILINE)


def test_data_show(bench: Bench) -> None:
    answer = bench("data", "show", "digits-lt", "--set", "dataset.imbalance=50", "--json")
    facts = json.loads(answer.out)
    assert facts["notes"]["nominal_imbalance"] == 50
    assert [sum(row[part] for row in facts["classes"]) for part in ("train", "test")] == [287, 520]
    text = bench("data", "show", "digits_lt")
    assert "licence: CC BY 4.0" in text.out
    assert "protocol held_out:" in text.out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["digit_lt"], "Did you mean 'digits_lt'"),
        (["digits_lt", "--protocol", "held"], "Did you mean 'held_out'"),
        (["digits_lt", "--set", "dataset.imbalence=5"], "Did you mean 'dataset.imbalance'"),
        (["digits_lt", "--split-seed", "-1"], "-1 is not in the range x>=0"),
    ],
)
def test_data_show_refuses(bench: Bench, arguments: list[str], said: str) -> None:
    answer = bench("data", "show", *arguments)
    assert (answer.code, answer.out) == (2, "")
    assert said in answer.err


def test_fetch_of_what_comes_with_a_package(bench: Bench) -> None:
    assert "needs no download" in bench("data", "fetch", "digits_lt").out


@pytest.mark.usefixtures("own_registries")
@pytest.mark.parametrize("kind", ["method", "dataset"])
def test_a_new_plugin_runs_at_once(bench: Bench, tmp_path: Path, kind: str) -> None:
    name = f"fresh_{kind}"
    folder = tmp_path / "to be made"
    answer = bench("plugin", "new", name.replace("_", "-"), "--kind", kind, "--dir", folder)
    file = folder / f"{name}.py"
    assert (answer.code, answer.err) == (0, "")
    assert f"Test it: python bench.py plugin test {shlex.quote(str(file))}" in answer.out
    names = {"method": "ce", "dataset": "digits_lt", kind: name}
    flags = ["--epochs", "1", "--threads", "1", "--plugin", file, "--results", tmp_path / "runs"]
    ran = bench("run", "--method", names["method"], "--dataset", names["dataset"], *flags)
    assert (ran.code, ran.err) == (0, "")
    assert f"--plugin '{file}'" in ran.out
    assert name in bench("list", f"{kind}s", "--plugin", file).out


@pytest.mark.parametrize(
    ("name", "said"),
    [("ce", "There is a method called 'ce'"), ("My-Method", "lower-case"), ("2nd", "cannot name")],
)
def test_new_plugins_with_bad_names_are_refused(
    bench: Bench, tmp_path: Path, name: str, said: str
) -> None:
    answer = bench("plugin", "new", name, "--dir", tmp_path)
    assert (answer.code, answer.out) == (2, "")
    assert said in answer.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("own_registries")
def test_plugin_test_runs_the_suite_on_a_file(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind in ("method", "dataset"):
        bench("plugin", "new", f"tried_{kind}", "--kind", kind, "--dir", tmp_path)
        written: list[str] = []

        def collect(command: list[str], into: list[str] = written, **_: Any) -> Any:
            into.append(Path(command[-1]).read_text())
            return subprocess.CompletedProcess(command, 0)

        monkeypatch.setattr("ltbench.scaffold.subprocess.run", collect)
        assert bench("plugin", "test", tmp_path / f"tried_{kind}.py").code == 0
        assert f"{kind.capitalize()}Conformance" in written[0]
        assert f"{kind} = 'tried_{kind}'" in written[0]
        assert str(tmp_path / f"tried_{kind}.py") in written[0]
