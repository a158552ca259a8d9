"""Tables made from the records of runs: what is compared, and in which format it is printed.

A table never mixes what cannot be compared: each data set, protocol and split has a table of its
own, or columns of its own beside the others. Whatever differs between its rows beyond the method
is said in the footer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ltbench.errors import UsageError
from ltbench.registry import suggest
from ltbench.report import as_csv, as_html, as_latex, as_markdown
from ltbench.report.arrange import side_by_side, single
from ltbench.report.choices import Format
from ltbench.report.closing import per_class
from ltbench.report.frames import frame
from ltbench.report.intervals import AgainstBest, with_bold
from ltbench.report.layouts import LAYOUTS, PLAIN, check_one_protocol, ordered_by, per_class_tables
from ltbench.report.published import Published
from ltbench.report.quantities import DEFAULT_METRICS, PAPER_METRICS, Record, of_metrics
from ltbench.report.rows import Cell, Row, Table, tables_of
from ltbench.report.sheet import Sheet

__all__ = [
    "DEFAULT_METRICS",
    "FORMATS",
    "LAYOUTS",
    "PAPER_METRICS",
    "Cell",
    "Row",
    "Sheet",
    "Table",
    "comparison",
    "frame",
    "per_class",
    "sheets",
    "single_sheets",
    "to_csv",
    "to_html",
    "to_latex",
    "to_markdown",
    "written",
]

FORMATS: tuple[Format, ...] = ("md", "csv", "latex", "html")


def comparison(
    records: Iterable[Record], *, metrics: Sequence[str] = DEFAULT_METRICS
) -> list[Table]:
    """One table for each data set, protocol and split, in the order in which the records came.

    A row is one configuration (one key), a cell the mean and the sample standard deviation
    of a test metric over its seeds. Protocol notes that are numbers, such as the measured
    imbalance, also keep tables apart; notes in words are printed in the footer.

    Args:
        records: as stored; empty for no table.
        metrics: names in `METRICS`, one column each.

    Raises:
        UsageError: an unknown metric.
        VerificationError: two records of the same configuration and seed.
    """
    quantities = of_metrics(metrics)
    return tables_of(records, lambda _: quantities)


def sheets(
    records: Sequence[Record],
    layout: str = PLAIN,
    *,
    against_best: AgainstBest | None = None,
    published: Published | None = None,
    classes: bool = False,
    mixed: bool = False,
    sort: str | None = None,
) -> list[Sheet]:
    """The tables of one layout, ready for a format.

    Args:
        records: as stored, or as `reading.read` cuts them.
        layout: a name in `LAYOUTS`.
        against_best: compares rows with the best of a column, for bold; None for no bold.
        published: figures to stand below; None for none.
        classes: whether a table of each class follows.
        mixed: whether several protocols or splits may stand side by side.
        sort: the column by which rows are ordered, best first; None for the records' order.

    Raises:
        UsageError: no such layout or column; several protocols in one table.
        VerificationError: two records of the same configuration and seed.
    """
    if layout not in LAYOUTS:
        raise UsageError(suggest("preset", layout, list(LAYOUTS)))
    chosen = LAYOUTS[layout]
    tables = tables_of(records, chosen.quantities)
    if chosen.side_by_side and not mixed:
        check_one_protocol(tables)
    if sort is not None:
        tables = ordered_by(tables, sort)
    if against_best is not None:
        tables = [with_bold(table, against_best) for table in tables]
    tables = [table.with_notes(chosen.notes(table)) for table in tables]
    if chosen.side_by_side:
        found = [side_by_side(tables, published, chosen.title)]
    else:
        found = [single(table, published, chosen.title) for table in tables]
    if classes:
        found += [single(table, title="Each class") for table in per_class_tables(tables)]
    return found


def single_sheets(tables: Iterable[Table]) -> list[Sheet]:
    """Each table as a sheet of its own."""
    return [single(table) for table in tables]


def written(found: Sequence[Sheet], table_format: Format) -> str:
    """Sheets as one text: below each other, or, as CSV, under one line of headings."""
    if table_format == "csv":
        return as_csv.to_csv(found)
    if table_format == "html":
        return as_html.to_html(found)
    write = as_latex.to_latex if table_format == "latex" else as_markdown.to_markdown
    return "\n\n".join(write(sheet).rstrip("\n") for sheet in found) + "\n"


def to_markdown(table: Table) -> str:
    """The table and its footer in GitHub's Markdown; rates in percent with two decimals."""
    return as_markdown.to_markdown(single(table))


def to_csv(table: Table) -> str:
    """One line for each row and metric; means and deviations unrounded, empty where undefined."""
    return as_csv.to_csv([single(table)])


def to_latex(table: Table) -> str:
    """The table and its footer in LaTeX, for booktabs."""
    return as_latex.to_latex(single(table))


def to_html(table: Table) -> str:
    """The table and its footer as a page."""
    return as_html.to_html([single(table)])
