"""Which pages of runs must be made, and what each of them needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from ltbench.files import canonical_json
from ltbench.report.rows import Row
from ltbench.results import RunFolder
from ltbench.site import stamps
from ltbench.site.boards import Board, method_page, run_page
from ltbench.site.folder import SiteFolder
from ltbench.site.material import Material
from ltbench.site.naming import RunIdentity, identity
from ltbench.site.pictures import FOLDER, Shelf
from ltbench.site.run_facts import config_of, mistakes_in
from ltbench.site.run_page import RunPage, record_of
from ltbench.site.settings_shown import Defaults, defaults_of
from ltbench.site.shown import mapping

__all__ = ["NOT_WANTED", "RunPages"]

NOT_WANTED: Final = "This site was made without pictures."
# What a page is made from beside its stamp: places, stamps, and what is found for stale pages only.
_NOT_STAMPED: Final = ("run", "stamp", "figures_stamp", "drawn", "defaults", "pictures")


@dataclass(frozen=True)
class RunPages:
    """The pages of all runs of a site.

    Attributes:
        stems: of the pages' names.
        pictures: whether pictures are wanted.
    """

    folder: SiteFolder
    material: Material
    boards: list[Board]
    stems: Mapping[RunIdentity, str]
    figures: bool
    pictures: bool
    num_mistakes: int
    data_root: Path | None
    say: Callable[[str], None]
    _defaults: dict[str, Defaults] = field(default_factory=dict)

    def tasks(self) -> list[RunPage]:
        """The pages that must be made, with all they need; the others are taken over."""
        shelf = Shelf(self.folder.put, self.data_root, self.material.from_boards)
        stale = [page for page in self._pages if not self._kept(page, shelf)]
        if stale:
            self.folder.begin()
            drawing = sum(page.figures and not self._is_drawn(page) for page in stale)
            told = f", {drawing} with figures" if drawing else ""
            self.say(f"{len(stale)} of {len(self._pages)} run pages to make{told}.")
        return [self._completed(page, shelf) for page in stale]

    def num_pictures(self) -> dict[str, int]:
        """How many pictures of each data set the site holds."""
        found: dict[str, set[str]] = {}
        for page in self._pages:
            files = self.folder.made_unit(page.file).files
            of_page = {file for file in files if file.startswith(f"{FOLDER}/")}
            found.setdefault(page.dataset, set()).update(of_page)
        return {dataset: len(files) for dataset, files in found.items() if files}

    def _kept(self, page: RunPage, shelf: Shelf) -> bool:
        """Whether a page and its figures are right; what is right is taken over."""
        drawn = not page.figures or self._is_drawn(page)
        if page.figures and drawn:
            self.folder.keep(page.figures_folder)
        unit = self.folder.unit(page.file)
        if not drawn or unit is None or unit.stamp != page.stamp:
            return False
        note = unit.note
        if self.pictures and note:  # the pictures may have come since
            run = RunFolder(page.run)
            record = record_of(run)
            note = shelf.why_not(record, _data_settings(run, record))
        if not self.folder.is_right(page.file, page.stamp, note=note):
            return False
        self.folder.keep(page.file)
        return True

    def _is_drawn(self, page: RunPage) -> bool:
        return self.folder.is_right(page.figures_folder, page.figures_stamp)

    def _completed(self, page: RunPage, shelf: Shelf) -> RunPage:
        """The page with what only a page that is made needs: defaults and pictures."""
        run = RunFolder(page.run)
        record = record_of(run)
        config = config_of(run, record)
        drawn = page.figures and self._is_drawn(page)
        page = replace(page, drawn=drawn, defaults=self._defaults_of(config))
        if not self.pictures:
            return replace(page, no_pictures=NOT_WANTED)
        settings = _data_settings(run, record)
        why_not = shelf.why_not(record, settings)
        if why_not:
            return replace(page, no_pictures=why_not)
        mistakes, _ = mistakes_in(run, record, page.num_mistakes)
        ids = [one.image for one in mistakes]
        return replace(page, pictures=shelf.take(record, settings, ids))

    def _defaults_of(self, config: dict[str, Any]) -> Defaults:
        names = ("method_name", "dataset_name", "protocol", "recipe", "dataset")
        which = canonical_json({name: config.get(name) for name in names})
        if which not in self._defaults:
            self._defaults[which] = defaults_of(config)
        return self._defaults[which]

    @cached_property
    def _pages(self) -> list[RunPage]:
        return list(self._all())

    def _all(self) -> Iterator[RunPage]:
        for board in self.boards:
            plugins = stamps.plugins_digest(
                (str(row.records[0]["method"]) for row in board.table.rows), [board.table.dataset]
            )
            for row in board.table.rows:
                yield from self._of_row(board, row, stamps.stamp(stamps.code_digest(), plugins))

    def _of_row(self, board: Board, row: Row, code: str) -> Iterator[RunPage]:
        pages = [run_page(self.stems[identity(record)]) for record in row.records]
        for place, record in enumerate(row.records):
            own = pages[place]
            page = RunPage(
                run=Path(record["folder"]),
                stem=self.stems[identity(record)],
                stamp="",
                figures_stamp="",
                label=row.label,
                dataset=board.table.dataset,
                method=method_page(str(record["method"])),
                board=board.name,
                board_title=board.title,
                siblings=tuple(
                    (seed, None if other == own else other)
                    for seed, other in zip(row.seeds, pages, strict=True)
                ),
                level=self.material.levels.get(row.key, ""),
                num_mistakes=self.num_mistakes,
                figures=self.figures,
                no_pictures="" if self.pictures else NOT_WANTED,
            )
            files = stamps.run_digest(page.run)
            facts = {k: v for k, v in asdict(page).items() if k not in _NOT_STAMPED}
            yield replace(
                page,
                stamp=stamps.stamp(code, files, facts),
                figures_stamp=stamps.stamp(stamps.code_digest(of_pages=False), files),
            )


def _data_settings(run: RunFolder, record: Mapping[str, Any]) -> Mapping[str, Any]:
    return mapping(config_of(run, record).get("dataset"))
