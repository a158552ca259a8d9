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
from ltbench.errors import LtbenchError, UsageError
from ltbench.registry import DATASETS, METHODS, Registry
from ltbench.results import run_folders

Facts = dict[str, Any]


def status(results: Path) -> list[Facts]:
    """One row a run folder: done, running, or stopped half way."""
    rows = []
    for folder in run_folders(results):
        *_, dataset, protocol, method, key, seed = folder.path.parts
        row = {"dataset": dataset, "protocol": protocol, "method": method, "run": f"{key}/{seed}"}
        epochs = folder.epochs()
        last = epochs[-1] if epochs else None
        where = f"{last['stage']} {last['epoch'] + 1}/{last['epochs']}" if last else "-"
        holder = claims.holder(folder.path)
        if folder.is_done():
            rows.append(row | {"state": "done", "epochs": where, "by": ""})
        elif holder is not None:
            rows.append(row | {"state": "claimed", "epochs": where, "by": holder})
        else:
            rows.append(row | {"state": "stopped", "epochs": where, "by": ""})
    return rows


def render_status(rows: Sequence[Facts]) -> str:
    """`status` for a terminal."""
    if not rows:
        return "No runs yet."
    states = sorted({row["state"] for row in rows})
    totals = ", ".join(f"{sum(r['state'] == s for r in rows)} {s}" for s in states)
    return f"{tabulate(rows, headers='keys')}\n\n{totals}"


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
    for name in DATASETS.names():
        try:
            seconds = time.monotonic()
            source = DATASETS[name](DATASETS[name].Config()).load()
            took = time.monotonic() - seconds
            finding, state = f"{len(source.images)} images, read in {took:.1f} s", "ok"
        except LtbenchError as error:
            finding, state = str(error).splitlines()[0], "note"
        found.append({"check": f"data: {name}", "state": state, "finding": finding})
    return found


def render_doctor(checks: Sequence[Facts]) -> str:
    """`doctor` for a terminal."""
    return tabulate(checks, headers="keys", maxcolwidths=[None, None, 90])


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

    from pydantic import ValidationError

    from ltbench.config import parse_assignments
    from ltbench.data.lists import stored_split

    plugin = DATASETS[name]
    given = {k.removeprefix("dataset."): v for k, v in parse_assignments(assignments).items()}
    try:
        config = plugin.Config.model_validate(given)
    except ValidationError as error:
        raise UsageError(
            f"{name}: {error.errors()[0]['msg']}: {error.errors()[0]['loc']}"
        ) from error
    dataset = plugin(config, data_root)
    source = dataset.load()
    protocol = protocol or plugin.default_protocol
    if protocol not in plugin.protocols:
        raise UsageError(
            f"Unknown protocol '{protocol}' of {name}. Available: {', '.join(plugin.protocols)}"
        )
    with tempfile.TemporaryDirectory() as folder:
        split, digest = stored_split(dataset, source, protocol, split_seed, Path(folder))
    parts = {"train": split.train, "val": split.val, "test": split.test}
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
        "classes": [
            {"class": class_name}
            | {
                part: int((source.targets[positions] == index).sum())
                for part, positions in parts.items()
                if positions is not None
            }
            for index, class_name in enumerate(source.class_names)
        ],
    }


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
