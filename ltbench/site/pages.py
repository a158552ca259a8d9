"""Templates filled in: every text in them is escaped, whatever it holds."""

from __future__ import annotations

import importlib.metadata
import re
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any, Final

from markupsafe import Markup, escape

if TYPE_CHECKING:
    from jinja2 import Environment

__all__ = ["ASSETS", "asset", "prose", "rendered"]

ASSETS: Final = ("site.css", "site.js")
# What a text may not bring along: control characters, which HTML forbids, halves of surrogate
# pairs, which UTF-8 cannot hold, and marks that turn round what stands beside them.
_UNFIT: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
_TURNING: Final = re.compile("[\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def rendered(template: str, *, depth: int, **facts: Any) -> bytes:
    """A page as bytes.

    Args:
        template: its name.
        depth: how many folders below the first page it lies.
        facts: what the template takes.
    """
    text = _environment().get_template(template).render(root="../" * depth, depth=depth, **facts)
    return text.encode("utf-8")


def asset(name: str) -> bytes:
    """The stylesheet or the script of all pages."""
    return resources.files("ltbench.site").joinpath("assets", name).read_bytes()


def prose(text: str) -> Markup:
    """A docstring as HTML: paragraphs, formulas as they are set, `code` as code."""
    parts = []
    for paragraph in re.split(r"\n\s*\n", text.strip("\n")):
        if any(line.startswith("  ") for line in paragraph.splitlines()):
            parts.append(Markup('<pre class="formula">{}</pre>').format(_fit(paragraph)))
        else:
            parts.append(Markup("<p>{}</p>").format(inline(paragraph)))
    return Markup("\n").join(parts)


def inline(text: str) -> Markup:
    """Text with `code` in it as HTML."""
    parts = re.split(r"`([^`]+)`", _fit(text))
    marked = [
        Markup("<code>{}</code>").format(part) if place % 2 else escape(part)
        for place, part in enumerate(parts)
    ]
    return Markup("").join(marked)


def _fit(value: Any) -> Any:
    """What is put into a page: numbers and markup as they are, text without what is unfit."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return _TURNING.sub("", _UNFIT.sub("\N{REPLACEMENT CHARACTER}", value))


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("ltbench.site", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_fit,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"prose": prose, "inline": inline}
    environment.globals["version"] = importlib.metadata.version("ltbench")
    return environment
