"""What may be chosen of a site; nothing heavy is imported here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypedDict

NUM_MISTAKES: Final = 12
SORTED_BY: Final = "macro_f1"
TITLE: Final = "Results"


class SiteChoices(TypedDict, total=False):
    """The choices of `ltbench.write_site`, as the flags of `bench.py report`.

    Attributes:
        methods: only these; None for all.
        protocol: only this one; None for all.
        title: of the first page.
        with_published: whether papers' figures stand below the rows, apart.
        bold: whether rows that cannot be told from the best are bold, which reads predictions.
        sort: the column by which rows are ordered, best first; None for the order of the records.
        figures: whether figures are drawn, which needs matplotlib.
        pictures: whether pictures of mistakes are copied from the data set, where it is here.
        num_mistakes: how many mistakes of a run are shown.
        data_root: where the data lie.
        tuned: the root of tuned settings, for the budget curves of tuned rows.
        plugins: files of methods and data sets of one's own, for their pages and pictures.
        jobs: processes that make pages; None for one a core.
        say: takes lines on how far the work is.
    """

    methods: Sequence[str] | None
    protocol: str | None
    title: str
    with_published: bool
    bold: bool
    sort: str | None
    figures: bool
    pictures: bool
    num_mistakes: int
    data_root: Path | None
    tuned: Path | None
    plugins: Sequence[Path]
    jobs: int | None
    say: Callable[[str], None]


@dataclass(frozen=True)
class Selection:
    """Which runs a site shows.

    Attributes:
        roots: folders of results.
        boards: folders of boards, in place of folders of results.
    """

    roots: tuple[Path, ...] = ()
    boards: tuple[Path, ...] = ()
    methods: tuple[str, ...] | None = None
    datasets: tuple[str, ...] | None = None
    protocol: str | None = None


@dataclass(frozen=True)
class Made:
    """What `make_site` did.

    Attributes:
        index: the first page.
        num_runs, num_methods, num_boards: what the site shows.
        num_written, num_kept, num_removed: files that were written, that were right already, and
            that were no longer wanted.
        num_pictures: by data set, the pictures in the site.
        notes: records that were left out and why.
        licences: of the data sets whose pictures are in the site, where they declare one.
    """

    index: Path
    num_runs: int
    num_methods: int
    num_boards: int
    num_written: int
    num_kept: int
    num_removed: int
    num_pictures: dict[str, int]
    licences: dict[str, str]
    notes: tuple[str, ...] = ()

    @property
    def privacy(self) -> list[str]:
        """What must be thought of before a site with pictures is handed on; a line a data set."""
        lines = [
            f"The site holds {number} pictures of {dataset} (licence: "
            f"{self.licences.get(dataset) or 'not declared'})."
            for dataset, number in self.num_pictures.items()
        ]
        if lines:
            lines.append(
                "Clinical pictures may be private: look at them, and at the licence, before you "
                "publish; --no-pictures leaves them out."
            )
        return lines
