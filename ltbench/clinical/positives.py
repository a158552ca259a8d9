"""Which classes are set against the rest: named by a user, or declared by the data set."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ltbench.errors import UsageError
from ltbench.registry import suggest

__all__ = ["Positive", "declared_positives", "parse_positive"]


@dataclass(frozen=True)
class Positive:
    """Some of the classes, looked for together; the others are the rest.

    Attributes:
        name: what they are called together, such as "melanoma".
        classes: their names, in the order of the class index.
        indices: their class indices.
    """

    name: str
    classes: tuple[str, ...]
    indices: tuple[int, ...]

    @property
    def title(self) -> str:
        """Such as "malignant (MEL, BCC)"."""
        listed = ", ".join(self.classes)
        return listed if self.name == listed else f"{self.name} ({listed})"


def parse_positive(
    text: str, class_names: Sequence[str], declared: Mapping[str, Sequence[str]]
) -> Positive:
    """What a user means by one --positive.

    Args:
        text: a group that the data set declares, a class, or several of both with commas between
            them; a name that holds a comma stands alone or in double quotes.
        class_names: C names.
        declared: groups of classes by name.

    Raises:
        UsageError: an unknown name, none, or every class.
    """
    given = text.strip()
    whole = given in class_names or given in declared
    parts = [given] if whole else next(csv.reader([given], skipinitialspace=True), [])
    names = [part.strip() for part in parts if part.strip()]
    if not names:
        raise UsageError("--positive: expected the name of a class, or several; got none.")
    chosen: set[str] = set()
    for name in names:
        if name not in class_names and name not in declared:
            raise UsageError(f"--positive: {suggest('class', name, [*declared, *class_names])}")
        chosen |= {name} if name in class_names else set(declared[name])
    name = names[0] if len(names) == 1 else ""
    return _positive(name, chosen, class_names)


def declared_positives(
    class_names: Sequence[str], declared: Mapping[str, Sequence[str]]
) -> list[Positive]:
    """Those of the data set, in its order; groups without a class here, or without rest, not."""
    found = []
    for name, names in declared.items():
        chosen = set(names) & set(class_names)
        if chosen and len(chosen) < len(class_names):
            found.append(_positive(name, chosen, class_names))
    return found


def _positive(name: str, chosen: set[str], class_names: Sequence[str]) -> Positive:
    indices = tuple(i for i, one in enumerate(class_names) if one in chosen)
    classes = tuple(class_names[i] for i in indices)
    if not indices:
        raise UsageError(
            f"--positive {name}: none of its classes is among those of this run: "
            f"{', '.join(class_names)}."
        )
    if len(indices) == len(class_names):
        raise UsageError(
            f"--positive: {', '.join(classes)} are all the classes of this run, and leave nothing "
            "to tell them from. Name fewer."
        )
    return Positive(name or ", ".join(classes), classes, indices)
