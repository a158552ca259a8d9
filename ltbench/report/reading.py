"""Records for tables, from one folder of results or several: checked, and cut to what is shown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from ltbench.errors import VerificationError
from ltbench.metrics import METRICS
from ltbench.registry import normalise
from ltbench.results import read_records

Record = dict[str, Any]

_Number = Annotated[float, Field(allow_inf_nan=False)] | None
_Count = Annotated[int, Field(ge=0)]
_Facts = dict[str, Any]
_STRICT = ConfigDict(extra="ignore", strict=True)
_NUM_NAMED = 5


class _Group(BaseModel):
    model_config = _STRICT

    classes: list[str]
    sensitivity: _Number


class _PerClass(BaseModel):
    model_config = _STRICT

    class_names: list[str]
    support: list[_Count]
    train_count: list[_Count]
    precision: list[_Number] = []
    sensitivity: list[_Number] = []
    specificity: list[_Number] = []
    f1: list[_Number] = []
    auc: list[_Number] = []


class _TestRest(BaseModel):
    model_config = _STRICT

    num_images: _Count | None = None
    num_classes: _Count | None = None
    num_tied: _Count | None = None
    classes_averaged: dict[str, _Count] = {}
    groups: dict[str, _Group] = {}
    per_class: _PerClass | None = None


_PLAIN = {name: (_Number, None) for name, metric in METRICS.items() if not metric.path}
_Test: type[BaseModel] = create_model("_Test", __base__=_TestRest, **_PLAIN)  # type: ignore[call-overload]


class _Parts(BaseModel):
    model_config = _STRICT

    test: _Test


class _Leak(BaseModel):
    model_config = _STRICT

    sentence: str
    noun: str | None = None


class _Overlap(BaseModel):
    model_config = _STRICT

    kind: str
    parts: Annotated[list[str], Field(min_length=2, max_length=2)]
    num_images: int


class _Stage(BaseModel):
    model_config = _STRICT

    stage: str
    epochs: int


class _Ledger(BaseModel):
    model_config = _STRICT

    num_parameters: _Number = None
    images_seen: _Number = None
    forward_passes_per_step: dict[str, float] | None = None
    train_time_s: _Number = None
    wall_time_s: _Number = None
    images_per_s: _Number = None
    peak_memory_mb: _Number = None
    pretraining: str | None = None


class _KeyParts(BaseModel):
    model_config = _STRICT

    image_digest: str | None = None
    config: _Facts = {}


class _Stored(BaseModel):
    """The fields of a record that tables read; the others are not looked at."""

    model_config = _STRICT

    label: str
    method: str
    preset: str | None = None
    dataset: str
    protocol: str
    key: Annotated[str, Field(min_length=1)]
    seed: _Count
    split_digest: str
    uses_validation: bool
    metrics: _Parts
    ledger: _Ledger = Field(default_factory=_Ledger)
    key_parts: _KeyParts = Field(default_factory=_KeyParts)
    protocol_notes: _Facts | None = None
    data_notes: _Facts | None = None
    groups_note: str | None = None
    group_noun: str | None = None
    leak: _Leak | None = None
    overlaps: list[_Overlap] | None = None
    recipe: str | None = None
    select: str | None = None
    selected: list[_Stage] | None = None
    precision: str | None = None
    device: str | None = None
    num_devices: int | None = None
    batchnorm: str | None = None
    threads: int | None = None
    render: str | None = None
    weights: _Facts | None = None
    init_from: _Facts | None = None
    tuning: _Facts | None = None
    versions: _Facts | None = None
    git: _Facts | None = None
    digest: str | None = None
    finished_at: str | None = None


_KEPT = tuple(name for name in _Stored.model_fields if name not in ("metrics", "key_parts"))
_KEPT_OF_TEST = tuple(name for name in _Test.model_fields if name != "per_class")
_KEPT_OF_CONFIG = ("dataset",)
# Equal in most records of a split: kept once, or ten thousand records would not fit in memory.
_SHARED = (
    *("protocol_notes", "data_notes", "leak", "overlaps", "versions", "git", "selected"),
    *("weights", "init_from", "tuning", "groups_note", "split_digest"),
)


class Intake:
    """Checks records as they are read, and keeps of them what tables show.

    Args:
        per_class: whether the numbers of each class are kept.
    """

    def __init__(self, *, per_class: bool = False) -> None:
        self._per_class = per_class
        self._last: dict[tuple[str, str], Any] = {}

    def __call__(self, record: Record) -> Record:
        """The record cut down.

        Raises:
            VerificationError: a field that tables read is missing or is not what it should be.
        """
        try:
            _Stored.model_validate(record)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(map(str, first["loc"]))
            raise VerificationError(
                f"it is not a whole record: {first['msg']} at '{field}' ({error.error_count()} "
                "such fields in all). Restore it from a copy, or move it away and run it again."
            ) from error
        slim = {name: record[name] for name in _KEPT if name in record}
        test = record["metrics"]["test"]
        kept = {name: test[name] for name in _KEPT_OF_TEST if name in test}
        if self._per_class and "per_class" in test:
            kept["per_class"] = test["per_class"]
        parts = record.get("key_parts") or {}
        config = parts.get("config") or {}
        slim["metrics"] = {"test": kept}
        slim["key_parts"] = {
            "image_digest": parts.get("image_digest"),
            "config": {name: config[name] for name in _KEPT_OF_CONFIG if name in config},
        }
        for name in _SHARED:
            if name in slim:
                slim[name] = self._shared(name, slim["key"], slim[name])
        return slim

    def _shared(self, name: str, key: str, value: Any) -> Any:
        """An equal value met before, of the same configuration or the one before it."""
        for where in ((name, key), (name, "")):
            if where in self._last and self._last[where] == value:
                return self._last[where]
        self._last[name, key] = self._last[name, ""] = value
        return value


def read(
    roots: Sequence[Path],
    *,
    methods: Iterable[str] | None = None,
    datasets: Iterable[str] | None = None,
    protocol: str | None = None,
    per_class: bool = False,
) -> tuple[list[Record], list[str]]:
    """The records of all runs that are done below one or several folders, and what was left out.

    A run that lies in two of the folders with the same digest is counted once, and said.

    Returns:
        Records cut to what tables show, each with its `folder`, in the order of `methods` where
        they are given, else in that of `run_folders`; and one message for each thing left out.

    Raises:
        VerificationError: two folders hold one run with different results.
    """
    names = None if methods is None else list(methods)
    wanted = None if datasets is None else list(datasets)
    intake = Intake(per_class=per_class)
    found: dict[tuple[str, str, str, int], Record] = {}
    notes: list[str] = []
    twice: list[str] = []
    for root in _different(roots):
        if len(roots) > 1 and not root.is_dir():
            notes.append(f"Left out: there is no folder {root}.")
        records, messages = read_records(
            root, methods=names, dataset=wanted, protocol=protocol, keep=intake
        )
        notes += messages
        for record in records:
            run = record["dataset"], record["protocol"], record["key"], record["seed"]
            if run in found:
                _check_same(found[run], record)
                twice.append(record["folder"])
            else:
                found[run] = record
    if twice:
        more = f" and {len(twice) - _NUM_NAMED} more" if len(twice) > _NUM_NAMED else ""
        notes.append(
            f"Counted once: {len(twice)} runs are in several places, with the same digest: "
            f"{', '.join(twice[:_NUM_NAMED])}{more}."
        )
    return _in_order(list(found.values()), names), notes


def _in_order(records: list[Record], methods: list[str] | None) -> list[Record]:
    """As the methods were given; runs of one method stay as they are."""
    if methods is None:
        return records
    places = {normalise(name): place for place, name in reversed(list(enumerate(methods)))}

    def place(record: Record) -> int:
        preset = f"@{record['preset']}" if record.get("preset") else ""
        return places.get(normalise(record["method"] + preset), len(places))

    return sorted(records, key=place)


def _different(roots: Iterable[Path]) -> list[Path]:
    """Each folder once, however it is written."""
    return list({root.expanduser().resolve(): root for root in roots}.values())


def _check_same(one: Record, other: Record) -> None:
    """Refuse two results of one run."""
    named = one.get("digest") and other.get("digest")
    same = one["digest"] == other["digest"] if named else one["metrics"] == other["metrics"]
    if not same:
        raise VerificationError(
            f"{one['folder']} and {other['folder']} are one run with different results. Expected "
            "copies of one run to have one digest: keep the folder that is right, and leave out "
            "the other."
        )
