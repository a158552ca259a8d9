"""What may be chosen of a table; nothing heavy is imported here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypedDict

Format = Literal["md", "csv", "latex", "html"]
Preset = Literal["paper", "tail", "clinical", "compute"]


class TableChoices(TypedDict, total=False):
    """The choices of `ltbench.table`, as the flags of `bench.py table`.

    Attributes:
        methods: only these, rows in this order; None for all.
        protocol: only this one; None for all.
        preset: columns and arrangement; None for a table a data set.
        table_format: "md" unless given.
        with_published: whether papers' figures stand below, apart.
        per_class: whether a table of every class follows.
        bold: whether rows that cannot be told from the best are bold, which reads predictions;
            None for what the preset does.
        mixed: whether several protocols or splits may share a table.
        sort: a column by which rows are ordered, best first.
    """

    methods: Sequence[str] | None
    protocol: str | None
    preset: Preset | None
    table_format: Format
    with_published: bool
    per_class: bool
    bold: bool | None
    mixed: bool
    sort: str | None
