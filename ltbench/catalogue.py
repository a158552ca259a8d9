"""What a name means, as text: methods, data sets and recipes, read from their own declarations."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from ltbench.columns import columns, paragraph
from ltbench.composition import compositions_of
from ltbench.config import load_recipe, preset_settings, recipe_names
from ltbench.errors import UsageError
from ltbench.evidence import NO_PRESET, RECIPE, equations, golden_checks, settings_beside
from ltbench.explain import allowed, inner_model, searched
from ltbench.registry import DATASETS, METHODS, normalise, suggest
from ltbench.report.cards import card, index
from ltbench.settings import as_yaml, flat

Facts = dict[str, Any]

WIDTH = 110
_LONG = 40  # characters of a setting's value in a table of three columns
_HEAD = {
    "paper": "paper",
    "year": "year",
    "source": "source",
    "licence": "licence",
    "default_recipe": "recipe",
    "tags": "tags",
}


def about(name: str) -> Facts:
    """Everything the project knows of a method, data set or recipe; JSON-able."""
    plain, _, preset = (normalise(part) for part in name.partition("@"))
    if plain in METHODS:
        preset_settings(METHODS[plain], preset)  # refuses an unknown one
        return _method(plain)
    if plain in DATASETS:
        return _dataset(plain)
    if plain in recipe_names():
        recipe = load_recipe(plain, with_summary=True)
        text = recipe.pop("summary", "")
        return {"kind": "recipe", "name": plain, "text": text, "settings": recipe}
    known = [*METHODS.names(), *DATASETS.names(), *recipe_names()]
    raise UsageError(suggest("name", name, known))


def cards() -> dict[str, str]:
    """Files of `docs/methods` by name: the card of every own method, and their index."""
    facts = [_method(name) for name in METHODS.own_names()]
    files = {f"{one['name']}.md": card(one) for one in facts}
    return files | {"README.md": index(facts)}


def render(facts: Facts, width: int = WIDTH) -> str:
    """`about` for a reader, in lines of `width` characters."""
    head = [f"{facts['kind']} {facts['name']}", ""]
    for key, label in _HEAD.items():
        value = facts.get(key)
        if value:
            text = ", ".join(value) if isinstance(value, list) else str(value)
            head.append(paragraph(text, width, f"{label + ':':<12}", " " * 12))
    parts = ["\n".join(head).rstrip(), facts["text"]]
    parts += _recipe_lines(facts, width) if facts["kind"] == "recipe" else _sections(facts, width)
    return "\n\n".join(part for part in parts if part)


def _recipe_lines(facts: Facts, width: int) -> list[str]:
    """One line a setting and a transform, as `--set` and YAML files take them."""
    settings = flat({key: value for key, value in facts["settings"].items() if key != "views"})
    rows = [{"setting": key, "value": as_yaml(value)} for key, value in settings.items()]
    views = facts["settings"].get("views", {})
    lines = [line for name, view in views.items() for line in _view_lines(name, view, width)]
    return [columns(rows, width=width), "\n".join(["Views", *lines])]


def _view_lines(name: str, transforms: Sequence[Any], width: int) -> list[str]:
    lines = [as_yaml(step) for step in transforms] or ["[] (the picture as it is)"]
    labels = [f"  {name:<10}", *[" " * 12] * (len(lines) - 1)]
    return [
        paragraph(line, width, label, " " * 14) for label, line in zip(labels, lines, strict=True)
    ]


def _sections(facts: Facts, width: int) -> list[str]:
    parts = []
    if facts["settings"]:
        shown = [{**row, "default": as_yaml(row["default"])} for row in facts["settings"]]
        parts.append("Settings\n" + columns(shown, width=width))
    else:
        parts.append(
            f"Settings\n  none of its own; those of the run apply to every {facts['kind']}"
        )
    if facts.get("defaults"):
        lines = _assignments(facts["defaults"], "  ", width)
        parts.append("\n".join(["Settings of the run that it changes", *lines]))
    if facts.get("protocols"):
        chosen = facts["default_protocol"]
        lines = [
            paragraph(text, width, f"  {name}{' (default)' * (name == chosen)}: ", "      ")
            for name, text in facts["protocols"].items()
        ]
        parts.append("\n".join(["Protocols", *lines]))
    parts += [
        "\n".join([kind.capitalize(), *_preset_lines(facts, kind, width)])
        for kind in ("presets", "ablations")
        if facts.get(kind)
    ]
    if facts.get("compositions"):
        names = ", ".join(f"{facts['name']}@{name}" for name in facts["compositions"])
        text = f"{names}; several with +, see `list presets`"
        parts.append("Compositions that it leaves room for\n" + paragraph(text, width, "  ", "  "))
    if facts.get("departures"):
        lines = [
            paragraph(text, width, f"  {i}. ", "     ")
            for i, text in enumerate(facts["departures"], 1)
        ]
        parts.append("\n".join(["Departures from the paper and its code", *lines]))
    return parts + (_evidence(facts, width) if facts["kind"] == "method" else [])


def _evidence(facts: Facts, width: int) -> list[str]:
    """Where settings of the paper and its code differ from ours; golden checks; equations."""
    parts = []
    differing = [
        {key: _short(value) for key, value in row.items()}
        for row in facts["settings_beside"]
        if any(row[other] not in (row["ours"], NO_PRESET) for other in ("paper", "authors"))
    ]
    if differing:
        title = "Settings that are not the same in our defaults and the presets paper and authors"
        parts.append(f"{title}\n" + columns(differing, width=width))
    parts.append(_golden(facts["golden"], width))
    for function in facts["equations"]:
        where = f", of {function['where']}" if function["where"] else ""
        text = textwrap.indent(function["text"], "  ")
        parts.append(f"Function {function['name']}{where}\n{text}")
    return parts


def _golden(golden: Facts | None, width: int) -> str:
    title = "Golden checks, errors relative to the largest number"
    if golden is None:
        return f"{title}\n  none recorded"
    rows = [{**row, "error": f"{row['error']:.2g}"} for row in golden["checks"]]
    return f"{title}\n{columns(rows, width=width)}\nAgain by: {golden['command']}"


def _short(value: Any) -> str:
    text = value if value in (RECIPE, NO_PRESET) else as_yaml(value)
    return text if len(text) <= _LONG else "(see the preset)"


def _preset_lines(facts: Facts, kind: str, width: int) -> list[str]:
    """Each preset with what it changes: from the defaults, or from the preset it builds on."""
    defaults = {row["setting"]: row["default"] for row in facts["settings"]}
    lines: list[str] = []
    earlier: dict[str, Facts] = {}
    for name, preset in facts[kind].items():
        changed = {k: v for k, v in preset["settings"].items() if defaults.get(k, ...) != v}
        base = next((n for n, own in earlier.items() if own and own.items() <= changed.items()), "")
        more = {k: v for k, v in changed.items() if k not in earlier.get(base, {})}
        lines.append(f"  {facts['name']}@{name}: {preset['summary']}")
        if base:
            lines.append(f"      as {facts['name']}@{base}{', and' * bool(more)}")
        lines += _assignments(more, "      ", width)
        if not changed:
            lines.append("      (changes nothing)")
        earlier[name] = changed
    return lines


def _assignments(settings: Mapping[str, Any], indent: str, width: int) -> list[str]:
    return [
        paragraph(f"{key}={as_yaml(value)}", width, indent, indent + "    ")
        for key, value in settings.items()
    ]


def _method(name: str) -> Facts:
    method = METHODS[name]
    return {
        "kind": "method",
        **_info(method),
        "text": _documentation(method),
        "settings": list(_fields(method.Config, "method", method.search_space)),
        "defaults": dict(method.defaults),
        "presets": _declared(method.presets),
        "ablations": _declared(method.ablations),
        "compositions": compositions_of(method),
        "departures": list(method.departures),
        "equations": equations(method),
        "settings_beside": settings_beside(method),
        "golden": golden_checks(name),
    }


def _dataset(name: str) -> Facts:
    dataset = DATASETS[name]
    return {
        "kind": "dataset",
        **_info(dataset),
        "text": _documentation(dataset),
        "settings": list(_fields(dataset.Config, "dataset", {})),
        "protocols": dict(dataset.protocols),
        "default_protocol": dataset.default_protocol,
        "default_recipe": dataset.default_recipe,
    }


def _documentation(plugin: type) -> str:
    """The docstrings of the plugin's file and class; a class without one inherits none."""
    texts = [inspect.getdoc(inspect.getmodule(plugin)), inspect.cleandoc(plugin.__doc__ or "")]
    return "\n\n".join(text for text in texts if text)


def _info(plugin: Any) -> Facts:
    info = plugin.info
    return {
        "name": info.name,
        "paper": info.paper,
        "year": info.year,
        "source": info.source,
        "licence": info.licence,
        "tags": list(info.tags),
    }


def _declared(presets: Mapping[str, Any]) -> Facts:
    return {
        name: {"summary": preset.summary, "settings": flat(preset.settings)}
        for name, preset in presets.items()
    }


def _fields(
    model: type[BaseModel], prefix: str, search_space: Mapping[str, Any]
) -> Iterable[Facts]:
    for name, field in model.model_fields.items():
        inner = inner_model(field.annotation)
        if inner is not None:
            yield from _fields(inner, f"{prefix}.{name}", {})
            continue
        space = search_space.get(name)
        yield {
            "setting": f"{prefix}.{name}",
            "default": _default(field),
            "allowed": allowed(field),
            "search": "" if space is None else searched(space),
            "meaning": field.description or "",
        }


def _default(field: FieldInfo) -> Any:
    if field.is_required():
        return "(required)"
    return to_jsonable_python(field.get_default(call_default_factory=True))
