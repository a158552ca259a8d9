"""What an installed ltbench consists of."""

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "ltbench", "methods", "datasets", "results")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy: a build leaves folders behind, and takes in old ones."""
    work = tmp_path_factory.mktemp("wheel")
    tree = work / "tree"
    tree.mkdir()
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "runs")
            shutil.copytree(source, tree / name, ignore=ignored)
        else:
            shutil.copy(source, tree / name)
    build = "from setuptools import build_meta; build_meta.build_wheel('../out')"
    done = subprocess.run(
        [sys.executable, "-c", build], cwd=tree, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (file,) = (work / "out").glob("*.whl")
    with zipfile.ZipFile(file) as archive:
        yield archive


def expected_modules():
    """Every Python file of the packages, by its path in the wheel."""
    places = {"ltbench": "ltbench", "methods": "ltbench/methods", "datasets": "ltbench/datasets"}
    return {
        f"{inside}/{file.relative_to(ROOT / folder).as_posix()}"
        for folder, inside in places.items()
        for file in (ROOT / folder).rglob("*.py")
    }


def test_every_module_is_in_the_wheel(wheel):
    assert expected_modules() - set(wheel.namelist()) == set()


def test_data_files_are_in_the_wheel(wheel):
    names = set(wheel.namelist())
    recipes = {f"ltbench/recipes/{f.name}" for f in (ROOT / "ltbench/recipes").glob("*.yaml")}
    published = {
        f"ltbench/published/{file.name}"
        for ending in ("py", "yaml", "csv", "json", "md")
        for file in (ROOT / "results/published").glob(f"*.{ending}")
    }
    assert len(recipes) >= 5
    assert {"ltbench/published/__init__.py", "ltbench/published/README.md"} <= published
    site = {
        f"ltbench/site/{folder}/{file.name}"
        for folder in ("templates", "assets")
        for file in (ROOT / "ltbench/site" / folder).iterdir()
    }
    assert len(site) >= 7
    assert recipes | published | site | {"ltbench/py.typed"} <= names


def test_no_other_package_is_in_the_wheel(wheel):
    """A top-level `datasets` would shadow another library's."""
    tops = {name.partition("/")[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"ltbench"}
    assert not [name for name in wheel.namelist() if "__pycache__" in name]


def test_the_command_is_installed(wheel):
    (entry,) = (name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    assert "ltbench = ltbench.cli:main" in wheel.read(entry).decode()


def test_the_wheel_lists_its_plugins(wheel, tmp_path):
    """From the archive's files alone, in a folder that is not the checkout."""
    wheel.extractall(tmp_path)
    program = (
        "import ltbench, ltbench.api as api; from pathlib import Path; "
        "print(Path(ltbench.__file__).parents[1]); "
        "print(*[row['name'] for row in api.list_methods() + api.list_datasets()])"
    )
    # -I keeps the folder at hand out, and -S the editable install that tests run from.
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); {program}"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True
    )
    place, names = done.stdout.splitlines()
    assert Path(place) == tmp_path
    assert {"ce", "ecl", "digits_lt", "fashion_mnist_lt"} <= set(names.split())


def pins():
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    found = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line) for line in found)
    return {
        re.sub(r"[-_.]+", "-", name).lower(): version
        for name, version in (line.split("==") for line in found)
    }


def test_constraints_pin_what_the_project_asks_for():
    extras = PROJECT["project"]["optional-dependencies"]
    wanted = [*PROJECT["project"]["dependencies"], *extras["test"], *extras["dev"]]
    pinned = pins()
    for requirement in map(Requirement, wanted):
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        if name != "ltbench":
            assert name in pinned, f"constraints.txt does not pin {name}"
            assert requirement.specifier.contains(pinned[name]), f"{requirement}: {pinned[name]}"


def test_constraints_hold_no_path_and_not_the_project():
    assert "ltbench" not in pins()
    assert "lightning" not in pins(), "only lightning-fabric: see pyproject.toml"
