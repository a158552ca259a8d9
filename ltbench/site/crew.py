"""Pages of runs made by several processes."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Final

from ltbench.errors import LtbenchError, RunFailedError
from ltbench.site.folder import Unit
from ltbench.site.run_page import RunPage, make_run_page
from ltbench.spawning import Parcel, packed, signals_blocked, unpacked, without_main

__all__ = ["made_together"]

Result = tuple[dict[str, Unit], list[str]]

# A process takes about a second to start; a page without figures takes tens of milliseconds.
_PAGES_A_PROCESS: Final = 80
_FIGURES_A_PROCESS: Final = 2


def made_together(
    pages: Sequence[RunPage], root: Path, jobs: int, on_page: Callable[[], object]
) -> Iterator[Result]:
    """Make pages, in as many processes as are worth their start; in any order.

    Args:
        jobs: the most processes.
        on_page: called after each page.

    Raises:
        LtbenchError: what a page met; pages that are being made are finished first.
    """
    drawing = any(page.figures and not page.drawn for page in pages)
    worth = len(pages) // (_FIGURES_A_PROCESS if drawing else _PAGES_A_PROCESS)
    if min(jobs, worth) <= 1:
        for page in pages:
            yield make_run_page(page, root)
            on_page()
        return
    context = multiprocessing.get_context("spawn")
    with signals_blocked(), without_main():
        pool = ProcessPoolExecutor(min(jobs, worth), mp_context=context)
        waiting = [pool.submit(_made, page, root) for page in pages]
    try:
        for future in as_completed(waiting):
            found = future.result()
            if isinstance(found[0], type):
                raise unpacked(found)
            yield found
            on_page()
    except BrokenProcessPool as error:
        raise RunFailedError(
            "A process that makes pages was ended from outside, perhaps for want of memory. What "
            "was written is kept; run the same command again, or with --jobs 1."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _made(page: RunPage, root: Path) -> Result | Parcel:
    try:
        return make_run_page(page, root)
    except LtbenchError as error:
        return packed(error)
