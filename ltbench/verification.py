"""A finished run held against itself: every number and digest of its record found again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

from ltbench.bundles.claims import (
    claim_problems,
    config_problems,
    declared_problems,
    digest_problems,
    key_problems,
)
from ltbench.bundles.reading import type_problems
from ltbench.bundles.reference import Reference
from ltbench.bundles.scoring import class_problems, image_problems
from ltbench.columns import columns
from ltbench.data import lists
from ltbench.errors import DataMissingError, LtbenchError, VerificationError
from ltbench.metrics import evaluate, selection_value
from ltbench.predictions import Predictions
from ltbench.results import SCHEMA_VERSION, RunFolder, training_counts

__all__ = ["Check", "Verified", "render", "verify_run"]

State = Literal["ok", "failed", "not here"]
PARTS: Final = ("val", "test")

Facts = dict[str, Any]


@dataclass(frozen=True)
class Check:
    """One thing that was looked at; `finding` says what was found, or what differs and what to do.

    "not here" is what could not be looked at: data, lists or weights that are not on this machine.
    Without its configuration, history or predictions a run is not whole, which is a failure.
    """

    check: str
    state: State
    finding: str


@dataclass(frozen=True)
class Verified:
    """What was looked at of one run."""

    folder: RunFolder
    checks: tuple[Check, ...]

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that failed."""
        return tuple(check for check in self.checks if check.state == "failed")

    def as_facts(self) -> Facts:
        """JSON-able."""
        return {
            "run": self.folder.name,
            "folder": str(self.folder.path),
            "ok": not self.failed,
            "checks": [asdict(check) for check in self.checks],
        }

    def refuse_failed(self) -> None:
        """Raise where something differs.

        Raises:
            VerificationError: names every check that failed.
        """
        if self.failed:
            told = "".join(f"\n  {check.check}: {check.finding}" for check in self.failed)
            raise VerificationError(f"{self.folder.path} is not what its record says:{told}")


def verify_run(
    folder: RunFolder,
    *,
    weights: bool = True,
    data_root: Path | None = None,
    tolerance: float | None = None,
) -> Verified:
    """Check a run's record, configuration, predictions, metrics, split lists and weights.

    Args:
        weights: load the weights, too, and predict again where the data are here.
        tolerance: how far logits may be off; None for bit for bit on the same kind of machine, and
            `reevaluation.TOLERANCES` on another.

    Raises:
        DataMissingError: the run is not done.
        VerificationError: its record is damaged, or of another schema.
    """
    record = folder.record()
    if record["schema_version"] != SCHEMA_VERSION:
        raise VerificationError(
            f"{folder.path} has a record of schema version {record['schema_version']}, expected "
            f"{SCHEMA_VERSION}. Verify it with the ltbench that wrote it."
        )
    wrong = type_problems(record)
    if wrong:
        raise VerificationError(f"{folder.path}: the record is damaged: {' '.join(wrong)}")
    checks = [
        _checked("record", lambda: _record(folder, record)),
        _checked("configuration", lambda: _configuration(folder, record), needed=True),
        _checked("selection", lambda: _selection(folder, record), needed=True),
        _checked("predictions", lambda: _predictions(folder, record), needed=True),
        _checked("metrics", lambda: _metrics(folder, record), needed=True),
        _checked("split lists", lambda: _split(folder, record)),
    ]
    if weights:
        from ltbench.reevaluation import data_check, logits_check, weights_check

        checks.append(_checked("weights", lambda: weights_check(folder)))
        checks.append(_checked("data", lambda: data_check(record, folder, data_root)))
        checks.append(_checked("logits", lambda: logits_check(folder, data_root, tolerance)))
    return Verified(folder, tuple(checks))


def render(found: Verified) -> str:
    """For a terminal."""
    rows = [asdict(check) for check in found.checks]
    return f"{found.folder.path}\n\n{columns(rows, width=120)}"


def _checked(name: str, look: Callable[[], str], *, needed: bool = False) -> Check:
    """A look that says what it found, raises what differs, or lacks something to look at.

    Args:
        needed: it looks at what lies in every whole run folder.
    """
    try:
        return Check(name, "ok", look())
    except DataMissingError as error:
        return Check(name, "failed" if needed else "not here", str(error))
    except LtbenchError as error:
        return Check(name, "failed", str(error))
    except KeyError as error:
        return Check(name, "failed", f"the record lacks {error}. Run the cell again.")


def refuse(problems: Iterable[str]) -> None:
    """Raise what differs, if anything does."""
    told = list(problems)
    if told:
        raise VerificationError(" ".join(told))


def _record(folder: RunFolder, record: Facts) -> str:
    problems = key_problems(record)
    if record["name"] != folder.name:
        problems.append(f"the folder is {folder.name}, the record says {record['name']}.")
    if record["seed"] != int(folder.path.name.removeprefix("seed-")):
        problems.append(f"the folder is {folder.path.name}, the record says {record['seed']}.")
    refuse(problems)
    return f"schema {SCHEMA_VERSION}; its key is the digest of its key parts"


def _configuration(folder: RunFolder, record: Facts) -> str:
    config = folder.config()
    refuse(config_problems(config, record) or declared_problems(config, record))
    return "config.json is the configuration of record and key"


def _selection(folder: RunFolder, record: Facts) -> str:
    """The reported epoch of each stage is the one its history chooses on validation."""
    epochs, rule, told = folder.epochs(), record["select"], []
    if not epochs:
        raise DataMissingError(f"no history at {folder.epochs_file}.")
    stages = list(dict.fromkeys(row["stage"] for row in epochs))
    if [chosen["stage"] for chosen in record["selected"]] != stages:
        raise VerificationError(
            f"the history has the stages {', '.join(stages)}, the record reports of "
            f"{', '.join(str(chosen['stage']) for chosen in record['selected']) or 'none'}."
        )
    for chosen in record["selected"]:
        if chosen["value"] is None:
            last = max(row["epoch"] for row in epochs if row["stage"] == chosen["stage"])
            if chosen["epoch"] != last:
                raise VerificationError(
                    f"stage {chosen['stage']}: the history ends with epoch {last}, the record "
                    f"reports epoch {chosen['epoch']} without the value that chose it."
                )
            told.append(f"{chosen['stage']}: the last epoch")
            continue
        rows = [row for row in epochs if row["stage"] == chosen["stage"] and row["val"]]
        values = {row["epoch"]: selection_value(row["val"], rule) for row in rows}
        best = max(values.values())
        latest = max(epoch for epoch, value in values.items() if value == best)
        if (latest, best) != (chosen["epoch"], chosen["value"]):
            raise VerificationError(
                f"stage {chosen['stage']}: by {rule} the history chooses epoch {latest} ({best}), "
                f"the record reports epoch {chosen['epoch']} ({chosen['value']})."
            )
        told.append(f"{chosen['stage']}: epoch {latest} of {len(values)} by {rule}")
    return "; ".join(told)


def _predictions(folder: RunFolder, record: Facts) -> str:
    given = _stored(folder, record)
    refuse(digest_problems(record, given))
    return "; ".join(f"{part}: {len(p.ids)} images" for part, p in given.items() if p is not None)


def _stored(folder: RunFolder, record: Facts) -> dict[str, Predictions | None]:
    """The predictions of the parts that the record has metrics of."""
    return {
        part: folder.read_predictions(part) if record["metrics"].get(part) is not None else None
        for part in PARTS
    }


def _metrics(folder: RunFolder, record: Facts) -> str:
    counts, problems, parts = training_counts(record), [], []
    for part, given in _stored(folder, record).items():
        if given is not None:
            problems += claim_problems(record, part, evaluate(given, counts))
            parts.append(part)
    refuse(problems)
    return f"all of {' and '.join(parts)} computed again, equal to 1e-9"


def _split(folder: RunFolder, record: Facts) -> str:
    """Predictions and counts against the lists that lie beside the runs."""
    stored = folder.path.parents[4] / "splits" / record["dataset"] / record["protocol"]
    for file in sorted(stored.glob("*.json")):
        found = lists.load(file)
        if found.digest == record["split_digest"]:
            refuse(split_problems(folder, record, found))
            return f"{found.digest[:12]}: ids, classes and counts are those of {file.name}"
    raise DataMissingError(f"no lists with digest {record['split_digest'][:12]} in {stored}.")


def split_problems(
    folder: RunFolder, record: Mapping[str, Any], found: lists.SplitLists
) -> list[str]:
    """Where a run's predictions and counts are not those of split lists."""
    # Groups are no part of the lists.
    reference = Reference(found, dict.fromkeys(PARTS), {})
    problems = []
    for part, given in _stored(folder, dict(record)).items():
        bare = None if given is None else replace(given, groups=None)
        problems += [f"{part}: {problem}" for problem in image_problems(bare, part, reference)]
    test = record["metrics"].get("test")
    told = [training_counts(record), *([test["per_class"]["train_count"]] if test else [])]
    problems += [
        f"training counts: expected {reference.train_counts}, came {counts}."
        for counts in told
        if list(reference.train_counts) != counts
    ]
    return problems + class_problems(record["class_names"], found.class_names)
