"""The exact command that repeats a run, for its record."""

from __future__ import annotations

import json
import shlex
from typing import Any

import yaml

from ltbench.config import Request
from ltbench.program import DEFAULT_RESULTS, PROGRAM
from ltbench.runner import Place

__all__ = ["repeat_command"]


def repeat_command(request: Request, seed: int, place: Place) -> str:
    """The exact command that repeats a run."""
    words = [*PROGRAM, "run", "--method", request.method, "--dataset", request.dataset]
    options = {
        "--protocol": request.protocol,
        "--recipe": request.recipe,
        "--config": request.config_file,
        "--tuned": request.tuned_file,
        "--data-root": place.data_root,
    }
    for flag, value in options.items():
        if value is not None:
            words += [flag, str(value)]
    if place.results != DEFAULT_RESULTS:
        words += ["--results", str(place.results)]
    for file in place.plugins:
        words += ["--plugin", str(file)]
    words += ["--seed", str(seed)]
    for key, value in request.settings.items():
        if key != "seed":
            words += ["--set", f"{key}={_as_yaml(value)}"]
    return shlex.join(words)


def _as_yaml(value: Any) -> str:
    """A value so that `--set` reads the same: text that looks like something else is quoted."""
    try:
        if isinstance(value, str) and yaml.safe_load(value) == value:
            return value
    except yaml.YAMLError:
        pass
    return json.dumps(value, default=str)
