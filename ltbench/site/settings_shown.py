"""The settings of a run: those that are not the defaults first, then all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import yaml

from ltbench.bundles.portable import portable
from ltbench.errors import LtbenchError
from ltbench.settings import flat
from ltbench.site.shown import NOTHING, mapping, plain

__all__ = ["Defaults", "as_text", "changed", "defaults_of"]

Settings = dict[str, Any]

# What the run is, and where it ran, which the page says elsewhere.
_NOT_COMPARED: Final = ("method_name", "dataset_name", "protocol", "recipe", "preset", "seed")
_MACHINE: Final = ("machine.", "tuned.")


@dataclass(frozen=True)
class Defaults:
    """What a run of the method would have been set to without presets and without a user's wishes.

    Attributes:
        settings: by dotted name; None where they cannot be known here.
        why_not: the reason then.
    """

    settings: Settings | None
    why_not: str = ""


def defaults_of(config: Mapping[str, Any]) -> Defaults:
    """The defaults under a stored configuration's recipe, data set and protocol.

    Imports the plugins, and with them torch.
    """
    from ltbench.config import Request, resolve

    names = {name: config.get(name) for name in ("method_name", "dataset_name")}
    missing = [name for name, value in names.items() if not isinstance(value, str)]
    if missing:
        return Defaults(None, f"The configuration does not say its {' and '.join(missing)}.")
    request = {
        "method": config["method_name"],
        "dataset": config["dataset_name"],
        "protocol": config.get("protocol"),
        "recipe": config.get("recipe"),
    }
    of_data = {
        f"dataset.{name}": value for name, value in flat(mapping(config.get("dataset"))).items()
    }
    reason = ""
    for settings in ({}, of_data):  # some data sets have settings without a default
        try:
            found = resolve(Request(**request, settings=settings))
        except LtbenchError as error:
            reason = str(portable(str(error).partition("\n")[0]))
            continue
        return Defaults(flat(found.model_dump(mode="json")))
    return Defaults(None, reason)


def changed(config: Mapping[str, Any], defaults: Settings) -> list[tuple[str, str, str]]:
    """(setting, here, by default) of each that differs."""
    found = []
    for name, value in flat(config).items():
        if name in _NOT_COMPARED or name.startswith(_MACHINE) or name == "tuned":
            continue
        known = name in defaults
        if not known or defaults[name] != value:
            found.append((name, plain(value), plain(defaults[name]) if known else NOTHING))
    return found


def as_text(config: Mapping[str, Any]) -> str:
    """The whole configuration as YAML, without paths of the machine."""
    text = yaml.safe_dump(portable(dict(config)), sort_keys=False, allow_unicode=True, width=88)
    return str(text)
