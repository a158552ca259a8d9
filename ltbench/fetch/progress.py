"""Lines that say how far a long download is."""

from __future__ import annotations

import time
from collections.abc import Callable

from ltbench.fetch.manifest import size_text

__all__ = ["Progress"]

_PERCENT = 10
_AT_LEAST_S, _AT_MOST_S = 5.0, 60.0


class Progress:
    """Says a line each 10 %, but not within 5 s, and at least one a minute.

    Args:
        total: bytes in all; None where unknown.
        start: bytes that are here already.
        clock: seconds; for tests.
    """

    def __init__(
        self,
        say: Callable[[str], None],
        name: str,
        total: int | None,
        start: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._say, self._name, self._total, self._clock = say, name, total, clock
        self._start = self._said = start
        self._start_s = self._said_s = clock()

    def at(self, num_bytes: int) -> None:
        """Take note that so many bytes are here."""
        now_s = self._clock()
        silent_s = now_s - self._said_s
        is_news = bool(self._total) and (
            (num_bytes - self._said) * 100 >= _PERCENT * (self._total or 0)
        )
        if silent_s >= _AT_MOST_S or (silent_s >= _AT_LEAST_S and is_news):
            self._said, self._said_s = num_bytes, now_s
            self._say(f"{self._name}: {self._far(num_bytes, now_s)}")

    def _far(self, num_bytes: int, now_s: float) -> str:
        rate = (num_bytes - self._start) / max(now_s - self._start_s, 1e-9)
        speed = f"{size_text(round(rate))}/s"
        if self._total is None:
            return f"{size_text(num_bytes)}, {speed}"
        left_min = (self._total - num_bytes) / max(rate, 1.0) / 60
        return (
            f"{100 * num_bytes // self._total} % of {size_text(self._total)}, {speed}, "
            f"{left_min:.0f} min left"
        )
