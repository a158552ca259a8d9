"""Lists of what there is. Plugins are not imported for them, so they answer at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ltbench.api import list_datasets, list_methods
from ltbench.columns import columns
from ltbench.errors import LtbenchError, UsageError
from ltbench.registry import METHODS, suggest

Rows = list[dict[str, Any]]


def rows(kind: str) -> Rows:
    """The entries of one kind."""
    if kind not in _KINDS:
        raise UsageError(suggest("kind of list", kind, sorted(_KINDS)))
    return _KINDS[kind]()


def render(kind: str, entries: Rows, width: int | None = None) -> str:
    """Aligned columns; cells are cut only where a `width` is given."""
    if not entries:
        return f"No {kind}."
    if kind == "backbones":
        return "\n".join(entry["name"] for entry in entries)
    return columns(entries, width=width, cut=True)


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
    from ltbench.composition import COMPOSITIONS

    found = []
    for name in METHODS.names():
        try:
            method = METHODS[name]
        except LtbenchError as error:
            found.append({"name": f"{name}@?", "kind": "broken", "summary": str(error)})
            continue
        for kind in ("presets", "ablations"):
            declared: Mapping[str, Any] = getattr(method, kind)
            found += [
                {"name": f"{name}@{key}", "kind": kind[:-1], "summary": preset.summary}
                for key, preset in declared.items()
            ]
    return found + [
        {"name": f"METHOD@{name}", "kind": "composition", "summary": summary}
        for name, (summary, _) in COMPOSITIONS.items()
    ]


_KINDS: dict[str, Callable[[], Rows]] = {
    "methods": list_methods,
    "datasets": list_datasets,
    "recipes": _recipes,
    "metrics": _metrics,
    "backbones": _backbones,
    "presets": _presets,
}
