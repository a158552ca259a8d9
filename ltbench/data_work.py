"""What the `data` commands do: show, fetch, prepare and audit a data set."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tabulate import tabulate

from ltbench.audit import Audit, audit
from ltbench.config import dataset_config, protocol_name
from ltbench.data.lists import stored_split
from ltbench.dataset import Dataset, FetchRequest, PrepareRequest, Source, Split
from ltbench.errors import DataMissingError, UsageError
from ltbench.registry import DATASETS, OWN_DATA, suggest
from ltbench.settings import nested
from ltbench.store.dataset import StoredDataset

Facts = dict[str, Any]


@dataclass(frozen=True)
class Subject:
    """A data set under one protocol, as the commands look at it.

    Attributes:
        unread: why the pictures cannot be read; "" where they can.
    """

    dataset: Dataset
    protocol: str
    source: Source
    split: Split
    split_digest: str
    unread: str


def open_dataset(
    target: str, settings: Mapping[str, Any] | None = None, data_root: Path | None = None
) -> Dataset:
    """The data set of a name, or the one that reads what lies at a path.

    Args:
        settings: by dotted name, such as dataset.csv.

    Raises:
        UsageError: neither; or settings that the data set does not know.
    """
    layers = nested(settings or {})
    if target in DATASETS:
        plugin = DATASETS[target]
        return _made(plugin, layers, data_root)
    path = Path(target)
    if not path.exists():
        raise UsageError(
            suggest("data set", target, DATASETS.names())
            + f"\nNor is there a file or folder at {path}."
        )
    for name in DATASETS.names():
        if OWN_DATA not in DATASETS.info(name).tags:
            continue
        plugin = DATASETS[name]
        found = plugin.opens(path)
        if found is not None:
            merged = {**layers, "dataset": {**dict(found), **layers.get("dataset", {})}}
            return _made(plugin, merged, data_root or (path if path.is_dir() else path.parent))
    raise UsageError(
        f"No data set reads {path}. Expected a folder of pictures or a table of them; see "
        "`python bench.py list datasets`."
    )


def _made(plugin: type[Dataset], settings: Facts, data_root: Path | None) -> Dataset:
    return plugin(dataset_config(plugin, settings), data_root)


def subject(dataset: Dataset, protocol: str | None, split_seed: int) -> Subject:
    """Load and split, from the tables alone where the pictures are not here."""
    plugin = type(dataset)
    name = dataset.choose_protocol(protocol_name(plugin, protocol or plugin.default_protocol))
    unread = ""
    try:
        source = dataset.load(name)
    except DataMissingError as error:
        if not isinstance(dataset, StoredDataset):
            raise
        unread = str(error)
        source = dataset.unread(name, unread)
    with tempfile.TemporaryDirectory() as folder:
        split, digest = stored_split(dataset, source, name, split_seed, Path(folder))
    return Subject(dataset, name, source, split, digest, unread)


def fetch(dataset: Dataset, request: FetchRequest) -> None:
    """Download a data set, where its plugin can; then say what comes next."""
    dataset.fetch(request)
    if OWN_DATA in dataset.info.tags:
        return
    if isinstance(dataset, StoredDataset):
        request.say(f"Next: {dataset.command('prepare')}")
        return
    protocol = dataset.choose_protocol(dataset.default_protocol)
    request.say(f"{dataset.info.name}: {len(dataset.load(protocol).images)} images are ready.")


def prepare(dataset: Dataset, request: PrepareRequest) -> None:
    """Decode a data set's files."""
    dataset.prepare(request)


def show(dataset: Dataset, protocol: str | None, split_seed: int) -> Facts:
    """Classes, counts a part, protocols, licence of a data set, and where it lies."""
    found = subject(dataset, protocol, split_seed)
    info, source = dataset.info, found.source
    sizes = "" if found.unread else _sizes(source)
    return {
        "name": info.name,
        "paper": info.paper,
        "licence": info.licence,
        "lies in": _place(dataset),
        "protocols": dict(dataset.protocols),
        "protocol": found.protocol,
        "split_seed": split_seed,
        "split_digest": found.split_digest,
        "pictures": sizes or f"not read: {found.unread.splitlines()[0]}",
        "groups_note": source.groups_note,
        "notes": {**source.notes, **found.split.notes},
        "classes": _class_rows(source, found.split),
    }


def _place(dataset: Dataset) -> str:
    if isinstance(dataset, StoredDataset):
        return f"{dataset.root}; store: {dataset.store_folder()}"
    return str(dataset.data_root or "")


def _sizes(source: Source) -> str:
    sizes = source.images.sizes
    low, high = sizes.min(axis=0).tolist(), sizes.max(axis=0).tolist()
    span = "x".join(map(str, low)) + ("" if low == high else f" to {'x'.join(map(str, high))}")
    return f"{len(sizes)}, {span} pixels (height x width), {source.images.channels} channels"


def _class_rows(source: Source, split: Split) -> list[Facts]:
    """Images of each class in each part."""
    parts = {"train": split.train, "val": split.val, "test": split.test}
    return [
        {"class": class_name}
        | {
            part: int((source.targets[positions] == index).sum())
            for part, positions in parts.items()
            if positions is not None
        }
        for index, class_name in enumerate(source.class_names)
    ]


def render_data(facts: Facts) -> str:
    """`show` for a terminal."""
    plain = ("name", "paper", "licence", "lies in", "protocol", "split_seed", "split_digest")
    lines = [f"{key}: {facts[key]}" for key in (*plain, "pictures", "groups_note") if facts[key]]
    lines += [f"protocol {name}: {text}" for name, text in facts["protocols"].items()]
    lines += [f"{key}: {value}" for key, value in facts["notes"].items()]
    return "\n".join([*lines, "", tabulate(facts["classes"], headers="keys")])


def audit_data(
    dataset: Dataset, protocol: str | None, split_seed: int, *, perceptual: bool = True
) -> tuple[Facts, bool]:
    """(the proof that the parts share nothing or what they share, whether that is in order).

    A leak is in order under a protocol that names it.
    """
    found = subject(dataset, protocol, split_seed)
    if not found.unread:
        dataset.verify()
    result = audit(found.source, found.split, unread=found.unread, perceptual=perceptual)
    named = found.protocol in dataset.leaky and result.shares_groups_only
    facts = {
        "name": dataset.info.name,
        "protocol": found.protocol,
        "split_seed": split_seed,
        "split_digest": found.split_digest,
        "class_names": list(found.source.class_names),
        "groups_note": found.source.groups_note,
        "counts": dict(result.counts),
        "missing_classes": {part: names for part, names in result.missing.items() if names},
        "num_groups": dict(result.num_groups),
        "measured_imbalance": result.imbalance and round(result.imbalance, 2),
        "leak": None if result.leak is None else result.leak.as_note(),
        "overlaps": [overlap.as_fact() for overlap in result.overlaps],
        "alike": [overlap.as_fact() for overlap in result.alike],
        "equal_within": dict(result.within),
        "contradicting": [list(pair) for pair in result.contradicting],
        "unread": result.unread,
        "left_out": found.source.notes.get("left_out", {}),
        "notes": dict(found.source.notes),
        "named_leak": named,
        "verdict": _verdict(result, named),
    }
    return facts, result.is_clean or named


def _verdict(result: Audit, named: bool) -> str:
    if result.is_clean:
        compared = ["names", *(["groups"] if result.leak is not None else [])]
        compared += [] if result.unread else ["files", "pixels"]
        known = "" if result.leak is not None else "; groups are not known"
        return f"clean: the parts share no {', '.join(compared)}{known}"
    leak = "" if result.leak is None or not result.leak.shares else f": {result.leak.sentence()}"
    if named:
        return f"leaks, as this protocol is known to{leak}"
    kinds = ", ".join(dict.fromkeys(overlap.kind for overlap in result.overlaps))
    return f"LEAK ({kinds}){leak}"


def render_audit(facts: Facts) -> str:
    """`audit_data` for a terminal."""
    lines = [f"{facts['name']}, protocol {facts['protocol']}, split seed {facts['split_seed']}"]
    lines.append(f"verdict: {facts['verdict']}")
    lines += [
        f"{key.replace('_', ' ')}: {facts[key]}"
        for key in ("split_digest", "groups_note", "measured_imbalance", "unread")
        if facts[key] not in ("", None)
    ]
    lines += [f"no image of {', '.join(n)} in {p}" for p, n in facts["missing_classes"].items()]
    lines += [_overlap_line(one, "shared") for one in facts["overlaps"]]
    lines += [_overlap_line(one, "alike (advisory)") for one in facts["alike"]]
    lines += [
        f"equal pixels within {part}: {count} images (advisory)"
        for part, count in facts["equal_within"].items()
        if count
    ]
    lines += [
        f"equal pixels, different classes: {first} and {second}"
        for first, second in facts["contradicting"]
    ]
    lines += [
        f"{name.replace('_', ' ')}: {note}"
        for name, note in facts["notes"].items()
        if name != "left_out"
    ]
    lines += [f"left out: {name}: {reason}" for name, reason in facts["left_out"].items()]
    leaking = (facts["leak"] or {}).get("classes", {})
    rows = [
        {"class": name, **{part: counts[i] for part, counts in facts["counts"].items()}}
        | ({"test in training": "{} of {}".format(*leaking[name])} if leaking else {})
        for i, name in enumerate(facts["class_names"])
    ]
    rows.append({"class": "images", **{p: sum(c) for p, c in facts["counts"].items()}})
    if facts["num_groups"]:
        rows.append({"class": "groups", **facts["num_groups"]})
    return "\n".join([*lines, "", tabulate(rows, headers="keys")])


def _overlap_line(fact: Facts, word: str) -> str:
    first, second = fact["parts"]
    share = 100 * fact["num_images"] / fact["num_in_part"]
    example = " ~ ".join(fact["examples"][0])
    return (
        f"{word}, {fact['kind']}: {fact['num_images']} of {fact['num_in_part']} images of "
        f"{second} ({share:.1f} %) match {first}, such as {example}"
    )
