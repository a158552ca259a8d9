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

from tabulate import tabulate

from ltbench import claims
from ltbench.columns import columns
from ltbench.dataset import Source, Split
from ltbench.errors import DataMissingError, LtbenchError, VerificationError
from ltbench.registry import DATASETS, METHODS, Registry
from ltbench.results import RunFolder, run_folders

Facts = dict[str, Any]


def status(results: Path) -> list[Facts]:
    """One row a run folder: done, running, or stopped half way."""
    rows = []
    for folder in run_folders(results):
        *_, dataset, protocol, method, key, seed = folder.path.parts
        row = {"dataset": dataset, "protocol": protocol, "method": method, "run": f"{key}/{seed}"}
        holder = claims.holder(folder.path)
        state = _state(folder) or ("stopped" if holder is None else "claimed")
        by = (holder or "") if state == "claimed" else ""
        rows.append(row | {"state": state, "epochs": _last_epoch(folder), "by": by})
    return rows


def _state(folder: RunFolder) -> str | None:
    """Done or damaged; None for a run without a record. Looking changes nothing on the disk."""
    try:
        folder.record()
    except DataMissingError:
        return None
    except LtbenchError:
        return "damaged"
    return "done"


def _last_epoch(folder: RunFolder) -> str:
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
    return found + [_data_check(name) for name in DATASETS.names()]


def _data_check(name: str) -> Facts:
    """Missing data are worth a note only: nobody has every data set."""
    try:
        started = time.monotonic()
        images = DATASETS[name](DATASETS[name].Config()).load().images
        state, finding = "ok", f"{len(images)} images, read in {time.monotonic() - started:.1f} s"
    except DataMissingError as error:
        state, finding = "note", str(error).splitlines()[0]
    except Exception as error:  # noqa: BLE001 - one broken plugin must not hide the other checks
        state, finding = "failed", f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
    return {"check": f"data: {name}", "state": state, "finding": finding}


def render_doctor(checks: Sequence[Facts]) -> str:
    """`doctor` for a terminal."""
    return columns(checks, width=130)


def show_data(
    name: str,
    *,
    protocol: str | None,
    assignments: Sequence[str],
    split_seed: int,
    data_root: Path | None,
) -> Facts:
    """Classes, counts a part, protocols and licence of a data set."""
    import tempfile

    from ltbench.config import dataset_config, protocol_name
    from ltbench.data.lists import stored_split
    from ltbench.settings import nested, parse_assignments

    plugin = DATASETS[name]
    protocol = protocol_name(plugin, protocol or plugin.default_protocol)
    dataset = plugin(dataset_config(plugin, nested(parse_assignments(assignments))), data_root)
    source = dataset.load()
    with tempfile.TemporaryDirectory() as folder:
        split, digest = stored_split(dataset, source, protocol, split_seed, Path(folder))
    return {
        "name": plugin.info.name,
        "paper": plugin.info.paper,
        "licence": plugin.info.licence,
        "protocols": dict(plugin.protocols),
        "protocol": protocol,
        "split_seed": split_seed,
        "split_digest": digest,
        "shape": list(source.images.shape),
        "groups_note": source.groups_note,
        "notes": dict(split.notes),
        "classes": _class_rows(source, split),
    }


def _class_rows(source: Source, split: Split) -> list[Facts]:
    """Images of each class in each part."""
    parts = {"train": split.train, "val": split.val, "test": split.test}
    return [
        {"class": class_name}
        | {
            part: int((source.targets[positions] == index).sum())
            for part, positions in parts.items()
            if positions is not None
        }
        for index, class_name in enumerate(source.class_names)
    ]


def render_data(facts: Facts) -> str:
    """`show_data` for a terminal."""
    plain = ("name", "paper", "licence", "protocol", "split_seed", "split_digest", "shape")
    lines = [f"{key}: {facts[key]}" for key in (*plain, "groups_note") if facts[key] != ""]
    lines += [f"protocol {name}: {text}" for name, text in facts["protocols"].items()]
    lines += [f"{key}: {value}" for key, value in facts["notes"].items()]
    return "\n".join([*lines, "", tabulate(facts["classes"], headers="keys")])


def fetch_data(name: str, data_root: Path | None) -> str:
    """Download a data set, where its plugin can."""
    plugin = DATASETS[name]
    fetch = getattr(plugin, "fetch", None)
    if fetch is None:
        return f"{name} needs no download: its images come with an installed package."
    dataset = plugin(plugin.Config(), data_root)
    dataset.fetch()
    return f"{name}: {len(dataset.load().images)} images are ready."


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
