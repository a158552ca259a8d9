"""The ablation table of a method: each row it declares, with every seed, in one table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ltbench.config import Request
from ltbench.errors import GridFailedError, RunFailedError, UsageError, VerificationError
from ltbench.registry import METHODS, normalise, suggest
from ltbench.report.tables import PAPER_METRICS, Table, comparison
from ltbench.runner import Outcome, Place, check

RunSeed = Callable[[Request, int, Place], Outcome]


@dataclass
class Ablation:
    """What came of an ablation.

    Attributes:
        outcomes: of the cells that ended well, row by row in the order of their declaration.
        failures: what stopped the others, with the row and the seed.
    """

    outcomes: list[Outcome] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def tables(self) -> list[Table]:
        """The rows under their summaries, in the paper's columns; none where every cell failed."""
        records = [_named_by_summary(outcome.record) for outcome in self.outcomes]
        return comparison(records, metrics=PAPER_METRICS)


def ablation_rows(method: str, only: Sequence[str] = ()) -> list[str]:
    """`METHOD@ROW` for each declared ablation, or for those of `only`, in their declared order.

    Args:
        method: a name, or `name@preset` to take the preset as the base of each row.

    Raises:
        UsageError: the method declares none, or not these.
    """
    name, _, preset = (normalise(part) for part in method.partition("@"))
    declared = METHODS[name].ablations
    if not declared:
        raise UsageError(
            f"Method '{name}' declares no ablations. Give its class `ablations`, a mapping from a "
            "name to a Preset(summary, settings): one entry a row of its table."
        )
    wanted = [normalise(one) for one in only]
    for one in wanted:
        if one not in declared:
            raise UsageError(suggest(f"ablation of {name}", one, list(declared)))
    for part in preset.split("+"):
        if part in declared:
            raise UsageError(
                f"'{part}' of '{method}' is itself a row of {name}'s ablation. Give the method "
                f"alone, or with a preset as the base of all rows; --only {part} runs this row."
            )
    base = [preset] if preset else []
    rows = [row for row in declared if not wanted or row in wanted]
    return [f"{name}@{'+'.join([*base, row])}" for row in rows]


def run_ablation(
    request: Request,
    rows: Iterable[str],
    seeds: Sequence[int],
    place: Place,
    *,
    run_seed: RunSeed,
    on_outcome: Callable[[Outcome], None] = lambda outcome: None,
) -> Ablation:
    """Run every row with every seed; one that fails does not stop the others.

    Args:
        request: what all rows share; its method is any of them.
        rows: as `ablation_rows` names them.
        run_seed: runs one cell.
        on_outcome: called after each cell that ended well.

    Raises:
        UsageError, DataMissingError, VerificationError: of any row, before the first trains.
    """
    requests = [replace(request, method=row) for row in rows]
    for request in requests:
        check(request, seeds, place)
    ablation = Ablation()
    for request in requests:
        for seed in seeds:
            try:
                outcome = run_seed(request, seed, place)
            except (RunFailedError, VerificationError) as error:
                ablation.failures.append(f"{request.method}, seed {seed}: {error}")
                continue
            ablation.outcomes.append(outcome)
            on_outcome(outcome)
    return ablation


def check_whole(ablation: Ablation) -> None:
    """Raise where cells failed, once everything else has been printed.

    Raises:
        GridFailedError: naming each, and how to try again.
    """
    if ablation.failures:
        lines = (f"\n  {failure}" for failure in ablation.failures)
        raise GridFailedError(
            f"{len(ablation.failures)} of {len(ablation.failures) + len(ablation.outcomes)} cells "
            f"failed; the others are done.{''.join(lines)}\nRun the same command again to try "
            "these again."
        )


def _named_by_summary(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record with its row called as in the paper's table; changed settings stay behind it."""
    method = METHODS[record["method"]]
    parts = record["preset"].split("+")
    row = next(part for part in parts if part in method.ablations)
    base = [f"@{part}" for part in parts if part != row]
    label = record["label"].removeprefix(f"{record['method']}@{record['preset']}")
    return {**record, "label": method.ablations[row].summary + "".join(base) + label}
