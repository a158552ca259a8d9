"""What the images of a board are: split lists, groups and facts that no bundle may change."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ltbench.bundles.arrays import PARTS
from ltbench.bundles.portable import portable
from ltbench.config import dataset_config
from ltbench.data import lists
from ltbench.data.leaks import group_leak
from ltbench.data.lists import SplitLists, stored_split
from ltbench.dataset import Source
from ltbench.errors import DataMissingError, UsageError, VerificationError
from ltbench.files import canonical_json, read_json, write_json
from ltbench.registry import DATASETS, OWN_DATA
from ltbench.results import RunFolder
from ltbench.store.dataset import StoredDataset

__all__ = ["Reference", "of_data", "of_run"]

SPLIT: Final = "split.json"
GROUPS: Final = "groups.json"
# Facts of a record that follow from the data and the split alone.
FACTS = ("leak", "protocol_notes", "groups_note")


@dataclass(frozen=True)
class Reference:
    """The split a board is about.

    Attributes:
        lists: ids and classes of every part.
        groups: by part, the group of each id of `lists`; None where no groups are known.
        facts: `FACTS` of a record on this split.
    """

    lists: SplitLists
    groups: Mapping[str, tuple[str, ...] | None]
    facts: Mapping[str, Any]

    @property
    def train_counts(self) -> tuple[int, ...]:
        """Training images of each class."""
        counts = self.lists.counts["train"]
        assert counts is not None
        return counts

    def write(self, folder: Path) -> None:
        """Store it in a board's folder."""
        lists.save(self.lists, folder / SPLIT)
        groups = {part: None if of is None else list(of) for part, of in self.groups.items()}
        write_json(folder / GROUPS, {"groups": groups, "facts": dict(self.facts)})

    @classmethod
    def read(cls, folder: Path) -> Reference:
        """What `write` stored.

        Raises:
            DataMissingError, VerificationError: it is not there, or was changed.
        """
        found = lists.load(folder / SPLIT)
        told = read_json(folder / GROUPS)
        try:
            groups = {
                part: None if told["groups"][part] is None else tuple(told["groups"][part])
                for part in PARTS
            }
            for part in PARTS:
                ids, of = found.parts[part], groups[part]
                if of is not None and (ids is None or len(of) != len(ids)):
                    raise KeyError(part)
            return cls(found, groups, {fact: told["facts"][fact] for fact in FACTS})
        except (KeyError, TypeError) as error:
            raise VerificationError(
                f"{folder / GROUPS} is damaged: expected a group for each image of "
                f"{' and '.join(PARTS)} and the facts {', '.join(FACTS)}. Restore it from a copy."
            ) from error

    def differences(self, other: Reference) -> list[str]:
        """What differs from another reference, in words."""
        pairs = {
            "the split's digest": (self.lists.digest, other.lists.digest),
            "the source's digest": (self.lists.source_digest, other.lists.source_digest),
            "the groups": (dict(self.groups), dict(other.groups)),
            **{fact: (self.facts[fact], other.facts[fact]) for fact in FACTS},
        }
        return [what for what, (mine, theirs) in pairs.items() if mine != theirs]


def of_data(record: Mapping[str, Any], data_root: Path | None = None) -> Reference:
    """The split of a record's data set and protocol, made here from the data set itself.

    Args:
        record: says which; its data set's settings are those in its key.

    Raises:
        UsageError: no such data set or protocol, or it is data of the user's own.
        DataMissingError: neither its tables nor its pictures are here.
    """
    name, protocol = str(record["dataset"]), str(record["protocol"])
    plugin = DATASETS[name]
    if OWN_DATA in DATASETS.info(name).tags:
        raise UsageError(
            f"'{name}' reads data of one's own, which ltbench cannot find by name. Build the board "
            "from run folders, which lie beside their split lists."
        )
    settings = record["key_parts"]["config"]["dataset"]
    dataset = plugin(dataset_config(plugin, {"dataset": settings}), data_root)
    try:
        source = dataset.load(protocol)
    except DataMissingError as error:
        if not isinstance(dataset, StoredDataset):
            raise
        source = dataset.unread(protocol, str(error))  # tables alone say what is in which part
    with tempfile.TemporaryDirectory() as made:
        split, _ = stored_split(dataset, source, protocol, int(record["split_seed"]), Path(made))
        (file,) = Path(made).rglob("*.json")
        found = lists.load(file)
    leak = group_leak(source, split)
    facts = {
        "leak": None if leak is None else leak.as_note(),
        "protocol_notes": dict(split.notes),
        "groups_note": source.groups_note,
    }
    return Reference(found, _groups_of(found, source), _as_in_bundles(facts))


def _as_in_bundles(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Facts as they are read from JSON, without paths."""
    plain: dict[str, Any] = json.loads(canonical_json(portable(facts)))
    return plain


def _groups_of(found: SplitLists, source: Source) -> dict[str, tuple[str, ...] | None]:
    if source.groups is None:
        return dict.fromkeys(PARTS)
    group_of = dict(zip(source.ids.tolist(), source.groups.tolist(), strict=True))
    parts = {part: found.parts[part] for part in PARTS}
    return {
        part: None if ids is None else tuple(str(group_of[name]) for name in ids)
        for part, ids in parts.items()
    }


def of_run(run: RunFolder, data_root: Path | None = None) -> Reference:
    """The split of a finished run: from the lists that lie in its folder of results, else made.

    Raises:
        DataMissingError: neither lists nor data are here.
    """
    record = run.record()
    folder = run.path.parents[4] / "splits" / record["dataset"] / record["protocol"]
    for file in sorted(folder.glob("*.json")):
        found = lists.load(file)
        if found.digest == record["split_digest"]:
            facts = _as_in_bundles({fact: record[fact] for fact in FACTS})
            return Reference(found, _groups_in(run, found), facts)
    return of_data(record, data_root)


def _groups_in(run: RunFolder, found: SplitLists) -> dict[str, tuple[str, ...] | None]:
    """The groups that a run's predictions have stored."""
    groups: dict[str, tuple[str, ...] | None] = {}
    for part in PARTS:
        ids = found.parts[part]
        groups[part] = None
        if ids is None:
            continue
        predictions = run.read_predictions(part)
        if predictions.groups is not None:
            group_of = dict(zip(predictions.ids.tolist(), predictions.groups.tolist(), strict=True))
            groups[part] = tuple(group_of[name] for name in ids)
    return groups
