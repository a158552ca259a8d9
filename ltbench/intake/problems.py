"""Everything that is wrong with what a user brought, gathered and said at once."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from ltbench.errors import VerificationError
from ltbench.registry import nearest

__all__ = ["NUM_LISTED", "Problems", "found_many", "listed", "plural", "with_hint"]

NUM_LISTED = 10


def listed(places: Sequence[str], num_listed: int = NUM_LISTED) -> str:
    """The first places, and how many more there are: "row 2, row 5 and 3 more"."""
    more = len(places) - num_listed
    return ", ".join(places[:num_listed]) + (f" and {more} more" if more > 0 else "")


def plural(count: int, noun: str) -> str:
    """A count and what is counted, such as "1 row" and "2 rows"."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def with_hint(name: str, known: Iterable[str]) -> str:
    """A name in quotes, and the known one that may have been meant."""
    near = nearest(name, known)
    return f"'{name}'" + (f"; did you mean '{near}'?" if near else "")


def found_many(names: Collection[str]) -> dict[str, object]:
    """How many names there are and the first of them, for notes."""
    first = [name.encode("utf-8", "replace").decode() for name in sorted(names)[:NUM_LISTED]]
    return {"count": len(names), "first": first}


class Problems:
    """Problems of one kind each, with the places where they were found.

    Args:
        subject: the file or folder they are found in; the message begins with it.
    """

    def __init__(self, subject: str) -> None:
        self.subject = subject
        self._kinds: list[str] = []

    def __bool__(self) -> bool:
        return bool(self._kinds)

    def add(self, expected: str, came: Sequence[str], remedy: str) -> None:
        """Note one kind of problem; nothing where `came` is empty.

        Args:
            expected: what should be there.
            came: what was found and where, one entry a place; the first ten are shown.
            remedy: what to do.
        """
        if came:
            self._kinds.append(f"{expected}; found: {listed(came)}. {remedy}")

    def refuse(self) -> None:
        """Raise what was noted.

        Raises:
            VerificationError: anything was noted; its message says all of it.
        """
        if not self._kinds:
            return
        if len(self._kinds) == 1:
            raise VerificationError(f"{self.subject}: {self._kinds[0]}")
        head = f"{self.subject} has {len(self._kinds)} kinds of problems:"
        raise VerificationError("\n  ".join([head, *self._kinds]))
