"""Filling a folder until it is a store; what was done before is checked and kept."""

from __future__ import annotations

import base64
import os
import shutil
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ltbench.errors import RunFailedError, VerificationError
from ltbench.files import (
    read_json,
    sha256_hex,
    storage_errors,
    sync_folder,
    write_bytes,
    write_json,
)
from ltbench.intake.problems import NUM_LISTED, plural
from ltbench.store.chunk import RECORD, Chunk, Written, is_on_disk, write_chunk
from ltbench.store.contents import FORMAT, HEADER, INDEX, Index, StoreSettings, sealed
from ltbench.store.crew import Crew
from ltbench.store.decode import KINDS
from ltbench.store.journal import Journal, first_entry
from ltbench.store.lock import STORE_OPTION
from ltbench.store.plan import Plan, chunk_ends, measured

__all__ = ["Order", "build", "refuse_broken", "tidy"]

_PLAN, _JOURNAL = "plan.npz", "journal"
_HEADERS_A_JOB = 64  # few, so that all processes start at once
_INDEX_BYTES = 500  # a picture, roughly: index, journal and plan

_datasync = getattr(os, "fdatasync", os.fsync)  # macOS has none


@dataclass(frozen=True)
class Order:
    """What is wanted; see `writer.write_store`.

    Attributes:
        folder: to be filled.
        key: of the plan.
        stats: of the files, int64 (N, 2).
    """

    folder: Path
    key: str
    ids: np.ndarray
    files: Sequence[Path]
    stats: np.ndarray
    settings: StoreSettings
    skip_broken: bool
    on_progress: Callable[[int, int], None]


def build(order: Order, crew: Crew) -> None:
    """Fill the folder.

    Raises:
        RunFailedError: no room, failing storage, or a process that died.
        VerificationError: pictures that cannot be read, where they are not to be left out; or none
            that can. All others have been written by then, and are kept.
    """
    order.on_progress(0, len(order.ids))
    with storage_errors(order.folder.parent, STORE_OPTION):
        plan, journal = _started(order, crew)
        try:
            records, faults = _filled(order, crew, plan, journal)
        finally:
            journal.close()
    left_out = [
        {
            "id": str(order.ids[i]),
            "file": str(order.files[i]),
            "reason": faults[i],
            "stat": " ".join(map(str, order.stats[i].tolist())),
        }
        for i in sorted(faults)
    ]
    if not order.skip_broken or len(left_out) == len(order.ids):
        refuse_broken(left_out)
    with storage_errors(order.folder.parent, STORE_OPTION):
        rows = np.array([i for i in range(len(plan)) if i not in faults], dtype=np.int64)
        _finish(order, plan, records, rows, left_out)


def tidy(folder: Path) -> None:
    """Remove what a finished store does not need: plan, journal, what a crash left."""
    needed = {HEADER, *read_json(folder / HEADER)["files"]}
    for file in folder.iterdir():
        if file.name not in needed:
            file.unlink()


def refuse_broken(left_out: Sequence[dict[str, str]]) -> None:
    """Name what could not be read.

    Raises:
        VerificationError: there is such a picture.
    """
    if left_out:
        named = [f"'{one['id']}' ({one['file']}): {one['reason']}" for one in left_out]
        more = len(named) - NUM_LISTED
        shown = [*named[:NUM_LISTED], *([f"and {more} more"] if more > 0 else [])]
        raise VerificationError(
            "\n  ".join([f"{plural(len(named), 'picture')} cannot be read:", *shown])
            + "\nMend or remove them, or use --skip-broken, which leaves them out and records it."
        )


def _started(order: Order, crew: Crew) -> tuple[Plan, Journal]:
    """The plan and the journal of a preparation that was interrupted, or new ones."""
    folder, plan_file, journal_file = order.folder, order.folder / _PLAN, order.folder / _JOURNAL
    head = first_entry(journal_file) or {}
    if head.get("plan") == order.key and plan_file.is_file():
        data = plan_file.read_bytes()
        if sha256_hex(data) == head["layout"]:
            return Plan.from_bytes(data, order.key, order.settings), Journal(journal_file, head)
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir()
    plan = _planned(order, crew)
    data = plan.to_bytes()
    write_bytes(plan_file, data)
    journal = Journal(journal_file, {"plan": order.key, "layout": sha256_hex(data)})
    sync_folder(folder)
    return plan, journal


def _planned(order: Order, crew: Crew) -> Plan:
    sizes = np.zeros((len(order.ids), 2), dtype=np.int64)
    faults: dict[int, str] = {}
    names = [str(file) for file in order.files]
    jobs = (
        (first, tuple(names[first : first + _HEADERS_A_JOB]))
        for first in range(0, len(names), _HEADERS_A_JOB)
    )
    for (first, _), found in crew.run(measured, jobs):
        for position, size in enumerate(found, start=first):
            if isinstance(size, str):
                faults[position] = size
            else:
                sizes[position] = size
    return Plan(order.key, order.settings, order.stats, sizes, faults, chunk_ends(sizes))


def _filled(
    order: Order, crew: Crew, plan: Plan, journal: Journal
) -> tuple[np.ndarray, dict[int, str]]:
    """Write every chunk that the journal lacks; the record of each picture, and all faults."""
    records, faults = np.zeros(len(plan), dtype=RECORD), dict(plan.faults)
    done, num_done = set[int](), 0

    def add(chunk: Chunk, written: Written) -> None:
        nonlocal num_done
        records[chunk.first : chunk.first + len(chunk.files)] = written.records
        faults.update(written.faults)
        done.add(chunk.number)
        num_done += len(chunk.files)
        order.on_progress(num_done, len(plan))

    with ExitStack() as stack:
        files = [_opened(order.folder / name, stack) for name in plan.file_bytes]
        _require_room(order, plan, files)
        journaled = dict(_journaled(journal))
        known = ((_chunk(order, plan, number), said) for number, said in journaled.items())
        for (chunk, written), is_whole in crew.run(is_on_disk, known):
            if is_whole:
                add(chunk, written)
        left = (number for number in range(len(plan.chunks)) if number not in done)
        jobs = (_chunk(order, plan, number) for number in left)
        # Closed before the journal is, so that nothing is saved any more by then.
        saved = stack.enter_context(closing(_saved(crew.run(write_chunk, jobs), files, journal)))
        for chunk, written in saved:
            add(chunk, written)
        for file, length in zip(files, plan.file_bytes.values(), strict=True):
            os.ftruncate(file, length)
            os.fsync(file)
    return records, faults


def _saved(
    chunks: Iterable[tuple[Chunk, Written]], files: Sequence[int], journal: Journal
) -> Generator[tuple[Chunk, Written]]:
    """Each chunk when it is on the disk, and the journal says so.

    The disk works on one while the next is made.
    """

    def save(chunk: Chunk, written: Written) -> tuple[Chunk, Written]:
        for file in files:
            _datasync(file)
        journal.append(_entry(chunk, written))
        return chunk, written

    with ThreadPoolExecutor(1) as saver:
        saving: list[Future[tuple[Chunk, Written]]] = []
        for chunk, written in chunks:
            yield from (future.result() for future in saving)
            saving = [saver.submit(save, chunk, written)]
        yield from (future.result() for future in saving)


def _opened(path: Path, stack: ExitStack) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    stack.callback(os.close, descriptor)
    return descriptor


def _require_room(order: Order, plan: Plan, files: Sequence[int]) -> None:
    # Blocks, not lengths: a file that was written in any order has holes.
    taken = sum(os.fstat(file).st_blocks * 512 for file in files)
    needed = sum(plan.file_bytes.values()) + len(plan) * _INDEX_BYTES - taken
    free = shutil.disk_usage(order.folder).free
    if needed > free:
        raise RunFailedError(
            f"Not enough room for the store in {order.folder.parent}: {needed / 1e9:.2f} GB are "
            f"needed, {free / 1e9:.2f} GB are free. Free some space, or choose another place for "
            "the store, then run the same command again."
        )


def _chunk(order: Order, plan: Plan, number: int) -> Chunk:
    first, end = plan.chunks[number]
    return Chunk(
        number=number,
        first=first,
        folder=order.folder,
        settings=plan.settings,
        files=tuple(str(file) for file in order.files[first:end]),
        stats=plan.stats[first:end],
        sizes=plan.sizes[first:end],
        stored_sizes=plan.stored_sizes[first:end],
        offsets=plan.offsets[first:end],
    )


def _entry(chunk: Chunk, written: Written) -> dict[str, Any]:
    return {
        "chunk": chunk.number,
        "records": base64.b64encode(written.records.tobytes()).decode(),
        "faults": {str(position): reason for position, reason in written.faults.items()},
    }


def _journaled(journal: Journal) -> Iterator[tuple[int, Written]]:
    for entry in journal.entries():
        records = np.frombuffer(base64.b64decode(entry["records"]), dtype=RECORD)
        faults = {int(position): reason for position, reason in entry["faults"].items()}
        yield entry["chunk"], Written(records, faults)


def _finish(
    order: Order, plan: Plan, records: np.ndarray, rows: np.ndarray, left_out: list[dict[str, str]]
) -> None:
    """Index, then header, which says that all is there."""
    data = _index(order, plan, records, rows).to_bytes()
    write_bytes(order.folder / INDEX, data)
    counts = {
        kind: int((records["conversions"] >> bit & 1).sum()) for bit, kind in enumerate(KINDS)
    }
    header = {
        "format": FORMAT,
        "plan": order.key,
        "settings": order.settings.as_fact(),
        "pictures": len(rows),
        "files": {INDEX: len(data), **plan.file_bytes},
        "index": sha256_hex(data),
        "conversions": {kind: count for kind, count in counts.items() if count},
        "left_out": left_out,
        "made_with": {
            **{name: version(name) for name in ("simplejpeg", "pillow", "torch")},
            "cpu": torch.backends.cpu.get_cpu_capability(),
        },
    }
    write_json(order.folder / HEADER, sealed(header))


def _index(order: Order, plan: Plan, records: np.ndarray, rows: np.ndarray) -> Index:
    return Index(
        ids=order.ids[rows],
        slots=rows,
        offsets=plan.offsets[rows],
        sizes=plan.stored_sizes[rows],
        original_sizes=plan.sizes[rows],
        file_stats=plan.stats[rows],
        conversions=records["conversions"][rows],
        file_digests=records["file"][rows],
        pixel_digests=records["pixels"][rows],
        stored_digests=records["stored"][rows],
    )
