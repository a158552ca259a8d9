"""Runs a grid: hands its open cells to a launcher, tells how it goes, and what became of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, get_args

from ltbench import errors
from ltbench.columns import columns
from ltbench.errors import GridFailedError, StorageError
from ltbench.grid.cells import GridCell, Plan, State, run_cell, standing
from ltbench.grid.time_left import TimeLeft, in_words
from ltbench.launchers import Ended, Job, Launcher
from ltbench.runner import Place
from ltbench.training.signals import stoppable

__all__ = ["Grid", "check_whole", "render_status", "run_grid", "status_rows"]

Say = Callable[[str], None]


class Failure(NamedTuple):
    """A cell that is not done: `is_kept` where the next sweep leaves it, unless told otherwise."""

    cell: GridCell
    why: str
    is_kept: bool


@dataclass
class Grid:
    """What became of a grid.

    Attributes:
        done: cells that have a record now.
        failures: of the other cells.
    """

    done: list[GridCell] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)

    def records(self) -> list[dict[str, Any]]:
        """The records of the cells that are done."""
        return [cell.folder.record() for cell in self.done]


def run_grid(
    plan: Plan,
    launcher: Launcher,
    place: Place,
    *,
    retry_failed: bool = False,
    slots_per_device: int = 1,
    say: Say = lambda text: None,
) -> Grid:
    """Run every cell that is not done.

    Args:
        launcher: who runs the cells.
        retry_failed: also try cells again that failed before.
        slots_per_device: cells that share a CUDA device.
        say: told in lines what happens.

    Raises:
        InterruptedRunError: this process was told to stop. Its cells have saved, or go on where
            they outlive it, as the message says.
        StorageError: results cannot be stored; no further cell was started.
    """
    grid = Grid()
    clock = TimeLeft()
    todo: dict[Job, GridCell] = {}
    for cell in plan.cells:
        stands = standing(cell)
        if stands.state == "done":
            grid.done.append(cell)
            clock.learn_from(cell)
        elif stands.state == "failed" and not retry_failed:
            grid.failures.append(Failure(cell, f"failed before: {stands.detail}", is_kept=True))
        else:
            todo[_job(cell, place, slots_per_device)] = cell
    say(_beginning(plan, grid, todo, retry_failed))
    clock.expect(todo.values(), launcher.room(list(todo)))

    def goes_on() -> str:
        return (
            f"{len(grid.done)} of {len(plan.cells)} cells are done, and {launcher.when_closed()}. "
            "Run the same command again to go on from there."
        )

    with stoppable(goes_on), closing(launcher.run(list(todo))) as ends:
        for ended in ends:
            _take_in(ended, todo[ended.job], grid, clock, say, len(plan.cells))
    grid.done.sort(key=plan.cells.index)  # not as they happened to end: tables keep the order
    return grid


def _job(cell: GridCell, place: Place, slots_per_device: int) -> Job:
    work = partial(run_cell, cell, place.results, place.data_root, place.plugins, place.resume)
    machine = cell.machine
    cpus, gpus = (machine.threads or 1) * machine.devices, 0.0
    if machine.device == "cuda":  # only a cell of one device shares it
        gpus = 1 / slots_per_device if machine.devices == 1 else float(machine.devices)
    return Job(cell.name, work, cell.log, cpus + (machine.workers or 0), gpus)


def _beginning(plan: Plan, grid: Grid, todo: dict[Job, GridCell], retry_failed: bool) -> str:
    lines = [f"left out: {text}" for text in plan.left_out]
    counts = [f"{len(plan.cells)} cells", f"{len(grid.done)} done", f"{len(todo)} to run"]
    if grid.failures:
        counts.append(f"{len(grid.failures)} failed before (--retry-failed tries them again)")
    return "\n".join([*lines, ", ".join(counts)])


def _take_in(
    ended: Ended, cell: GridCell, grid: Grid, clock: TimeLeft, say: Say, total: int
) -> None:
    """Book the end of a cell and tell it."""
    clock.ended(cell, ended.wall_time_s if ended.state == "done" else None)
    if ended.state == "interrupted":
        # Told to stop by somebody else than this process, who went on.
        why = f"stopped, saved: {ended.message}"
        grid.failures.append(Failure(cell, why, is_kept=False))
    elif ended.state != "done":
        why = f"{ended.message} (log: {cell.log})"
        grid.failures.append(Failure(cell, why, is_kept=cell.folder.failure() is not None))
    else:
        grid.done.append(cell)
    number = f"[{len(grid.done) + len(grid.failures):{len(str(total))}}/{total}]"
    say(f"{number} {cell.name}: {_in_a_line(ended)}{clock.in_words()}")
    kind = getattr(errors, ended.kind, None)
    if isinstance(kind, type) and issubclass(kind, StorageError):
        raise kind(ended.message)


def _in_a_line(ended: Ended) -> str:
    if ended.state != "done":
        return f"{ended.state.upper()}: {ended.message.partition(chr(10))[0]}"
    value = ended.value
    text = "done by another process" if value["status"] == "already done" else "done"
    again = f" at attempt {ended.attempts}" if ended.attempts > 1 else ""
    accuracy = f"balanced accuracy {100 * value['balanced_accuracy']:.2f}"
    return f"{text} in {in_words(ended.wall_time_s)}{again}, {accuracy}"


def check_whole(grid: Grid) -> None:
    """Raise where cells failed, once everything else has been told.

    Raises:
        GridFailedError: naming each, and how to try again.
    """
    if grid.failures:
        lines = "".join(f"\n  {one.cell.name}: {one.why}" for one in grid.failures)
        kept = sum(one.is_kept for one in grid.failures)
        again = f"--retry-failed tries the {kept} that failed again. " if kept else ""
        if kept < len(grid.failures):
            again += "The same command goes on with those that stopped or died."
        others = "; the others are" if grid.done else ""
        raise GridFailedError(
            f"{len(grid.failures)} of {len(grid.failures) + len(grid.done)} cells are not "
            f"done{others}.{lines}\n{again.strip()}"
        )


def status_rows(plan: Plan) -> list[dict[str, Any]]:
    """One row a cell: what it is, its run and how it stands."""
    return [
        {
            "label": cell.label,
            "dataset": cell.request.dataset,
            "protocol": cell.protocol,
            "details": cell.details,
            "seed": cell.seed,
            "run": cell.folder.name,
            "state": stands.state,
            "detail": stands.detail,
        }
        for cell in plan.cells
        for stands in [standing(cell)]
    ]


def render_status(rows: Sequence[dict[str, Any]], plan: Plan) -> str:
    """`sweep --status` for a terminal."""
    totals = ", ".join(
        f"{number} {state}"
        for state in get_args(State)
        if (number := sum(row["state"] == state for row in rows))
    )
    left_out = "".join(f"\nleft out: {text}" for text in plan.left_out)
    return f"{columns(rows)}\n\n{len(rows)} cells: {totals}{left_out}"
