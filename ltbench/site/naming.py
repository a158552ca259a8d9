"""Names of pages and of places on them: safe in any file system and in any link, never shared."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from ltbench.files import canonical_json, sha256_hex
from ltbench.report.rows import Table

Record = Mapping[str, Any]

_SAFE: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,60}")
_MARK_LENGTH: Final = 8  # of a digest that tells names apart


class RunIdentity(NamedTuple):
    """Which run it is; tables refuse two records of one key and seed."""

    key: str
    seed: int


def identity(record: Record) -> RunIdentity:
    """Of the run that a record is of."""
    return RunIdentity(*(record[name] for name in RunIdentity._fields))


def safe(text: str) -> str:
    """`text` where it can name a file everywhere; else what of it can, and a mark of its digest.

    Capitals count as unsafe: some file systems take them for small letters.
    """
    if _SAFE.fullmatch(text):
        return text
    kept = re.sub(r"[^a-z0-9_]+", "-", text.lower()).strip("-_")[:40]
    return "-".join(filter(None, [kept, _mark(text)]))


def run_stems(records: Iterable[Record]) -> dict[RunIdentity, str]:
    """The name of each run's page, without ending: `<key>-seed-<n>`.

    Where keys that name no file would share one name, a digest tells them apart.
    """
    runs = list(dict.fromkeys(map(identity, records)))
    plain = {run: f"{safe(run.key)}-seed-{run.seed}" for run in runs}
    times = Counter(plain.values())
    return {
        run: stem if times[stem] == 1 else f"{stem}-{_mark(canonical_json(run))}"
        for run, stem in plain.items()
    }


def board_titles(tables: Iterable[Table]) -> list[str]:
    """What each board is called; its split, or its place among them, where that is needed."""
    tables = list(tables)
    titles = [f"{table.dataset}, protocol {table.protocol}" for table in tables]
    splits = [f", split {table.split_digest[:8]}" for table in tables]
    titles = _told_apart(titles, splits)
    return _told_apart(titles, [f", no. {number}" for number in range(1, len(tables) + 1)])


def board_names(titles: Iterable[str]) -> list[str]:
    """An id for each board, unique on the page and usable in a link."""
    titles = list(titles)
    plain = [safe(title.replace(", protocol ", "-").replace(", ", "-")) for title in titles]
    return _told_apart(plain, [f"-{_mark(title)}" for title in titles])


def _told_apart(names: list[str], ends: list[str]) -> list[str]:
    times = Counter(names)
    return [name + end if times[name] > 1 else name for name, end in zip(names, ends, strict=True)]


def _mark(text: str) -> str:
    # Half of a surrogate pair, which JSON may hold, has no bytes in UTF-8.
    return sha256_hex(text.encode("utf-8", "surrogatepass"))[:_MARK_LENGTH]
