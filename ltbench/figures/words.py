"""What captions say of a run and of the images it was tested on, from its record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ltbench.figures.names import literal, plural

__all__ = ["about_run", "about_seeds", "images", "per_cent", "test_part", "where_trained"]

Record = Mapping[str, Any]


def per_cent(share: float | np.floating[Any]) -> str:
    """Such as "97.50 %"; "undefined" for NaN."""
    return "undefined" if np.isnan(share) else f"{100 * share:.2f} %"


def about_run(record: Record) -> str:
    """Such as "Run 5a4ece09b5ceb914/seed-0 of ce, seed 0"."""
    key, seed = record.get("key") or "", record["seed"]
    name = f"{key}/seed-{seed} " if key else ""
    return f"Run {name}of {literal(str(record['label']))}, seed {seed}"


def about_seeds(records: Sequence[Record]) -> str:
    """Such as "ce, configuration 5a4ece09b5ceb914, seeds 0, 1, 2"."""
    seeds = ", ".join(str(record["seed"]) for record in records)
    noun = "seed" if len(records) == 1 else "seeds"
    label = literal(str(records[0]["label"]))
    return f"{label}, configuration {records[0]['key']}, {noun} {seeds}"


def test_part(record: Record) -> str:
    """Such as "Test part of digits_lt, protocol held_out, split 6d8f774b11c2: 520 images"."""
    return f"Test part of {where_trained(record)}: {images(record)}"


def where_trained(record: Record) -> str:
    """Such as "digits_lt, protocol held_out, split 6d8f774b11c2"."""
    split = record.get("split_digest")
    told = f", split {str(split)[:12]}" if split else ""
    return f"{literal(str(record['dataset']))}, protocol {record.get('protocol')}{told}"


def images(record: Record) -> str:
    """Such as "520 images in 12 groups"; without groups where their number is not recorded."""
    number = plural(int(record["metrics"]["test"]["num_images"]), "image")
    groups = (record.get("protocol_notes") or {}).get("groups")
    count = groups.get("test") if isinstance(groups, Mapping) else None
    if not isinstance(count, int) or "trained_on" in record:
        return number
    noun = record.get("group_noun") or (record.get("leak") or {}).get("noun") or "group"
    return f"{number} in {plural(count, str(noun))}"
