"""Plugins by name: found by file, listed without importing them, loaded one at a time."""

from __future__ import annotations

import ast
import difflib
import importlib
import importlib.metadata
import importlib.util
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from ltbench.errors import DataMissingError, LtbenchError, UsageError

T = TypeVar("T", bound=type)

OWN_DATA = "own-data"  # the tag of data sets that read what a user names

_FILE_MODULE = "ltbench_plugin_"


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
    near = nearest(name, known)
    hint = f" Did you mean '{near}'?" if near else ""
    return f"Unknown {kind} '{name}'.{hint} Available: {', '.join(known) or '(none)'}"


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name most like `name`, whatever its case and hyphens; None where none is near."""
    by_plain = {normalise(one).lower(): one for one in known}
    near = difflib.get_close_matches(normalise(name).lower(), by_plain, n=1, cutoff=0.5)
    return by_plain[near[0]] if near else None


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
            self._refuse_other_name(name, cls.__module__)
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

    def own_names(self) -> list[str]:
        """Names of this project's own plugins, sorted."""
        return sorted(self._own_files())

    def info(self, name: str) -> PluginInfo:
        """What a plugin says of itself, read from its source without importing it if possible."""
        name = self._known(name)
        if name in self._classes:
            return self._classes[name].info  # type: ignore[attr-defined, no-any-return]
        file = self._files.get(name) or self._own_files().get(name)
        if file is not None:
            return read_info(file, name)
        return _entry_point_info(self._entry_points()[name][0], name)

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
        try:
            self._known(name)
        except UsageError:
            return False
        return True

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
        # Entry points come last: to look for them costs more than all the rest of a listing.
        if name in self._classes or name in self._files or name in self._own_files():
            return name
        known = self.names()
        if name not in known:
            raise UsageError(suggest(self.kind, name, known))
        return name

    def folders(self) -> list[Path]:
        """Where the project's own plugins of this kind lie."""
        spec = importlib.util.find_spec(self.package)
        found = (spec.submodule_search_locations or []) if spec else []
        return [Path(folder).resolve() for folder in found]

    def _own_files(self) -> dict[str, Path]:
        files = (file for folder in self.folders() for file in folder.glob("*.py"))
        return {file.stem: file for file in files if not file.stem.startswith("_")}

    def _entry_points(self) -> dict[str, list[importlib.metadata.EntryPoint]]:
        """By name; more than one of a name is refused only when that name is asked for."""
        found: dict[str, list[importlib.metadata.EntryPoint]] = {}
        for point in importlib.metadata.entry_points(group=self.entry_point_group):
            found.setdefault(normalise(point.name), []).append(point)
        return found

    def _refuse_other_name(self, name: str, module: str) -> None:
        """One file, one plugin, one name: else listing and importing would know different names."""
        if not module.startswith((f"{self.package}.", _FILE_MODULE)):
            return
        stem = module.removeprefix(f"{self.package}.").removeprefix(_FILE_MODULE)
        if name != stem:
            file = getattr(sys.modules.get(module), "__file__", module)
            raise UsageError(
                f"{file} registers the {self.kind} '{name}'; expected '{stem}', as its file is "
                "called. Rename the one or the other."
            )

    def _refuse_two(self, name: str) -> None:
        files = {file for file in (self._files.get(name), self._own_files().get(name)) if file}
        points = self._entry_points().get(name, [])
        if len(files) + len(points) > 1:
            origins = [*map(str, sorted(files)), *(f"entry point {p.value}" for p in points)]
            raise UsageError(
                f"Two {self.kind}s are called '{name}': {' and '.join(origins)}. Rename one of "
                "them, or uninstall the package that brings it."
            )

    def _import(self, name: str) -> None:
        self._refuse_two(name)
        try:
            if name in self._files:
                import_file(self._files[name])
            elif name in self._own_files():
                importlib.import_module(f"{self.package}.{name}")
            else:
                self._entry_points()[name][0].load()
        except LtbenchError:
            raise
        except ModuleNotFoundError as error:
            raise self._missing_module(name, error) from error
        except (Exception, SystemExit) as error:
            raise self._broken(name, f"{type(error).__name__}: {error}") from error

    def _missing_module(self, name: str, error: ModuleNotFoundError) -> LtbenchError:
        package = (error.name or "").partition(".")[0]
        file = self.info(name).file
        if package in ("", "ltbench"):
            return self._broken(name, f"{error}")
        if file is not None and file.with_name(f"{package}.py").is_file():
            return self._broken(
                name,
                f"it imports {package}.py, which lies beside it, but a plugin given by its path "
                "is a single file",
            )
        # A module need not be called as the package that brings it is: the plugin knows best.
        install = " ".join(self.info(name).requires) or package
        return DataMissingError(
            f"The {self.kind} '{name}' needs the package '{package}', which is not installed. "
            f"Install it: pip install {install}"
        )

    def _broken(self, name: str, reason: str) -> LtbenchError:
        return LtbenchError(
            f"The {self.kind} '{name}' could not be imported: {reason}. "
            "Mend its file or leave it out; the other plugins are not affected."
        )


def import_file(file: Path) -> Any:
    """Import one Python file under a module name of its own, once a process."""
    module_name = f"{_FILE_MODULE}{normalise(file.stem)}"
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
        calls = [call for call in _registrations(file) if _first_argument(call) == name]
        if not calls:
            return PluginInfo(name=name, paper=f"(broken: registers no '{name}')", file=file)
        about = {word.arg: ast.literal_eval(word.value) for word in calls[0].keywords}
        return PluginInfo(name=name, file=file, **about)  # type: ignore[arg-type]
    except SyntaxError as error:
        reason = f"{error.msg}, line {error.lineno}"
    except (OSError, ValueError, TypeError) as error:
        reason = str(error)
    return PluginInfo(name=name, paper=f"(broken: {reason})", file=file)


def registers(file: Path, registry: str) -> bool:
    """Whether `file` has a class decorated with `<registry>.register(...)`; it is not imported."""
    try:
        return any(
            isinstance(call.func, ast.Attribute)
            and isinstance(call.func.value, ast.Name)
            and call.func.value.id == registry
            for call in _registrations(file)
        )
    except (OSError, ValueError, SyntaxError):
        return False


def _registrations(file: Path) -> list[ast.Call]:
    tree = ast.parse(file.read_text(encoding="utf-8"), filename=str(file))
    return [
        call
        for node in tree.body
        if isinstance(node, ast.ClassDef)
        for call in node.decorator_list
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and call.func.attr == "register"
    ]


def _first_argument(call: ast.Call) -> Any:
    first = call.args[0] if call.args else None
    return first.value if isinstance(first, ast.Constant) else None


def _entry_point_info(point: importlib.metadata.EntryPoint, name: str) -> PluginInfo:
    """As `read_info`; only the packages above the plugin's module are imported."""
    try:
        spec = importlib.util.find_spec(point.module)
    except Exception as error:  # noqa: BLE001 - another package's __init__ may raise anything
        return PluginInfo(name=name, paper=f"(broken: {type(error).__name__}: {error})")
    if spec is None or spec.origin is None:
        return PluginInfo(name=name, paper=f"(broken: no module {point.module})")
    return read_info(Path(spec.origin), name)


def source_files(file: Path) -> list[Path]:
    """`file` and every file of plugins that it imports, directly or not, sorted by name.

    These are the files whose change makes a result another result: plugins beside it, those of
    this project, modules of the package the file belongs to (other people's plugins), and
    `ltbench.functional`. Imports are read from the source, absolute and relative ones, those
    inside functions too; what is imported by a name computed at run time is not seen.
    """
    found: set[Path] = set()
    waiting = [file.resolve()]
    while waiting:
        current = waiting.pop()
        if current not in found:
            found.add(current)
            folder, package = _home(current)
            for module in _imported_modules(current, package):
                origin = _origin(module, folder, package)
                if origin is not None:
                    waiting.append(origin.resolve())
    return sorted(found, key=lambda path: (path.name, str(path)))


def _home(file: Path) -> tuple[Path, str]:
    """(the folder imports start from, the dotted package of `file`; "" for a file on its own)."""
    for registry in (METHODS, DATASETS):
        if file.parent in registry.folders():
            return file.parent, registry.package
    folder, package = file.parent, ""
    while (folder / "__init__.py").is_file():
        folder, package = folder.parent, f"{folder.name}.{package}".rstrip(".")
    return folder, package


def _origin(module: str, folder: Path, package: str) -> Path | None:
    """The file of `module` where a plugin's source may be, else None."""
    parts = module.split(".")
    if parts[:2] == ["ltbench", "functional"]:
        return Path(__file__).with_name("functional.py")
    for registry in (METHODS, DATASETS):
        if parts[:2] == registry.package.split(".") and len(parts) > 2:
            files = (own / f"{parts[2]}.py" for own in registry.folders())
            return next((file for file in files if file.is_file()), None)
    if parts[0] == "ltbench" or not package or parts[0] != package.partition(".")[0]:
        return None
    base = folder.joinpath(*parts)
    return next((f for f in (base.with_suffix(".py"), base / "__init__.py") if f.is_file()), None)


def _imported_modules(file: Path, package: str) -> Iterator[str]:
    """Absolute dotted names; of `from a import b` both `a` and `a.b`, as b may be a module."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"), filename=str(file))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            parts = [*(above if node.level else []), *([node.module] if node.module else [])]
            base = ".".join(parts)
            yield from (base, *(f"{base}.{alias.name}" for alias in node.names))


METHODS: Registry[Any] = Registry("method", "ltbench.methods", "ltbench.methods")
DATASETS: Registry[Any] = Registry("dataset", "ltbench.datasets", "ltbench.datasets")


def add_plugins(files: Iterable[Path]) -> None:
    """Make plugin files known: each is a method or a data set by what it registers."""
    for file in files:
        _registry_of(file).add_file(Path(file))


def import_plugins(files: Iterable[Path]) -> None:
    """`add_plugins`, and import them: a broken file is named although nothing else asks for it."""
    for file in files:
        registry = _registry_of(file)
        _ = registry[registry.add_file(Path(file))]


def _registry_of(file: Path) -> Registry[Any]:
    return DATASETS if registers(Path(file), "DATASETS") else METHODS
