"""Which way imports go, what the harness may not know, and how long things may be."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HARNESS = sorted((ROOT / "ltbench").rglob("*.py"))
PLUGINS = {
    kind: sorted((ROOT / kind).glob("[!_]*.py")) + sorted((ROOT / kind).glob("_[!_]*.py"))
    for kind in ("methods", "datasets")
}

# From the ground up; a module imports from its own layer and from those before it. `x.*` stands for
# a package's modules.
LAYERS = (
    "errors functional predictions columns program",
    "files migrations owner spawning registry settings explain provenance tensorboard "
    "recipes recipes.*",
    "launchers launchers.*",
    "method dataset",
    "data data.* views views.* intake intake.* store store.* fetch fetch.* models metrics "
    "stored_predictions seen results run_weights derived",
    "composition run_config",
    "tuned",
    "config claims warm_start audit",
    "training training.* evaluator",
    "trainer rendering cell labels workers",
    "stage_reuse record runner repeat",
    "evidence stats stats.*",
    "clinical clinical.*",
    "report report.*",
    "figures figures.*",
    "ablation",
    "trained inference external",
    "bundles bundles.* reevaluation verification user_pictures exporting exporting.*",
    "api bundle_api model_api results_api catalogue listing inspection data_work console scaffold "
    "site site.* grid grid.* tuning tuning.*",
    "options data_cli eval_cli grid_cli tune_cli table_cli compare_cli figures_cli report_cli "
    "leaderboard_cli model_cli cli testing testing.*",
    "__init__",
)
# Imports that go the wrong way, each with what would mend it.
MODULE_LINES, FUNCTION_LINES = 400, 40

# Help and hints show users a command that works; nothing is decided by these texts.
TEXTS_WITH_NAMES = (
    "python bench.py run --method ecl --dataset digits_lt",
    "ecl, ecl@authors; several with commas.",
)


def name_of(file):
    """`data.feed` of ltbench/data/feed.py; a package's own file has the package's name."""
    parts = file.relative_to(ROOT / "ltbench").with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


@cache
def tree_of(file):
    return ast.parse(file.read_text(encoding="utf-8"), filename=str(file))


def imports(file):
    """Names below `ltbench.` that a file imports, at its top, in a function or for types only."""
    found = set()
    for node in ast.walk(tree_of(file)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative imports hide where they go"
            module = node.module or ""
            below = {f"{module}.{alias.name}" for alias in node.names}
            # `from ltbench import files` imports a module, `from ltbench.files import x` a name.
            found |= {name for name in below if is_module(name)} or {module}
    return {name.removeprefix("ltbench.") for name in found if name.startswith("ltbench.")}


def is_module(name):
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or path.is_dir()


def layer_of(name):
    package = name.rpartition(".")[0]
    for number, layer in enumerate(LAYERS):
        if name in layer.split() or (package and f"{package}.*" in layer.split()):
            return number
    raise AssertionError(f"say in LAYERS where the module '{name}' belongs")


@pytest.mark.parametrize("file", HARNESS, ids=name_of)
def test_imports_go_one_way(file):
    me = name_of(file)
    for other in sorted(imports(file)):
        assert not other.startswith(("methods", "datasets")), f"{me} imports the plugin {other}"
        upward = layer_of(other) > layer_of(me)
        assert not upward, f"{me} imports {other}, which lies above it"


def test_no_cycle_at_import():
    """Imports at the top of files, which Python runs when it starts."""
    edges = {name_of(f): {n for n in top_level(f) if n != name_of(f)} for f in HARNESS}
    waiting = dict(edges)
    while waiting:
        free = [name for name, needs in waiting.items() if not needs & set(waiting)]
        assert free, f"a cycle among {sorted(waiting)}"
        for name in free:
            del waiting[name]


def top_level(file):
    module = ast.Module([n for n in tree_of(file).body if isinstance(n, ast.ImportFrom)], [])
    found = set()
    for node in module.body:
        names = {f"{node.module}.{alias.name}" for alias in node.names}
        found |= {name for name in names if is_module(name)} or {node.module}
    return {name.removeprefix("ltbench.") for name in found if name.startswith("ltbench.")}


def test_functional_and_errors_stand_on_nothing():
    for name in ("functional", "errors", "predictions"):
        assert imports(ROOT / "ltbench" / f"{name}.py") == set(), name


@pytest.mark.parametrize(
    ("kind", "allowed"),
    [
        ("methods", r"method|functional|errors|methods(\.\w+)?"),
        ("datasets", r"dataset|(data|intake|store|fetch|datasets)(\.\w+)?|errors"),
    ],
)
def test_plugins_see_their_contract_alone(kind, allowed):
    assert PLUGINS[kind]
    for file in PLUGINS[kind]:
        wrong = [name for name in imports(file) if not re.fullmatch(allowed, name)]
        assert not wrong, f"{kind}/{file.name} imports {wrong}"


# Plugins whose names are words that every file needs; `owned_by_name` looks for them otherwise.
COMMON_WORDS = {"folder", "csv", "lists", "npz"}


def plugin_names():
    names = {f.stem for files in PLUGINS.values() for f in files if not f.stem.startswith("_")}
    return names - COMMON_WORDS


def docstrings(tree):
    """The first expressions of modules, classes and functions."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    bodies = [node.body for node in ast.walk(tree) if isinstance(node, kinds)]
    return {id(body[0].value): body[0] for body in bodies if body and is_text(body[0])}


def is_text(node):
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def words_in_code(tree):
    """(line, text) of every name and every text but docstrings; comments are no part of a tree."""
    skipped = docstrings(tree)
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and id(node) not in skipped
        ):
            yield node.lineno, node.value
        elif isinstance(node, ast.Name):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute):
            yield node.lineno, node.attr
        elif isinstance(node, ast.arg | ast.keyword) and node.arg:
            yield node.lineno, node.arg


def plugins_named(tree, names):
    found = []
    for line, text in words_in_code(tree):
        for shown in TEXTS_WITH_NAMES:
            text = text.replace(shown, "")
        found += [(line, word) for word in re.findall(r"\w+", text) if word in names]
    return found


@pytest.mark.parametrize("file", HARNESS, ids=name_of)
def test_the_harness_names_no_plugin(file):
    """What differs between methods is in the contract."""
    assert {"ce", "ecl", "digits_lt"} <= plugin_names()
    assert plugins_named(tree_of(file), plugin_names()) == []


def owned_by_name(tree):
    """Lines that look a common word up in a registry, or compare a plugin's name with it."""
    found = []
    for node in ast.walk(tree):
        texts = [n.value for n in ast.walk(node) if isinstance(n, ast.Constant)]
        is_lookup = isinstance(node, ast.Subscript) and ast.unparse(node.value) == "DATASETS"
        is_test = isinstance(node, ast.Compare) and "name" in ast.unparse(node.left)
        if (is_lookup or is_test) and COMMON_WORDS & {t for t in texts if isinstance(t, str)}:
            found.append(node.lineno)
    return found


@pytest.mark.parametrize("file", HARNESS, ids=name_of)
def test_no_decision_by_a_common_word(file):
    assert owned_by_name(tree_of(file)) == []


@pytest.mark.parametrize("code", ["DATASETS['csv']", "config.dataset_name == 'folder'"])
def test_a_decision_by_a_common_word_would_be_found(code):
    assert len(owned_by_name(ast.parse(code))) == 1


@pytest.mark.parametrize("code", [
    "if config.method_name == 'ecl': pass", "NAMES = {'ce': 1}", "METHODS['ecl']", "ecl = 1",
    "f(method=f'ecl@{preset}')", "def f(ecl): pass", "f(ce=1)", "plugins.ecl",
])  # fmt: skip
def test_a_name_would_be_found(code):
    assert len(plugins_named(ast.parse(code), plugin_names())) == 1


@pytest.mark.parametrize("code", [
    "'''How ecl came to be.'''", "# ecl", "def f():\n  'Of ecl.'\n  pass", "'ecliptic'", "eclipse",
    f"hint = 'Try {TEXTS_WITH_NAMES[0]}'",
])  # fmt: skip
def test_words_about_it_are_no_name(code):
    assert plugins_named(ast.parse(code), plugin_names()) == []


def code_lines(node, start=1):
    """Lines from `start` to the end of a node, docstrings within it not counted."""
    texts = [d for d in docstrings(node).values()]
    return node_end(node) - start + 1 - sum(d.end_lineno - d.lineno + 1 for d in texts)


def node_end(node):
    return max(
        (child.end_lineno for child in ast.walk(node) if hasattr(child, "end_lineno")), default=0
    )


@pytest.mark.parametrize(
    "file",
    [*HARNESS, *PLUGINS["methods"], *PLUGINS["datasets"]],
    ids=lambda f: f.parent.name + "." + f.stem,
)
def test_small_rooms(file):
    tree = tree_of(file)
    in_harness = file in HARNESS
    lines = len(file.read_text("utf-8").splitlines()) if in_harness else code_lines(tree)
    assert lines < MODULE_LINES, f"{file.name} has {lines} lines"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = code_lines(node, node.lineno)
            assert length < FUNCTION_LINES, f"{file.name}: {node.name} has {length} lines"
