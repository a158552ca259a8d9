"""Numbers by class from a user's CSV file: a cost matrix, a prior."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ltbench.intake.csv_files import CsvRows, read_rows
from ltbench.intake.problems import Problems, listed, with_hint

__all__ = ["read_cost_matrix", "read_prior"]

TRUTH, CLASS, SHARE = "truth", "class", "share"


def read_cost_matrix(path: Path, class_names: Sequence[str]) -> np.ndarray:
    """Costs, float64 (C, C): row the true class, column the decision, in the order of the classes.

    The file has the header `truth,<class>,...` and one row for each class. Costs are 0 or more, in
    any unit; at least one is not 0.

    Raises:
        DataMissingError: there is no such file.
        VerificationError: classes that are missing, unknown or there twice; cells that are no
            number, below 0, NaN or infinite; all at once.
    """
    rows = read_rows(path)
    problems = Problems(str(path))
    found = rows.columns[0] if rows.columns else "nothing"
    problems.add(
        f"Expected '{TRUTH}' as the first name of the header, then one class a column",
        [] if found == TRUTH else [f"'{found}'"],
        f"Write {TRUTH},{listed(list(class_names))} into the first row.",
    )
    problems.refuse()
    _check_names(problems, "columns", rows.columns[1:], class_names)
    _check_names(problems, f"column '{TRUTH}'", rows.cells[TRUTH], class_names)
    problems.refuse()
    order = [rows.cells[TRUTH].index(name) for name in class_names]
    costs = np.array([_numbers(rows, name, problems) for name in class_names]).T[order]
    problems.refuse()
    if not costs.any():
        problems.add("Expected a cost above 0", ["zeros alone"], "Give errors their costs.")
    problems.refuse()
    return costs


def read_prior(path: Path, class_names: Sequence[str]) -> np.ndarray:
    """Shares of the classes, float64 (C,), with sum 1, in the order of the classes.

    The file has the columns `class` and `share`, one row for each class; shares may be counts.

    Raises:
        DataMissingError: there is no such file.
        VerificationError: as of `read_cost_matrix`, or a share of 0.
    """
    rows = read_rows(path)
    problems = Problems(str(path))
    problems.add(
        f"Expected the columns {CLASS},{SHARE}",
        [] if {CLASS, SHARE} <= set(rows.columns) else [",".join(rows.columns)],
        f"Write {CLASS},{SHARE} into the first row.",
    )
    problems.refuse()
    _check_names(problems, f"column '{CLASS}'", rows.cells[CLASS], class_names)
    shares = np.array(_numbers(rows, SHARE, problems))
    problems.add(
        "Expected shares above 0",
        [rows.at(i, rows.cells[CLASS][i]) for i in np.flatnonzero(shares == 0).tolist()],
        "Give a class that hardly occurs a small share.",
    )
    problems.refuse()
    chosen = shares[[rows.cells[CLASS].index(name) for name in class_names]]
    prior: np.ndarray = chosen / chosen.sum()
    return prior


def _check_names(
    problems: Problems, where: str, names: Sequence[str], class_names: Sequence[str]
) -> None:
    known = list(class_names)
    problems.add(
        f"Expected the classes of the run in {where}",
        [with_hint(name, known) for name in names if name not in known],
        f"The classes are {', '.join(known)}.",
    )
    absent = [f"no '{name}'" for name in known if name not in names]
    problems.add(f"Expected every class in {where}", absent, "Add what is missing.")
    twice = sorted({f"'{name}'" for name in names if names.count(name) > 1})
    problems.add(f"Expected each class once in {where}", twice, "Delete one of each.")


def _numbers(rows: CsvRows, column: str, problems: Problems) -> list[float]:
    values, wrong = [], []
    for i, cell in enumerate(rows.cells[column]):
        try:
            value = float(cell)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and value >= 0):
            wrong.append(rows.at(i, cell or "empty"))
        values.append(value)
    problems.add(
        f"Expected numbers of 0 or more in column '{column}'",
        wrong,
        "Mend the cells; decimals are written with a point.",
    )
    return values
