"""Plugins by name: found by file, listed without importing them, loaded one at a time."""

from __future__ import annotations

import ast
import difflib
import importlib
import importlib.metadata
import importlib.util
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from ltbench.errors import DataMissingError, LtbenchError, UsageError

T = TypeVar("T", bound=type)


@dataclass(frozen=True)
class PluginInfo:
    """What a plugin says of itself; literals, so that listing needs no import.

    Attributes:
        paper: authors, title, venue; or where a data set is described.
        source: repository and commit that was read, or where the data come from.
        requires: packages beyond ltbench's own that the plugin imports.
    """

    name: str
    paper: str = ""
    year: int | None = None
    source: str = ""
    tags: tuple[str, ...] = ()
    licence: str = ""
    requires: tuple[str, ...] = ()
    file: Path | None = None


def normalise(name: str) -> str:
    """Names may be written with hyphens or underscores."""
    return name.strip().replace("-", "_")


def suggest(kind: str, name: str, known: list[str]) -> str:
    """The message for an unknown name: the nearest known one, and all of them."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    return f"Unknown {kind} '{name}'.{hint} Available: {', '.join(known)}"


class Registry(Generic[T]):
    """Plugins of one kind, from our folder, from entry points and from files given by hand."""

    def __init__(self, kind: str, package: str, entry_point_group: str) -> None:
        self.kind = kind
        self.package = package
        self.entry_point_group = entry_point_group
        self._classes: dict[str, T] = {}
        self._files: dict[str, Path] = {}

    def register(self, name: str, **about: Any) -> Callable[[T], T]:
        """Class decorator. All arguments must be literals, so that they can be read unimported."""

        def decorate(cls: T) -> T:
            known = self._classes.get(name)
            if known is not None and known.__module__ != cls.__module__:
                raise UsageError(
                    f"Two {self.kind}s are called '{name}': {known.__module__} and "
                    f"{cls.__module__}. Rename one of them."
                )
            module_file = getattr(sys.modules.get(cls.__module__), "__file__", None)
            file = Path(module_file) if module_file else None
            cls.info = PluginInfo(name=name, file=file, **about)  # type: ignore[attr-defined]
            self._classes[name] = cls
            return cls

        return decorate

    def names(self) -> list[str]:
        """All names, sorted; imports none of the plugins."""
        return sorted({*self._own_files(), *self._entry_points(), *self._files, *self._classes})

    def info(self, name: str) -> PluginInfo:
        """What a plugin says of itself, read from its source without importing it if possible."""
        name = self._known(name)
        if name in self._classes:
            return self._classes[name].info  # type: ignore[attr-defined, no-any-return]
        file = self._files.get(name) or self._own_files().get(name)
        if file is not None:
            return read_info(file, name)
        return self[name].info  # type: ignore[attr-defined, no-any-return]

    def __getitem__(self, name: str) -> T:
        name = self._known(name)
        if name not in self._classes:
            self._import(name)
        if name not in self._classes:
            raise UsageError(
                f"The {self.kind} file for '{name}' registers no {self.kind} of that name. "
                f'Expected @{self.kind.upper()}S.register("{name}", ...), as the file is called.'
            )
        return self._classes[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __contains__(self, name: str) -> bool:
        return normalise(name) in self.names()

    def add_file(self, file: Path) -> str:
        """Make the plugin in `file` known under the file's stem; returns that name."""
        file = Path(file).resolve()
        if not file.is_file():
            raise UsageError(f"No plugin file at {file}. Expected the path of a Python file.")
        name = normalise(file.stem)
        taken = self._files.get(name) or self._own_files().get(name)
        if taken is not None and taken != file:
            raise UsageError(
                f"Two {self.kind}s are called '{name}': {taken} and {file}. Rename the new file."
            )
        self._files[name] = file
        return name

    def _known(self, name: str) -> str:
        name = normalise(name)
        known = self.names()
        if name not in known:
            raise UsageError(suggest(self.kind, name, known))
        return name

    def _own_files(self) -> dict[str, Path]:
        spec = importlib.util.find_spec(self.package)
        folders = [Path(p) for p in (spec.submodule_search_locations or [])] if spec else []
        files = (file for folder in folders for file in folder.glob("*.py"))
        return {file.stem: file for file in files if not file.stem.startswith("_")}

    def _entry_points(self) -> dict[str, importlib.metadata.EntryPoint]:
        found = importlib.metadata.entry_points(group=self.entry_point_group)
        return {normalise(point.name): point for point in found}

    def _import(self, name: str) -> None:
        try:
            if name in self._files:
                import_file(self._files[name])
            elif name in self._own_files():
                importlib.import_module(f"{self.package}.{name}")
            else:
                self._entry_points()[name].load()
        except LtbenchError:
            raise
        except ModuleNotFoundError as error:
            raise DataMissingError(
                f"The {self.kind} '{name}' needs the package '{error.name}', which is not "
                f"installed. Install it: pip install {error.name}"
            ) from error
        except Exception as error:
            raise LtbenchError(
                f"The {self.kind} '{name}' could not be imported: {type(error).__name__}: {error}. "
                "Mend its file or leave it out; the other plugins are not affected."
            ) from error


def import_file(file: Path) -> Any:
    """Import one Python file under a module name of its own, once a process."""
    module_name = f"ltbench_plugin_{normalise(file.stem)}"
    if module_name in sys.modules and sys.modules[module_name].__file__ == str(file):
        return sys.modules[module_name]
    spec = importlib.util.spec_from_file_location(module_name, file)
    if spec is None or spec.loader is None:
        raise UsageError(f"{file} cannot be imported. Expected a file that ends in .py.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[module_name]
        raise
    return module


def read_info(file: Path, name: str) -> PluginInfo:
    """The literals of the `register` decorator in `file`, without importing it."""
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"), filename=str(file))
    except SyntaxError as error:
        return PluginInfo(name=name, paper=f"(broken: {error.msg}, line {error.lineno})", file=file)
    decorators = [
        call
        for node in tree.body
        if isinstance(node, ast.ClassDef)
        for call in node.decorator_list
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and call.func.attr == "register"
        and call.args
        and isinstance(call.args[0], ast.Constant)
        and call.args[0].value == name
    ]
    if not decorators:
        return PluginInfo(name=name, paper=f"(broken: registers no '{name}')", file=file)
    try:
        about = {word.arg: ast.literal_eval(word.value) for word in decorators[0].keywords}
        return PluginInfo(name=name, file=file, **about)  # type: ignore[arg-type]
    except (ValueError, TypeError) as error:
        return PluginInfo(name=name, paper=f"(broken: {error})", file=file)


def source_files(file: Path) -> list[Path]:
    """`file` and every plugin beside it that it imports, directly or not, sorted by name.

    These are the files whose change makes a result another result; `ltbench.functional` counts
    where it is imported.
    """
    found: dict[str, Path] = {}
    waiting = [file.resolve()]
    while waiting:
        current = waiting.pop()
        if str(current) in found:
            continue
        found[str(current)] = current
        for module in _imported_modules(current):
            if module.startswith(("ltbench.methods.", "ltbench.datasets.", "ltbench.functional")):
                spec = importlib.util.find_spec(module)
                if spec is not None and spec.origin is not None:
                    waiting.append(Path(spec.origin).resolve())
    return sorted(found.values(), key=lambda path: path.name)


def _imported_modules(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"), filename=str(file))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module
            if node.module in ("ltbench.methods", "ltbench.datasets"):
                yield from (f"{node.module}.{alias.name}" for alias in node.names)


METHODS: Registry[Any] = Registry("method", "ltbench.methods", "ltbench.methods")
DATASETS: Registry[Any] = Registry("dataset", "ltbench.datasets", "ltbench.datasets")
