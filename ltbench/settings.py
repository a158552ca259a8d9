"""Settings as plain mappings: read from files and flags, nested, flattened, merged."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from ltbench.errors import UsageError

Settings = dict[str, Any]


MOST_SEEDS = 1000


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
            # YAML reads nothing as null, which many settings take for "find it yourself".
            settings[key.strip().replace("-", "_")] = yaml.safe_load(value) if value else ""
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


def parse_names(text: str) -> list[str]:
    """Names separated by commas."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise UsageError("Expected a name, or several with commas between them; got none.")
    return names


def parse_seeds(seeds: str | None, seed: int | None) -> list[int]:
    """`0-4` or `0,2,5` to numbers."""
    if seeds is not None and seed is not None:
        raise UsageError("Give --seed or --seeds, not both.")
    if seeds is None:
        return [seed or 0]
    found: list[int] = []
    for part in seeds.split(","):
        first, dash, last = part.strip().partition("-")
        is_range = first.isdecimal() and (not dash or last.isdecimal())
        if not is_range or (dash and int(last) < int(first)):
            raise UsageError(f"--seeds takes 0-4 or 0,2,5; got '{seeds}'.")
        wanted = range(int(first), int(last if dash else first) + 1)
        if len(wanted) > MOST_SEEDS:
            raise UsageError(f"--seeds {part} names {len(wanted)} seeds; at most {MOST_SEEDS}.")
        found += wanted
    if not found:
        raise UsageError(f"--seeds takes 0-4 or 0,2,5; got '{seeds}', which names no seed.")
    return list(dict.fromkeys(found))


def as_yaml(value: Any) -> str:
    """A value as `--set` takes it, in one line."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000, sort_keys=False)
    return str(text).removesuffix("...\n").strip()
