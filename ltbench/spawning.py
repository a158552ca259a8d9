"""Processes that are started beside a run."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

__all__ = ["without_main"]


@contextmanager
def without_main() -> Iterator[None]:
    """Processes started here do not run the user's script again, as spawned ones otherwise do.

    It may have no `if __name__ == "__main__"`, and would import what no worker needs.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
