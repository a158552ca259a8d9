"""What a name means, as text: methods, data sets and recipes, read from their own declarations."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, get_args

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from tabulate import tabulate

from ltbench.config import flat, load_recipe, recipe_names
from ltbench.errors import UsageError
from ltbench.registry import DATASETS, METHODS, normalise, suggest

_BOUNDS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}


def about(name: str) -> dict[str, Any]:
    """Everything the project knows of a method, data set or recipe; JSON-able."""
    plain = normalise(name.partition("@")[0])
    if plain in METHODS:
        return _method(plain)
    if plain in DATASETS:
        return _dataset(plain)
    if plain in recipe_names():
        recipe = load_recipe(plain, with_summary=True)
        return {
            "kind": "recipe",
            "name": plain,
            "text": recipe.pop("summary", ""),
            "settings": recipe,
        }
    known = [*METHODS.names(), *DATASETS.names(), *recipe_names()]
    raise UsageError(suggest("name", name, known))


def render(facts: Mapping[str, Any]) -> str:
    """`about` for a terminal."""
    head = [f"{facts['kind']} {facts['name']}", ""]
    head += [
        f"{label + ':':<12}{facts[key]}"
        for key, label in (
            ("paper", "paper"),
            ("year", "year"),
            ("source", "source"),
            ("licence", "licence"),
            ("default_recipe", "recipe"),
        )
        if facts.get(key)
    ]
    if facts.get("tags"):
        head.append(f"{'tags:':<12}{', '.join(facts['tags'])}")
    parts = ["\n".join(head), facts["text"]]
    if facts["kind"] == "recipe":
        parts.append(yaml.safe_dump(facts["settings"], sort_keys=False, width=110).rstrip())
    else:
        parts += _sections(facts)
    return "\n\n".join(part for part in parts if part)


def _sections(facts: Mapping[str, Any]) -> list[str]:
    parts = []
    if facts["settings"]:
        rows = [{k: v for k, v in row.items() if v is not None} for row in facts["settings"]]
        parts.append(
            "Settings\n" + tabulate(rows, headers="keys", tablefmt="simple", maxcolwidths=60)
        )
    if facts.get("protocols"):
        lines = [
            f"  {name}{' (default)' if name == facts['default_protocol'] else ''}: {text}"
            for name, text in facts["protocols"].items()
        ]
        parts.append("\n".join(["Protocols", *lines]))
    parts += [
        "\n".join([kind.capitalize(), *_presets(facts, kind)])
        for kind in ("presets", "ablations")
        if facts.get(kind)
    ]
    if facts.get("departures"):
        lines = [f"  {i}. {text}" for i, text in enumerate(facts["departures"], 1)]
        parts.append("\n".join(["Departures from the paper and its code", *lines]))
    return parts


def _presets(facts: Mapping[str, Any], kind: str) -> list[str]:
    lines = []
    for name, preset in facts[kind].items():
        lines.append(f"  {facts['name']}@{name}: {preset['summary']}")
        lines += [f"      {key} = {value}" for key, value in preset["settings"].items()]
    return lines


def _method(name: str) -> dict[str, Any]:
    method = METHODS[name]
    return {
        "kind": "method",
        **_info(method),
        "text": inspect.getdoc(inspect.getmodule(method)) or inspect.getdoc(method) or "",
        "settings": _fields(method.Config, "method", method.search_space),
        "presets": _declared(method.presets),
        "ablations": _declared(method.ablations),
        "departures": list(method.departures),
    }


def _dataset(name: str) -> dict[str, Any]:
    dataset = DATASETS[name]
    return {
        "kind": "dataset",
        **_info(dataset),
        "text": inspect.getdoc(inspect.getmodule(dataset)) or inspect.getdoc(dataset) or "",
        "settings": _fields(dataset.Config, "dataset", {}),
        "protocols": dict(dataset.protocols),
        "default_protocol": dataset.default_protocol,
        "default_recipe": dataset.default_recipe,
    }


def _info(plugin: Any) -> dict[str, Any]:
    info = plugin.info
    return {
        "name": info.name,
        "paper": info.paper,
        "year": info.year,
        "source": info.source,
        "licence": info.licence,
        "tags": list(info.tags),
    }


def _declared(presets: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: {"summary": preset.summary, "settings": flat(preset.settings)}
        for name, preset in presets.items()
    }


def _fields(
    model: type[BaseModel], prefix: str, search_space: Mapping[str, Any]
) -> list[dict[str, Any]]:
    rows = []
    for name, field in model.model_fields.items():
        space = search_space.get(name)
        rows.append(
            {
                "setting": f"{prefix}.{name}",
                "default": str(field.get_default(call_default_factory=True)),
                "allowed": _allowed(field),
                "search": "" if space is None else str(space),
                "meaning": field.description or "",
            }
        )
    if not search_space:
        for row in rows:
            row.pop("search")
    return rows


def _allowed(field: FieldInfo) -> str:
    bounds = [
        f"{sign} {getattr(limit, word)}"
        for limit in field.metadata
        for word, sign in _BOUNDS.items()
        if getattr(limit, word, None) is not None
    ]
    if bounds:
        return ", ".join(bounds)
    if field.annotation is bool:
        return "true, false"
    options = [str(option) for option in get_args(field.annotation)]
    return " | ".join(option.removeprefix("<class '").removesuffix("'>") for option in options)
