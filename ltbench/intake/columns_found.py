"""Which column of a table is the image, the label, the group and the part."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ltbench.errors import UsageError
from ltbench.intake.csv_files import CsvRows
from ltbench.intake.problems import listed
from ltbench.registry import suggest

__all__ = ["ColumnChoice", "FoundColumns", "bit", "find_columns", "plain", "setting"]

ALIASES = {
    "image": "image image_id isic_id img_id id_code file_name filename filepath path md5hash "
    "ddi_file",
    "label": "label class category target dx diagnosis diagnostic finding",
    "group": "lesion_id patient_id patient subject_id case_id case_num group group_id",
    "split": "split fold set partition subset",
}
_ROLE_OF = {alias: role for role, aliases in ALIASES.items() for alias in aliases.split()}
_METADATA = (
    "age age_approx sex gender site anatom_site_general localization localisation source dataset "
    "fitzpatrick fitzpatrick_scale skin_tone dx_type diagnosis_confirm_type scanner hospital "
    "centre center device"
)
_KNOWN_METADATA = frozenset(_METADATA.split())
_WEIGHTS = frozenset({"score_weight", "validation_weight"})  # 0 and 1, beside ISIC's classes
_BITS = {0.0: False, 1.0: True}


@dataclass(frozen=True)
class ColumnChoice:
    """The columns that a user named.

    Attributes:
        image: the column of the images' names or paths; None finds it by its name.
        label: the column of the classes; None finds it, "" takes one-hot columns in its place.
        group: the column of what must not be divided; None finds it, "" says that there is none.
        split: the column of the parts; None finds it, "" says that there is none.
        metadata: columns to carry along, beside those that are known by name.
    """

    image: str | None = None
    label: str | None = None
    group: str | None = None
    split: str | None = None
    metadata: tuple[str, ...] = ()


@dataclass(frozen=True)
class FoundColumns:
    """The columns to read; exactly one of `label` and `one_hot` is given."""

    image: str
    label: str | None
    one_hot: tuple[str, ...]
    group: str | None
    split: str | None
    metadata: tuple[str, ...]

    def note(self) -> dict[str, object]:
        """What was picked, JSON-able; the one-hot columns as a list."""
        label = self.label if self.label is not None else list(self.one_hot)
        return {"image": self.image, "label": label, "group": self.group, "split": self.split}


def plain(column: str) -> str:
    """A column's name as aliases are compared: case, hyphens, blanks and underscores alike."""
    return re.sub(r"[-\s_]+", "_", column).casefold()


def setting(role: str) -> str:
    """The setting that names the column of a role."""
    return f"dataset.{role}_column"


def bit(cell: str) -> bool | None:
    """What a cell of a one-hot column says; None where it is no 0 or 1."""
    try:
        return _BITS.get(float(cell))
    except ValueError:
        return None


def find_columns(rows: CsvRows, choice: ColumnChoice) -> FoundColumns:
    """Find each role's column: the one named, else the only one known by an alias.

    Without a label column, columns of 0 and 1 are the classes, at least two.

    Raises:
        UsageError: a column that is not there, several that match, none for image or label; all of
            it at once, with the settings that decide it.
    """
    named = {role: getattr(choice, role) for role in ALIASES}
    faults = _named_faults(rows, named, choice.metadata)
    picked: dict[str, str | None] = {}
    for role, name in named.items():
        matches = _matches(rows, role, set(named.values())) if name is None else [name]
        picked[role] = matches[0] if matches and matches[0] else None
        if len(matches) > 1:
            faults.append(_several(role, matches))
    if picked["image"] is None:
        faults.append(_none_found(rows, "image"))
    one_hot: list[str] = []
    if named["label"] in (None, ""):
        one_hot = _one_hot(rows, {*picked.values(), *choice.metadata})
        faults += _label_faults(rows, picked["label"], one_hot)
    if faults or picked["image"] is None:
        raise UsageError("\n  ".join([f"{rows.path}: its columns need a decision.", *faults]))
    return FoundColumns(
        image=picked["image"],
        label=picked["label"],
        one_hot=() if picked["label"] else tuple(one_hot),
        group=picked["group"],
        split=picked["split"],
        metadata=_metadata(rows, {*picked.values(), *one_hot}, choice.metadata),
    )


def _named_faults(
    rows: CsvRows, named: Mapping[str, str | None], metadata: Iterable[str]
) -> list[str]:
    asked = [(setting(role), name) for role, name in named.items() if name]
    twice = {name for _, name in asked if [n for _, n in asked].count(name) > 1}
    faults = [
        f"Expected a column for each role, '{name}' is named by "
        f"{' and '.join(where for where, n in asked if n == name)}."
        for name in sorted(twice)
    ]
    asked += [("dataset.metadata", name) for name in metadata]
    for where, name in asked:
        if name not in rows.columns:
            faults.append(f"{where}: {suggest('column', name, list(rows.columns))}")
    return faults


def _matches(rows: CsvRows, role: str, named: set[str | None]) -> list[str]:
    return [c for c in rows.columns if c not in named and _ROLE_OF.get(plain(c)) == role]


def _several(role: str, matches: Sequence[str]) -> str:
    fault = (
        f"Expected one {role} column, found {' and '.join(map(repr, matches))}. "
        f"Name the one to use: --set {setting(role)}={matches[0]}."
    )
    patients = [column for column in matches if re.search("patient|subject", plain(column))]
    if role == "group" and patients:
        fault = (
            f"{fault.rpartition('=')[0]}={patients[0]}. The patient is the safer choice, because "
            "several lesions or cases may be of one patient."
        )
    return fault


def _none_found(rows: CsvRows, role: str) -> str:
    return (
        f"Expected a column for the {role}, called one of {', '.join(ALIASES[role].split())}; "
        f"found {listed(rows.columns, 40)}. The first row must name the columns. Name the one to "
        f"use: --set {setting(role)}=NAME."
    )


def _one_hot(rows: CsvRows, taken: set[str | None]) -> list[str]:
    """Columns that hold 0 and 1 in most rows and have no other meaning."""
    known = _KNOWN_METADATA | _WEIGHTS | set(_ROLE_OF)
    free = [c for c in rows.columns if c not in taken and plain(c) not in known]
    return [column for column in free if _num_bits(rows.cells[column]) > len(rows) / 2]


def _num_bits(cells: Sequence[str]) -> int:
    bits = {cell for cell in set(cells) if bit(cell) is not None}
    return sum(map(bits.__contains__, cells)) if bits else 0


def _label_faults(rows: CsvRows, label: str | None, one_hot: Sequence[str]) -> list[str]:
    if label is None:
        if len(one_hot) >= 2:
            return []
        return [f"{_none_found(rows, 'label')} Two or more columns of 0 and 1 would do as well."]
    whole = [column for column in one_hot if _num_bits(rows.cells[column]) == len(rows)]
    if len(whole) < 2:
        return []
    return [
        f"Expected a label column or one-hot columns, found both: '{label}' and "
        f"{', '.join(whole)}. Say which: --set {setting('label')}={label}, or {setting('label')}= "
        "(nothing) for the one-hot columns."
    ]


def _metadata(rows: CsvRows, taken: set[str | None], named: Iterable[str]) -> tuple[str, ...]:
    known = [c for c in rows.columns if c not in taken and plain(c) in _KNOWN_METADATA]
    return tuple(dict.fromkeys([*known, *named]))
