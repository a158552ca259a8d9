"""Proof that the parts of a split share nothing, or the list of what they share.

Names, groups, bytes of files and decoded pixels decide; perceptual hashes only advise, because
dermoscopic pictures of different lesions can look alike to them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import cv2
import numpy as np

from ltbench.data.division import class_counts
from ltbench.data.leaks import Leak, group_leak
from ltbench.data.longtail import measured_imbalance
from ltbench.dataset import Images, Source, Split

__all__ = ["Audit", "Overlap", "audit", "near_duplicates", "overlaps", "perceptual_hashes"]

NEAR = 6  # bits of 128 in which the hashes of two pictures may differ, to be called alike
_SHOWN = 10
_BLOCK = 512


@dataclass(frozen=True)
class Overlap:
    """What two parts share in one respect.

    Attributes:
        kind: "name", "group", "file bytes", "pixels" or "look".
        parts: such as ("train", "test").
        num_images: images of the second part that have a match in the first.
        num_in_part: images of the second part.
        num_beyond_groups: of `num_images`, those whose group is not in the first part.
        examples: (id in the first, id in the second), the first ten.
    """

    kind: str
    parts: tuple[str, str]
    num_images: int
    num_in_part: int
    num_beyond_groups: int
    examples: tuple[tuple[str, str], ...]

    def as_fact(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "kind": self.kind,
            "parts": list(self.parts),
            "num_images": self.num_images,
            "num_in_part": self.num_in_part,
            "num_beyond_groups": self.num_beyond_groups,
            "examples": [list(pair) for pair in self.examples],
        }


@dataclass(frozen=True)
class Audit:
    """What was found.

    Attributes:
        counts: images of each class, by part, in the order of the classes.
        missing: names of classes without an image, by part.
        num_groups: by part; empty where no groups are known.
        imbalance: largest over smallest class of training; None with an empty class.
        overlaps: what parts share, by name, group, file and pixels, where they share anything.
        alike: advisory: pictures of different parts that look alike.
        within: advisory: pictures of one part with equal pixels, by part.
        contradicting: pairs of images with equal pixels and different classes, the first ten.
        unread: why pixels were not compared; "" where they were.
    """

    counts: Mapping[str, list[int]]
    missing: Mapping[str, list[str]]
    num_groups: Mapping[str, int]
    imbalance: float | None
    leak: Leak | None
    overlaps: tuple[Overlap, ...]
    alike: tuple[Overlap, ...]
    within: Mapping[str, int]
    contradicting: tuple[tuple[str, str], ...]
    unread: str

    @property
    def is_clean(self) -> bool:
        """Whether no two parts share a name, group, file or picture."""
        return not self.overlaps

    @property
    def shares_groups_only(self) -> bool:
        """Whether all that parts share are groups, and pictures of groups that they share."""
        return not any(overlap.num_beyond_groups for overlap in self.overlaps)


def audit(source: Source, split: Split, *, unread: str = "", perceptual: bool = True) -> Audit:
    """Compare the parts of a split with each other.

    Args:
        unread: why the pictures cannot be read; then names and groups alone are compared.
        perceptual: look for pictures that look alike, too.
    """
    parts = parts_of(split)
    counts = {name: class_counts(source, at).tolist() for name, at in parts.items()}
    names = source.class_names
    within = {} if unread else _within(source.images, parts)
    return Audit(
        counts=counts,
        missing={
            part: [name for name, count in zip(names, found, strict=True) if count == 0]
            for part, found in counts.items()
        },
        num_groups={}
        if source.groups is None
        else {part: len(np.unique(source.groups[at])) for part, at in parts.items()},
        imbalance=measured_imbalance(counts["train"]) if min(counts["train"]) else None,
        leak=group_leak(source, split),
        overlaps=overlaps(source, split, unread=bool(unread)),
        alike=() if unread or not perceptual else near_duplicates(source, split),
        within=within,
        contradicting=() if unread else _contradicting(source, parts),
        unread=unread,
    )


def parts_of(split: Split) -> dict[str, np.ndarray]:
    """The parts that there are, by name."""
    parts = {"train": split.train, "val": split.val, "test": split.test}
    return {name: positions for name, positions in parts.items() if positions is not None}


def overlaps(source: Source, split: Split, *, unread: bool = False) -> tuple[Overlap, ...]:
    """What each pair of parts shares by name, group, file bytes and decoded pixels."""
    parts = parts_of(split)
    everyone = np.concatenate(list(parts.values()))
    marks: dict[str, np.ndarray] = {"name": source.ids}
    if source.groups is not None:
        marks["group"] = source.groups
    if not unread:
        found = source.images.subset(everyone).fingerprints()
        for kind, digests in (("file bytes", found.files), ("pixels", found.pixels)):
            if digests is not None:
                marks[kind] = np.empty(len(source.ids), dtype=digests.dtype)
                marks[kind][everyone] = digests
    return tuple(
        overlap
        for kind, values in marks.items()
        for a, b in combinations(parts, 2)
        if (overlap := _overlap(kind, source, values, (a, b), parts)).num_images
    )


def _overlap(
    kind: str,
    source: Source,
    marks: np.ndarray,
    pair: tuple[str, str],
    parts: Mapping[str, np.ndarray],
) -> Overlap:
    ids, groups = source.ids, source.groups
    first, second = parts[pair[0]], parts[pair[1]]
    shared = second[np.isin(marks[second], marks[first])]
    where = dict(zip(marks[first].tolist(), ids[first].tolist(), strict=True))
    examples = [(where[marks[at]], str(ids[at])) for at in shared[:_SHOWN].tolist()]
    beyond = len(shared)
    if groups is not None:
        beyond = int((~np.isin(groups[shared], groups[first])).sum())
    return Overlap(kind, pair, len(shared), len(second), beyond, tuple(examples))


def _within(images: Images, parts: Mapping[str, np.ndarray]) -> dict[str, int]:
    """Pictures of each part whose pixels another picture of that part has already."""
    found = {}
    for name, positions in parts.items():
        pixels = images.subset(positions).fingerprints().pixels
        found[name] = len(pixels) - len(np.unique(pixels))
    return found


def _contradicting(source: Source, parts: Mapping[str, np.ndarray]) -> tuple[tuple[str, str], ...]:
    """Images with the pixels of an earlier one and another class."""
    everyone = np.concatenate(list(parts.values()))
    pixels = source.images.subset(everyone).fingerprints().pixels.tolist()
    first: dict[str, int] = {}
    found = []
    for mark, at in zip(pixels, everyone.tolist(), strict=True):
        before = first.setdefault(mark, at)
        if source.targets[before] != source.targets[at]:
            found.append((str(source.ids[before]), str(source.ids[at])))
    return tuple(found[:_SHOWN])


def near_duplicates(source: Source, split: Split, *, near: int = NEAR) -> tuple[Overlap, ...]:
    """Pictures of different parts whose hashes differ in at most `near` of 128 bits."""
    parts = parts_of(split)
    hashes = {name: perceptual_hashes(source.images.subset(at)) for name, at in parts.items()}
    found = []
    for a, b in combinations(parts, 2):
        matches = _nearest(hashes[a], hashes[b], near)
        close = np.flatnonzero(matches >= 0)
        ids_a, ids_b = source.ids[parts[a]], source.ids[parts[b]]
        examples = [(str(ids_a[matches[at]]), str(ids_b[at])) for at in close[:_SHOWN].tolist()]
        if len(close):
            found.append(
                Overlap("look", (a, b), len(close), len(parts[b]), len(close), tuple(examples))
            )
    return tuple(found)


def perceptual_hashes(images: Images) -> np.ndarray:
    """Two hashes of each picture, uint64 (N, 2).

    dHash compares neighbours in a row of the grey picture at 9 x 8 pixels; pHash compares the 8 x 8
    lowest cosine coefficients of the grey picture at 32 x 32 pixels with their median.
    """
    hashes = np.zeros((len(images), 2), dtype=np.uint64)
    powers = np.uint64(1) << np.arange(64, dtype=np.uint64)
    for position in range(len(images)):
        picture = images.picture(position)
        grey = picture if picture.shape[2] == 1 else cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
        small = cv2.resize(grey, (9, 8), interpolation=cv2.INTER_AREA).astype(np.int16)
        bits = (small[:, 1:] > small[:, :-1]).ravel()
        square = cv2.resize(grey, (32, 32), interpolation=cv2.INTER_AREA).astype(np.float32)
        low = cv2.dct(square)[:8, :8].ravel()
        hashes[position] = powers[bits].sum(), powers[low > np.median(low)].sum()
    return hashes


def _nearest(a: np.ndarray, b: np.ndarray, near: int) -> np.ndarray:
    """For each row of b a row of a within `near` bits, the nearest; -1 where there is none."""
    nearest = np.full(len(b), -1)
    for start in range(0, len(b), _BLOCK):
        block = b[start : start + _BLOCK]
        distance = sum(
            np.bitwise_count(block[:, None, one] ^ a[None, :, one]).astype(np.int16)
            for one in range(2)
        )
        closest = np.asarray(distance).argmin(axis=1)
        close = np.take_along_axis(np.asarray(distance), closest[:, None], 1)[:, 0] <= near
        nearest[start : start + _BLOCK][close] = closest[close]
    return nearest
