"""A bundle as its reader has it: every member checked, its records fitting what they describe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ltbench.bundles.arrays import read_predictions
from ltbench.bundles.claims import config_problems, declared_problems, key_problems, shortened
from ltbench.bundles.manifest import Manifest, read_manifest, seed_members, sources_digest
from ltbench.bundles.members import Members
from ltbench.errors import VerificationError
from ltbench.predictions import Predictions
from ltbench.results import SCHEMA_VERSION

__all__ = ["Bundle", "open_bundle", "refuse", "type_problems"]

Facts = dict[str, Any]

_MOST_TOLD = 12
# Facts that all seeds of a row share, and that its manifest repeats.
_IN_MANIFEST = ("label", "key", "dataset", "protocol", "split_digest", "class_names")
_SHARED = (
    *_IN_MANIFEST,
    *("schema_version", "method", "preset", "recipe", "select", "uses_validation", "key_parts"),
    *("leak", "protocol_notes", "groups_note", "train_counts", "split_seed"),
)
_NEEDED = (
    *(*_SHARED, "seed", "name", "metrics", "digests", "digest", "ledger", "versions"),
    *("command", "precision", "device", "num_devices", "threads", "feedback_split"),
)
_TYPES: Mapping[type, tuple[str, ...]] = {
    dict: ("key_parts", "metrics", "digests", "ledger", "versions", "protocol_notes"),
    str: ("label", "method", "dataset", "protocol", "split_digest", "key", "name", "device"),
    list: ("class_names", "train_counts"),
    int: ("seed", "split_seed", "num_devices", "threads"),
    bool: ("uses_validation",),
}


@dataclass(frozen=True)
class Bundle:
    """A bundle whose members are what its manifest says.

    Attributes:
        records, configs: by seed, as their maker's machine wrote them, without paths.
    """

    members: Members
    manifest: Manifest
    records: Mapping[int, Facts]
    configs: Mapping[int, Facts]

    @property
    def path(self) -> Path:
        """Where it lies."""
        return self.members.path

    @property
    def first(self) -> Facts:
        """The record of the first seed, for what all of them share."""
        return self.records[self.manifest.seeds[0]]

    def predictions(self, seed: int) -> dict[str, Predictions | None]:
        """The predictions of one seed by part, "val" and "test"."""
        name = seed_members(seed)["predictions"]
        data = self.members.read_checked(name, self.manifest.members[name])
        return read_predictions(self.members, name, data)

    @cached_property
    def sources(self) -> list[tuple[str, str]]:
        """(name, text) of the method's source files, in the order of their digest."""
        texts = []
        for file, member in self.manifest.plugin.files:
            data = self.members.read_checked(member, self.manifest.members[member])
            try:
                texts.append((file, data.decode("utf-8")))
            except UnicodeDecodeError as error:
                raise self.members.fault(f"{member} is no text in UTF-8: {error}.") from error
        return texts


def refuse(where: object, problems: Sequence[str]) -> None:
    """Raise one error that names every problem, where there is any."""
    if not problems:
        return
    told = [*problems[:_MOST_TOLD]]
    if len(problems) > _MOST_TOLD:
        told.append(f"and {len(problems) - _MOST_TOLD} more")
    raise VerificationError(
        f"{where} is refused, {len(problems)} problem{'s' if len(problems) > 1 else ''}:"
        + "".join(f"\n  {problem}" for problem in told)
    )


def open_bundle(path: Path) -> Bundle:
    """Read a bundle; no code in it is run, and nothing is unpacked onto the disk.

    Raises:
        DataMissingError: nothing is there.
        VerificationError: it is damaged, was changed after it was made, has another schema, or its
            records do not fit its manifest, its configurations or each other.
    """
    members = Members(path)
    manifest = read_manifest(members)
    found: dict[str, dict[int, Facts]] = {"record": {}, "config": {}}
    for seed in manifest.seeds:
        for what, of_seed in found.items():
            name = seed_members(seed)[what]
            of_seed[seed] = members.json(name, members.read_checked(name, manifest.members[name]))
    bundle = Bundle(members, manifest, found["record"], found["config"])
    for seed in manifest.seeds:
        refuse(path, [f"seed {seed}: {one}" for one in _record_problems(bundle, seed)])
    refuse(path, _shared_problems(bundle))
    refuse(path, _source_problems(bundle))
    return bundle


def _record_problems(bundle: Bundle, seed: int) -> list[str]:
    record, manifest = bundle.records[seed], bundle.manifest
    version = record.get("schema_version")
    if version != SCHEMA_VERSION:
        return [f"expected a record of schema version {SCHEMA_VERSION}, came {version!r}."]
    missing = [name for name in _NEEDED if name not in record]
    if missing:
        return [
            f"the record lacks {', '.join(missing)}. Make the bundle with `leaderboard bundle`."
        ]
    wrong = type_problems(record)
    if wrong:
        return wrong
    problems = [
        f"{name}: the manifest says {shortened(expected)}, the record {shortened(record[name])}."
        for name, expected in manifest.model_dump(mode="json", include=set(_IN_MANIFEST)).items()
        if record[name] != expected
    ]
    if record["seed"] != seed:
        problems.append(f"the record in seed-{seed}/ says it is of seed {record['seed']!r}.")
    problems += key_problems(record)
    config = bundle.configs[seed]
    problems += config_problems(config, record)
    return problems or declared_problems(config, record)


def type_problems(record: Mapping[str, Any]) -> list[str]:
    """Facts of a record that are of another type than the schema has them."""
    return [
        f"{name} is {shortened(record[name])}; expected {kind.__name__}."
        for kind, names in _TYPES.items()
        for name in names
        if name in record and type(record[name]) is not kind
    ]


def _shared_problems(bundle: Bundle) -> list[str]:
    """Facts in which the seeds of a row differ, and seeds that are one run twice."""
    problems = []
    first, owners = bundle.first, dict[str, int]()
    for seed, record in bundle.records.items():
        problems += [
            f"{name} differs between the seeds {first['seed']} and {seed}; a bundle is one "
            "configuration."
            for name in _SHARED
            if record[name] != first[name]
        ]
        digest = str(record["digests"].get("test", f"none of seed {seed}"))
        if digest in owners:
            problems.append(
                f"the seeds {owners[digest]} and {seed} have the same test predictions: one run "
                "counted twice makes the spread look smaller than it is."
            )
        owners[digest] = seed
    return problems


def _source_problems(bundle: Bundle) -> list[str]:
    plugin, expected = bundle.manifest.plugin, bundle.first["key_parts"].get("method_digest")
    found = sources_digest(bundle.sources)
    if plugin.name != bundle.first["method"]:
        return [f"the plugin is '{plugin.name}', the record's method '{bundle.first['method']}'."]
    if not plugin.digest == found == expected:
        return [
            f"the method's source: its key says {str(expected)[:12]}, the manifest "
            f"{plugin.digest[:12]}, and the files in plugin/ give {found[:12]}. Make the bundle "
            "with the source the runs were trained with."
        ]
    return []
