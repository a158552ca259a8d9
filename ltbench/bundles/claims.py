"""What a record claims of itself, held against its key, its configuration and its predictions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from ltbench.bundles.portable import portable
from ltbench.cell import plugin_digest
from ltbench.config import rebuild
from ltbench.errors import LtbenchError
from ltbench.files import canonical_json, sha256_hex
from ltbench.labels import label_problem
from ltbench.predictions import Predictions
from ltbench.registry import DATASETS, METHODS
from ltbench.stored_predictions import predictions_digest

__all__ = [
    "TOLERANCE",
    "claim_problems",
    "config_problems",
    "declared_problems",
    "differences",
    "digest_problems",
    "key_problems",
    "shortened",
]

TOLERANCE: Final = 1e-9
"""How far a claimed metric may be from the one computed here."""

Facts = Mapping[str, Any]

_KEY_LENGTH = 16
_LONGEST = 80
_LARGEST = 1e300
# Settings of a configuration that its key holds in another form: places left out, files by digest.
_ANOTHER_FORM = frozenset({"dataset", "weights", "init_from", "tuned"})


def key_problems(record: Facts) -> list[str]:
    """Where a record's key is not the digest of what it says the key is made of."""
    parts = record["key_parts"]
    key = sha256_hex(canonical_json(parts).encode())[:_KEY_LENGTH]
    if not isinstance(parts, dict) or key != record["key"]:
        return [f"its key is {record['key']}, but its key parts give {key}."]
    alike = ("split_digest", "precision", "num_devices", "threads", "render")
    pairs = {name: (record.get(name), parts.get(name)) for name in alike}
    return [
        f"{name}: the record says {shortened(told)}, its key {shortened(keyed)}."
        for name, (told, keyed) in pairs.items()
        if told != keyed
    ]


def config_problems(config: Facts, record: Facts) -> list[str]:
    """Where a configuration is not the one that the record and its key speak of."""
    hashed = record["key_parts"].get("config")
    if not isinstance(hashed, dict):
        return ["its key parts hold no configuration."]
    said = {"seed": record["seed"], "split_seed": record["split_seed"]}
    said |= {f"{what}_name": record[what] for what in ("method", "dataset")}
    said |= {name: record[name] for name in ("preset", "protocol", "recipe", "select")}
    keyed = {name: value for name, value in hashed.items() if name not in _ANOTHER_FORM}
    problems = [
        f"{name}: {who} says {shortened(value)}, config.json {shortened(config.get(name))}."
        for who, facts in (("the record", said), ("the key", keyed))
        for name, value in facts.items()
        if config.get(name) != value
    ]
    own = "@".join(str(part) for part in (record["method"], record["preset"]) if part)
    # In bundles without paths, which the key may hold.
    found = [label_problem(record["label"], own, told) for told in (hashed, portable(hashed))]
    return problems if "" in found else [*problems, found[0]]


def declared_problems(config: Facts, record: Facts) -> list[str]:
    """Where a record denies, or claims, feedback from validation that its method has or has not.

    Asked of methods whose source here is the key's; of others nothing is known, as nothing of a
    bundle is run.
    """
    name, parts = str(record["method"]), record["key_parts"]
    if name not in METHODS or str(record["dataset"]) not in DATASETS:
        return []
    method = METHODS[name]
    if plugin_digest(method) != parts.get("method_digest"):
        return []
    try:
        built = rebuild(dict(config))
    except (LtbenchError, KeyError) as error:
        return [f"its configuration cannot be read: {error}"]
    declares = method.uses_validation(built.method)
    expected = {
        "uses_validation": declares and built.feedback_split == "validation",
        "feedback_split": built.feedback_split if declares else None,
    }
    return [
        f"{fact}: the record says {shortened(record.get(fact))}, its method declares {value!r}."
        for fact, value in expected.items()
        if record.get(fact) != value
    ]


def claim_problems(record: Facts, part: str, found: Facts) -> list[str]:
    """Claimed metrics of a part that are not those found in its predictions."""
    claimed = record["metrics"].get(part)
    if claimed is None:
        return [f"{part}: the record claims no metrics, but there are predictions."]
    return [
        f"{part}: {where}: claimed {shortened(came)}, its predictions give {shortened(expected)}."
        for where, came, expected in differences(claimed, found)
    ]


def digest_problems(record: Facts, predictions: Mapping[str, Predictions | None]) -> list[str]:
    """Digests in the record that are not those of the predictions."""
    digests = dict(record["digests"])
    problems = []
    for part, given in predictions.items():
        found = None if given is None else predictions_digest(given)
        if digests.get(part) != found:
            problems.append(
                f"{part}: the record says digest {shortened(digests.get(part))} of its "
                f"predictions, they have {shortened(found)}."
            )
    joined = sha256_hex("".join(str(digests[name]) for name in sorted(digests)).encode())
    if record["digest"] != joined:
        problems.append("the record's digest is not that of its digests joined.")
    return problems


def differences(
    claimed: Any, found: Any, tolerance: float = TOLERANCE, where: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """(where, claimed, found) of every entry that differs, by more than `tolerance` for numbers.

    An entry that is not claimed is no difference; one that is claimed and was not found is.
    """
    if isinstance(claimed, Mapping) and isinstance(found, Mapping):
        for name in claimed:
            inside = f"{where}.{name}" if where else str(name)
            yield from differences(claimed[name], found.get(name), tolerance, inside)
    elif isinstance(claimed, list) and isinstance(found, list) and len(claimed) == len(found):
        for index, (mine, theirs) in enumerate(zip(claimed, found, strict=True)):
            yield from differences(mine, theirs, tolerance, f"{where}[{index}]")
    elif _is_number(claimed) and _is_number(found):
        if not abs(claimed - found) <= tolerance:
            yield where, claimed, found
    elif claimed != found:
        yield where, claimed, found


def _is_number(value: Any) -> bool:
    """Whether arithmetic can be done with it: no integer that float64 cannot hold."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _LARGEST


def shortened(value: Any) -> str:
    """A value for a message."""
    try:
        text = repr(value)
    except ValueError:  # Python prints no integer of more than 4300 digits
        text = f"a {type(value).__name__} of more digits than are printed"
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
