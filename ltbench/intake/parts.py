"""The words for the parts of a split, as tables and folders have them."""

from __future__ import annotations

__all__ = ["PARTS", "PART_WORDS", "part_of"]

PARTS = ("train", "val", "test")
PART_WORDS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
    "eval": "test",
    "evaluation": "test",
}


def part_of(word: str) -> str | None:
    """The part that `word` stands for, in any case: "train", "val" or "test"; else None."""
    return PART_WORDS.get(word.casefold())
