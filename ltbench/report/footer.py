"""What must be known to read a table, one statement a line, from the records alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ltbench.report.rows import NUM_SEEDS_WANTED, Table, row_names, shown_keys

Record = Mapping[str, Any]

DAGGER = "\N{DAGGER}"
NOT_RECORDED = "not recorded"

# Printed as a number: the record has every name, or every class, in full.
_COUNTED = ("left_out", "label_map")
_LONGEST_LIST = 20
_MOST_NAMES = 12  # rows named for one value; of more, how many
_NOT_SHOWN = ("columns", "leak", "known_leak")  # the leak has a line of its own


def footer(tables: Sequence[Table], names: Mapping[str, str] | None = None) -> list[str]:
    """Data, leak, recipe, machine and versions; where rows differ, which says what.

    Args:
        tables: one, or those that stand side by side.
        names: the row's name by key; made from labels and keys unless given.
    """
    names = names or row_names([row for table in tables for row in table.rows])
    titles = block_titles(tables)
    lines = []
    for table, title in zip(tables, titles, strict=True):
        lines += _of_data(table, names, f" of {title}" if len(tables) > 1 else "")
    said = _Sayer(tables, titles, names)
    lines += [
        f"Recipe: {said.of(lambda record: record.get('recipe') or NOT_RECORDED)}. "
        f"Seeds: {said.of(_seeds(tables))}. "
        f"Selection: {said.of(lambda record: record.get('select') or NOT_RECORDED)}. "
        f"Epochs: {said.of(_epochs)}.",
        f"Devices: {said.of(_devices)}. {_batchnorm(said)}"
        f"Precision: {said.of(lambda record: str(record.get('precision', NOT_RECORDED)))}. "
        f"Threads: {said.of(lambda record: str(record.get('threads', NOT_RECORDED)))}. "
        f"Views: {said.of(lambda record: str(record.get('render') or 'device'))}.",
        *_started_from(said),
        *_tuned(tables, names),
        f"Code: {said.of(_commit)}. Versions: {said.of(_versions)}.",
        "Mean \N{PLUS-MINUS SIGN} sample standard deviation over seeds; rates in percent.",
        *_marks(tables),
    ]
    return lines


def block_titles(tables: Sequence[Table]) -> list[str]:
    """Data sets, with protocol, split or images where tables side by side share the name before."""
    titles = [table.dataset for table in tables]
    if len({table.protocol for table in tables}) > 1:
        titles = [f"{table.dataset} ({table.protocol})" for table in tables]
    if len(set(titles)) < len(titles):
        titles = [
            f"{title}, split {table.split_digest[:8]}"
            for title, table in zip(titles, tables, strict=True)
        ]
    if len(set(titles)) < len(titles):  # one split of other images, or in another profile
        titles = [f"{title}, no. {number}" for number, title in enumerate(titles, start=1)]
    return titles


def leak(record: Record) -> str:
    """What of the test's groups, files and pixels training holds too, without a full stop."""
    note, shared = record.get("leak"), _shared_pictures(record)
    told = (record.get("protocol_notes") or {}).get("known_leak")
    known = "groups are not known, so none can be measured" if note is None else note["sentence"]
    known = str(told) if told else known
    return f"{known}; {shared}" if shared else known


def counts(table: Table) -> str:
    """How many images and groups the test part holds; "" where records do not say."""
    if table.num_images is None:
        return ""
    images = f"{table.num_images} test images"
    if table.num_groups is None:
        return images
    return f"{images} in {table.num_groups} {table.group_noun}s"


def _of_data(table: Table, names: Mapping[str, str], of: str) -> list[str]:
    """What one split is, what its groups separate, and what leaks."""
    records = table.records

    def said(value: Callable[[Record], str]) -> str:
        return _said((names[record["key"]], value(record)) for record in records)

    size = counts(table)
    words: dict[tuple[int, int], str] = {}  # of notes that records share, by their identity

    def notes(record: Record) -> str:
        one = id(record.get("protocol_notes")), id(record.get("data_notes"))
        if one not in words:
            words[one] = _notes(record)
        return words[one]

    return [
        f"Data set: {table.dataset}. Protocol: {table.protocol}. "
        f"Split: {table.split_digest[:12]}. {_images(records[0])}"
        f"Results are of its test part{f': {size}' if size else ''}.",
        f"Protocol notes{of}: {said(notes)}.",
        f"Groups{of}: {said(_groups)}.",
        f"Leak{of}: {said(leak)}.",
        *([f"Means over classes{of}: {said(_averaged)}."] if any(map(_averaged, records)) else []),
        *_ties(records, names, of),
    ]


def _averaged(record: Record) -> str:
    """Which classes a mean over classes leaves out; "" where it has all."""
    test = record["metrics"]["test"]
    averaged, total = test.get("classes_averaged") or {}, test.get("num_classes")
    fewest = min(averaged.values(), default=None)
    if total is None or fewest is None or fewest == total:
        return ""
    return f"of the {fewest} of {total} classes that have test images"


def _ties(records: Iterable[Record], names: Mapping[str, str], of: str) -> list[str]:
    """Rows with predictions that were decided by the order of classes."""
    tied = [r for r in records if r["metrics"]["test"].get("num_tied")]
    if not tied:
        return []
    rows = _listed(list(dict.fromkeys(names[record["key"]] for record in tied)))
    return [f"Ties{of}: some images have several largest logits, the first was taken ({rows})."]


def _devices(record: Record) -> str:
    return f"{record.get('num_devices', NOT_RECORDED)} x {record.get('device', NOT_RECORDED)}"


class _Sayer:
    """Says a fact of all rows: once where they share it, else by row, and by data set."""

    def __init__(
        self, tables: Sequence[Table], titles: Sequence[str], names: Mapping[str, str]
    ) -> None:
        self._records = [
            (names[record["key"]], title, record)
            for table, title in zip(tables, titles, strict=True)
            for record in table.records
        ]
        self._many = len(tables) > 1

    def of(self, value: Callable[[Record], str]) -> str:
        """The value, or each value with the rows it belongs to."""
        return self.among(self._records, value)

    def chosen(self, keep: Callable[[Record], Any]) -> list[tuple[str, str, Record]]:
        """Those of the records that `keep` is true of."""
        return [entry for entry in self._records if keep(entry[2])]

    def among(
        self, entries: Iterable[tuple[str, str, Record]], value: Callable[[Record], str]
    ) -> str:
        """The same, of some of the records."""
        told = [(name, title, value(record)) for name, title, record in entries]
        values_of: dict[str, set[str]] = {}
        for name, _, text in told:
            values_of.setdefault(name, set()).add(text)
        split = {name for name, values in values_of.items() if self._many and len(values) > 1}
        return _said(
            (f"{name} on {title}" if name in split else name, text) for name, title, text in told
        )


def _seeds(tables: Sequence[Table]) -> Callable[[Record], str]:
    told = {row.key: ", ".join(map(str, row.seeds)) for table in tables for row in table.rows}
    return lambda record: told[record["key"]]


def _marks(tables: Sequence[Table]) -> list[str]:
    rows = [row for table in tables for row in table.rows]
    lines = []
    if any(row.provisional for row in rows):
        lines.append(f"Provisional: fewer than {NUM_SEEDS_WANTED} seeds.")
    if any(row.uses_validation for row in rows):
        lines.append(f"{DAGGER} Training itself uses results on the validation part.")
    return lines


def _epochs(record: Record) -> str:
    """What each stage was given: `contrast 100, linear 20`."""
    stages = record.get("selected")
    if not stages:
        return NOT_RECORDED
    if len(stages) == 1:
        return str(stages[0]["epochs"])
    return " + ".join(f"{stage['epochs']} {stage['stage']}" for stage in stages)


def _batchnorm(said: _Sayer) -> str:
    """Whose images its statistics were taken over, where a row had several devices."""
    several = said.chosen(lambda record: record.get("num_devices") not in (None, 1))
    if not several:
        return ""
    return f"BatchNorm: {said.of(lambda record: record.get('batchnorm') or NOT_RECORDED)}. "


def _started_from(said: _Sayer) -> list[str]:
    """Rows that began with another run's weights, or took its first stages over."""
    lines = []
    begun = said.chosen(lambda record: record.get("init_from"))
    if begun:
        lines.append(f"Began with the weights of: {said.among(begun, _init_from)}.")
    weights = said.chosen(lambda record: (record.get("weights") or {}).get("name"))
    if weights:
        told = said.among(weights, lambda record: str(record["weights"]["name"]))
        lines.append(f"Pre-trained weights: {told}.")
    return lines


def _init_from(record: Record) -> str:
    told = record["init_from"]
    where = f"{told.get('dataset')}, protocol {told.get('protocol')}"
    return f"{told.get('label')} on {where} (run {told.get('run')})"


def _tuned(tables: Sequence[Table], names: Mapping[str, str]) -> list[str]:
    """For each tuned row, what its settings cost and what chose them; nothing where none is."""
    blocks = dict.fromkeys(
        (names[record["key"]], _study(record.get("tuning")))
        for table in tables
        for record in table.records
    )
    lines = [f"Tuned: {name} {told}." for name, told in blocks if told]
    plain = list(dict.fromkeys(name for name, told in blocks if not told))
    return [*lines, f"Not tuned: {_listed(plain)}."] if lines and plain else lines


def _study(told: Mapping[str, Any] | None) -> str:
    if told is None:
        return ""
    untuned, seeds = told.get("default_value"), ", ".join(map(str, told.get("seeds") or ()))
    hours, value = told.get("device_hours"), told.get("value")
    return (
        f"by {told.get('objective')} of {told.get('validation_images', 'unknown')} images on seeds "
        f"{seeds}, study {told.get('study')}, "
        f"trial {told.get('trial')} of {told.get('trials')} ({told.get('pruned')} pruned) of "
        f"{told.get('epochs')} epochs: {_number(value, '.4f')}, untuned "
        f"{_number(untuned, '.4f')}; {_number(hours, '.3g')} device-hours"
    )


def _number(value: object, form: str) -> str:
    return format(value, form) if isinstance(value, int | float) else "not known"


def _images(record: Record) -> str:
    digest = (record.get("key_parts") or {}).get("image_digest") or ""
    return f"Images: {digest[:12]}. " if digest else ""


def _shared_pictures(record: Record) -> str:
    told = [
        f"{one['num_images']} test images are in {one['parts'][0]} by {one['kind']}"
        for one in record.get("overlaps") or ()
        if one["kind"] in ("file bytes", "pixels") and one["parts"][1] == "test"
    ]
    return ", ".join(told)


def _said(pairs: Iterable[tuple[str, str]]) -> str:
    """The value all rows share; where they differ, each value with the rows it belongs to."""
    rows_of: dict[str, dict[str, None]] = {}
    for row_name, value in pairs:
        rows_of.setdefault(value, {})[row_name] = None
    if len(rows_of) == 1:
        return next(iter(rows_of))
    return "; ".join(f"{value} ({_listed(list(rows))})" for value, rows in rows_of.items())


def _listed(names: Sequence[str]) -> str:
    if len(names) <= _MOST_NAMES:
        return ", ".join(names)
    return f"{', '.join(names[: _MOST_NAMES - 1])} and {len(names) - _MOST_NAMES + 1} more"


def _groups(record: Record) -> str:
    return str(record.get("groups_note") or "none are known").rstrip(".")


def _notes(record: Record) -> str:
    notes = {**(record.get("protocol_notes") or {}), **(record.get("data_notes") or {})}
    texts = {
        name.replace("_", " "): str(len(note)) if _is_counted(name, note) else _in_words(note)
        for name, note in notes.items()
        if name not in _NOT_SHOWN
    }
    return "; ".join(f"{name}: {text}" for name, text in texts.items() if text) or "none"


def _is_counted(name: str, note: Any) -> bool:
    return name in _COUNTED and isinstance(note, Mapping | list | tuple)


def _in_words(note: Any) -> str:
    """A note's JSON value as a reader likes it: `train 50, val 12.5`."""
    if isinstance(note, Mapping):
        return ", ".join(f"{name} {_in_words(value)}" for name, value in note.items())
    if isinstance(note, list | tuple) and len(note) > _LONGEST_LIST:
        ends = [one for one in note if isinstance(one, int | float)]
        span = f", {_in_words(min(ends))} to {_in_words(max(ends))}" if ends else ""
        return f"{len(note)} values{span}"
    if isinstance(note, list | tuple):
        return "/".join(map(_in_words, note))
    if isinstance(note, float):
        return f"{note:.6g}"
    return "" if note is None else str(note).rstrip(".")


def _commit(record: Record) -> str:
    git = record.get("git")
    if not git:
        return "commit not recorded"
    dirty = " with uncommitted changes" if git.get("dirty") else ""
    return f"commit {str(git.get('commit', ''))[:12]}{dirty}"


def _versions(record: Record) -> str:
    versions = sorted((record.get("versions") or {}).items())
    return ", ".join(f"{package} {version}" for package, version in versions) or NOT_RECORDED


def keys_line(tables: Sequence[Table], titles: Sequence[str], names: Mapping[str, str]) -> str:
    """Which runs the rows are, where the table itself has no column for their keys."""
    shown = shown_keys(row for table in tables for row in table.rows)
    of_row: dict[str, list[str]] = {}
    for table, title in zip(tables, titles, strict=True):
        for row in table.rows:
            of_row.setdefault(names[row.key], []).append(f"{shown[row.key]} ({title})")
    told = [f"{name} {', '.join(keys)}" for name, keys in of_row.items()]
    more = f"; and {len(told) - _LONGEST_LIST} more" if len(told) > _LONGEST_LIST else ""
    return f"Keys: {'; '.join(told[:_LONGEST_LIST])}{more}."
