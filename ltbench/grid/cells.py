"""The cells of a grid: planned before the first trains, each with a state read from the disk."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ltbench import claims, provenance
from ltbench.cell import Cell, prepare
from ltbench.config import Request, asked, resolve
from ltbench.console import Console
from ltbench.errors import (
    ClaimLostError,
    DataMissingError,
    DoesNotFitError,
    InterruptedRunError,
    LtbenchError,
    ReplannedError,
    StorageError,
    UsageError,
    VerificationError,
)
from ltbench.grid.spec import GridSpec
from ltbench.inspection import last_epoch
from ltbench.labels import row_label
from ltbench.record import now
from ltbench.registry import import_plugins
from ltbench.repeat import repeat_command
from ltbench.results import RunFolder
from ltbench.run_config import MachineConfig, RunConfig
from ltbench.runner import Place, folder_of, run
from ltbench.training.devices import check_devices

__all__ = ["GridCell", "Plan", "Standing", "State", "plan", "run_cell", "standing"]

State = Literal["done", "failed", "running", "stopped", "missing"]

# A cell for which nobody chose threads trains on one, so that its key, and with it its bits, do not
# depend on how many cells run beside it.
DEFAULT_THREADS = 1
_REFUSALS = (UsageError, DataMissingError, VerificationError)


@dataclass(frozen=True)
class GridCell:
    """One run of a grid: a configuration with a seed, and the folder it belongs in.

    Attributes:
        label: of its row in tables, which tell data and machines apart by themselves.
        details: settings of data and machine that the grid gives, which the label leaves out.
    """

    label: str
    details: str
    request: Request
    seed: int
    folder: RunFolder
    protocol: str
    machine: MachineConfig

    @property
    def name(self) -> str:
        """For people."""
        where = " ".join(filter(None, [f"{self.request.dataset}/{self.protocol}", self.details]))
        return f"{self.label} on {where}, seed {self.seed}"

    @property
    def log(self) -> Path:
        """What its runs print."""
        return self.folder.path / "log.txt"


@dataclass(frozen=True)
class Plan:
    """All cells of a grid.

    Attributes:
        left_out: of a grid of all methods, what does not fit a data set, with the reason.
    """

    cells: tuple[GridCell, ...]
    left_out: tuple[str, ...] = ()


class Standing(NamedTuple):
    """How a cell stands: `detail` says by whom, how far, or why not."""

    state: State
    detail: str = ""


def plan(spec: GridSpec, place: Place, *, device: str | None = None) -> Plan:
    """Check every configuration of a grid and find the folder of every cell.

    Args:
        device: the kind, "cpu" or "cuda", of cells that leave it to the machine, where they do not
            run on this one. It is part of their keys.

    Raises:
        UsageError, DataMissingError, VerificationError: what is refused, all of it at once. Of a
            grid of all methods those that do not fit a data set are left out instead.
    """
    rows: list[list[GridCell]] = []
    refused: list[tuple[str, LtbenchError]] = []
    for request in spec.requests():
        try:
            rows.append(list(_cells(request, spec, place, device)))
        except _REFUSALS as error:
            refused.append((f"{request.method} on {request.dataset}", error))
    texts = tuple(f"{name}: {error}" for name, error in refused)
    mistakes = [error for _, error in refused if not isinstance(error, DoesNotFitError)]
    if refused and (mistakes or not (spec.wants_all_methods and rows)):
        first = [*mistakes, refused[0][1]][0]
        if len(refused) == 1:
            raise first
        raise type(first)(f"{len(refused)} of the grid are refused:\n  " + "\n  ".join(texts))
    # Seeds first, so that a grid that is stopped half way has compared all rows on some.
    ordered = [cell for cells in zip(*rows, strict=True) for cell in cells]
    return Plan(tuple({cell.folder.path: cell for cell in ordered}.values()), texts)


def _cells(
    request: Request, spec: GridSpec, place: Place, device: str | None
) -> Iterator[GridCell]:
    """The cells of one configuration. Seeds share the key, unless each starts from another run."""
    details = " ".join(
        f"{key}={value}"
        for key, value in request.settings.items()
        if key.startswith("dataset.") or (key in spec.vary and key.startswith("machine."))
    )
    request, config = _settled(request, device)
    if device is None:
        check_devices(config.machine)
    label, key_cell = row_label(request, config), None
    for seed in spec.seeds:
        one = replace(request, settings={**request.settings, "seed": seed})
        of_seed = resolve(one)  # which refuses seeds that settings were tuned with
        if key_cell is None or config.init_from is not None:
            key_cell = prepare(
                of_seed,
                results=place.results,
                data_root=place.data_root,
                asked=asked(one),
                sources=place.sources,
            )
        folder = folder_of(key_cell, place.results).path.with_name(f"seed-{seed}")
        yield GridCell(
            *(label, details, one, seed, RunFolder(folder)),
            protocol=key_cell.config.protocol,
            machine=config.machine,
        )


def _settled(request: Request, device: str | None) -> tuple[Request, RunConfig]:
    """The request with what nobody chose, of what the key depends on, chosen."""
    config = resolve(request)
    chosen: dict[str, Any] = {}
    if config.machine.threads is None:
        chosen["machine.threads"] = DEFAULT_THREADS
    if config.machine.device == "auto" and device is not None:
        chosen["machine.device"] = device
    if not chosen:
        return request, config
    request = replace(request, settings={**request.settings, **chosen})
    return request, resolve(request)


def standing(cell: GridCell) -> Standing:
    """How a cell stands, from its folder; changes nothing there."""
    folder = cell.folder
    try:
        folder.record()
    except DataMissingError:
        pass
    except LtbenchError as error:  # a run sets a damaged record aside and begins anew
        return Standing("stopped", str(error))
    else:
        return Standing("done")
    holder = claims.holder(folder.path)
    if holder is not None:
        return Standing("running", f"{last_epoch(folder)}, {holder}")
    failure = folder.failure()
    if failure is not None:
        return Standing("failed", str(failure["message"]))
    epoch = last_epoch(folder)
    return Standing("missing") if epoch == "-" else Standing("stopped", f"after {epoch}")


def run_cell(
    cell: GridCell, results: Path, data_root: Path | None, plugins: tuple[Path, ...], resume: Any
) -> dict[str, Any]:
    """Run a cell in this process, which a launcher has started for it.

    Returns:
        `status` as in `runner.Outcome`, `balanced_accuracy` on test, `folder` of the run.

    Raises:
        LtbenchError: also stored as the folder's failure, unless the run was told to stop, is
            another process's or another run by now, or the storage is at fault.
    """
    import_plugins(plugins)
    console = Console()

    def start(prepared: Cell, folder: RunFolder, goes_on: str) -> None:
        _check_same(cell, folder)
        console.start(prepared, folder, goes_on)

    place = Place(
        results=results,
        data_root=data_root,
        resume=resume,
        plugins=plugins,
        on_start=start,
        on_epoch=console.epoch,
        on_wait=console.say,
    )
    place = replace(place, command=repeat_command(cell.request, cell.seed, place))
    try:
        outcome = run(cell.request, place)
        _check_same(cell, outcome.folder)
    except (InterruptedRunError, StorageError, ClaimLostError, ReplannedError):
        raise
    except Exception as error:
        # Beside a live holder the folder is not ours; and the error itself tells more than one of
        # the storage.
        if claims.holder(cell.folder.path) is None:
            with suppress(StorageError):
                cell.folder.write_failure(_failure(error, place.command, cell))
        raise
    console.outcome(outcome)
    accuracy = outcome.record["metrics"]["test"]["balanced_accuracy"]
    return {
        "status": outcome.status,
        "balanced_accuracy": accuracy,
        "folder": str(outcome.folder.path),
    }


def _check_same(cell: GridCell, folder: RunFolder) -> None:
    """On a cluster hours may lie between the plan and the run."""
    if folder.path != cell.folder.path:
        raise ReplannedError(
            f"This cell was planned as {cell.folder.name} and is now {folder.name}: a plugin, the "
            "data, a library or the kind of device is another one. Nothing was trained. Start the "
            "sweep again to plan it anew."
        )


def _failure(error: Exception, command: str, cell: GridCell) -> dict[str, Any]:
    return {
        "message": str(error) or type(error).__name__,
        "kind": type(error).__name__,
        "at": now(),
        "git": provenance.git_state(),
        "command": command,
        "log": cell.log.name,
    }
