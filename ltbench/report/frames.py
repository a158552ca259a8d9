"""Records as a data frame, for analyses of one's own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ltbench.metrics import METRICS
from ltbench.report.quantities import Record
from ltbench.report.rows import each_once

if TYPE_CHECKING:
    import pandas as pd

_FACTS = [
    "label",
    "method",
    "preset",
    "dataset",
    "protocol",
    "split_digest",
    "key",
    "seed",
    "recipe",
    "select",
    "uses_validation",
    "precision",
    "device",
    "num_devices",
    "threads",
]


def frame(records: Iterable[Record]) -> pd.DataFrame:
    """One row a record.

    Columns: the record's facts under their own names; `test.<metric>` and `val.<metric>` for every
    metric of `METRICS`, unrounded, NaN where undefined or not recorded; `ledger.<entry>`.

    Raises:
        VerificationError: two records of the same configuration and seed.
    """
    import pandas as pd

    rows = []
    for record in each_once(records):
        row = {fact: record.get(fact) for fact in _FACTS}
        for part in ("test", "val"):
            metrics = record["metrics"].get(part) or {}
            values = {name: metric.read(metrics) for name, metric in METRICS.items()}
            row |= {
                f"{part}.{name}": float("nan") if value is None else value
                for name, value in values.items()
            }
        row |= {f"ledger.{name}": value for name, value in record.get("ledger", {}).items()}
        rows.append(row)
    measured = [f"{part}.{name}" for part in ("test", "val") for name in METRICS]
    return pd.DataFrame(rows) if rows else pd.DataFrame(columns=[*_FACTS, *measured])
