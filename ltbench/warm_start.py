"""Weights of a finished run that another starts from: `--set init_from=RUN`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ltbench.errors import DataMissingError, UsageError, VerificationError
from ltbench.results import RunFolder, find_run
from ltbench.run_weights import reported_weights

_BACKBONE = "backbone."


@dataclass(frozen=True)
class WarmStart:
    """A finished run and the weights it reports.

    Attributes:
        identity: `<key>/seed-<n>`, or `<key>` alone where each run starts from the one with its own
            seed: seeds of one cell then share a key.
    """

    folder: RunFolder
    record: dict[str, Any]
    state: dict[str, Tensor]
    identity: str

    @property
    def digest(self) -> str:
        """SHA-256 of the weights, as in that run's record."""
        digest: str = self.record["digests"]["weights"]
        return digest

    def backbone(self) -> dict[str, Tensor]:
        """Parameters and buffers of its backbone, named as in the net itself."""
        prefix = f"{_BACKBONE}net."
        return {k.removeprefix(prefix): v for k, v in self.state.items() if k.startswith(prefix)}

    def shared(self, method: nn.Module, class_names: Sequence[str]) -> list[str]:
        """Names of the method's parameters outside the backbone that are taken too.

        Those with the same name and shape, where the classes are the same; no buffers, so that
        queues, counters and curricula begin anew.
        """
        if list(class_names) != self.record["class_names"]:
            return []
        return [
            name
            for name, parameter in method.named_parameters()
            if not name.startswith(_BACKBONE)
            and name in self.state
            and self.state[name].shape == parameter.shape
        ]

    def load(self, method: nn.Module, class_names: Sequence[str]) -> None:
        """Put `shared` in place; the backbone came from the factory."""
        parameters = dict(method.named_parameters())
        with torch.no_grad():
            for name in self.shared(method, class_names):
                parameters[name].copy_(self.state[name])


def find_start(name: str, results: Path, *, seed: int) -> WarmStart:
    """The run that `init_from` names.

    Args:
        name: a run's folder, `<key>/seed-<n>`, or a key (or its beginning): its run with `seed`.

    Raises:
        UsageError: no such run, or several.
        DataMissingError: it is not finished, or its weights are gone.
        VerificationError: its weights are not those of its record.
    """
    exact = "/" in name or Path(name).is_dir()
    try:
        folder = find_run(results, name if exact else f"{name}/seed-{seed}")
    except UsageError as error:
        hint = "" if exact else " (Of a key, init_from takes the run with this run's own seed.)"
        raise UsageError(f"init_from: {error}{hint}") from error
    identity = folder.name if exact else folder.path.parent.name
    try:
        record, state = reported_weights(folder)
    except (DataMissingError, VerificationError) as error:
        raise type(error)(f"init_from: {error}") from error
    return WarmStart(folder, record, state, identity)


def check_start(start: WarmStart, *, dataset: str, split_digest: str) -> None:
    """Refuse weights that may have been trained on images this run tests on.

    Raises:
        UsageError: the same data set, split otherwise.
    """
    record = start.record
    if record["dataset"] == dataset and record["split_digest"] != split_digest:
        raise UsageError(
            f"init_from: {start.folder.name} was trained on another split of {dataset} "
            f"({record['protocol']}, {record['split_digest'][:12]}), so images this run is tested "
            "on may be among those it learned from. Start from a run of the same split."
        )
