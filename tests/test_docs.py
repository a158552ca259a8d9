"""The documents: examples run, command lines parse, links lead somewhere."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from ltbench import cli
from ltbench.config import resolve
from ltbench.registry import METHODS, add_plugins
from ltbench.runner import Place, run
from ltbench.testing import no_host_sync, tiny_run
from ltbench.testing.tiny import tiny_request
from ltbench.training.engine import StepEngine
from ltbench.tuning.space import parse_ranges, space_of

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted(
    (ROOT / "docs").glob("*.md")
)
BLOCK = re.compile(r"^```python\n# (file|script): (\S+)[^\n]*\n(.*?)^```$", re.M | re.S)
COMMAND = re.compile(r"python bench\.py ([^`#&|>\n]+)")


def examples(kind):
    """(name, text) of every marked block."""
    return [
        pytest.param(name, text, id=name)
        for document in DOCUMENTS
        for found, name, text in BLOCK.findall(document.read_text("utf-8"))
        if found == kind
    ]


def command_lines():
    """Every `python bench.py ...` of the documents, on one line each."""
    found = {}
    for document in DOCUMENTS:
        # Prose may break a line inside backquotes; a command of a shell block never does.
        for prose in re.split(r"^```.*?^```$", document.read_text("utf-8"), flags=re.M | re.S):
            for code in re.findall(r"`([^`]+)`", prose):
                found |= dict.fromkeys(COMMAND.findall(" ".join(code.split())), document.name)
        for block in re.findall(r"^```sh\n(.*?)^```$", document.read_text("utf-8"), re.M | re.S):
            found |= dict.fromkeys(COMMAND.findall(block), document.name)
    return [
        pytest.param(line.strip(), id=f"{name}: {line.strip()}") for line, name in found.items()
    ]


def draw_pictures(folder):
    """Thirty of each of two classes, named as the example of stored pictures has it."""
    folder.mkdir(parents=True)
    for i in range(60):
        shade = (40 + i, 60, 90 + i)
        Image.new("RGB", (12, 12), shade).save(folder / f"{'ab'[i % 2]}-{i}.png")


@pytest.fixture(scope="module")
def plugin_folder(tmp_path_factory):
    """A folder with every plugin of the documents."""
    folder = tmp_path_factory.mktemp("plugins")
    for parameter in examples("file"):
        name, text = parameter.values
        (folder / name).write_text(text, encoding="utf-8")
    return folder


@pytest.mark.parametrize(("name", "text"), examples("file"))
def test_plugins_of_the_documents_run(name, text, plugin_folder, tmp_path, monkeypatch):
    file, whole_step = plugin_folder / name, StepEngine.run

    def trapped(self, *arguments):
        with no_host_sync():
            return whole_step(self, *arguments)

    monkeypatch.setattr(StepEngine, "run", trapped)
    monkeypatch.setenv("LTBENCH_DATA", str(tmp_path / "data"))
    if "StoredDataset" in text:
        draw_pictures(tmp_path / "data" / file.stem)
    if "METHODS.register" in text:
        outcome = tiny_run(file.stem, tmp_path, {"epochs": 2}, plugins=[file])
    else:
        add_plugins([file])
        place = Place(results=tmp_path, plugins=(file,))
        outcome = run(tiny_request("ce", {"epochs": 2}, dataset=file.stem), place)
    assert outcome.folder.is_done()


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory):
    return tiny_run("ce", tmp_path_factory.mktemp("runs"), {"epochs": 1}).folder.path


@pytest.mark.parametrize(("name", "text"), examples("script"))
def test_scripts_of_the_documents_run(name, text, finished_run, tmp_path):
    file = tmp_path / name
    file.write_text(text, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(file), str(finished_run)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("line", command_lines())
def test_command_lines_parse(line, plugin_folder, monkeypatch):
    monkeypatch.chdir(plugin_folder)
    command, arguments, context = cli.cli, shlex.split(line), None
    while hasattr(command, "resolve_command"):
        context = command.make_context(command.name, arguments, parent=context)
        name, command, arguments = command.resolve_command(
            context, [*context._protected_args, *context.args]
        )
        assert command is not None, name
    given = command.make_context(name, arguments, parent=context).params
    if name == "run":
        add_plugins(given["plugins"])
        cli.parse_seeds(given["seeds"], given["seed"])
        for dataset in cli.parse_names(given["datasets"]):
            for method in cli.parse_names(given["methods"]):
                resolve(cli.request_of(method, dataset, {**given, "tuned_file": None}))
    if name == "tune":
        for method in cli.parse_names(given["methods"]):
            request = cli.request_of(method, given["dataset"], given)
            space_of(request, given["space"], parse_ranges(given["ranges"]))
    if name == "describe" and given["name"]:
        add_plugins(given["plugins"])
        assert given["name"] in METHODS


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document):
    for target in re.findall(r"\]\(([^)#]+)", document.read_text("utf-8")):
        if not target.startswith("https://"):
            assert (document.parent / target).exists(), target


def test_scripts_of_the_readme_exist():
    for name in re.findall(r"python (benchmarks/\w+\.py)", (ROOT / "README.md").read_text("utf-8")):
        assert (ROOT / name).is_file()


def test_readme_and_ci_install_and_test_alike():
    readme = (ROOT / "README.md").read_text("utf-8")
    ci = (ROOT / ".ci" / "run").read_text("utf-8").replace(" --quiet", "")
    for command in ("pip install -c constraints.txt -e '.[test]'", "python -m pytest -q -n 2"):
        assert command in readme
        assert command in ci


def test_metrics_of_the_document_are_those_of_the_code():
    from ltbench.metrics import METRICS

    text = (ROOT / "docs" / "results.md").read_text("utf-8")
    missing = [name for name in METRICS if f"`{name}`" not in text]
    # Head, medium and tail stand in one row.
    assert [name for name in missing if not name.endswith("_sensitivity")] == []
