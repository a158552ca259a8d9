"""Looking at what is here: runs and their state, the machine, data sets."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ltbench import claims
from ltbench.columns import columns
from ltbench.errors import DataMissingError, LtbenchError, VerificationError
from ltbench.registry import DATASETS, METHODS, OWN_DATA, Registry
from ltbench.results import RunFolder, run_folders

Facts = dict[str, Any]


def status(results: Path) -> list[Facts]:
    """One row a run folder: done, running, failed, or stopped half way."""
    return [standing(folder) for folder in run_folders(results)]


def standing(folder: RunFolder) -> Facts:
    """Which run a folder holds, and its state; looking changes nothing on the disk."""
    *_, dataset, protocol, method, key, seed = folder.path.parts
    row = {"dataset": dataset, "protocol": protocol, "method": method, "run": f"{key}/{seed}"}
    holder = claims.holder(folder.path)
    resting = "stopped" if folder.failure() is None else "failed"
    state = _state(folder) or (resting if holder is None else "claimed")
    by = (holder or "") if state == "claimed" else ""
    return row | {"state": state, "epochs": last_epoch(folder), "by": by}


def _state(folder: RunFolder) -> str | None:
    """Done or damaged; None for a run without a record. Looking changes nothing on the disk."""
    try:
        folder.record()
    except DataMissingError:
        return None
    except LtbenchError:
        return "damaged"
    return "done"


def last_epoch(folder: RunFolder) -> str:
    """How far a run has come, for people; "-" where it has not."""
    try:
        epochs = folder.epochs()
    except VerificationError:
        return "damaged"
    if not epochs:
        return "-"
    return f"{epochs[-1]['stage']} {epochs[-1]['epoch'] + 1}/{epochs[-1]['epochs']}"


def render_status(rows: Sequence[Facts]) -> str:
    """`status` for a terminal."""
    if not rows:
        return "No runs yet."
    states = sorted({row["state"] for row in rows})
    totals = ", ".join(f"{sum(r['state'] == s for r in rows)} {s}" for s in states)
    return f"{columns(rows)}\n\n{totals}"


def doctor(results: Path) -> list[Facts]:
    """Checks of this machine, each with a state (ok, note, failed) and a finding."""
    checks: list[tuple[str, Callable[[], str]]] = [
        ("python", lambda: sys.version.split()[0]),
        ("libraries", _libraries),
        ("devices", _devices),
        ("memory", _memory),
        ("results folder", lambda: _storage(results)),
        ("methods", lambda: _plugins(METHODS)),
        ("data sets", lambda: _plugins(DATASETS)),
    ]
    found = []
    for name, check in checks:
        try:
            found.append({"check": name, "state": "ok", "finding": check()})
        except LtbenchError as error:
            found.append({"check": name, "state": "failed", "finding": str(error)})
    named = [name for name in DATASETS.names() if OWN_DATA not in DATASETS.info(name).tags]
    return found + [_data_check(name) for name in named]


def _data_check(name: str) -> Facts:
    """Missing data are worth a note only: nobody has every data set."""
    try:
        started = time.monotonic()
        dataset = DATASETS[name](DATASETS[name].Config())
        images = dataset.load(dataset.choose_protocol(dataset.default_protocol)).images
        state, finding = "ok", f"{len(images)} images, read in {time.monotonic() - started:.1f} s"
    except DataMissingError as error:
        state = "note"
        finding = f"{str(error).splitlines()[0].rstrip(':')} (data fetch {name} says more)"
    except Exception as error:  # noqa: BLE001 - one broken plugin must not hide the other checks
        state, finding = "failed", f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
    return {"check": f"data: {name}", "state": state, "finding": finding}


def render_doctor(checks: Sequence[Facts]) -> str:
    """`doctor` for a terminal."""
    return columns(checks, width=130)


def _libraries() -> str:
    from ltbench.provenance import PACKAGES

    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)


def _devices() -> str:
    import torch

    cores = len(os.sched_getaffinity(0))
    count = torch.cuda.device_count()
    names = [torch.cuda.get_device_name(i) for i in range(count)]
    return f"{cores} CPU cores, {count} CUDA devices{': ' + ', '.join(names) if names else ''}"


def _memory() -> str:
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return f"{pages / 2**30:.1f} GiB"


def _storage(results: Path) -> str:
    from ltbench.files import write_bytes

    existing = next(p for p in [results, *results.resolve().parents] if p.exists())
    probe = existing / f".ltbench-probe-{os.getpid()}"
    write_bytes(probe, b"ltbench")
    probe.unlink()
    return f"{results}: writable, {shutil.disk_usage(existing).free / 2**30:.1f} GiB free"


def _plugins(registry: Registry[Any]) -> str:
    problems = []
    for name in registry.names():
        try:
            registry[name]
        except LtbenchError as error:
            problems.append(str(error))
    if problems:
        raise LtbenchError("; ".join(problems))
    return f"{len(registry.names())}: {', '.join(registry.names())}"
