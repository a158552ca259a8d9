"""What the `leaderboard` commands do: build a board, add a bundle to one, check boards."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ltbench.bundles.board import BOARDS, HEADER, TABLE, Board, find_board, row_of
from ltbench.bundles.claims import differences
from ltbench.bundles.making import bundle_members, rows_in, runs_of
from ltbench.bundles.members import MANIFEST, write_members, zip_bytes
from ltbench.bundles.page import check_shown
from ltbench.bundles.reading import Bundle, open_bundle
from ltbench.bundles.reference import Reference, of_data, of_run
from ltbench.bundles.rerun import rerun
from ltbench.bundles.row_checks import header_problems, rerun_problems
from ltbench.bundles.scoring import rescored
from ltbench.errors import DataMissingError, LtbenchError, UsageError, VerificationError
from ltbench.files import alone
from ltbench.results import RunFolder

__all__ = ["Added", "Rerun", "add", "build", "check", "make_bundle"]

Facts = dict[str, Any]


@dataclass(frozen=True)
class Rerun:
    """How rows are to be trained again.

    Attributes:
        plugins: files of the user's own, such as that of the data set.
        trust_plugin: the user lets the code in the bundle run with their rights.
        tolerance: how far a test metric may be off where the bits are not the same.
        say: takes lines for the user.
    """

    trust_plugin: bool = False
    tolerance: float = 0.01
    data_root: Path | None = None
    plugins: tuple[Path, ...] = ()
    say: Callable[[str], None] = lambda line: None


@dataclass(frozen=True)
class Added:
    """A row that was accepted.

    Attributes:
        file: of the row; None where nothing was to be written.
    """

    board: Path
    file: Path | None
    row: Facts


def make_bundle(results: Path, name: str, out: Path, seeds: Sequence[int] | None = None) -> Bundle:
    """Write a bundle of the finished runs of one configuration, and read it back.

    Args:
        name: a key, its beginning, or one of its runs.
        seeds: only these; None for all that are finished.
        out: a file that ends in .zip, or a new folder.
    """
    runs = runs_of(results, name)
    if seeds is not None:
        by_seed = {int(run.path.name.removeprefix("seed-")): run for run in runs}
        missing = sorted(set(seeds) - set(by_seed))
        if missing:
            raise DataMissingError(
                f"No finished run of {runs[0].path.parent.name} with seed {missing[0]}. Finished: "
                f"{', '.join(map(str, by_seed))}."
            )
        runs = [by_seed[seed] for seed in sorted(set(seeds))]
    write_members(out, bundle_members(runs))
    return open_bundle(out)


def build(
    paths: Sequence[Path],
    out: Path,
    *,
    again: Rerun | None = None,
    data_root: Path | None = None,
    **selection: Any,
) -> tuple[Board, list[Facts]]:
    """Make a board of run folders, folders of results, bundles and boards; or add to one.

    Rows of another board come in as re-scored: that they were trained again is the word of whoever
    keeps it.

    Args:
        out: the board's folder.
        again: train the rows again, too.
        selection: `methods`, `dataset` and `protocol`, of folders of results.

    Raises:
        UsageError: nothing fits, or what is there is of several splits.
        VerificationError: a row is refused; the board has those before it.
    """
    with tempfile.TemporaryDirectory() as work:
        candidates = list(_candidates(paths, Path(work), selection, data_root))
        if not candidates:
            raise UsageError(
                f"No finished run and no bundle in {', '.join(map(str, paths))} fits. Give run "
                "folders, a folder of results, bundles, or boards."
            )
        _check_one_split([bundle for bundle, _ in candidates])
        references = [make for _, make in candidates if make is not None]
        make = references[0] if references else lambda: of_data(candidates[0][0].first, data_root)
        board = Board.create(out, make())
        rows = []
        for bundle, _ in candidates:
            if _is_there(bundle, board):
                continue  # the same command again finishes what was begun
            records = rescored(bundle, board.reference)
            row = row_of(bundle, records, None if again is None else _again(bundle, again))
            check_shown(bundle.path, board.reference.lists, row, records)
            with alone(board.folder):
                _refuse_known(bundle, board)
                board.put(bundle, row)
            rows.append(row)
        with alone(board.folder):
            board.write_table(_records(board))
    return board, rows


Candidate = tuple[Bundle, Callable[[], Reference] | None]


def _candidates(
    paths: Sequence[Path], work: Path, selection: Mapping[str, Any], data_root: Path | None
) -> Iterator[Candidate]:
    """(bundle, what makes its split's reference) of all that is there."""
    for path in paths:
        if (path / HEADER).is_file():
            board = Board(path)
            for name in board.rows():
                yield board.bundle(name), partial(getattr, board, "reference")
        elif path.is_file() or (path / MANIFEST).is_file():
            yield open_bundle(path), None
        else:
            for runs in _runs(path, selection):
                file = work / f"{runs[0].path.parent.name}.zip"
                file.write_bytes(zip_bytes(bundle_members(runs)))
                yield open_bundle(file), partial(of_run, runs[0], data_root)


def _runs(path: Path, selection: Mapping[str, Any]) -> list[list[RunFolder]]:
    """A run folder stands for itself, the folder of a key for its seeds, others are searched."""
    if not path.exists():
        raise DataMissingError(f"Expected runs, bundles or a board at {path}; nothing is there.")
    if (path / "record.json").is_file():
        return [[RunFolder(path.resolve())]]
    if any(path.glob("seed-*/record.json")):
        return [runs_of(path, str(next(path.glob("seed-*/record.json")).parent))]
    return rows_in(path, **selection)


def _check_one_split(bundles: Sequence[Bundle]) -> None:
    splits = {
        (bundle.manifest.dataset, bundle.manifest.protocol, bundle.manifest.split_digest)
        for bundle in bundles
    }
    if len(splits) > 1:
        told = "; ".join(f"{data}, {protocol}, {of[:12]}" for data, protocol, of in sorted(splits))
        raise UsageError(
            f"A board is about one split; these rows are of {len(splits)}: {told}. Choose one with "
            "--dataset and --protocol, or build a board of each."
        )


def add(
    path: Path,
    *,
    board: Path | None = None,
    boards: Path = BOARDS,
    again: Rerun | None = None,
    dry_run: bool = False,
    data_root: Path | None = None,
) -> Added:
    """Check a bundle against a board's split, compute its numbers again, and add it as a row.

    No code of the bundle is run unless `again` asks for it.

    Args:
        board: None for the one of its split in `boards`. A folder that is not there becomes a new
            board, of the split made here from the data set itself.
        dry_run: check it all, and write nothing.

    Raises:
        VerificationError: it is refused; the message names every problem.
        UsageError: no such board, or the row is there already.
    """
    bundle = open_bundle(path)
    if board is None:
        target = find_board(bundle.manifest.split_digest, boards)
        reference = target.reference
    elif (board / HEADER).is_file():
        target = Board(board)
        reference = target.reference
    else:
        target, reference = Board(board), of_data(bundle.first, data_root)
    records = rescored(bundle, reference)
    if (target.folder / HEADER).is_file():
        _refuse_known(bundle, target)
    row = row_of(bundle, records, None if again is None else _again(bundle, again))
    check_shown(path, reference.lists, row, records)
    if dry_run:
        return Added(target.folder, None, row)
    target = Board.create(target.folder, reference)
    with alone(target.folder):
        _refuse_known(bundle, target)  # another process may have added it meanwhile
        file = target.put(bundle, row)
        target.write_table(_records(target))
    return Added(target.folder, file, row)


def _again(bundle: Bundle, again: Rerun) -> Facts:
    return rerun(
        bundle,
        trust_plugin=again.trust_plugin,
        tolerance=again.tolerance,
        data_root=again.data_root,
        plugins=again.plugins,
        say=again.say,
    )


def _is_there(bundle: Bundle, board: Board) -> bool:
    """Whether the board has this very bundle; another one of its configuration is refused."""
    row = board.rows().get(bundle.manifest.name)
    if row is not None and row["bundle_digest"] == bundle.manifest.digest:
        return True
    _refuse_known(bundle, board)
    return False


def _refuse_known(bundle: Bundle, board: Board) -> None:
    for row in board.rows().values():
        if row["key"] == bundle.manifest.key:
            raise UsageError(
                f"The board {board.folder} has the configuration {row['key']} already, as "
                f"'{row['label']}' with the seeds {', '.join(map(str, row['seeds']))}. A row is "
                "added whole: to replace it, remove its files in rows/ and bundles/ first."
            )


def _records(board: Board) -> dict[str, list[Facts]]:
    """The records of every row, by name, with metrics computed here."""
    return {name: rescored(board.bundle(name), board.reference) for name in board.rows()}


def check(boards: Sequence[Path] = (), data_root: Path | None = None) -> list[Facts]:
    """Compute every number of committed boards again.

    Args:
        boards: all in `results/boards` where none is named.

    Returns:
        A dict for each: `board`, `rows`, `images` (predictions scored, over rows, seeds and parts),
        `numbers` (compared), `split` (where it was compared with the data set itself) and
        `problems`, which is empty where all is well.
    """
    named = list(boards) or sorted(header.parent for header in BOARDS.glob(f"*/{HEADER}"))
    if not named:
        raise DataMissingError(f"No board in {BOARDS}. Make one with `leaderboard build`.")
    return [_check_one(Board(folder), data_root) for folder in named]


def _check_one(board: Board, data_root: Path | None) -> Facts:
    facts: Facts = {"board": str(board.folder), "rows": 0, "images": 0, "numbers": 0, "split": ""}
    records: dict[str, list[Facts]] = {}
    try:
        rows, reference = board.rows(), board.reference
        problems = header_problems(board)
    except LtbenchError as error:
        return {**facts, "problems": [str(error)]}
    for name, row in rows.items():
        try:
            bundle = board.bundle(name)
            records[name] = rescored(bundle, reference)
        except LtbenchError as error:
            problems.append(str(error))
            continue
        expected = row_of(bundle, records[name], row.get("rerun"))
        problems += _row_problems(name, row, expected) + rerun_problems(name, row)
        if bundle.manifest.name != name:
            problems.append(
                f"{name}: the row and its bundle should be called {bundle.manifest.name}"
            )
        facts["rows"] += 1
        facts["images"] += sum(_num_images(record) for record in records[name])
        facts["numbers"] += sum(_count(record["metrics"]) for record in records[name])
        facts["numbers"] += _count({part: expected[part] for part in ("val", "test")})
    problems += [f"{name} belongs to no row" for name in board.unknown_files()]
    if not problems:
        problems += _table_problems(board, records)
    found, differing = _against_data(records, reference, data_root)
    return {**facts, "split": found, "problems": problems + differing}


def _row_problems(name: str, row: Facts, expected: Facts) -> list[str]:
    problems = [
        f"{name}: {where}: the board says {came!r}, its predictions give {found!r}"
        for where, came, found in differences(row, expected)
    ]
    # And the other way, for what was left out.
    return problems or [
        f"{name}: {where} is missing" for where, _, found in differences(expected, row) if found
    ]


def _table_problems(board: Board, records: Mapping[str, Sequence[Facts]]) -> list[str]:
    try:
        text = (board.folder / TABLE).read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    if text == board.table(records):
        return []
    return [
        f"{TABLE} is not what its rows give. Restore it, or write it again: "
        f"`leaderboard build {board.folder} --out {board.folder}`"
    ]


def _against_data(
    records: Mapping[str, Sequence[Facts]], reference: Reference, data_root: Path | None
) -> tuple[str, list[str]]:
    """(whether the split was compared with the data set's, what differs)."""
    for found in records.values():
        try:
            made = of_data(found[0], data_root)
        except (DataMissingError, UsageError):
            return "not compared: the data set is not here", []
        differing = reference.differences(made)
        told = [f"{what} differ from those of the data set here" for what in differing]
        return "as the data set here has it", told
    return "", []


def refuse_failed(found: Sequence[Facts]) -> None:
    """Raise where a board has a problem."""
    failed = [one for one in found if one["problems"]]
    if failed:
        lines = [f"\n  {one['board']}: {problem}" for one in failed for problem in one["problems"]]
        raise VerificationError(
            f"{len(failed)} of {len(found)} boards do not hold what their predictions give:"
            + "".join(lines)
        )


def _num_images(record: Facts) -> int:
    return sum(found["num_images"] for found in record["metrics"].values() if found is not None)


def _count(value: Any) -> int:
    """Numbers in JSON data."""
    if isinstance(value, Mapping):
        return sum(map(_count, value.values()))
    if isinstance(value, list):
        return sum(map(_count, value))
    return int(isinstance(value, int | float))
