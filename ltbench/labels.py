"""What a row of a table is called: method, preset, and what the user changed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ltbench.config import Request, resolve, user_layers
from ltbench.errors import UsageError
from ltbench.files import sha256_hex
from ltbench.run_config import RunConfig
from ltbench.settings import flat

__all__ = ["changes", "label_problem", "row_label"]

_LENGTH = 40  # of a value


def row_label(request: Request, config: RunConfig) -> str:
    """The row's name: method, preset and what was changed."""
    return " ".join([config.method_label, *changes(request)])


def changes(request: Request) -> list[str]:
    """What the user's settings changed, as `key=value`, for labels of rows.

    Settings of the data set are left out: tables tell data apart. Those that a study chose are told
    in one word; what it is worth, tables say below the rows.
    """
    config, user = resolve(request), flat(user_layers(request))
    data = {"seed": config.seed}
    data |= {key: value for key, value in user.items() if key.startswith("dataset.")}
    plain = Request(request.method, request.dataset, config.protocol, config.recipe, data)
    words = []
    if config.tuned is not None:
        plain = replace(plain, tuned_file=request.tuned_file)
        words = ["tuned" if config.tuned.best else f"tuned (trial {config.tuned.trial})"]
    try:
        before = flat(resolve(plain).hashed())
    except UsageError:  # a recipe that leaves settings to the user: then all of the user's count
        before = {key: value for key, value in flat(config.hashed()).items() if key not in user}
    after = flat(config.hashed())
    changed = {key: value for key, value in after.items() if before.get(key) != value}
    return words + sorted(f"{key}={_short(value)}" for key, value in changed.items())


def label_problem(label: str, method: str, hashed: Mapping[str, Any]) -> str:
    """What a label says that its configuration does not; "" for nothing.

    Only what `row_label` writes may follow the method: `tuned` and settings with their values.
    Other words, such as another method's name, would be read as part of the row's own. Names of
    files are taken as they are, since the key holds what is in them.

    Args:
        method: the label of the method, `ecl` or `ecl@authors`.
        hashed: the configuration as a run's key has it.
    """
    own, _, rest = label.partition(" ")
    if own != method:
        return f"it is labelled {label!r}, but its configuration is of {method}."
    rest = re.sub(r"^tuned( \(trial \d+\))?( |$)", "", rest)
    told = {f"{key}={_short(value)}" for key, value in flat(hashed).items()}
    while rest and label.isprintable():
        fits = [one for one in told | _files_in(rest, hashed) if f"{rest} ".startswith(f"{one} ")]
        if not fits:
            break
        # The longest: a value may hold spaces.
        rest = rest[len(max(fits, key=len)) + 1 :]
    if rest:
        return (
            f"it is labelled {label!r}, but its configuration has no setting {rest!r}. Expected "
            "the method and the settings that were changed, as `bench.py run` labels a row."
        )
    return ""


def _files_in(text: str, hashed: Mapping[str, Any]) -> set[str]:
    """The name of a file or a run that a text begins with, where the configuration has one."""
    from_files = {
        "weights": hashed.get("weights") == "file",
        "init_from": hashed.get("init_from") is not None,
    }
    key, equals, value = text.partition("=")
    if not (equals and from_files.get(key)):
        return set()
    return {f"{key}={re.split(r' (?=[a-z_.]+=)', value)[0]}"}


def _short(value: Any) -> str:
    """A value for a label; one that would fill the line by the beginning of its digest."""
    text = str(value)
    return text if len(text) <= _LENGTH else f"#{sha256_hex(text.encode())[:8]}"
