"""Files of tuned settings: settings as in any file, and where they come from in a block `tuning`.

`tune` writes them, `run --tuned` takes them. The block lets a run refuse settings that were tuned
for something else, or with a seed that is now to be reported.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ltbench.errors import UsageError
from ltbench.files import canonical_json, sha256_hex
from ltbench.run_config import TunedFrom
from ltbench.settings import Settings, read_settings

__all__ = [
    "BLOCK",
    "DIGEST",
    "TunedSettings",
    "digest_of",
    "read_tuned",
    "read_tuned_of",
    "tuned_file",
]

BLOCK = "tuning"
DIGEST = "settings_digest"  # in the block, of the settings beside it

# Names in the block, those of a configuration that they must equal, and the flags that give them.
_FITS = {
    "method": ("method_name", "--method"),
    "preset": ("preset", "--method NAME@PRESET"),
    "dataset": ("dataset_name", "--dataset"),
    "protocol": ("protocol", "--protocol"),
}


@dataclass(frozen=True)
class TunedSettings:
    """What a file of tuned settings holds.

    Attributes:
        settings: nested, without the block.
        tuning: the block; None for a plain file of settings.
    """

    file: Path
    settings: Settings
    tuning: Settings | None

    @property
    def is_edited(self) -> bool:
        """Whether the settings are no longer those that the block is about."""
        return self.tuning is not None and self.tuning.get(DIGEST) != digest_of(self.settings)

    def origin(self, names: Mapping[str, Any]) -> Settings | None:
        """What a configuration keeps of the block; None without one.

        Args:
            names: of the configuration: method_name, preset, dataset_name, protocol.

        Raises:
            UsageError: the settings were tuned for other names or edited since, or the block is
                not whole.
        """
        if self.tuning is None:
            return None
        needed = [*_FITS, *TunedFrom.model_fields, DIGEST]
        missing = [key for key in needed if key not in self.tuning]
        if missing:
            raise UsageError(
                f"{self.file}: the block '{BLOCK}' lacks {', '.join(missing)}. Expected a file as "
                f"`bench.py tune` wrote it; for settings of your own leave out '{BLOCK}'."
            )
        if self.is_edited:
            raise UsageError(
                f"{self.file} was edited since `bench.py tune` wrote it: its settings are not "
                f"those that the block '{BLOCK}' is about. Change single ones with --set, or leave "
                f"out the block '{BLOCK}' for settings of your own."
            )
        for key, (name, flag) in _FITS.items():
            if self.tuning[key] != names[name]:
                raise UsageError(
                    f"{self.file} was tuned for {key} '{_said(self.tuning[key])}', but this run's "
                    f"is '{_said(names[name])}'. Choose with {flag}, or tune for this one."
                )
        return {key: self.tuning[key] for key in TunedFrom.model_fields}


def digest_of(settings: Mapping[str, Any]) -> str:
    """SHA-256 of settings as a file holds them, nested and without the block."""
    # Text stands for what YAML has and JSON has not, such as dates and numbers not finite.
    plain = json.loads(json.dumps(settings, default=str), parse_constant=str)
    return sha256_hex(canonical_json(plain).encode())


def read_tuned(file: Path) -> TunedSettings:
    """The file, with or without a block.

    Raises:
        UsageError: it cannot be read, or its block is none.
    """
    settings = read_settings(file)
    tuning = settings.pop(BLOCK, None)
    if tuning is not None and not isinstance(tuning, dict):
        raise UsageError(
            f"{file}: expected '{BLOCK}' to hold what `bench.py tune` wrote there; got "
            f"'{tuning}'. Leave it out in a file of settings of your own."
        )
    return TunedSettings(file, settings, tuning)


def tuned_file(root: Path, *, dataset: str, protocol: str, method: str) -> Path:
    """Where the tuned settings of a method belong, its preset in its name."""
    return root / dataset / protocol / f"{method}.yaml"


def read_tuned_of(root: Path, *, dataset: str, protocol: str, method: str) -> TunedSettings:
    """The file of one method below the root of all.

    Raises:
        UsageError: there is none.
    """
    file = tuned_file(root, dataset=dataset, protocol=protocol, method=method)
    if not file.is_file():
        raise UsageError(
            f"No tuned settings of {method} on {dataset}, protocol '{protocol}': expected them in "
            f"{file}. `bench.py tune --methods {method} --dataset {dataset}` finds some."
        )
    return read_tuned(file)


def _said(name: str | None) -> str:
    return "none" if name is None else name
