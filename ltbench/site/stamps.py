"""Digests of what pages are made from, so that a page is made again only when something changed."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Final

from ltbench.files import canonical_json, sha256_hex
from ltbench.registry import DATASETS, METHODS, Registry
from ltbench.results import PREDICTIONS

__all__ = ["code_digest", "folder_digest", "plugins_digest", "run_digest", "stamp"]

_OF_A_RUN: Final = ("record.json", "config.json", "epochs.jsonl", PREDICTIONS)
_LIBRARIES: Final = ("jinja2", "matplotlib", "numpy", "pillow", "pyyaml", "scikit-learn")
_OF_FIGURES: Final = "figures_shown"  # the module of the site that writes them
_SUFFIXES: Final = (".py", ".j2", ".yaml", ".json")


def stamp(*parts: Any) -> str:
    """SHA-256 (hex) over JSON-able facts."""
    return sha256_hex(canonical_json(parts).encode())


def run_digest(folder: Path) -> str:
    """Of those of a run's files that its page is made from."""
    return stamp([[name, _file_digest(folder / name)] for name in _OF_A_RUN])


def folder_digest(folder: Path) -> str:
    """Of all files that lie in a folder itself."""
    files = sorted(file for file in folder.iterdir() if file.is_file())
    return stamp([[file.name, _file_digest(file)] for file in files])


@cache
def code_digest(*, of_pages: bool = True) -> str:
    """Of the harness's files, recipes and templates, and the versions of what draws and writes.

    Not of the plugins: see `plugins_digest`.

    Args:
        of_pages: whether the modules and templates of the site count; figures do without.
    """
    root = Path(str(resources.files("ltbench")))
    other = {"methods", "datasets"} if of_pages else {"methods", "datasets", "site"}
    files = sorted(file for file in root.rglob("*") if file.suffix in _SUFFIXES)
    own = [file for file in files if _below(file, root)[0] not in other or file.stem == _OF_FIGURES]
    texts = [["/".join(_below(file, root)), _file_digest(file)] for file in own]
    return stamp(texts, {name: _version(name) for name in _LIBRARIES})


def plugins_digest(methods: Iterable[str], datasets: Iterable[str]) -> str:
    """Of the plugins' files, imported by nobody; of ours all, since they may import each other."""
    files = []
    for registry, names in ((METHODS, methods), (DATASETS, datasets)):
        known = [*registry.own_names(), *(name for name in names if name in registry)]
        files += [[registry.kind, name, _plugin_digest(registry, name)] for name in set(known)]
    return stamp(sorted(files, key=lambda one: one[:2]))


@cache
def _plugin_digest(registry: Registry[Any], name: str) -> str | None:
    file = registry.info(name).file
    return None if file is None else _file_digest(file)


def _below(file: Path, root: Path) -> tuple[str, ...]:
    return file.relative_to(root).parts


@cache
def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _file_digest(path: Path) -> str | None:
    try:
        return sha256_hex(path.read_bytes())
    except OSError:
        return None
