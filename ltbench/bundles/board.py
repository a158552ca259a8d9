"""A board: rows on one split, each with the bundle that its numbers are computed from."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from ltbench.bundles.arrays import PARTS
from ltbench.bundles.members import MANIFEST, write_members
from ltbench.bundles.page import board_page
from ltbench.bundles.reading import Bundle, open_bundle
from ltbench.bundles.reference import GROUPS, SPLIT, Reference
from ltbench.errors import DataMissingError, UsageError, VerificationError
from ltbench.files import read_json, storage_errors, write_json, write_text
from ltbench.metrics import METRICS

__all__ = ["BOARDS", "SCHEMA_VERSION", "Board", "find_board", "row_of"]

BOARDS: Final = Path("results/boards")
SCHEMA_VERSION: Final = 1
HEADER, TABLE = "board.json", "README.md"
ROWS, BUNDLES = "rows", "bundles"
_IN_ROW = {"label", "key", "level", "seeds", "rerun", "bundle_digest", "test"}

Facts = dict[str, Any]


@dataclass(frozen=True)
class Board:
    """A folder with `board.json`, the split's lists, and a row and a bundle for each entry."""

    folder: Path

    @classmethod
    def create(cls, folder: Path, reference: Reference) -> Board:
        """A new board without rows, or the one that is there, if it is of this split.

        Raises:
            UsageError: the folder holds something else, or a board of another split.
        """
        if (folder / HEADER).is_file():
            board = cls(folder)
            differing = board.reference.differences(reference)
            if differing:
                raise UsageError(
                    f"The board {folder} is of another split than what is to be added: "
                    f"{', '.join(differing)} differ. Give another --out."
                )
            return board
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UsageError(
                f"Expected a board or a new folder at {folder}; something else is there. Give "
                "another --out."
            )
        with storage_errors(folder):
            for name in (ROWS, BUNDLES):
                (folder / name).mkdir(parents=True, exist_ok=True)
        reference.write(folder)
        lists = reference.lists
        about = {
            "schema_version": SCHEMA_VERSION,
            "dataset": lists.dataset,
            "protocol": lists.protocol,
            "split_digest": lists.digest,
        }
        write_json(folder / HEADER, about)
        return cls(folder)

    @cached_property
    def header(self) -> Facts:
        """`board.json`.

        Raises:
            DataMissingError: there is no board.
            VerificationError: it is damaged, or of another schema.
        """
        try:
            header = read_json(self.folder / HEADER)
        except DataMissingError as error:
            raise DataMissingError(
                f"Expected a board at {self.folder}, found no {HEADER} there. Make one: "
                f"`leaderboard build PATH --out {self.folder}`."
            ) from error
        if not isinstance(header, dict) or header.get("schema_version") != SCHEMA_VERSION:
            raise VerificationError(
                f"{self.folder / HEADER}: expected a board of schema version {SCHEMA_VERSION}, "
                f"found {str(header)[:80]}. Read it with the ltbench that wrote it, or build it "
                "again."
            )
        return header

    @cached_property
    def reference(self) -> Reference:
        """The split that the board is about."""
        reference = Reference.read(self.folder)
        if reference.lists.digest != self.header.get("split_digest"):
            raise VerificationError(
                f"{self.folder}: {HEADER} names another split than {SPLIT} holds. Restore both "
                "from a copy."
            )
        return reference

    def rows(self) -> dict[str, Facts]:
        """The rows by name."""
        found = {}
        for file in sorted((self.folder / ROWS).glob("*.json")):
            row = read_json(file)
            if not isinstance(row, dict) or not _is_row(row):
                raise VerificationError(f"{file} is no row of a board. Restore it from a copy.")
            found[file.stem] = row
        return found

    def bundle_path(self, name: str) -> Path:
        """Where the bundle of a row lies."""
        return self.folder / BUNDLES / f"{name}.zip"

    def bundle(self, name: str) -> Bundle:
        """The bundle of a row."""
        return open_bundle(self.bundle_path(name))

    def put(self, bundle: Bundle, row: Facts) -> Path:
        """Store a row and its bundle; the table is written by `write_table`."""
        manifest = bundle.manifest
        read = bundle.members.read_checked
        kept = {name: read(name, digest) for name, digest in manifest.members.items()}
        write_members(self.bundle_path(manifest.name), {**kept, MANIFEST: manifest.to_bytes()})
        file = self.folder / ROWS / f"{manifest.name}.json"
        write_json(file, row)
        return file

    def write_table(self, records: Mapping[str, Sequence[Facts]]) -> Path:
        """Render the board as Markdown.

        Args:
            records: of each row, by its name, with metrics that were computed here.
        """
        write_text(self.folder / TABLE, self.table(records))
        return self.folder / TABLE

    def table(self, records: Mapping[str, Sequence[Facts]]) -> str:
        """The text of `write_table`."""
        return board_page(self.reference.lists, self.rows(), records)

    def unknown_files(self) -> list[str]:
        """Files of a board that belong to no row."""
        rows = {file.stem for file in (self.folder / ROWS).glob("*.json")}
        expected = {HEADER, SPLIT, GROUPS, TABLE}
        expected |= {f"{ROWS}/{name}.json" for name in rows}
        expected |= {f"{BUNDLES}/{name}.zip" for name in rows}
        files = {
            file.relative_to(self.folder).as_posix()
            for file in self.folder.rglob("*")
            if file.is_file()
        }
        return sorted(files - expected)


def find_board(split_digest: str, boards: Path = BOARDS) -> Board:
    """The board of a split among those that lie in a folder.

    Raises:
        UsageError: none, or several.
    """
    there = [Board(header.parent) for header in sorted(boards.glob(f"*/{HEADER}"))]
    found = [board for board in there if board.header.get("split_digest") == split_digest]
    if len(found) == 1:
        return found[0]
    told = ", ".join(str(board.folder) for board in found or there) or "none"
    raise UsageError(
        f"Expected one board of split {split_digest[:12]} in {boards}, found {len(found)} (there: "
        f"{told}). Name the board with --board DIR; a new folder begins one."
    )


def _is_row(row: Facts) -> bool:
    """Whether a file has what tables and pages show of a row."""
    strings = ("label", "key", "level")
    return set(row) >= _IN_ROW and all(isinstance(row[name], str) for name in strings)


def row_of(bundle: Bundle, records: Sequence[Facts], rerun: Facts | None) -> Facts:
    """The row of a board.

    Args:
        records: of the bundle, with metrics that were computed here.
        rerun: what came of training it again; None where it was not.
    """
    manifest, first = bundle.manifest, records[0]
    return {
        "schema_version": SCHEMA_VERSION,
        "label": manifest.label,
        "key": manifest.key,
        "method": first["method"],
        "seeds": list(manifest.seeds),
        "uses_validation": first["uses_validation"],
        "level": "re-scored" if rerun is None else "re-run",
        "rerun": rerun,
        "bundle_digest": manifest.digest,
        **{part: _numbers(records, part) for part in PARTS},
    }


def _numbers(records: Sequence[Facts], part: str) -> Facts | None:
    """Mean, standard deviation and the number of each seed, by metric; None without the part."""
    if any(record["metrics"][part] is None for record in records):
        return None
    found = {}
    for name, metric in METRICS.items():
        by_seed = {str(record["seed"]): metric.read(record["metrics"][part]) for record in records}
        values = [value for value in by_seed.values() if value is not None]
        # As in tables: undefined for one seed, undefined for the row.
        whole = len(values) == len(by_seed)
        found[name] = {
            "mean": statistics.fmean(values) if whole else None,
            "sd": statistics.stdev(values) if whole and len(values) > 1 else None,
            "by_seed": by_seed,
        }
    return found
