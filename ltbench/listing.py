"""Lists of what there is. Plugins are not imported for them, so they answer at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ltbench.api import list_datasets, list_methods
from ltbench.errors import UsageError
from ltbench.registry import METHODS, suggest

Rows = list[dict[str, Any]]


def rows(kind: str) -> Rows:
    """The entries of one kind."""
    if kind not in _KINDS:
        raise UsageError(suggest("kind of list", kind, sorted(_KINDS)))
    return _KINDS[kind]()


def render(kind: str, entries: Rows) -> str:
    """Aligned columns; long cells are not cut."""
    if not entries:
        return f"No {kind}."
    if kind == "backbones":
        return "\n".join(entry["name"] for entry in entries)
    columns = [key for key in entries[0] if any(entry[key] for entry in entries)]
    cells = [[_text(entry[column]) for column in columns] for entry in [*entries]]
    widths = [max(len(column), *(len(row[i]) for row in cells)) for i, column in enumerate(columns)]
    lines = [columns, ["-" * width for width in widths], *cells]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def _recipes() -> Rows:
    from importlib import resources

    folder = resources.files("ltbench.recipes")
    found = []
    for file in sorted(folder.iterdir(), key=lambda f: f.name):
        if file.name.endswith(".yaml"):
            # Only the first line is read: parsing the whole would need the models it configures.
            first = file.read_text("utf-8").partition("\n")[0]
            found.append({"name": file.name[:-5], "summary": first.removeprefix("summary: ")})
    return found


def _metrics() -> Rows:
    from ltbench.metrics import METRICS

    return [
        {
            "name": metric.name,
            "better": "higher" if metric.higher_is_better else "lower",
            "column": metric.paper_column or "",
            "definition": metric.definition,
        }
        for metric in METRICS.values()
    ]


def _backbones() -> Rows:
    from ltbench.models import backbone_names

    return [{"name": name} for name in backbone_names()]


def _presets() -> Rows:
    found = []
    for name in METHODS.names():
        method = METHODS[name]
        for kind in ("presets", "ablations"):
            declared: Mapping[str, Any] = getattr(method, kind)
            found += [
                {"name": f"{name}@{key}", "kind": kind[:-1], "summary": preset.summary}
                for key, preset in declared.items()
            ]
    return found


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(value)
    return "" if value is None else str(value)


_KINDS: dict[str, Callable[[], Rows]] = {
    "methods": list_methods,
    "datasets": list_datasets,
    "recipes": _recipes,
    "metrics": _metrics,
    "backbones": _backbones,
    "presets": _presets,
}
