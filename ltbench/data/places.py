"""Where data lie on this machine."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["data_home"]


def data_home() -> Path:
    """Where data lie unless a data root is given: $LTBENCH_DATA, else ~/.cache/ltbench."""
    return Path(os.environ.get("LTBENCH_DATA") or "~/.cache/ltbench").expanduser()
