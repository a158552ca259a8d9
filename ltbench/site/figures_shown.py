"""Figures as files of a site: each an SVG document of its own, with its caption kept beside it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Protocol

from ltbench.bundles.portable import portable
from ltbench.files import read_json
from ltbench.report.sheet import slug
from ltbench.results import RunFolder

__all__ = ["captions_in", "captions_of", "drawn_files", "figures_of_run"]

Facts = dict[str, Any]

_CAPTIONS: Final = "captions.json"


class Figure(Protocol):
    """What is drawn elsewhere."""

    @property
    def name(self) -> str:
        """Of its file, without ending."""

    @property
    def title(self) -> str:
        """For its heading."""

    @property
    def caption(self) -> str:
        """What is shown, of how many images."""

    @property
    def alt(self) -> str:
        """Its numbers in a sentence."""

    @property
    def svg(self) -> str:
        """The document."""


def figures_of_run(run: RunFolder) -> Iterator[Figure]:
    """The figures of one run."""
    return iter(())


def drawn_files(folder: str, figures: Iterable[Figure]) -> dict[str, bytes]:
    """A file a figure, and one with their captions, by path in the site."""
    files: dict[str, bytes] = {}
    captions = []
    for figure in figures:
        name = f"{slug(figure.name)}.svg"
        files[f"{folder}/{name}"] = figure.svg.encode("utf-8")
        told = {"title": figure.title, "caption": figure.caption, "alt": figure.alt}
        captions.append({"file": name, **{key: portable(text) for key, text in told.items()}})
    text = json.dumps(captions, indent=1, ensure_ascii=False)
    files[f"{folder}/{_CAPTIONS}"] = f"{text}\n".encode()
    return files


def captions_of(folder: str, files: Mapping[str, bytes]) -> list[Facts]:
    """What a page says of figures: `href`, `title`, `caption`, `alt`."""
    return _placed(folder, json.loads(files[f"{folder}/{_CAPTIONS}"]))


def captions_in(root: Path, folder: str) -> list[Facts]:
    """The same of figures that lie in the site."""
    return _placed(folder, read_json(root / folder / _CAPTIONS))


def _placed(folder: str, captions: list[Facts]) -> list[Facts]:
    return [{**one, "href": f"{folder}/{one['file']}"} for one in captions]
