"""Conformance cards: what the project knows of a method, as Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ltbench.evidence import NO_PRESET, RECIPE
from ltbench.settings import as_yaml

Facts = Mapping[str, Any]

LONG = 60  # characters of a value above which the table of settings points to the preset


def card(facts: Facts) -> str:
    """The card of one method, from `catalogue.about`."""
    parts = [f"# {facts['name']}", _head(facts), _prose(facts["text"])]
    parts += _equations(facts["equations"])
    parts += ["## Settings", _settings(facts)]
    parts += _presets(facts)
    if facts["departures"]:
        parts += ["## Departures from the paper and its code"]
        parts += ["\n".join(f"{i}. {_plain(t)}" for i, t in enumerate(facts["departures"], 1))]
    parts += ["## Golden checks", _golden(facts["golden"])]
    return "\n\n".join(part for part in parts if part) + "\n"


def index(cards: Sequence[Facts]) -> str:
    """A table of all cards."""
    rows = []
    for facts in cards:
        golden = facts["golden"]
        checks = golden["checks"] if golden else []
        rows.append(
            [
                f"[{facts['name']}]({facts['name']}.md)",
                str(facts["year"]),
                _plain(str(facts["paper"])),
                str(len(checks)),
                f"{golden['largest_error']:.2g}" if golden else "none recorded",
            ]
        )
    titles = ["Method", "Year", "Paper", "Golden files met", "Largest relative error"]
    return (
        "# Methods\n\nOne card a method, made by `python bench.py describe --cards docs/methods` "
        f"from the method's file.\n\n{_table(titles, rows)}\n"
    )


def _head(facts: Facts) -> str:
    rows = [
        ("Paper", _plain(f"{facts['paper']}")),
        ("Year", str(facts["year"])),
        ("Source", f"`{facts['source']}`"),
        ("Licence", _plain(facts["licence"] or "")),
        ("Tags", ", ".join(facts["tags"])),
        ("Run", f"`python bench.py run --method {facts['name']} --dataset DATASET`"),
    ]
    return "\n".join(f"- **{title}**: {value}" for title, value in rows if value)


def _equations(functions: Iterable[Facts]) -> list[str]:
    parts = ["## Equations"]
    for function in functions:
        where = f" (in `{function['where']}`)" if function["where"] else ""
        parts.append(f"### {function['name']}{where}")
        parts.append(
            f"```text\n{function['name']}{function['signature']}\n\n{function['text']}\n```"
        )
    return parts if len(parts) > 1 else []


def _settings(facts: Facts) -> str:
    meaning = {row["setting"]: row for row in facts["settings"]}
    rows = []
    for beside in facts["settings_beside"]:
        name = beside["setting"]
        known = meaning.get(name, {})
        ours = _cell(beside["ours"])
        others = [_cell(beside[column]) for column in ("paper", "authors")]
        marked = [f"**{it}**" if it not in (ours, NO_PRESET) else it for it in others]
        said = _plain(str(known.get("meaning", "setting of the run")))
        rows.append([f"`{name}`", ours, *marked, _plain(str(known.get("allowed", ""))), said])
    if not rows:
        return "None of its own."
    presets = [f"`@{name}`" for name in ("paper", "authors")]
    table = _table(["Setting", "Ours", *presets, "Allowed", "Meaning"], rows)
    without = [f"`{name}`" for name in ("paper", "authors") if name not in facts["presets"]]
    said = (
        "The columns are what the presets run with; bold: not as ours. Where paper or code have no "
        "such setting, or another rule, the departures say so."
    )
    if without:
        said += (
            f" {NO_PRESET}: there is no preset {' or '.join(without)}; what is known of a "
            "difference is among the departures, and in presets of other names."
        )
    return f"{table}\n\n{said}"


def _presets(facts: Facts) -> list[str]:
    parts = []
    for kind in ("presets", "ablations"):
        if not facts[kind]:
            continue
        lines = []
        for name, preset in facts[kind].items():
            lines.append(f"- `{facts['name']}@{name}`: {_plain(preset['summary'])}")
            lines += [f"  - `{key}={as_yaml(value)}`" for key, value in preset["settings"].items()]
        parts += [f"## {kind.capitalize()}", "\n".join(lines)]
    return parts


def _golden(golden: Facts | None) -> str:
    if golden is None:
        return "No numbers of published code are recorded for this method."
    rows = [
        [f"`{check['case']}`", str(check["compared"]), f"{check['error']:.2g}", _allowed(check)]
        for check in golden["checks"]
    ]
    table = _table(["File in `tests/golden`", "Compared", "Largest error", "Allowed"], rows)
    measured = ", ".join(f"{name} {value}" for name, value in golden["measured"].items())
    return (
        f"{table}\n\nErrors are relative to the largest number compared. Measured with {measured} "
        f"by `{golden['command']}`."
    )


def _allowed(check: Facts) -> str:
    return f"{check['allowed']:g}"


def _prose(text: str) -> str:
    """A docstring: indented paragraphs are formulas and stay as they are."""
    parts = []
    for paragraph in re.split(r"\n\s*\n", text):
        lines = paragraph.splitlines()
        if any(line.startswith("  ") for line in lines):
            parts.append("```text\n" + "\n".join(lines) + "\n```")
        else:
            parts.append(_plain(paragraph))
    return "\n\n".join(parts)


def _cell(value: Any) -> str:
    text = value if value in (RECIPE, NO_PRESET) else as_yaml(value)
    return "see preset" if len(text) > LONG else _plain(text)


def _plain(text: str) -> str:
    """Text that Markdown shows as it is, also in a cell; `code` stays code."""
    parts = re.split(r"(`[^`]+`)", text)
    return "".join(_escaped(part) if i % 2 == 0 else part for i, part in enumerate(parts))


def _escaped(text: str) -> str:
    # An underscore within a word starts no emphasis.
    return re.sub(r"([\\|*<`\[\]]|(?<!\w)_|_(?!\w))", r"\\\1", text)


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
