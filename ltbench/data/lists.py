"""Stored splits: the ids of every part, with hashes. Written once, read ever after.

What a run trains and tests on is a file that can be read, compared and handed on; a new version of
any library finds the file and cannot change the split in silence.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from ltbench.dataset import Dataset, Source, Split
from ltbench.errors import VerificationError
from ltbench.files import canonical_json, read_json, sha256_hex, storage_errors, write_json

__all__ = ["SplitLists", "load", "make_lists", "save", "source_digest", "stored_split", "to_split"]

Part = Literal["train", "val", "test"]
_KEY_LENGTH = 16
_REMAKE = (
    "Restore the file from a copy, or move it away and run the same command again to remake it."
)


class SplitLists(BaseModel):
    """A split by image ids and class names, as it lies in a file.

    Attributes:
        seed: of the split.
        settings: of the data set, in full, JSON-able.
        class_names: C names, in the order of the class indices.
        parts: ids of each part, in the order of the source; None for no validation.
        classes: the class name of each id in `parts`.
        counts: images of each class in each part, C numbers.
        notes: of the `Split`, JSON-able.
        source_digest: of what the split was made from; see the function of that name.
        digest: of what the split is: class names, ids and their classes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    dataset: str
    protocol: str
    seed: int
    settings: dict[str, Any]
    class_names: tuple[str, ...]
    parts: dict[Part, tuple[str, ...] | None]
    classes: dict[Part, tuple[str, ...] | None]
    counts: dict[Part, tuple[int, ...] | None]
    notes: dict[str, Any]
    source_digest: str
    digest: str

    def content_digest(self) -> str:
        """What `digest` must be: SHA-256 over the canonical JSON of what the split is."""
        return _content_digest(self.class_names, self.parts, self.classes)


def source_digest(source: Source) -> str:
    """SHA-256 (hex) over ids, class names, targets, groups and partition: all a split can use.

    Raises:
        VerificationError: two images have one id.
    """
    _positions_by_id(source)
    facts = {
        "ids": source.ids.tolist(),
        "class_names": source.class_names,
        "targets": source.targets.tolist(),
        "groups": None if source.groups is None else source.groups.tolist(),
        "partition": None if source.partition is None else source.partition.tolist(),
    }
    return _digest_of(facts)


def make_lists(
    split: Split,
    source: Source,
    *,
    dataset: str,
    protocol: str,
    seed: int,
    settings: Mapping[str, Any],
) -> SplitLists:
    """Turn positions into ids and class names."""
    names = np.array(source.class_names)
    parts: dict[Part, tuple[str, ...] | None] = {}
    classes: dict[Part, tuple[str, ...] | None] = {}
    counts: dict[Part, tuple[int, ...] | None] = {}
    for part, positions in _positions_of(split).items():
        parts[part] = classes[part] = counts[part] = None
        if positions is not None:
            targets = source.targets[positions]
            parts[part] = tuple(source.ids[positions].tolist())
            classes[part] = tuple(names[targets].tolist())
            counts[part] = tuple(np.bincount(targets, minlength=len(names)).tolist())
    return SplitLists(
        dataset=dataset,
        protocol=protocol,
        seed=seed,
        settings=dict(settings),
        class_names=source.class_names,
        parts=parts,
        classes=classes,
        counts=counts,
        notes=dict(split.notes),
        source_digest=source_digest(source),
        digest=_content_digest(source.class_names, parts, classes),
    )


def save(lists: SplitLists, path: Path) -> None:
    """Write the lists as JSON: the whole file or none; its folder is made where it is missing.

    Raises:
        RunFailedError, UsageError: the folder is full, or cannot be written to.
    """
    with storage_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, lists.model_dump(mode="json"))


def load(path: Path) -> SplitLists:
    """Read lists and check that they are what was written.

    Raises:
        DataMissingError: there is no such file.
        VerificationError: the file is damaged, or its ids or classes were changed.
    """
    try:
        lists = SplitLists.model_validate(read_json(path))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(step) for step in first["loc"])
        raise VerificationError(
            f"{path} does not hold split lists: {where or 'it'}: {first['msg']}. {_REMAKE}"
        ) from error
    found = lists.content_digest()
    if found != lists.digest:
        raise VerificationError(
            f"The split lists in {path} were changed: expected digest {lists.digest}, the ids and "
            f"classes there give {found}. {_REMAKE}"
        )
    return lists


def to_split(lists: SplitLists, source: Source) -> Split:
    """Turn ids back into positions.

    Raises:
        VerificationError: an id the source does not have, has with another class, or that stands in
            the lists twice; other class names than the source's.
    """
    if lists.class_names != source.class_names:
        raise VerificationError(
            f"Expected the classes {', '.join(source.class_names)} in this order, the split lists "
            f"have {', '.join(lists.class_names)}. Use the lists with the data they were made of."
        )
    position_of = _positions_by_id(source)
    seen: set[str] = set()
    found: dict[str, np.ndarray | None] = {}
    for part, ids in lists.parts.items():
        classes = lists.classes[part]
        if ids is None or classes is None:
            found[part] = None
            continue
        for name, class_name in zip(ids, classes, strict=True):
            _check_entry(name, class_name, part, seen, source, position_of)
        seen.update(ids)
        found[part] = np.sort(np.array([position_of[name] for name in ids], dtype=np.int64))
    train, val, test = found["train"], found["val"], found["test"]
    assert train is not None
    assert test is not None
    return Split(train=train, val=val, test=test, notes=lists.notes)


def stored_split(
    dataset: Dataset, source: Source, protocol: str, seed: int, folder: Path
) -> tuple[Split, str]:
    """The split of a data set, from its file if there is one, else made and stored.

    The file is folder / data set / protocol / <hash>.json; the hash covers data set, protocol,
    settings, seed and `source_digest`, so that whatever could change a split has a file of its own.

    Returns:
        (split, digest of its lists).

    Raises:
        VerificationError: the stored lists are damaged, or do not fit the source.
    """
    key: dict[str, Any] = {
        "dataset": dataset.info.name,
        "protocol": protocol,
        "settings": dataset.split_settings(protocol),
        "seed": seed,
        "source_digest": source_digest(source),
    }
    path = folder / dataset.info.name / protocol / f"{_digest_of(key)[:_KEY_LENGTH]}.json"
    if not path.is_file():
        about = {name: value for name, value in key.items() if name != "source_digest"}
        made = make_lists(dataset.split(source, protocol, seed), source, **about)
        # Two processes may both get here: each puts the same lists in place, whole.
        save(made, path)
    lists = load(path)
    for name, expected in key.items():
        came = getattr(lists, name)
        if came != expected:
            raise VerificationError(
                f"{path} holds the split of another case: expected {name} {expected}, it says "
                f"{came}. {_REMAKE}"
            )
    return to_split(lists, source), lists.digest


def _digest_of(facts: Any) -> str:
    return sha256_hex(canonical_json(facts).encode())


def _content_digest(
    class_names: tuple[str, ...],
    parts: Mapping[Part, tuple[str, ...] | None],
    classes: Mapping[Part, tuple[str, ...] | None],
) -> str:
    return _digest_of({"class_names": class_names, "parts": parts, "classes": classes})


def _positions_of(split: Split) -> dict[Part, np.ndarray | None]:
    return {"train": split.train, "val": split.val, "test": split.test}


def _positions_by_id(source: Source) -> dict[str, int]:
    position_of = {name: position for position, name in enumerate(source.ids.tolist())}
    if len(position_of) != len(source.ids):
        names, times = np.unique(source.ids, return_counts=True)
        raise VerificationError(
            f"Expected one image an id, '{names[times.argmax()]}' names {times.max()}. "
            "Give every image an id of its own."
        )
    return position_of


def _check_entry(
    name: str,
    class_name: str,
    part: str,
    seen: set[str],
    source: Source,
    position_of: Mapping[str, int],
) -> None:
    if name not in position_of:
        raise VerificationError(
            f"The {part} list names the image '{name}', which the data do not have. "
            "Use the lists with the data they were made of, or fetch the missing images."
        )
    came = source.class_names[source.targets[position_of[name]]]
    if came != class_name:
        raise VerificationError(
            f"The {part} list has '{name}' as class '{class_name}', the data as '{came}'. "
            "Use the lists with the data they were made of."
        )
    if name in seen:
        raise VerificationError(
            f"The image '{name}' stands in the {part} list and in another part. Expected parts "
            "without a common image: do not use these lists."
        )
