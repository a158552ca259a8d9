"""From folders of results to the text of a table: what `bench.py table` does."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ltbench.errors import DataMissingError
from ltbench.program import PROGRAM
from ltbench.registry import nearest, normalise
from ltbench.report.choices import Format
from ltbench.report.intervals import AgainstBest, Paired
from ltbench.report.layouts import LAYOUTS, PLAIN
from ltbench.report.published import Published
from ltbench.report.reading import read
from ltbench.report.tables import sheets, written
from ltbench.results import RunFolder, run_folders

_NUM_LISTED = 20


def comparison_text(
    roots: Sequence[Path],
    *,
    methods: Sequence[str] | None = None,
    datasets: Sequence[str] | None = None,
    protocol: str | None = None,
    preset: str | None = None,
    table_format: Format = "md",
    with_published: bool = False,
    per_class: bool = False,
    bold: bool | None = None,
    mixed: bool = False,
    sort: str | None = None,
    against_best: AgainstBest | None = None,
) -> tuple[str, list[str]]:
    """(the tables, notes on what was left out); the arguments are those of `ltbench.table`.

    Args:
        against_best: compares rows with the best of a column; the project's own unless given.

    Raises:
        DataMissingError: no finished run fits.
        UsageError, VerificationError: as in `sheets` and `read`.
    """
    layout = preset or PLAIN
    records, notes = read(
        roots, methods=methods, datasets=datasets, protocol=protocol, per_class=per_class
    )
    if not records:
        raise DataMissingError(
            "\n".join([*notes, nothing_fits(roots, methods, datasets, protocol)])
        )
    wants_bold = LAYOUTS[layout].bold if layout in LAYOUTS and bold is None else bool(bold)
    found = sheets(
        records,
        layout,
        against_best=(against_best or paired_to_best) if wants_bold else None,
        published=Published(methods=methods) if with_published else None,
        classes=per_class,
        mixed=mixed,
        sort=sort,
    )
    return written(found, table_format), notes


def paired_to_best(rows: Mapping[str, Sequence[RunFolder]], metric: str) -> Mapping[str, Paired]:
    """The paired differences to the best row, as `ltbench.stats` has them."""
    # Reads predictions and computes: imported where it is needed alone.
    from ltbench.stats.paired import against_best

    return against_best(rows, metric)


def nothing_fits(
    roots: Sequence[Path],
    methods: Iterable[str] | None,
    datasets: Iterable[str] | None,
    protocol: str | None,
) -> str:
    """What there is, where nothing fits; and how to make something."""
    where = " or ".join(map(str, roots))
    parts = [run.path.parts[-5:-2] for root in roots for run in run_folders(root)]
    asked = {
        "data set": (datasets, 0),
        "protocol": (None if protocol is None else [protocol], 1),
        "method": (methods, 2),
    }
    hints = []
    for kind, (given, place) in asked.items():
        known = sorted({one[place] for one in parts})
        for name in given or ():
            if known and normalise(name) not in {normalise(one) for one in known}:
                near = nearest(name, known)
                meant = f" Did you mean '{near}'?" if near else ""
                listed = ", ".join(known[:_NUM_LISTED])
                hints.append(f"There are no runs of {kind} '{name}'.{meant} There are: {listed}.")
    command = f"{shlex.join(PROGRAM)} run --method NAME --dataset NAME"
    return "\n".join([f"No finished run in {where} fits. Run one first: {command}", *hints])
