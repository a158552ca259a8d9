"""What a site is made from: records, unfinished runs, and the rows of boards as run folders."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from ltbench.bundles.portable import portable
from ltbench.errors import DataMissingError, UsageError, VerificationError
from ltbench.inspection import standing
from ltbench.registry import normalise
from ltbench.report.command import nothing_fits
from ltbench.report.reading import Record, read
from ltbench.results import RunFolder, run_folders
from ltbench.site.choices import Selection

__all__ = ["Material", "read_material"]

Facts = dict[str, Any]

# What tables print of a record that may hold the path of a file.
_WORDS: Final = (
    *("label", "recipe", "protocol_notes", "data_notes", "groups_note", "leak"),
    *("weights", "init_from", "tuning"),
)


@dataclass(frozen=True)
class Material:
    """Everything but the runs' own files.

    Attributes:
        records: as tables read them, labels without paths of the machine; `folder` says where.
        notes: on records that were left out.
        unfinished: runs without a record, with state and what went wrong.
        levels: how rows of boards were checked, by key.
        from_boards: whether records are those of boards.
        roots: the folders of results.
    """

    records: list[Record]
    notes: tuple[str, ...] = ()
    unfinished: list[Facts] = field(default_factory=list)
    levels: dict[str, str] = field(default_factory=dict)
    from_boards: bool = False
    roots: tuple[Path, ...] = ()

    def without_roots(self, text: str) -> str:
        """A text in which places are told as they are below the folders of results."""
        for root in sorted(map(str, self.roots), key=len, reverse=True):
            text = text.replace(f"{root}/", "")
        return text


@contextmanager
def read_material(selection: Selection, *, per_class: bool = False) -> Iterator[Material]:
    """Read what a selection names; rows of boards stay unpacked for as long as the context lasts.

    Args:
        selection: which runs.
        per_class: whether the numbers of each class are kept, as figures of boards need them.

    Raises:
        DataMissingError: no finished run fits.
        VerificationError: a board does not hold what its predictions give, or two folders hold one
            run with different results.
    """
    if not selection.boards:
        yield _of_results(selection, selection.roots, per_class)
        return
    if selection.roots:
        raise UsageError("Give --board or --results, not both: a site shows the one or the other.")
    with TemporaryDirectory(prefix="ltbench-site-") as folder:
        roots: list[Path] = []
        levels: dict[str, str] = {}
        for number, board in enumerate(selection.boards):
            root = Path(folder) / str(number)
            levels |= _unpacked(board, root)
            roots.append(root)
        found = _of_results(selection, roots, per_class)
        yield dataclasses.replace(found, levels=levels, from_boards=True)


def _of_results(selection: Selection, roots: Sequence[Path], per_class: bool) -> Material:
    methods = None if selection.methods is None else list(selection.methods)
    datasets = None if selection.datasets is None else list(selection.datasets)
    wanted: Facts = {"methods": methods, "protocol": selection.protocol}
    records, notes = read(roots, datasets=datasets, per_class=per_class, **wanted)
    if not records:
        what = nothing_fits(roots, methods, datasets, selection.protocol)
        raise DataMissingError("\n".join([*notes, what]))
    places = Material([], roots=tuple(roots))
    found = [
        _unfinished(run, places)
        for root in dict.fromkeys(roots)
        for run in run_folders(root, dataset=datasets, **wanted)
        if not (run.path / "record.json").is_file()
    ]
    return dataclasses.replace(
        places,
        records=_without_paths(records),
        notes=tuple(str(portable(places.without_roots(note))) for note in notes),
        unfinished=[one for one in found if one is not None],
    )


def _without_paths(records: Sequence[Record]) -> list[Record]:
    """Records whose words tell no path of this machine; what they share, they go on sharing."""
    known: dict[int, Any] = {}

    def shown(value: Any) -> Any:
        if isinstance(value, str):
            return portable(value)
        if id(value) not in known:
            known[id(value)] = portable(value)
        return known[id(value)]

    return [
        record | {name: shown(record[name]) for name in _WORDS if name in record}
        for record in records
    ]


def _unfinished(run: RunFolder, places: Material) -> Facts | None:
    facts = standing(run)
    if facts["state"] == "done":  # finished since
        return None
    failure = run.failure() or {}
    message = str(failure.get("message", ""))
    name, _, seed = facts["run"].partition("/")
    return {
        **{key: facts[key] for key in ("dataset", "protocol", "method", "state", "epochs")},
        "key": name,
        "seed": seed.removeprefix("seed-"),
        "message": portable(places.without_roots(message)),
    }


def _unpacked(folder: Path, root: Path) -> dict[str, str]:
    """Write a board's rows as run folders, with numbers computed from their predictions.

    Returns:
        The level of each row, by key.
    """
    # Reads bundles, which needs torch; the records of a results folder do not.
    from ltbench.bundles.board import Board
    from ltbench.bundles.page import level_words
    from ltbench.bundles.row_checks import rerun_problems
    from ltbench.bundles.scoring import rescored

    board = Board(folder)
    rows = board.rows()
    levels: dict[str, str] = {}
    for name, row in rows.items():
        bundle = board.bundle(name)
        problems = rerun_problems(name, row)
        if problems:
            raise VerificationError(f"{folder}: {'; '.join(problems)}. Restore it from a copy.")
        for record in rescored(bundle, board.reference):
            seed = record["seed"]
            run = RunFolder.at(
                root,
                dataset=normalise(record["dataset"]),
                protocol=record["protocol"],
                method=bundle.manifest.label.partition(" ")[0],
                key=record["key"],
                seed=seed,
            )
            run.path.mkdir(parents=True)
            run.write_predictions(bundle.predictions(seed))
            run.write_config(bundle.configs[seed])
            run.write_record(record)
            levels[record["key"]] = level_words(row)
    return levels
