"""What stands behind a method: equations, settings beside the paper's, golden checks."""

from __future__ import annotations

import inspect
import json
import re
from functools import cache
from importlib import resources
from types import ModuleType
from typing import Any

from pydantic_core import to_jsonable_python

from ltbench.config import preset_settings
from ltbench.method import Method
from ltbench.settings import flat

Facts = dict[str, Any]

_CHECKS = "golden_checks.json"
# What a column of the settings shows for a setting that is the recipe's there, and in every line
# where the method has no preset of the column's name.
RECIPE = "(recipe)"
NO_PRESET = "-"


def equations(method: type[Method]) -> list[Facts]:
    """The public functions of a method's file, and those it takes from others', with their texts.

    Returns:
        For each its `name`, `signature`, `text` (formula, shapes, ranges, source), and `where` it
        is defined, unless that is the method's own file.
    """
    module = inspect.getmodule(method)
    if module is None:
        return []
    found = [
        function
        for name, function in vars(module).items()
        if inspect.isfunction(function) and not name.startswith("_") and _explains(function, module)
    ]
    found.sort(key=lambda function: function.__module__ != module.__name__)  # its own come first
    return [
        {
            "name": function.__name__,
            "signature": _signature(function),
            "where": "" if function.__module__ == module.__name__ else function.__module__,
            "text": inspect.getdoc(function),
        }
        for function in found
    ]


def settings_beside(method: type[Method]) -> list[Facts]:
    """Every setting of the method, and of the run where it or its presets change it.

    Returns:
        `setting`, and its value in `ours` (the defaults), `paper` and `authors` (presets of these
        names; `NO_PRESET` without one: its values are then not on record).
    """
    ours = {
        f"method.{key}": value
        for key, value in flat(to_jsonable_python(method.Config().model_dump())).items()
    } | dict(method.defaults)
    columns = {"ours": ours}
    for name in ("paper", "authors"):
        if name in method.presets:
            columns[name] = ours | flat(to_jsonable_python(dict(preset_settings(method, name))))
    names = dict.fromkeys(key for column in columns.values() for key in column)
    unknown = dict.fromkeys(names, NO_PRESET)
    return [
        {
            "setting": name,
            **{
                of: columns.get(of, unknown).get(name, RECIPE)
                for of in ("ours", "paper", "authors")
            },
        }
        for name in names
    ]


def golden_checks(name: str) -> Facts | None:
    """Where the method met numbers of published code; None where nothing is recorded.

    Returns:
        `checks`: for each file of numbers its `case`, how many numbers or arrays were `compared`,
        the largest `error` relative to the largest number, and what was `allowed`. `measured`:
        versions and machine. `command`: what measures again.
    """
    recorded = _recorded()
    checks = recorded["methods"].get(name)
    if checks is None:
        return None
    return {
        "checks": checks,
        "largest_error": max(check["error"] for check in checks),
        "measured": recorded["measured"],
        "command": recorded["command"],
    }


@cache
def _recorded() -> Facts:
    text = (resources.files("ltbench.published") / _CHECKS).read_text("utf-8")
    recorded: Facts = json.loads(text)
    return recorded


def _signature(function: Any) -> str:
    """As written: annotations are texts already, and functions as defaults have names."""
    signature = inspect.signature(function)
    plain = [p.replace(annotation=_Plain(p.annotation)) for p in signature.parameters.values()]
    text = str(
        signature.replace(parameters=plain, return_annotation=_Plain(signature.return_annotation))
    )
    return re.sub(r"<function (\w+) at 0x\w+>", r"\1", text)


class _Plain(str):
    """An annotation that a signature shows without quotes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def _explains(function: Any, module: ModuleType) -> bool:
    """Whether a function says what a method computes: its own, its siblings', or a shared one."""
    near = (module.__name__, "ltbench.functional")
    sibling = function.__module__.startswith("ltbench.methods.")
    return bool(inspect.getdoc(function)) and (function.__module__ in near or sibling)
