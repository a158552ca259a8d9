"""The weights a finished run reported, checked against its record."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ltbench.errors import DataMissingError, VerificationError
from ltbench.models import read_state, state_digest
from ltbench.results import BEST_WEIGHTS, RunFolder

__all__ = ["reported_weights"]


def reported_weights(folder: RunFolder) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """(record, weights by name) of a finished run.

    Raises:
        DataMissingError: the run is not finished, or its weights are gone.
        VerificationError: the weights are not those of its record.
    """
    try:
        record = folder.record()
    except DataMissingError as error:
        raise DataMissingError(
            f"the run {folder.path} is not finished; run it to its end first."
        ) from error
    weights = folder.path / BEST_WEIGHTS
    if not weights.is_file():
        raise DataMissingError(f"expected the weights {weights}, found none.")
    state = read_state(weights)
    if state_digest(state) != record["digests"]["weights"]:
        raise VerificationError(
            f"the weights {weights} do not have the digest of their run's record. Restore them "
            "from a copy, or run that cell again."
        )
    return record, state
