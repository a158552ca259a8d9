"""Run folders in and out: `<root>/<dataset>/<protocol>/<method>/<key>/seed-<n>/`.

A run is named `<key>/seed-<n>`. Its `record.json` is written last and atomically: a run is done
when that file is there and whole, and only then.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ltbench import stored_predictions
from ltbench.errors import DataMissingError, LtbenchError, UsageError, VerificationError
from ltbench.files import (
    append_line,
    canonical_json,
    read_json,
    storage_errors,
    whole_lines,
    write_bytes,
    write_json,
    write_text,
)
from ltbench.migrations import migrated
from ltbench.predictions import Predictions
from ltbench.registry import normalise

SCHEMA_VERSION: Final = 1
BEST_WEIGHTS: Final = "best.pt"  # of the reported epoch
PREDICTIONS: Final = "predictions.npz"
FAILURE: Final = "failure.json"

_LOG = logging.getLogger(__name__)
_SEED = re.compile(r"seed-(\d+)")
_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@+-]*")
# As much as a config and a first line need: a disk with less is full for our purpose.
_PROBE_BYTES = 64 * 1024
_NUM_LISTED = 10
_EXPECTED = "Expected a run folder, <key>/seed-<n>, or the beginning of one run's key."


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run: one cell of a grid with one seed."""

    path: Path

    @classmethod
    def at(
        cls, root: Path, *, dataset: str, protocol: str, method: str, key: str, seed: int
    ) -> RunFolder:
        """The folder where a run belongs; nothing is created.

        Raises:
            UsageError: a name that cannot be the name of a folder.
        """
        parts = {"dataset": dataset, "protocol": protocol, "method": method, "key": key}
        for what, part in parts.items():
            if not _PART.fullmatch(part):
                raise UsageError(
                    f"The {what} '{part}' cannot name a folder of results. Expected letters, "
                    "digits and _ . @ + - only, a letter or digit first."
                )
        if seed < 0:
            raise UsageError(f"Expected a seed of 0 or more, got {seed}.")
        return cls(root.joinpath(*parts.values(), f"seed-{seed}"))

    @property
    def name(self) -> str:
        """`<key>/seed-<n>`, as commands take it."""
        return f"{self.path.parent.name}/{self.path.name}"

    def create(self) -> None:
        """Make the folder and try to write in it, before anything expensive begins.

        Only the claim's owner may: `clear_leftovers` of another would take its probe away.

        Raises:
            RunFailedError: the storage is full.
            UsageError: the folder is read-only or a file is in its way.
        """
        with storage_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        # The process id keeps the probes of two processes apart.
        probe = self.path / f".probe-{os.getpid()}-{os.urandom(4).hex()}"
        write_bytes(probe, bytes(_PROBE_BYTES))
        with storage_errors(self.path):
            probe.unlink()

    def clear_leftovers(self) -> None:
        """Remove unfinished files that a killed process left; only the claim's owner may."""
        for leftover in (*self.path.glob(".*.tmp"), *self.path.glob(".probe-*")):
            leftover.unlink(missing_ok=True)

    def is_done(self) -> bool:
        """Whether the record is whole. A damaged one is renamed, never deleted, with a warning."""
        try:
            self.record()
        except DataMissingError:
            return False
        except VerificationError as error:
            aside = self._set_record_aside()
            kept = f"kept as {aside.name}" if aside else "left where it is"
            _LOG.warning("%s The run counts as not done; the file is %s.", error, kept)
            return False
        return True

    def write_record(self, record: Mapping[str, Any]) -> None:
        """Write the record, and with it the mark that this run is done. Nothing comes after it.

        Raises:
            ValueError: a number is NaN or infinite; metrics that are undefined are stored as None.
        """
        self.is_done()  # sets a damaged record aside, which this one would else replace
        write_json(self.path / "record.json", {"schema_version": SCHEMA_VERSION, **record})

    def record(self) -> dict[str, Any]:
        """The record as it was written.

        Raises:
            DataMissingError: the run is not done.
            VerificationError: the record is damaged.
        """
        path = self.path / "record.json"
        record = read_json(path)
        if not isinstance(record, dict) or not isinstance(record.get("schema_version"), int):
            raise VerificationError(
                f"{path} is damaged: expected a record with a schema_version, found "
                f"{str(record)[:60]!r}. Restore it from a copy, or run the same command again."
            )
        return record

    def write_failure(self, failure: Mapping[str, Any]) -> None:
        """Say why this run failed; the folder is made where the run did not come so far."""
        with storage_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        write_json(self.path / FAILURE, dict(failure))

    def failure(self) -> dict[str, Any] | None:
        """Why this run failed when it was tried last; None where it did not, or is running."""
        try:
            failure = read_json(self.path / FAILURE)
        except DataMissingError:
            return None
        except VerificationError:
            failure = None
        whole = isinstance(failure, dict) and "message" in failure
        return failure if whole else {"message": f"{self.path / FAILURE} is damaged"}

    def clear_failure(self) -> None:
        """Forget a failure that is over."""
        with storage_errors(self.path):
            (self.path / FAILURE).unlink(missing_ok=True)

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Write the resolved configuration."""
        write_json(self.path / "config.json", dict(config))

    def config(self) -> dict[str, Any]:
        """The resolved configuration; raises like `record`."""
        path = self.path / "config.json"
        config = read_json(path)
        if not isinstance(config, dict):
            raise VerificationError(f"{path} is damaged: expected settings by name. Run it again.")
        return config

    def append_epoch(self, epoch: Mapping[str, Any]) -> None:
        """Add one line to the history; it is on the disk when this returns."""
        append_line(self.epochs_file, canonical_json(dict(epoch)))

    def truncate_epochs(self, num_lines: int) -> int:
        """Keep the first `num_lines` lines, those a checkpoint knows of; drop a torn last line.

        Returns:
            How many lines are kept: fewer than asked, with a warning, where the history is shorter.
        """
        kept = whole_lines(self.epochs_file)[:num_lines]
        if self.epochs_file.exists():
            write_text(self.epochs_file, "".join(f"{line}\n" for line in kept))
        if len(kept) < num_lines:
            _LOG.warning(
                "%s has a gap: expected %d epochs, found %d. The run goes on without them.",
                *(self.epochs_file, num_lines, len(kept)),
            )
        return len(kept)

    def epochs(self) -> list[dict[str, Any]]:
        """The history, one dict an epoch; a torn last line is left out.

        Raises:
            VerificationError: a finished line is damaged.
        """
        history = []
        for number, line in enumerate(whole_lines(self.epochs_file), start=1):
            try:
                history.append(json.loads(line))
            except ValueError as error:
                raise VerificationError(
                    f"{self.epochs_file} is damaged: expected JSON in line {number}, found "
                    f"{line[:60]!r}. Record and predictions are not affected; remove the line to "
                    "read the others."
                ) from error
        return history

    def write_predictions(self, predictions: Mapping[str, Predictions | None]) -> None:
        """Write the predictions of all parts; see `stored_predictions.write`."""
        stored_predictions.write(self.path / PREDICTIONS, predictions)

    def read_predictions(self, part: str) -> Predictions:
        """The stored predictions of "val" or "test"; see `stored_predictions.read`."""
        return stored_predictions.read(self.path / PREDICTIONS, part)

    @property
    def epochs_file(self) -> Path:
        """The history, one JSON line an epoch."""
        return self.path / "epochs.jsonl"

    def _set_record_aside(self) -> Path | None:
        number = 1
        while (aside := self.path / f"record.json.damaged-{number}").exists():
            number += 1
        try:
            os.rename(self.path / "record.json", aside)
        except OSError:  # another process was first, or the folder is read-only
            return None
        return aside


def run_folders(
    root: Path,
    *,
    methods: Iterable[str] | None = None,
    dataset: str | Iterable[str] | None = None,
    protocol: str | Iterable[str] | None = None,
) -> Iterator[RunFolder]:
    """Every run below `root`, done or not, ordered by name and seed; None means all.

    Names may be written with hyphens or underscores.
    """
    levels = (_plain_names(dataset), _plain_names(protocol), _plain_names(methods), None)
    folders = [root]
    for wanted in levels:
        folders = [
            child
            for folder in folders
            for child in _subfolders(folder)
            if wanted is None or normalise(child.name) in wanted
        ]
    for folder in folders:
        seeds = ((_SEED.fullmatch(child.name), child) for child in _subfolders(folder))
        numbered = sorted((int(match[1]), child) for match, child in seeds if match)
        yield from (RunFolder(child) for _, child in numbered)


def read_records(
    root: Path,
    *,
    methods: Iterable[str] | None = None,
    dataset: str | Iterable[str] | None = None,
    protocol: str | Iterable[str] | None = None,
    keep: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
) -> tuple[list[dict[str, Any]], list[str]]:
    """The records of all runs that are done, and what was left out. Changes nothing on the disk.

    Args:
        keep: what to keep of each record as soon as it is read: thousands of whole ones take more
            memory than any reader needs. A record that it refuses with an `LtbenchError` is left
            out.

    Returns:
        Records as written, or as `keep` cuts them, each with its `folder` added, in the order of
        `run_folders`; and one message for each record that is damaged or of another schema version
        without a rule in `migrations`.
    """
    records = []
    messages = []
    for run in run_folders(root, methods=methods, dataset=dataset, protocol=protocol):
        try:
            record = run.record()
        except DataMissingError:
            continue
        except LtbenchError as error:
            messages.append(f"Left out: {error}")
            continue
        current = migrated(record, SCHEMA_VERSION)
        if current is None:
            messages.append(
                f"Left out: {run.path} has a record of schema version {record['schema_version']}, "
                f"expected {SCHEMA_VERSION}. Read it with the ltbench that wrote it, or move the "
                "folder away and run the cell again."
            )
            continue
        try:
            kept = current if keep is None else keep(current)
        except LtbenchError as error:
            messages.append(f"Left out: {run.path / 'record.json'}: {error}")
            continue
        records.append({**kept, "folder": str(run.path)})
    return records, messages


def find_run(root: Path, name: str) -> RunFolder:
    """The run a user means.

    Args:
        root: the results folder.
        name: a run folder, `<key>/seed-<n>`, or the beginning of a key that only one run has;
            `<beginning>/seed-<n>` picks one seed of several.

    Raises:
        UsageError: no run or several runs match; the message lists them.
    """
    matches = _matching(root, name)
    if len(matches) == 1:
        return matches[0]
    raise UsageError(f"'{name}' means {len(matches)} runs. {_EXPECTED}{_listed(matches)}")


def find_runs(root: Path, name: str) -> list[RunFolder]:
    """As `find_run`; a key, or the beginning of one, means the runs of all its seeds.

    Raises:
        UsageError: no run matches, or runs of several configurations do.
    """
    matches = _matching(root, name)
    if len({run.path.parent for run in matches}) == 1:
        return matches
    raise UsageError(
        f"'{name}' means runs of several configurations. {_EXPECTED}{_listed(matches)}"
    )


def _matching(root: Path, name: str) -> list[RunFolder]:
    """All runs that a name may mean, at least one."""
    given = Path(name).expanduser()
    if name.strip() and ((given / "record.json").is_file() or (given / "config.json").is_file()):
        return [RunFolder(given.resolve())]
    runs = list(run_folders(root))
    prefix, _, seed = name.strip().rstrip("/").partition("/")
    near = [
        run
        for run in runs
        if prefix and run.path.parent.name.startswith(prefix) and seed in ("", run.path.name)
    ]
    # A whole key wins over a longer one that begins with it.
    matches = [run for run in near if run.path.parent.name == prefix] or near
    if matches:
        return matches
    known = _listed(runs) if runs else " There are none yet; `bench.py run` makes one."
    raise UsageError(f"No run '{name}' in {root}. {_EXPECTED}{known}")


def training_counts(record: Mapping[str, Any]) -> list[int]:
    """Images of the training part by class, those carved from it for feedback among them.

    `train_counts` of a record are what a method was trained on.
    """
    counts = record["train_counts"]
    carved = record.get("feedback_counts") if record.get("feedback_split") == "inner" else None
    return [a + b for a, b in zip(counts, carved or [0] * len(counts), strict=True)]


def _listed(runs: list[RunFolder]) -> str:
    lines = [f"\n  {run.name}  ({run.path})" for run in runs[:_NUM_LISTED]]
    more = f"\n  and {len(runs) - _NUM_LISTED} more" if len(runs) > _NUM_LISTED else ""
    return " Candidates:" + "".join(lines) + more


def _plain_names(given: str | Iterable[str] | None) -> set[str] | None:
    if given is None:
        return None
    return {normalise(name) for name in ([given] if isinstance(given, str) else given)}


def _subfolders(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if entry.is_dir() and entry.name[0] != "."]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise UsageError(
            f"The folder {folder} cannot be listed ({error.strerror}). Expected a folder that this "
            "user may read; mend its permissions or choose another with --results."
        ) from error
    return [folder / name for name in sorted(names)]
