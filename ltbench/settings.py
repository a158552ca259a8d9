"""Settings as plain mappings: read from files and flags, nested, flattened, merged."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from ltbench.errors import UsageError

Settings = dict[str, Any]


def read_settings(file: Path) -> Settings:
    """A YAML file of settings, nested or dotted."""
    try:
        loaded = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(
            f"Cannot read the settings file {file}: {error.strerror}. Expected the path of a YAML "
            "file."
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{file} is not valid YAML: {error}. Expected `key: value` settings."
        ) from error
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise UsageError(f"{file} holds a {type(loaded).__name__}; expected `key: value` settings.")
    return nested(loaded)


def parse_assignments(assignments: Iterable[str]) -> Settings:
    """`key=value` texts to dotted settings; values are read as YAML, then checked by the model."""
    settings = {}
    for text in assignments:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise UsageError(
                f"--set takes key=value, such as method.temperature=0.2; got '{text}'."
            )
        try:
            settings[key.strip().replace("-", "_")] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise UsageError(f"--set {text}: the value is not valid YAML: {error}") from error
    return settings


def nested(dotted: Mapping[str, Any]) -> Settings:
    """{"a.b": 1, "c": {"d": 2}} to {"a": {"b": 1}, "c": {"d": 2}}."""
    result: Settings = {}
    for key, value in dotted.items():
        branch = value
        for part in reversed(str(key).split(".")):
            branch = {part: nested(branch) if isinstance(branch, Mapping) else branch}
        merge(result, branch)
    return result


def flat(settings: Mapping[str, Any], prefix: str = "") -> Settings:
    """The inverse of `nested`: {"a": {"b": 1}} to {"a.b": 1}."""
    result: Settings = {}
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            result |= flat(value, f"{prefix}{key}.")
        else:
            result[f"{prefix}{key}"] = value
    return result


def merge(below: Settings, above: Mapping[str, Any]) -> None:
    """Lay `above` over `below` in place; mappings are joined, anything else is replaced."""
    for key, value in above.items():
        if isinstance(value, Mapping) and isinstance(below.get(key), dict):
            merge(below[key], value)
        else:
            below[key] = nested(value) if isinstance(value, Mapping) else value
