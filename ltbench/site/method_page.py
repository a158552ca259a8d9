"""The page of a method: its conformance card, its rows on every board, its runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from ltbench.bundles.portable import portable
from ltbench.errors import LtbenchError
from ltbench.registry import METHODS
from ltbench.settings import as_yaml
from ltbench.site.shown import short

__all__ = ["card_facts", "digests_note"]

Facts = dict[str, Any]

_COLUMNS: Final = ("ours", "paper", "authors")


def card_facts(name: str) -> Facts:
    """What the project knows of a method, ready for the page.

    Returns:
        `why_not` alone where its plugin is not installed here or cannot be imported; else what
        `catalogue.about` gives, and `settings_shown`.
    """
    if name not in METHODS:
        return {
            "why_not": f"No plugin '{name}' is installed here: this page holds what records say."
        }
    from ltbench.catalogue import about

    try:
        facts = about(name)
    except LtbenchError as error:
        told = str(portable(str(error).partition("\n")[0]))
        return {"why_not": f"The plugin '{name}' cannot be imported here: {told}"}
    missing = [f"@{preset}" for preset in ("paper", "authors") if preset not in facts["presets"]]
    return {
        "why_not": "",
        **facts,
        "link": facts["source"] if str(facts["source"]).startswith("https://") else "",
        "settings_shown": list(_settings(facts)),
        "no_preset": " and ".join(missing),
        "presets_shown": {
            kind: [
                {
                    "name": f"{name}@{preset}",
                    "summary": declared["summary"],
                    "settings": [f"{k}={as_yaml(v)}" for k, v in declared["settings"].items()],
                }
                for preset, declared in facts[kind].items()
            ]
            for kind in ("presets", "ablations")
        },
    }


def digests_note(name: str, digests: Iterable[str]) -> str:
    """Whether records were made with the plugin that is here; "" where they were."""
    from ltbench.cell import plugin_digest

    here = plugin_digest(METHODS[name])
    others = sorted({digest for digest in digests if digest != here})
    if not others:
        return ""
    told = ", ".join(short(digest) for digest in others)
    return (
        f"The plugin that is installed here has digest {short(here)}; runs were made with {told}. "
        "The card describes what is installed."
    )


def _settings(facts: Mapping[str, Any]) -> Iterable[Facts]:
    """Settings as the card has them: ours beside the presets of paper and authors."""
    from ltbench.evidence import NO_PRESET  # imports torch

    meaning = {row["setting"]: row for row in facts["settings"]}
    for beside in facts["settings_beside"]:
        known = meaning.get(beside["setting"], {})
        ours = _value(beside["ours"])
        yield {
            "name": beside["setting"],
            "beside": [
                {"text": text, "differs": text not in (ours, NO_PRESET)}
                for text in (_value(beside[column]) for column in _COLUMNS)
            ],
            "allowed": str(known.get("allowed", "")),
            "meaning": str(known.get("meaning", "setting of the run")),
        }


def _value(value: Any) -> str:
    from ltbench.evidence import NO_PRESET, RECIPE
    from ltbench.report.cards import LONG

    text = value if value in (RECIPE, NO_PRESET) else as_yaml(value)
    return "see preset" if len(text) > LONG else str(text)


def described(names: Sequence[str]) -> list[Facts]:
    """A line a method for the first page, from its plugin's declaration, which is not imported."""
    found = []
    for name in names:
        info = METHODS.info(name) if name in METHODS else None
        found.append(
            {
                "name": name,
                "paper": "" if info is None else info.paper,
                "year": None if info is None else info.year,
                "tags": () if info is None else info.tags,
            }
        )
    return found
