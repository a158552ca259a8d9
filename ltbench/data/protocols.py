"""Protocols of data sets that are long-tailed as they come: who trains, selects and tests on what.

Pure functions of a `Source` and a seed. Choices are Philox permutations and integer arithmetic, so
the lists are the same on every machine and with every version of every library.
What every split's notes hold: see `ltbench.data.noted.noted_split`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ltbench.data import philox
from ltbench.data.division import divide
from ltbench.data.dropping import as_many_dropped, without_shared_groups
from ltbench.data.noted import Parts, noted_split
from ltbench.dataset import Source, Split
from ltbench.errors import UsageError
from ltbench.intake.problems import Problems

__all__ = [
    "as_many_dropped",
    "given",
    "grouped",
    "k_fold",
    "listed",
    "official",
    "random_per_class",
    "shifted",
    "without_shared_groups",
]

# What a random number is for: the stream of the generator; see `ltbench.data.longtail`, whose
# numbers these go on from. A number that was used never changes.
_RANDOM = 0x53504C21
_GROUPED_TEST = 0x53504C22
_GROUPED_VAL = 0x53504C23
_GIVEN_VAL = 0x53504C24
_OFFICIAL_VAL = 0x53504C25
_SHIFTED_VAL = 0x53504C26
_FOLD = 0x53504B00  # plus the number of the fold

_MAX_FOLDS = 100
_VAL_FRACTION = 1 / 5


def random_per_class(source: Source, seed: int) -> Split:
    """Divide the images of each class 3:1:1, groups disregarded.

    Each class is shuffled; of its places 0, 1, 2, ... those with place mod 5 = 0 go to test, with 1
    to validation, the rest to training: test and validation get the ceiling.

    Args:
        source: all images.
        seed: of the choice, in [0, 2**64).

    Returns:
        The split.

    Raises:
        UsageError: a class has fewer than three images, and training or test would lack it.
    """
    order = philox.permutation(seed, len(source.targets), stream=_RANDOM, epoch=0)
    place = np.empty(len(order), dtype=np.int64)
    for c in range(len(source.class_names)):
        found = order[source.targets[order] == c]
        place[found] = np.arange(len(found)) % 5
    parts = {"train": place >= 2, "val": place == 1, "test": place == 0}
    return noted_split(
        source, {name: np.flatnonzero(mask) for name, mask in parts.items()}, "image"
    )


def grouped(source: Source, seed: int) -> Split:
    """Divide whole groups 3:1:1, near these shares in every class.

    A fifth to test, then a quarter of the rest to validation; see `ltbench.data.division.divide`.
    Where the source has no groups, images are divided in the same way, and a note says so.

    Args:
        source: all images.
        seed: of the choice, in [0, 2**64).

    Returns:
        The split.

    Raises:
        UsageError: a class has fewer than three groups (images), or they cannot be laid out.
    """
    rest, test = divide(
        source, _everything(source), 1 / 5, seed=seed, stream=_GROUPED_TEST, rest_parts=2
    )
    train, val = divide(source, rest, 1 / 4, seed=seed, stream=_GROUPED_VAL)
    return noted_split(
        source,
        {"train": train, "val": val, "test": test},
        _divided_by(source),
        notes=_without_groups(source),
    )


def k_fold(source: Source, seed: int, num_folds: int, fold: int) -> Split:
    """Test on one fold, validate on the next one, train on the rest; groups stay whole.

    The folds of one seed are disjoint, cover every image and come near 1 / num_folds of every
    class. After the last fold comes the first.

    Args:
        source: all images.
        seed: of the folds, in [0, 2**64).
        num_folds: 3 to 100.
        fold: the one to test on, in [0, num_folds).

    Returns:
        The split.

    Raises:
        UsageError: a number out of range, or a class has fewer groups (images) than folds.
    """
    if not 3 <= num_folds <= _MAX_FOLDS:
        raise UsageError(
            f"Expected 3 to {_MAX_FOLDS} folds (training, validation and test need one each), got "
            f"{num_folds}."
        )
    if not 0 <= fold < num_folds:
        raise UsageError(f"Expected a fold from 0 to {num_folds - 1} (of {num_folds}), got {fold}.")
    folds, rest = [], _everything(source)
    for number in range(num_folds - 1):
        left = num_folds - 1 - number
        rest, carved = divide(
            source, rest, 1 / (left + 1), seed=seed, stream=_FOLD + number, rest_parts=left
        )
        folds.append(carved)
    folds.append(rest)
    after = (fold + 1) % num_folds
    train = [folds[i] for i in range(num_folds) if i not in (fold, after)]
    parts = {"train": np.sort(np.concatenate(train)), "val": folds[after], "test": folds[fold]}
    notes = {"fold": f"{fold} of {num_folds}", **_without_groups(source)}
    return noted_split(source, parts, _divided_by(source), notes=notes)


def given(source: Source, seed: int) -> Split:
    """The source's own parts "train", "val" and "test".

    Where there is no "val", a fifth of "train" is carved for it by group, and a note says so. A
    class that the test part lacks is noted.

    Args:
        source: with a partition.
        seed: of the carving, in [0, 2**64).

    Returns:
        The split; groups that its parts share are counted in its notes.

    Raises:
        UsageError: no partition, no training or test part, a part of another name, or a class
            without a training image.
    """
    parts = _partition(source, ("train", "val", "test"))
    notes: dict[str, Any] = {}
    if not len(parts["val"]):
        parts, notes = _with_val(source, parts, seed, _GIVEN_VAL)
    return noted_split(source, parts, "publisher", notes=notes, may_lack=("test",))


def official(source: Source, seed: int) -> Split:
    """Train on the publisher's training part, less a fifth for validation; test on its test part.

    Args:
        source: with a partition in "train" and "test"; validation is carved by group.
        seed: of the carving, in [0, 2**64).

    Returns:
        The split.

    Raises:
        UsageError: no partition, one of the two parts is missing, a part of another name, or a
            class missing from training or test.
    """
    parts, notes = _with_val(source, _partition(source, ("train", "test")), seed, _OFFICIAL_VAL)
    return noted_split(source, parts, "publisher", notes=notes)


def listed(source: Source, parts: Mapping[str, Sequence[tuple[str, str]]]) -> Split:
    """A split that was published as lists of ids.

    Images of the source that no list names are left out, and counted in the notes.

    Args:
        source: all images.
        parts: (id, class name) of each row, by "train", "test" and, where there is one, "val".

    Returns:
        The split; a class that the test list lacks is noted.

    Raises:
        UsageError: a list is missing or of another name, or a class has no training image.
        VerificationError: rows whose id the source does not have, has as another class, or that
            stands in the lists twice; rows count from 1, below the head line.
    """
    if not {"train", "test"} <= set(parts) <= {"train", "val", "test"}:
        raise UsageError(
            "Expected a list for train, one for test and perhaps one for val, got "
            f"{', '.join(parts) or 'none'}."
        )
    position_of = {name: position for position, name in enumerate(source.ids.tolist())}
    seen: dict[str, str] = {}
    wrong: list[str] = []
    positions: Parts = {}
    for part, rows in parts.items():
        for number, (name, class_name) in enumerate(rows, start=1):
            row = f"{part} row {number}"
            fault = _fault(source, position_of.get(name), class_name) or (
                f"listed before, in {seen[name]}" if name in seen else ""
            )
            if fault:
                wrong.append(f"{row}: '{name}' is {fault}")
            seen.setdefault(name, row)
        found = [position_of[name] for name, _ in rows if name in position_of]
        positions[part] = np.sort(np.array(found, dtype=np.int64))
    problems = Problems("This split")
    problems.add(
        "Expected rows that name each image once, with the class that it has in the data",
        wrong,
        "Use the split with the data that it was made of, or get both anew.",
    )
    problems.refuse()
    not_used = len(source.ids) - len(seen)
    notes = {"not_used": {"in no list": not_used}} if not_used else {}
    return noted_split(source, positions, "list", notes=notes, may_lack=("test",))


def shifted(
    source: Source, seed: int, by: np.ndarray, train: frozenset[str], test: frozenset[str]
) -> Split:
    """Train on images of some origins, test on those of others; a fifth of training validates.

    Images of neither are left out, and counted in the notes.

    Args:
        source: all images; validation is carved by group.
        seed: of the carving, in [0, 2**64).
        by: origin (hospital, device, data set) of each image, str (N,).
        train: origins to train and validate on.
        test: origins to test on.

    Returns:
        The split.

    Raises:
        UsageError: an origin on both sides, one that no image has, or a class missing from training
            or test.
    """
    known = frozenset(by.tolist())
    if train & test or not train | test <= known or not train or not test:
        raise UsageError(
            "Expected some origins to train on and others to test on, of these: "
            f"{_quoted(known)}; got train {_quoted(train)} and test {_quoted(test)}."
        )
    is_train, is_test = np.isin(by, sorted(train)), np.isin(by, sorted(test))
    parts = {"train": np.flatnonzero(is_train), "test": np.flatnonzero(is_test)}
    parts, notes = _with_val(source, parts, seed, _SHIFTED_VAL)
    names, times = np.unique(by[~(is_train | is_test)], return_counts=True)
    notes["origins"] = {"train": sorted(train), "test": sorted(test)}
    if len(names):
        pairs = zip(names.tolist(), times.tolist(), strict=True)
        notes["not_used"] = {name or "unknown origin": count for name, count in pairs}
    return noted_split(source, parts, "origin", notes=notes)


def _everything(source: Source) -> np.ndarray:
    return np.arange(len(source.targets), dtype=np.int64)


def _divided_by(source: Source) -> str:
    return "image" if source.groups is None else "group"


def _without_groups(source: Source) -> dict[str, Any]:
    if source.groups is not None:
        return {}
    return {"no_groups": "which images belong together is not known, so images were divided"}


def _quoted(names: frozenset[str]) -> str:
    return ", ".join(f"'{name}'" for name in sorted(names)) or "none"


def _partition(source: Source, expected: tuple[str, ...]) -> Parts:
    """Positions of the publisher's parts; "val" may be empty."""
    if source.partition is None:
        raise UsageError(
            "This protocol needs the publisher's own parts, and this data set has none. Use "
            "another protocol, such as one that divides by group."
        )
    names, times = np.unique(source.partition, return_counts=True)
    found = dict(zip(names.tolist(), times.tolist(), strict=True))
    if not {"train", "test"} <= set(found) <= set(expected):
        came = ", ".join(f"'{name}' ({count} images)" for name, count in found.items())
        perhaps = ", and perhaps 'val'" if "val" in expected else ""
        raise UsageError(
            f"Expected the parts 'train' and 'test'{perhaps}, found {came}. Give every image one "
            "of these parts, or use a protocol that needs none."
        )
    return {name: np.flatnonzero(source.partition == name) for name in expected}


def _with_val(source: Source, parts: Parts, seed: int, stream: int) -> tuple[Parts, dict[str, Any]]:
    """(parts with a validation carved from training, the note on it)."""
    train, val = divide(source, parts["train"], _VAL_FRACTION, seed=seed, stream=stream)
    note = f"1/5 of the training part, by {_divided_by(source)}"
    return {"train": train, "val": val, "test": parts["test"]}, {"validation": note}


def _fault(source: Source, position: int | None, class_name: str) -> str:
    """What is wrong with one row of a list; "" if nothing."""
    if position is None:
        return "not in the data"
    came = source.class_names[source.targets[position]]
    return "" if came == class_name else f"'{class_name}' in the list and '{came}' in the data"
