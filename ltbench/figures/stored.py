"""A run's record as figures read it: of this schema, and whole."""

from __future__ import annotations

from typing import Any, Final

from ltbench.errors import VerificationError
from ltbench.migrations import migrated
from ltbench.report.reading import Intake
from ltbench.results import SCHEMA_VERSION, RunFolder

__all__ = ["is_external", "known_record", "trained_run"]

_OF_EXTERNAL: Final = ("label", "seed", "dataset", "protocol", "metrics")


def known_record(run: RunFolder) -> dict[str, Any]:
    """The record of a finished run, or of an external test of one.

    Raises:
        DataMissingError: the run is not done.
        VerificationError: the record is damaged, not whole, or of another schema version.
    """
    given = run.record()
    record = migrated(given, SCHEMA_VERSION)
    if record is None:
        raise VerificationError(
            f"{run.path} has a record of schema version {given['schema_version']}, expected "
            f"{SCHEMA_VERSION}. Read it with the ltbench that wrote it, or run the cell again."
        )
    if is_external(record):
        missing = [name for name in _OF_EXTERNAL if name not in record]
        if missing:
            raise VerificationError(
                f"{run.path / 'record.json'} lacks {', '.join(missing)}. Test the run again."
            )
        return record
    try:
        Intake(per_class=True)(record)
    except VerificationError as error:
        raise VerificationError(f"{run.path / 'record.json'}: {error}") from error
    return record


def is_external(record: dict[str, Any]) -> bool:
    """Whether a record is of an external test."""
    return "trained_on" in record


def trained_run(run: RunFolder, record: dict[str, Any]) -> RunFolder:
    """The run itself; of an external test the one that was tested."""
    return RunFolder(run.path.parents[1]) if is_external(record) else run
