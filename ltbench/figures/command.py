"""From runs or folders of results to files of figures: what `bench.py figures` does."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from ltbench.errors import DataMissingError, UsageError
from ltbench.figures.canvas import require_matplotlib
from ltbench.figures.drawing import FigureFormat, LeftOut, Sketch
from ltbench.figures.of_rows import (
    BOARD_FIGURES,
    RANKS,
    ROW_FIGURES,
    board_sketches,
    rank_sketch,
    row_sketches,
)
from ltbench.figures.of_run import RUN_FIGURES, run_sketches
from ltbench.figures.of_tuning import BUDGET, budget_sketch, tuned_places
from ltbench.figures.stored import known_record
from ltbench.files import sha256_hex, storage_errors, write_bytes, write_text
from ltbench.registry import normalise, suggest
from ltbench.report.command import nothing_fits
from ltbench.report.reading import read
from ltbench.report.rows import Table, shown_keys, tables_of
from ltbench.report.sheet import slug
from ltbench.results import RunFolder

__all__ = ["FIGURES", "WrittenFigures", "figures_of_results", "figures_of_runs", "render"]

FIGURES: tuple[str, ...] = tuple(
    dict.fromkeys([*RUN_FIGURES, *ROW_FIGURES, *BOARD_FIGURES, RANKS, BUDGET])
)
"""Names of all figures."""

Record = Mapping[str, Any]

_PART: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@+-]{0,100}")


@dataclass
class WrittenFigures:
    """What came of it.

    Attributes:
        files: of figures; beside each stands its caption as `.txt`.
        left_out: by the name a file would have had: why it is not there.
        notes: on records that were left out, and on letters without a font.
    """

    files: list[Path] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def as_facts(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "files": [str(file) for file in self.files],
            "left_out": self.left_out,
            "notes": self.notes,
        }


def figures_of_runs(
    runs: Sequence[RunFolder],
    out: Path,
    *,
    only: Collection[str] = (),
    figure_format: FigureFormat = "svg",
) -> WrittenFigures:
    """The figures of single runs, as `<out>/<key>/seed-<n>/<name>.<format>`.

    Raises:
        UsageError: no such figure.
        DataMissingError: a run is not done, nothing can be drawn, or matplotlib is missing.
    """
    require_matplotlib()
    wanted = _checked(only, RUN_FIGURES, "of a single run")
    for run in runs:
        known_record(run)  # a run that is not there is found before the first is drawn
    pen = _Pen(out, figure_format)
    for run in runs:
        pen.write_all(_place(run), run_sketches(run, wanted))
    return pen.finished()


def figures_of_results(
    roots: Sequence[Path],
    out: Path,
    *,
    methods: Sequence[str] | None = None,
    datasets: Sequence[str] | None = None,
    protocol: str | None = None,
    tuned: Path | None = None,
    only: Collection[str] = (),
    figure_format: FigureFormat = "svg",
) -> WrittenFigures:
    """The figures of configurations and boards, as `<out>/<dataset>/<protocol>/...`.

    Args:
        tuned: root of the files that `tune` wrote, for budget curves; None for none.

    Raises:
        UsageError: no such figure.
        DataMissingError: no finished run fits, nothing can be drawn, or matplotlib is missing.
    """
    require_matplotlib()
    wanted = _checked(only, [*ROW_FIGURES, *BOARD_FIGURES, RANKS, BUDGET], "of several runs")
    records, notes = read(
        roots, methods=methods, datasets=datasets, protocol=protocol, per_class=True
    )
    if not records and tuned is None:
        missing = nothing_fits(roots, methods, datasets, protocol)
        raise DataMissingError("\n".join([*notes, missing]))
    pen = _Pen(out, figure_format, notes)
    tables = tables_of(records, lambda found: ())
    for table, place in zip(tables, _places(tables), strict=True):
        _write_table(pen, table, place, wanted)
    if RANKS in wanted and records:
        pen.write_all("", [rank_sketch(records)])
    if BUDGET in wanted and tuned is not None:
        _write_budgets(pen, tuned, datasets, protocol, methods)
    return pen.finished()


def render(written: WrittenFigures) -> str:
    """For the terminal, one line a figure."""
    lines = [f"Wrote {file}" for file in written.files]
    lines += [f"Left out {name}: {reason}" for name, reason in written.left_out.items()]
    return "\n".join(lines)


class _Pen:
    """Writes figures below one folder, and remembers what came of it."""

    def __init__(self, out: Path, figure_format: FigureFormat, notes: Iterable[str] = ()) -> None:
        self._out, self._format = out, figure_format
        self._written = WrittenFigures(notes=list(notes))
        self._missing: set[str] = set()

    def write_all(self, place: str, sketches: Iterable[Sketch | LeftOut]) -> None:
        """Draw and write one after the other."""
        for sketch in sketches:
            name = f"{place}/{sketch.name}".lstrip("/")
            if isinstance(sketch, LeftOut):
                self._written.left_out[name] = sketch.reason
            else:
                self._write(self._out / f"{name}.{self._format}", sketch)

    def finished(self) -> WrittenFigures:
        """What was written.

        Raises:
            DataMissingError: nothing was.
        """
        if self._missing:
            self._written.notes.append(
                f"No font of this machine has the letters {''.join(sorted(self._missing))}: they "
                "are boxes. Install a font that has them, or take --format svg."
            )
        if not self._written.files:
            why = render(self._written) or "nothing was asked for that there is"
            raise DataMissingError(f"No figure could be drawn. {why}")
        return self._written

    def _write(self, file: Path, sketch: Sketch) -> None:
        rendered = sketch.rendered(self._format)
        self._missing |= set(rendered.missing)
        with storage_errors(file.parent, "--out"):
            file.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(file, rendered.data)
        about = (sketch.title, sketch.caption, f"In words: {sketch.alt}")
        write_text(file.with_suffix(".txt"), "\n\n".join(about) + "\n")
        self._written.files.append(file)


def _write_table(pen: _Pen, table: Table, place: str, wanted: Collection[str]) -> None:
    of_board = [name for name in BOARD_FIGURES if name in wanted]
    of_row = [name for name in ROW_FIGURES if name in wanted]
    if of_board:
        pen.write_all(place, board_sketches(table.records, of_board))
    shown = shown_keys(table.rows)
    for row in table.rows if of_row else ():
        runs = [RunFolder(Path(record["folder"])) for record in row.records]
        method = runs[0].path.parts[-3]
        pen.write_all(f"{place}/{method}-{_part(shown[row.key])}", row_sketches(runs, of_row))


def _write_budgets(
    pen: _Pen,
    root: Path,
    datasets: Sequence[str] | None,
    protocol: str | None,
    methods: Sequence[str] | None,
) -> None:
    places = tuned_places(root)
    for dataset, name in places:
        if _means(dataset, datasets) and _means(name, None if protocol is None else [protocol]):
            sketch = budget_sketch(root, dataset, name, methods or ())
            pen.write_all(f"{dataset}/{name}", [sketch])
    if not places:
        pen.write_all("", [LeftOut(BUDGET, "Tuning budget", f"no file *.curve.csv below {root}")])


def _means(name: str, wanted: Iterable[str] | None) -> bool:
    return wanted is None or normalise(name) in {normalise(one) for one in wanted}


def _checked(only: Collection[str], known: Iterable[str], what: str) -> list[str]:
    """The names that are wanted, in the order of `known`."""
    names = {normalise(name) for name in only}
    for name in only:
        if normalise(name) not in FIGURES:
            raise UsageError(suggest("figure", name, list(FIGURES)))
        if normalise(name) not in known:
            raise UsageError(
                f"The figure '{name}' is not one {what}. Expected: {', '.join(known)}. "
                "With a RUN its own figures are drawn, without one those of configurations and "
                "boards."
            )
    return [name for name in known if not names or name in names]


def _part(name: str) -> str:
    """A name of a record as that of one folder, whatever it holds: none leads elsewhere."""
    if _PART.fullmatch(name):
        return name
    return f"{slug(name)}-{sha256_hex(name.encode('utf-8', 'surrogatepass'))[:8]}"


def _place(run: RunFolder) -> str:
    """Where a run's figures go: `<key>/seed-<n>`, an external test's below it."""
    if run.path.parent.name == "external":
        return f"{RunFolder(run.path.parents[1]).name}/external/{run.path.name}"
    return run.name


def _places(tables: Sequence[Table]) -> Iterator[str]:
    """`<dataset>/<protocol>`, with the split where there are several."""
    names = [f"{_part(table.dataset)}/{_part(table.protocol)}" for table in tables]
    for number, (name, table) in enumerate(zip(names, tables, strict=True)):
        if names.count(name) == 1:
            yield name
        else:
            yield f"{name}/{table.split_digest[:8]}-{names[: number + 1].count(name)}"
