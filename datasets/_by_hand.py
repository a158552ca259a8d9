"""What is said of data that a person has to get."""

from __future__ import annotations

from collections.abc import Sequence

from ltbench.errors import DataMissingError
from ltbench.fetch.manifest import listed
from ltbench.store.dataset import StoredDataset

__all__ = ["by_hand"]


def by_hand(
    dataset: StoredDataset,
    page: str,
    expected: Sequence[str],
    reason: str,
    *,
    command: str | None = None,
) -> DataMissingError:
    """The error for data without a known direct download; it is to be raised.

    Args:
        dataset: whose data are missing.
        page: where a person gets them.
        expected: files and folders below the data root.
        reason: why they are not downloaded here, one clause.
        command: what to run then; None prepares the data set.
    """
    return DataMissingError(
        f"{dataset.info.name} is not downloaded by ltbench: {reason}. Three steps:\n"
        f"1. Visit {page}, read the terms and download.\n"
        f"2. Put these into {dataset.root}:\n{listed(expected)}\n"
        f"3. Run: {command or dataset.command('prepare')}"
    )
