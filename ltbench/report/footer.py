"""What must be known to read a table, one statement a line, from the records alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

Record = Mapping[str, Any]

# Printed as a number: the record has every name, or every class, in full.
_COUNTED = ("left_out", "label_map")
_LONGEST_LIST = 20
_NOT_SHOWN = ("columns", "leak", "known_leak")  # the leak has a line of its own


def footer(
    records: Sequence[Record], names: Mapping[str, str], seeds: Mapping[str, Sequence[int]]
) -> list[str]:
    """Data, leak, recipe, machine and versions; where rows differ, which says what.

    Args:
        records: of one table.
        names: the row's name by key.
        seeds: the row's seeds by key.
    """
    first = records[0]

    def said(value: Callable[[Record], str]) -> str:
        return _said((names[record["key"]], value(record)) for record in records)

    devices = said(lambda record: f"{record['num_devices']} x {record['device']}")
    of_rows = _said((names[key], ", ".join(map(str, found))) for key, found in seeds.items())
    return [
        f"Data set: {first['dataset']}. Protocol: {first['protocol']}. "
        f"Split: {first['split_digest'][:12]}. {_images(first)}Results are of its test part.",
        f"Protocol notes: {said(_notes)}.",
        f"Leak: {said(leak)}.",
        f"Recipe: {said(lambda record: record['recipe'])}. Seeds: {of_rows}. "
        f"Selection: {said(lambda record: record['select'])}.",
        f"Devices: {devices}. {_batchnorm(records, said)}"
        f"Precision: {said(lambda record: record['precision'])}. "
        f"Threads: {said(lambda record: str(record['threads']))}. "
        f"Views: {said(lambda record: str(record.get('render', 'device')))}.",
        *_tuned(records, names),
        f"Versions: {said(_versions)}.",
        "Mean \N{PLUS-MINUS SIGN} sample standard deviation over seeds; rates in percent.",
    ]


def _tuned(records: Sequence[Record], names: Mapping[str, str]) -> list[str]:
    """For each tuned row, what its settings cost and what chose them; nothing where none is."""
    blocks = {names[record["key"]]: record.get("tuning") for record in records}
    lines = [f"Tuned: {name} {_study(told)}." for name, told in blocks.items() if told is not None]
    plain = [name for name, told in blocks.items() if told is None]
    return [*lines, f"Not tuned: {', '.join(plain)}."] if lines and plain else lines


def _study(told: Mapping[str, Any]) -> str:
    untuned, seeds = told["default_value"], ", ".join(map(str, told["seeds"]))
    return (
        f"by {told['objective']} of {told['validation_images']} images on seeds {seeds}, "
        f"study {told['study']}, trial {told['trial']} of {told['trials']} "
        f"({told['pruned']} pruned) of {told['epochs']} epochs: {told['value']:.4f}, untuned "
        f"{'not known' if untuned is None else f'{untuned:.4f}'}; "
        f"{told['device_hours']:.3g} device-hours"
    )


def _batchnorm(records: Sequence[Record], said: Callable[[Callable[[Record], str]], str]) -> str:
    """Whose images its statistics were taken over, where a row had several devices."""
    if all(record["num_devices"] == 1 for record in records):
        return ""
    return f"BatchNorm: {said(lambda record: record.get('batchnorm', 'not recorded'))}. "


def _images(record: Record) -> str:
    digest = (record.get("key_parts") or {}).get("image_digest", "")
    return f"Images: {digest[:12]}. " if digest else ""


def leak(record: Record) -> str:
    """What of the test's groups, files and pixels training holds too, without a full stop."""
    note, shared = record.get("leak"), _shared_pictures(record)
    told = (record.get("protocol_notes") or {}).get("known_leak")
    known = "groups are not known, so none can be measured" if note is None else note["sentence"]
    known = str(told) if told else known
    return f"{known}; {shared}" if shared else known


def _shared_pictures(record: Record) -> str:
    counts = [
        f"{one['num_images']} test images are in {one['parts'][0]} by {one['kind']}"
        for one in record.get("overlaps") or ()
        if one["kind"] in ("file bytes", "pixels") and one["parts"][1] == "test"
    ]
    return ", ".join(counts)


def _said(pairs: Iterable[tuple[str, str]]) -> str:
    """The value all rows share; where they differ, each value with the rows it belongs to."""
    rows_of: dict[str, list[str]] = {}
    for row_name, value in pairs:
        rows = rows_of.setdefault(value, [])
        if row_name not in rows:
            rows.append(row_name)
    if len(rows_of) == 1:
        return next(iter(rows_of))
    return "; ".join(f"{value} ({', '.join(rows)})" for value, rows in rows_of.items())


def _notes(record: Record) -> str:
    notes = {
        **(record.get("protocol_notes") or {}),
        **(record.get("data_notes") or {}),
        "groups note": record.get("groups_note"),
    }
    texts = {
        name.replace("_", " "): str(len(note)) if name in _COUNTED else _in_words(note)
        for name, note in notes.items()
        if name not in _NOT_SHOWN
    }
    return "; ".join(f"{name}: {text}" for name, text in texts.items() if text) or "none"


def _in_words(note: Any) -> str:
    """A note's JSON value as a reader likes it: `train 50, val 12.5`."""
    if isinstance(note, Mapping):
        return ", ".join(f"{name} {_in_words(value)}" for name, value in note.items())
    if isinstance(note, list | tuple) and len(note) > _LONGEST_LIST:
        return f"{len(note)} values, {_in_words(min(note))} to {_in_words(max(note))}"
    if isinstance(note, list | tuple):
        return "/".join(map(_in_words, note))
    if isinstance(note, float):
        return f"{note:.6g}"
    return "" if note is None else str(note).rstrip(".")


def _versions(record: Record) -> str:
    versions = sorted((record.get("versions") or {}).items())
    return ", ".join(f"{package} {version}" for package, version in versions) or "not recorded"
