"""Making a store, so that a crash at any moment costs no more than what was under way.

All happens in `<folder>.partial`. First every file's header settles where its picture goes. Then
chunks of pictures are decoded, resized and written at their places, by any number of processes;
when the pixels of a chunk are on the disk, one line of a journal says so. At the end the index and
the header are written, and the folder gets its name. A preparation that was killed goes on with the
chunks that the journal lacks; what it has is read and compared with its digests first.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from ltbench.errors import DataMissingError, UsageError, VerificationError
from ltbench.files import storage_errors, sync_folder
from ltbench.intake.problems import listed, plural
from ltbench.store.build import Order, build, refuse_broken, tidy
from ltbench.store.contents import HEADER, StoreSettings
from ltbench.store.crew import Crew
from ltbench.store.layout import Store
from ltbench.store.lock import STORE_OPTION, alone
from ltbench.store.plan import file_stats, plan_key

__all__ = ["write_store"]


def write_store(
    folder: Path,
    ids: np.ndarray,
    files: Sequence[Path],
    settings: StoreSettings,
    *,
    workers: int = 1,
    skip_broken: bool = False,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Store:
    """Decode every file into a store at `folder`; what is there already is kept.

    A store of the same ids, files (sizes and times of change) and settings is returned as it is.
    Another one is replaced when the new one is complete. The bytes do not depend on the number of
    workers or on interruptions.

    Args:
        ids: unique names, str (N,).
        files: where each picture lies, N of them.
        settings: what to keep of each.
        workers: processes; 1 means this one.
        skip_broken: leave out, and record, what cannot be read.
        on_progress: takes (pictures done, pictures in all).

    Raises:
        RunFailedError: no room on the disk, failing storage, or a process that died; the same
            command goes on where it stopped.
        UsageError: the folder cannot be written to, or holds something else.
        VerificationError: ids that are not unique, or pictures that cannot be read.
    """
    ids = _checked_ids(ids, files)
    folder = folder.absolute()
    with storage_errors(folder.parent, STORE_OPTION):
        folder.parent.mkdir(parents=True, exist_ok=True)
    with alone(folder.with_name(f".{folder.name}.lock")):
        _restore(folder)
        _refuse_other(folder)
        stats = file_stats(files)
        key = plan_key(ids, stats, settings)
        store = _finished(folder, key)
        if store is None:
            partial = folder.with_name(f"{folder.name}.partial")
            if _finished(partial, key) is None:
                order = Order(partial, key, ids, files, stats, settings, skip_broken, on_progress)
                with Crew(workers) as crew:
                    build(order, crew)
            _publish(partial, folder)
            store = Store.open(folder)
    if not skip_broken:
        refuse_broken(store.left_out)
    on_progress(len(ids), len(ids))
    return store


def _checked_ids(ids: np.ndarray, files: Sequence[Path]) -> np.ndarray:
    names = np.asarray(ids, dtype=np.str_)
    if names.ndim != 1 or not len(names) or len(names) != len(files):
        raise VerificationError(
            "Expected ids, one or more, and a file for each; got ids of shape "
            f"{names.shape} and {plural(len(files), 'file')}."
        )
    unique, counts = np.unique(names, return_counts=True)
    twice = unique[counts > 1].tolist()
    if twice:
        raise VerificationError(
            f"Expected an id of its own for each picture; {plural(len(twice), 'id')} came more "
            f"than once: {listed(twice)}. Remove the repeated rows."
        )
    return names


def _refuse_other(folder: Path) -> None:
    """Never replace a folder that holds something else."""
    with storage_errors(folder.parent, STORE_OPTION):
        if folder.exists() and not folder.is_dir():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(folder))
        taken = folder.is_dir() and not (folder / HEADER).is_file() and any(folder.iterdir())
    if taken:
        raise UsageError(
            f"Expected no folder at {folder}, or a store; found other files in it. Move it away, "
            "or choose another place for the store."
        )


def _finished(folder: Path, key: str) -> Store | None:
    try:
        store = Store.open(folder)
    except (DataMissingError, VerificationError):
        return None
    return store if store.plan == key else None


def _publish(partial: Path, folder: Path) -> None:
    """Give the finished store its name. The old one stays until then; see `_restore`."""
    replaced = _replaced(folder)
    with storage_errors(folder.parent, STORE_OPTION):
        tidy(partial)
        if folder.exists():
            folder.rename(replaced)
        partial.rename(folder)
        sync_folder(folder.parent)
        if replaced.exists():
            shutil.rmtree(replaced)


def _restore(folder: Path) -> None:
    """Undo, or finish, a replacement that was cut short."""
    replaced = _replaced(folder)
    with storage_errors(folder.parent, STORE_OPTION):
        if replaced.exists() and folder.exists():
            shutil.rmtree(replaced)
        elif replaced.exists():
            replaced.rename(folder)


def _replaced(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.replaced")
