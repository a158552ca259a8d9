"""The page of one run and its figures; what a process beside the first makes, too."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from ltbench.migrations import migrated
from ltbench.results import SCHEMA_VERSION, RunFolder
from ltbench.site import run_facts
from ltbench.site.crew import Result
from ltbench.site.figures_shown import (
    FIGURE_S,
    captions_in,
    captions_of,
    drawn_files,
    figures_of_run,
    hidden_of,
)
from ltbench.site.folder import Unit, digests_of, write
from ltbench.site.mistakes import Mistake
from ltbench.site.pages import rendered
from ltbench.site.settings_shown import Defaults, as_text, changed
from ltbench.site.shown import percent, plain

__all__ = ["RunPage", "record_of"]

Facts = dict[str, Any]

_DEPTH: Final = 1
_PAGE_S: Final = 0.03  # about how long it takes
_NUM_FIGURES: Final = 6


@dataclass(frozen=True)
class RunPage:
    """What a run's page needs beside the run's folder; picklable.

    Attributes:
        stem: of the page's name, and of the folder of its figures.
        stamp: of the page; `figures_stamp` of its figures.
        label: of its row, without paths; `dataset` its data set.
        method: where its method's page is; `board` and `board_title`: its board.
        siblings: (seed, page or None for this one) of the row's runs.
        level: how a board's row was checked; "" for a run of one's own.
        defaults: what its settings are compared with.
        num_mistakes: how many are listed.
        pictures: (path, SHA-256) of the pictures of its mistakes, by id.
        no_pictures: why there are none; "" where there are.
        figures: whether figures are shown; `drawn` whether they are there already.
    """

    run: Path
    stem: str
    stamp: str
    figures_stamp: str
    label: str
    dataset: str
    method: str
    board: str
    board_title: str
    siblings: tuple[tuple[int, str | None], ...]
    level: str
    num_mistakes: int
    figures: bool
    drawn: bool = False
    defaults: Defaults = field(default=Defaults(None))
    pictures: dict[str, tuple[str, str]] = field(default_factory=dict)
    no_pictures: str = ""

    @property
    def file(self) -> str:
        """The page's path in the site."""
        return f"runs/{self.stem}.html"

    @property
    def figures_folder(self) -> str:
        """Where its figures are, and the name of their unit."""
        return f"figures/{self.stem}"

    @property
    def work_s(self) -> float:
        """About how long it takes."""
        return _PAGE_S + (_NUM_FIGURES * FIGURE_S if self.figures and not self.drawn else 0)

    def make(self, root: Path) -> Result:
        """Write the page, and its figures unless they are there."""
        return _made(self, root)


def _made(page: RunPage, root: Path) -> Result:
    run = RunFolder(page.run)
    record = record_of(run)
    units: dict[str, Unit] = {}
    files: dict[str, bytes] = {}
    shown: list[Facts] = []
    if page.figures and page.drawn:
        shown = captions_in(root, page.figures_folder)
    elif page.figures:
        drawn = drawn_files(page.figures_folder, figures_of_run(run), hidden_of([run]))
        units[page.figures_folder] = Unit(stamp=page.figures_stamp, files=digests_of(drawn))
        files |= drawn
        shown = captions_of(page.figures_folder, drawn)
    facts = _facts(page, run, record)
    made = {page.file: rendered("run.html.j2", depth=_DEPTH, **facts, figures=shown)}
    files |= made
    for file, data in files.items():
        write(root, file, data)
    of_page = digests_of(made) | dict(page.pictures.values())
    units[page.file] = Unit(stamp=page.stamp, files=of_page, note=page.no_pictures)
    return units, list(files)


def record_of(run: RunFolder) -> Facts:
    """A run's whole record, as the present schema has it."""
    record = run.record()
    return migrated(record, SCHEMA_VERSION) or record


def _facts(page: RunPage, run: RunFolder, record: Facts) -> Facts:
    config = run_facts.config_of(run, record)
    defaults = page.defaults.settings
    epochs, no_epochs = run_facts.history(run)
    mistakes, told = run_facts.mistakes_in(run, record, page.num_mistakes)
    return {
        "page": page,
        "seed": record["seed"],
        "overview": run_facts.overview(record),
        "command": run_facts.command_of(record),
        "trust": run_facts.trust(record),
        "numbers": run_facts.numbers(record),
        "classes": run_facts.classes(record),
        "confusion": run_facts.confusion(record),
        "mistakes": [_mistake(page, one) for one in mistakes],
        "mistakes_told": told,
        "changed": None if defaults is None else changed(config, defaults),
        "config": as_text(config) if config else "",
        "selected": run_facts.selected(record),
        "epochs": epochs,
        "no_epochs": no_epochs,
        "origin": run_facts.origin(record),
    }


def _mistake(page: RunPage, one: Mistake) -> Facts:
    picture = page.pictures.get(one.image)
    return {
        "image": plain(one.image),
        "group": None if one.group is None else plain(one.group),
        "truth": one.truth,
        "predicted": one.predicted,
        "probability": percent(one.probability),
        "of_truth": percent(one.of_truth),
        "picture": None if picture is None else picture[0],
    }
