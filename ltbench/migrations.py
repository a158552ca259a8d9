"""Records of other schema versions, brought to today's where a rule exists.

A change to what a record's fields mean comes with a new `SCHEMA_VERSION` and a rule here; a field
that is merely new needs neither, since readers take its absence for "not recorded".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Record = dict[str, Any]

# From a version to the next. Empty so far: version 1 is the first.
RULES: Mapping[int, Callable[[Record], Record]] = {}


def migrated(record: Record, version: int) -> Record | None:
    """The record as `version` would have it; None where no chain of rules leads there."""
    while record["schema_version"] != version:
        rule = RULES.get(record["schema_version"])
        if rule is None:
            return None
        before = record["schema_version"]
        record = {**rule(record), "schema_version": before + 1}
    return record
