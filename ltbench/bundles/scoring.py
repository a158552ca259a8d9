"""Every number of a bundle computed again from its predictions, and held against its claims."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from ltbench.bundles.arrays import PARTS
from ltbench.bundles.claims import claim_problems, digest_problems, shortened
from ltbench.bundles.reading import Bundle, refuse
from ltbench.bundles.reference import FACTS, Reference
from ltbench.metrics import evaluate
from ltbench.predictions import Predictions

__all__ = ["class_problems", "image_problems", "rescored"]

_EXAMPLES = 3


def rescored(bundle: Bundle, reference: Reference) -> list[dict[str, Any]]:
    """The bundle's records with the metrics that its predictions have.

    Raises:
        VerificationError: images, classes, targets, groups or split are not the reference's; a
            logit is NaN or infinite; a claimed number is off by more than `TOLERANCE`; a digest
            does not fit. Every problem is named.
    """
    refuse(bundle.path, _split_problems(bundle, reference))
    records = []
    for seed in bundle.manifest.seeds:
        record, metrics = bundle.records[seed], dict[str, Any]()
        problems: list[str] = []
        predictions = bundle.predictions(seed)
        for part in PARTS:
            found = image_problems(predictions[part], part, reference)
            problems += [f"{part}: {problem}" for problem in found]
            given = predictions[part]
            metrics[part] = None
            if given is not None and not found:
                metrics[part] = evaluate(given, reference.train_counts)
                problems += claim_problems(record, part, metrics[part])
        problems += digest_problems(record, predictions)
        refuse(bundle.path, [f"seed {seed}, {problem}" for problem in problems])
        records.append({**record, "metrics": metrics})
    return records


def _split_problems(bundle: Bundle, reference: Reference) -> list[str]:
    record, lists = bundle.first, reference.lists
    pairs: dict[str, tuple[Any, Any]] = {
        "data set": (lists.dataset, record["dataset"]),
        "protocol": (lists.protocol, record["protocol"]),
        "split digest": (lists.digest, record["split_digest"]),
        "split seed": (lists.seed, record["split_seed"]),
        "digest of the data the split was made from": (
            lists.source_digest,
            record["key_parts"].get("source_digest"),
        ),
        **{fact.replace("_", " "): (reference.facts[fact], record[fact]) for fact in FACTS},
    }
    problems = [
        f"{what}: expected {shortened(expected)}, came {shortened(came)}. A number on another "
        "split is another quantity: run it on the board's split, or give it a board of its own."
        for what, (expected, came) in pairs.items()
        if expected != came
    ]
    return problems + class_problems(record["class_names"], lists.class_names)


def class_problems(came: Sequence[str], expected: Sequence[str]) -> list[str]:
    """Where class names are not the expected ones in the expected order."""
    if tuple(came) == tuple(expected):
        return []
    if sorted(came) == sorted(expected):
        return [
            f"the classes stand in another order: expected {_some(expected)}, came {_some(came)}. "
            "A column of logits would be read as another class."
        ]
    return [f"expected the classes {_some(expected)}, came {_some(came)}."]


def image_problems(given: Predictions | None, part: str, reference: Reference) -> list[str]:
    """Where predictions are not of the images, classes, targets and groups of a part."""
    ids = reference.lists.parts[part]  # type: ignore[index]
    if given is None or ids is None:
        if given is None and ids is None:
            return []
        there = "has" if given is None else "has no"
        came = "none" if given is None else f"{len(given.ids)}"
        return [f"the split {there} such a part, came predictions of {came} images."]
    problems = class_problems(given.class_names, reference.lists.class_names)
    came = given.ids.tolist()
    twice = [name for name, times in Counter(came).items() if times > 1]
    if twice:
        problems.append(f"expected each image once; {len(twice)} stand twice: {_some(twice)}.")
    foreign, missing = set(came) - set(ids), set(ids) - set(came)
    if foreign:
        problems.append(f"{len(foreign)} images are not of this part: {_some(sorted(foreign))}.")
    if missing:
        problems.append(
            f"{len(missing)} of {len(ids)} images are missing: {_some(sorted(missing))}. A score "
            "needs all of them."
        )
    if not np.isfinite(given.logits).all():
        bad = given.ids[~np.isfinite(given.logits).all(axis=1)].tolist()
        problems.append(f"NaN or infinite logits of {len(bad)} images: {_some(bad)}.")
    return problems or [*_altered(given, part, reference)]


def _altered(given: Predictions, part: str, reference: Reference) -> Iterator[str]:
    """Targets and groups that are not those of the reference; the ids are known to be right."""
    lists = reference.lists
    ids, classes = lists.parts[part], lists.classes[part]  # type: ignore[index]
    assert ids is not None
    assert classes is not None
    index_of = {name: index for index, name in enumerate(lists.class_names)}
    target_of = {name: index_of[of] for name, of in zip(ids, classes, strict=True)}
    pairs = zip(given.ids.tolist(), given.targets.tolist(), strict=True)
    altered = [name for name, target in pairs if target != target_of[name]]
    if altered:
        yield f"{len(altered)} targets are not the data set's: {_some(altered)}."
    groups = reference.groups[part]
    if (groups is None) != (given.groups is None):
        known = ("known", "not known") if given.groups is None else ("not known", "known")
        yield f"expected groups to be {known[0]}, in the bundle they are {known[1]}."
    elif groups is not None and given.groups is not None:
        group_of = dict(zip(ids, groups, strict=True))
        told = zip(given.ids.tolist(), given.groups.tolist(), strict=True)
        changed = [name for name, group in told if group != group_of[name]]
        if changed:
            yield f"{len(changed)} images have other groups than the data: {_some(changed)}."


def _some(names: Iterable[Any]) -> str:
    listed = [str(name) for name in names]
    more = f" and {len(listed) - _EXAMPLES} more" if len(listed) > _EXAMPLES + 1 else ""
    shown = listed[:_EXAMPLES] if more else listed
    return ", ".join(shown) + more
