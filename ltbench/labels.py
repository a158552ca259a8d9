"""What a row of a table is called: method, preset, and what the user changed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ltbench.config import Request, resolve, user_layers
from ltbench.errors import UsageError
from ltbench.files import sha256_hex
from ltbench.run_config import RunConfig
from ltbench.settings import flat

__all__ = ["changes", "row_label"]

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


def _short(value: Any) -> str:
    """A value for a label; one that would fill the line by the beginning of its digest."""
    text = str(value)
    return text if len(text) <= _LENGTH else f"#{sha256_hex(text.encode())[:8]}"
