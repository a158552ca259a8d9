"""Plugins by name: listed without import, refused with one message, digested with what they use."""

from __future__ import annotations

import importlib
import importlib.metadata
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ltbench import registry as module
from ltbench.cell import plugin_digest
from ltbench.errors import DataMissingError, LtbenchError, UsageError
from ltbench.registry import (
    DATASETS,
    METHODS,
    PluginInfo,
    Registry,
    add_plugins,
    read_info,
    registers,
    source_files,
)

PLUGIN = """
from {package}.kind import THINGS
{more}

@THINGS.register("{name}", paper="A, B", year=2020, source="x/y@1", tags=("t",){about})
class Thing:
    pass
"""


class House:
    """A package of its own with plugins in it, as `ltbench.methods` is."""

    def __init__(self, root: Path, package: str) -> None:
        self.root, self.package = root, package
        self.folder = root / package / "things"
        self.folder.mkdir(parents=True)
        (root / package / "__init__.py").touch()
        (self.folder / "__init__.py").touch()
        (root / package / "kind.py").write_text(
            "from ltbench.registry import Registry\n"
            f"THINGS = Registry('thing', '{package}.things', '{package}.points')\n"
        )

    def write(
        self,
        stem: str,
        *,
        name: str = "",
        more: str = "",
        about: str = "",
        place: Path | None = None,
    ) -> Path:
        file = (place or self.folder) / f"{stem}.py"
        file.write_text(
            PLUGIN.format(package=self.package, name=name or stem, more=more, about=about)
        )
        importlib.invalidate_caches()
        return file

    @property
    def things(self) -> Registry[Any]:
        found: Registry[Any] = importlib.import_module(f"{self.package}.kind").THINGS
        return found


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> House:
    package = "house_" + "".join(c if c.isalnum() else "_" for c in request.node.name)
    monkeypatch.syspath_prepend(tmp_path)
    return House(tmp_path, package)


def entry_points(monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    def found(*, group: str) -> list[importlib.metadata.EntryPoint]:
        return [importlib.metadata.EntryPoint(n, v, group) for n, v in values.items()]

    monkeypatch.setattr(module.importlib.metadata, "entry_points", found)


def test_listing_imports_no_plugin(house: House) -> None:
    house.write("good")
    house.write("bad", more="raise RuntimeError('imported')")
    assert house.things.names() == ["bad", "good"]
    info = house.things.info("bad")
    assert (info.paper, info.year, info.tags) == ("A, B", 2020, ("t",))
    assert f"{house.package}.things.bad" not in sys.modules


def test_listing_ours_imports_no_torch() -> None:
    code = (
        "import sys; from ltbench.api import list_datasets, list_methods\n"
        "names = [row['name'] for row in list_methods() + list_datasets()]\n"
        "assert {'ce', 'ecl', 'digits_lt'} <= set(names), names\n"
        "heavy = {'torch', 'pandas', 'sklearn', 'numpy', 'ltbench.methods.ce'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def broken(:\n", "line 1"),
        ("x = 1\n", "registers no 'odd'"),
        ("year = 3\n@THINGS.register('odd', year=year)\nclass Odd: pass\n", "broken"),
        ("@THINGS.register('odd', colour='red')\nclass Odd: pass\n", "colour"),
        ("@THINGS.register('other')\nclass Odd: pass\n", "registers no 'odd'"),
    ],
)
def test_what_cannot_be_read_is_listed_as_broken(house: House, text: str, said: str) -> None:
    (house.folder / "odd.py").write_text(text)
    house.write("good")
    assert said in house.things.info("odd").paper
    assert house.things.info("odd").paper.startswith("(broken: ")
    assert house.things.info("good").paper == "A, B"


def test_bytes_that_are_no_text_are_listed_as_broken(tmp_path: Path) -> None:
    file = tmp_path / "odd.py"
    file.write_bytes(b"\xff\xfe\x00")
    assert read_info(file, "odd").paper.startswith("(broken: ")


def test_info_read_and_info_imported_agree() -> None:
    for registry in (METHODS, DATASETS):
        for name in registry.names():
            file = registry.info(name).file
            assert file is not None
            assert read_info(file, name) == registry[name].info


def test_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"Unknown method 'elc'\. Did you mean 'ecl'\? Avail.*ce"):
        METHODS["elc"]


def test_case_is_no_reason_for_silence() -> None:
    with pytest.raises(UsageError, match="Did you mean 'ecl'"):
        METHODS["ECL"]


def test_hyphens_and_underscores_are_the_same() -> None:
    assert "digits-lt" in DATASETS
    assert DATASETS["digits-lt"] is DATASETS["digits_lt"]
    assert DATASETS.info(" digits-lt ").name == "digits_lt"


def test_a_name_other_than_the_file_s_is_refused(house: House) -> None:
    house.write("one", name="two")
    with pytest.raises(UsageError, match=r"one\.py registers the thing 'two'; expected 'one'"):
        house.things["one"]
    assert house.things.names() == ["one"]


def test_a_file_that_registers_nothing_is_refused(house: House) -> None:
    (house.folder / "empty.py").write_text("")
    with pytest.raises(UsageError, match=r'registers no thing.*THINGS\.register\("empty"'):
        house.things["empty"]


def test_two_classes_of_one_name_are_refused() -> None:
    things: Registry[Any] = Registry("thing", "ltbench.methods", "none")
    first = type("First", (), {"__module__": "somewhere"})
    second = type("Second", (), {"__module__": "elsewhere"})
    assert things.register("one")(first) is first
    with pytest.raises(UsageError, match=r"Two things are called 'one': somewhere and elsewhere"):
        things.register("one")(second)


@pytest.mark.parametrize(
    ("line", "about", "install"),
    [
        ("import no_such_package_at_all.part", "", "pip install no_such_package_at_all"),
        ("import no_such_cv", ", requires=('opencv-python',)", "pip install opencv-python"),
    ],
)
def test_missing_package_fails_its_plugin_alone(
    house: House, line: str, about: str, install: str
) -> None:
    house.write("needy", more=line, about=about)
    house.write("good")
    with pytest.raises(DataMissingError) as caught:
        house.things["needy"]
    assert str(caught.value).endswith(install)
    assert caught.value.exit_code == 3
    assert house.things["good"].info.name == "good"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("raise RuntimeError('on purpose')", "RuntimeError: on purpose"),
        ("import sys; sys.exit('left')", "SystemExit: left"),
        ("def f(:", "SyntaxError"),
        ("import ltbench.functionall", "ltbench.functionall"),
        ("from ltbench.errors import NoSuchError", "ImportError"),
    ],
)
def test_plugin_that_raises_gives_one_message(house: House, line: str, said: str) -> None:
    house.write("bad", more=line)
    house.write("good")
    with pytest.raises(LtbenchError, match="could not be imported") as caught:
        house.things["bad"]
    assert said in str(caught.value)
    assert "pip install" not in str(caught.value)
    assert caught.value.exit_code == 1
    assert house.things["good"].info.name == "good"


def test_plugin_file_is_known_by_its_stem(house: House, tmp_path: Path) -> None:
    file = house.write("my_thing", place=tmp_path)
    assert house.things.add_file(file) == "my_thing"
    assert house.things.info("my-thing").file == file
    assert house.things["my-thing"].info.name == "my_thing"
    assert house.things.add_file(file) == "my_thing"


def test_plugin_file_may_not_take_a_name(house: House, tmp_path: Path) -> None:
    house.write("good")
    with pytest.raises(UsageError, match=r"Two things are called 'good'.*Rename the new file"):
        house.things.add_file(house.write("good", place=tmp_path))


def test_plugin_file_must_register_its_stem(house: House, tmp_path: Path) -> None:
    name = house.things.add_file(house.write("stem", name="other", place=tmp_path))
    with pytest.raises(UsageError, match=r"registers the thing 'other'; expected 'stem'"):
        house.things[name]


def test_plugin_file_with_a_module_beside_it_is_told_apart(house: House, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "my_losses.py").touch()
    file = house.write("mine", more="import my_losses", place=tmp_path / "elsewhere")
    name = house.things.add_file(file)
    with pytest.raises(LtbenchError, match=r"my_losses\.py, which lies beside it.*single file"):
        house.things[name]


@pytest.mark.parametrize("made", [False, True], ids=["absent", "folder"])
def test_plugin_file_that_is_none(tmp_path: Path, made: bool) -> None:
    path = tmp_path / "gone.py"
    if made:
        path.mkdir()
    with pytest.raises(UsageError, match="No plugin file at"):
        add_plugins([path])


def test_kind_is_told_by_what_a_file_registers(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("# not DATASETS.register\n@METHODS.register('mine')\nclass Mine: pass\n")
    assert registers(file, "METHODS")
    assert not registers(file, "DATASETS")
    assert not registers(tmp_path / "none.py", "METHODS")


def test_entry_point_is_listed_and_loaded(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.write("far_thing", name="far", place=tmp_path)
    house.write("broken_thing", name="broken", more="raise RuntimeError", place=tmp_path)
    entry_points(
        monkeypatch, far="far_thing:Thing", broken="broken_thing:Thing", gone="no_such_thing:Thing"
    )
    assert house.things.names() == ["broken", "far", "gone"]
    assert house.things.info("far").paper == "A, B"
    assert house.things.info("broken").paper == "A, B"
    assert house.things.info("gone").paper == "(broken: no module no_such_thing)"
    assert "far_thing" not in sys.modules
    assert house.things["far"].info.name == "far"
    with pytest.raises(LtbenchError, match="'broken' could not be imported"):
        house.things["broken"]
    with pytest.raises(DataMissingError, match="no_such_thing"):
        house.things["gone"]


def test_entry_point_with_a_taken_name_is_refused_when_used(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.write("good")
    house.write("other")
    entry_points(monkeypatch, good="somewhere:Thing")
    assert house.things.names() == ["good", "other"]
    assert house.things["other"].info.name == "other"
    with pytest.raises(UsageError, match=r"Two things.*good\.py and entry point somewhere:Thing"):
        house.things["good"]


def stems(file: Path) -> list[str]:
    return [path.stem for path in source_files(file)]


@pytest.mark.parametrize(
    "line",
    [
        "from . import helper",
        "from .helper import f",
        "from {package}.things import helper",
        "from {package}.things.helper import f",
        "import {package}.things.helper as h",
        "from ..things import helper",
        "def f():\n    from . import helper",
    ],
)
def test_every_form_of_import_is_followed(house: House, line: str) -> None:
    house.write("helper", more="from . import last")
    house.write("last", more="from . import helper")
    house.write("stranger")
    plugin = house.write("plugin", more=line.format(package=house.package))
    assert {"plugin", "helper", "last"} <= set(stems(plugin))
    assert "stranger" not in stems(plugin)


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("from ltbench.functional import mean_one", {"functional"}),
        ("from ltbench import functional", {"functional"}),
        ("import ltbench.functional", {"functional"}),
        ("from ltbench.methods import ecl", {"ecl", "functional"}),
        ("from ltbench.methods.ecl import ECL", {"ecl", "functional"}),
        ("from ltbench.trainer import Trainer\nimport torch, os.path", set()),
        ("from .nowhere import x", set()),
    ],
)
def test_a_lone_file_follows_ours(tmp_path: Path, line: str, found: set[str]) -> None:
    plugin = tmp_path / "plugin.py"
    plugin.write_text(line)
    assert set(stems(plugin)) == {"plugin", *found}


def test_our_own_plugins_may_import_relatively(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As in a checkout: the folder stands outside the package it is imported as a part of.
    (tmp_path / "__init__.py").touch()
    (tmp_path / "one.py").write_text("from .two import x\nfrom ..functional import y\n")
    (tmp_path / "two.py").write_text("from . import three\n")
    (tmp_path / "three.py").touch()
    folders: Callable[[Registry[Any]], list[Path]] = lambda self: [tmp_path]  # noqa: E731
    monkeypatch.setattr(Registry, "folders", folders)
    assert stems(tmp_path / "one.py") == ["functional", "one", "three", "two"]


def test_digest_changes_with_every_file_it_covers(house: House) -> None:
    plugin = house.write("plugin", more="from . import helper")
    helper, other = house.write("helper"), house.write("other")

    def digest() -> str:
        return plugin_digest(type("Fresh", (), {"info": PluginInfo("plugin", file=plugin)}))

    before = digest()
    other.write_text(other.read_text() + "# more\n")
    assert digest() == before
    helper.write_text(helper.read_text() + "# more\n")
    assert digest() != before
