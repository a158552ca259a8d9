"""Figures as files of a site: each an SVG document of its own, with its caption kept beside it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ltbench.bundles.portable import portable
from ltbench.files import read_json
from ltbench.report.sheet import slug
from ltbench.results import RunFolder
from ltbench.site.folder import Unit, digests_of, write

if TYPE_CHECKING:
    from ltbench.figures.drawing import LeftOut, Sketch

__all__ = [
    "FIGURE_S",
    "FigureTask",
    "captions_in",
    "captions_of",
    "drawn_files",
    "figures_of_run",
    "hidden_of",
    "is_possible",
]

Facts = dict[str, Any]
Record = Mapping[str, Any]

FIGURE_S: Final = 0.06  # about how long one takes
_CAPTIONS: Final = "captions.json"
_WIDTH_PT: Final = re.compile(r'<svg [^>]*?width="([0-9.]+)pt"')
_WIDE_PT: Final = 360.0  # from here on a figure has the whole width of a page


def is_possible() -> None:
    """Refuse to draw without the library that draws.

    Raises:
        DataMissingError: matplotlib is not installed.
    """
    from ltbench.errors import DataMissingError
    from ltbench.figures.canvas import require_matplotlib

    try:
        require_matplotlib()
    except DataMissingError as error:
        raise DataMissingError(f"{error} Or give --no-figures.") from error


@dataclass(frozen=True)
class FigureTask:
    """Figures that are of no single run: of a row's seeds, of a board, of several data sets.

    Attributes:
        folder: where they go, and the name of their unit.
        runs: of a row; empty for the others.
        records: of a board, or of all boards where `ranks` is set.
        tuned: the root of tuned settings, where a board has tuned rows.
        ranks: whether it is the diagram over several data sets.
    """

    folder: str
    stamp: str
    runs: tuple[Path, ...] = ()
    records: tuple[Record, ...] = field(default=(), repr=False)
    tuned: Path | None = None
    ranks: bool = False

    @property
    def work_s(self) -> float:
        """About how long it takes."""
        return 2 * FIGURE_S

    def make(self, root: Path) -> tuple[dict[str, Unit], list[str]]:
        """Write them."""
        files = drawn_files(self.folder, self._sketches(), self._hidden())
        for file, data in files.items():
            write(root, file, data)
        unit = Unit(stamp=self.stamp, files=digests_of(files))
        return {self.folder: unit}, list(files)

    def _hidden(self) -> dict[str, str]:
        folders = [*self.runs, *(Path(record["folder"]) for record in self.records)]
        return hidden_of(RunFolder(path) for path in self.runs) | {f"{f}/": "" for f in folders}

    def _sketches(self) -> Iterator[Sketch | LeftOut]:
        from ltbench.figures.of_rows import board_sketches, rank_sketch, row_sketches
        from ltbench.figures.of_tuning import budget_sketch

        if self.runs:
            yield from row_sketches([RunFolder(path) for path in self.runs])
        elif self.ranks:
            yield rank_sketch(self.records)
        else:
            yield from board_sketches(self.records)
            if self.tuned is not None:
                first = self.records[0]
                yield budget_sketch(self.tuned, first["dataset"], first["protocol"])


def figures_of_run(run: RunFolder) -> Iterator[Sketch | LeftOut]:
    """The figures of one run, still to be drawn."""
    from ltbench.figures.of_run import run_sketches

    return run_sketches(run)


def hidden_of(runs: Iterable[RunFolder]) -> dict[str, str]:
    """What figures of runs could tell of this machine, and what they say in its place."""
    from ltbench.figures.names import literal

    hidden: dict[str, str] = {}
    for run in runs:
        label = str(run.record().get("label"))
        told = str(portable(label))
        hidden |= {f"{run.path}/": "", label: told, literal(label): literal(told)}
    return {text: told for text, told in hidden.items() if text != told}


def drawn_files(
    folder: str, sketches: Iterable[Sketch | LeftOut], hidden: Mapping[str, str]
) -> dict[str, bytes]:
    """A file a figure, and one with their captions and what was left out, by path in the site.

    Args:
        folder: where they go.
        sketches: the figures.
        hidden: texts that are replaced wherever they stand.
    """
    from ltbench.figures.drawing import LeftOut

    files: dict[str, bytes] = {}
    told: list[Facts] = []

    def shown(text: str) -> str:
        for one, told in hidden.items():
            text = text.replace(one, told)
        return text

    for sketch in sketches:
        if isinstance(sketch, LeftOut):
            reason = str(portable(shown(sketch.reason)))
            told.append({"title": sketch.title, "reason": reason})
            continue
        figure, name = sketch.drawn(), f"{slug(sketch.name)}.svg"
        files[f"{folder}/{name}"] = shown(figure.svg).encode("utf-8", "replace")
        words = {"title": figure.title, "caption": figure.caption, "alt": figure.alt}
        size = _WIDTH_PT.search(figure.svg)
        is_wide = size is not None and float(size[1]) > _WIDE_PT
        told.append(
            {"file": name, "wide": is_wide, **{key: shown(text) for key, text in words.items()}}
        )
    files[f"{folder}/{_CAPTIONS}"] = f"{json.dumps(told, indent=1)}\n".encode()
    return files


def captions_of(folder: str, files: Mapping[str, bytes]) -> list[Facts]:
    """What a page says of figures: `href`, `title`, `caption`, `alt`; or `title` and `reason`."""
    return _placed(folder, json.loads(files[f"{folder}/{_CAPTIONS}"]))


def captions_in(root: Path, folder: str) -> list[Facts]:
    """The same of figures that lie in the site."""
    return _placed(folder, read_json(root / folder / _CAPTIONS))


def _placed(folder: str, captions: list[Facts]) -> list[Facts]:
    return [{**one, "href": f"{folder}/{one['file']}" if "file" in one else ""} for one in captions]
