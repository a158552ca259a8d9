"""From records to a site: what `bench.py report` does."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tqdm import tqdm

from ltbench.errors import UsageError
from ltbench.files import alone, storage_errors
from ltbench.program import DEFAULT_TUNED
from ltbench.registry import DATASETS
from ltbench.report.published import Published
from ltbench.site.boards import Board, boards_of
from ltbench.site.choices import NUM_MISTAKES, SORTED_BY, TITLE, Made, Selection
from ltbench.site.crew import Task, made_together
from ltbench.site.figure_plan import FigurePlan
from ltbench.site.figures_shown import is_possible
from ltbench.site.first_page import first_page
from ltbench.site.folder import SiteFolder, Unit, digests_of
from ltbench.site.material import Material, read_material
from ltbench.site.method_pages import make_method_pages
from ltbench.site.naming import run_stems
from ltbench.site.pages import ASSETS, asset
from ltbench.site.pictures import FOLDER
from ltbench.site.run_pages import RunPages

__all__ = ["SiteOptions", "make_site"]

INDEX: Final = "index.html"
_MANY_ROWS: Final = 30  # from here on the comparison of rows takes long, the first time
_PLANNED: Final = (INDEX, "runs/", "methods/", "figures/", f"{FOLDER}/", "assets/")
_OF_RUN_PAGES: Final = ("figures", "pictures", "num_mistakes", "data_root", "say")


@dataclass(frozen=True)
class SiteOptions:
    """How a site is made; see `ltbench.site.choices.SiteChoices`."""

    title: str = TITLE
    with_published: bool = False
    bold: bool = True
    sort: str | None = SORTED_BY
    figures: bool = True
    pictures: bool = True
    num_mistakes: int = NUM_MISTAKES
    data_root: Path | None = None
    tuned: Path | None = DEFAULT_TUNED
    jobs: int | None = None
    say: Callable[[str], None] = lambda line: None

    def check(self) -> None:
        """Refuse what cannot be, before anything is read.

        Raises:
            UsageError: a number that is too small.
            DataMissingError: figures are wanted and matplotlib is not here.
        """
        if self.num_mistakes < 0:
            raise UsageError(f"Expected 0 mistakes a run or more, got {self.num_mistakes}.")
        if self.jobs is not None and self.jobs < 1:
            raise UsageError(f"Expected 1 process or more, got {self.jobs}.")
        if self.figures:
            is_possible()


def make_site(selection: Selection, out: Path, options: SiteOptions | None = None) -> Made:
    """Write a site, or bring the one that is there up to date.

    Args:
        selection: which runs it shows.
        out: a new folder, or one with a site.
        options: how.

    Raises:
        DataMissingError: no finished run fits, or matplotlib is missing.
        UsageError: `out` holds something else than a site; an option that cannot be.
        VerificationError: results that contradict each other.
    """
    chosen = options or SiteOptions()
    chosen.check()
    SiteFolder.opened(out, _PLANNED)  # refuses what cannot be, before anything is read
    with read_material(selection, per_class=chosen.figures) as material:
        num_rows = len({record["key"] for record in material.records})
        if chosen.bold and num_rows > _MANY_ROWS:
            chosen.say(f"Comparing {num_rows} rows for bold; --no-bold leaves that out.")
        published = Published(methods=selection.methods) if chosen.with_published else None
        boards = boards_of(
            material.records,
            bold=chosen.bold,
            sort=chosen.sort,
            published=published,
            shown=material.without_roots,
        )
        with storage_errors(out, "--out"):
            out.mkdir(parents=True, exist_ok=True)
        with alone(out):  # two commands that write and remove at once would leave half of each
            folder = SiteFolder.opened(out, _PLANNED)
            return _made(folder, chosen, material, boards)


def _made(folder: SiteFolder, chosen: SiteOptions, material: Material, boards: list[Board]) -> Made:
    """Pages of runs and methods first, then the page that links to them; then what is old goes."""
    stems = run_stems(material.records)
    for name in ASSETS:
        _put(folder, f"assets/{name}", asset(name))
    of_runs = {name: getattr(chosen, name) for name in _OF_RUN_PAGES}
    pages = RunPages(folder=folder, material=material, boards=boards, stems=stems, **of_runs)
    tuned = None if material.from_boards else chosen.tuned
    figures = FigurePlan(folder, boards, stems, chosen.figures, tuned)
    _carry_out([*pages.tasks(), *figures.tasks()], folder, chosen.jobs)
    num_methods = make_method_pages(folder, material, boards, stems, figures, chosen.sort)
    first = first_page(material, boards, stems, figures, title=chosen.title, sort=chosen.sort)
    _put(folder, INDEX, first)
    num_removed = folder.finish()
    pictures = pages.num_pictures()
    return Made(
        index=folder.path / INDEX,
        num_runs=len(material.records),
        num_methods=num_methods,
        num_boards=len(boards),
        num_written=len(folder.written),
        num_kept=len(folder.files - folder.written),
        num_removed=num_removed,
        num_pictures=pictures,
        licences={name: _licence(name) for name in pictures},
        notes=material.notes,
    )


def _carry_out(tasks: Sequence[Task], folder: SiteFolder, jobs: int | None) -> None:
    if not tasks:
        return
    folder.begin()
    made = made_together(tasks, folder.path, jobs or len(os.sched_getaffinity(0)))
    # A bar on a terminal; nothing where there is none.
    for units, written in tqdm(made, total=len(tasks), unit="page", disable=None, leave=False):
        for name, unit in units.items():
            folder.made(name, unit, written)


def _put(folder: SiteFolder, file: str, data: bytes) -> None:
    folder.put(file, data)
    folder.made(file, Unit(stamp="", files=digests_of({file: data})))


def _licence(dataset: str) -> str:
    return DATASETS.info(dataset).licence if dataset in DATASETS else ""
