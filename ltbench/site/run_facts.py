"""What the page of a run says, from its folder alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from ltbench.bundles import portable as without_paths
from ltbench.clinical.material import read_part
from ltbench.errors import DataMissingError, LtbenchError
from ltbench.metrics import METRICS
from ltbench.report.footer import leak
from ltbench.report.layouts import per_class_tables
from ltbench.report.quantities import of_class, of_metrics
from ltbench.report.rows import tables_of
from ltbench.report.sheet import UNDEFINED
from ltbench.results import RunFolder
from ltbench.site.mistakes import Mistake, confident_mistakes
from ltbench.site.shown import Pairs, digits, mapping, pairs, part_of, plain

__all__ = ["classes", "confusion", "history", "mistakes_in", "numbers", "origin", "overview"]

Facts = dict[str, Any]
Record = Mapping[str, Any]

MOST_CLASSES: Final = 30  # of a confusion matrix that is shown whole
MOST_CONFUSED: Final = 20
_SHADES: Final = 10
_PARTS: Final = ("test", "val")


def overview(record: Record) -> Pairs:
    """What was run on what, for the head of the page."""
    test = record["metrics"]["test"]
    groups = part_of(record, "protocol_notes", "groups", "test")
    noun = record.get("group_noun") or part_of(record, "leak", "noun") or "group"
    size = f"{test['num_images']} images" if test.get("num_images") is not None else "not recorded"
    facts = {
        "Data set": record["dataset"],
        "Protocol": record["protocol"],
        "Test part": f"{size} in {groups} {noun}s" if isinstance(groups, int) else size,
        "Recipe": record.get("recipe"),
        "Selection": record.get("select"),
        "Key": record["key"],
        "Finished": record.get("finished_at"),
    }
    return [(name, plain(value)) for name, value in facts.items() if value is not None]


def command_of(record: Record) -> str:
    """The command that repeats the run; of absolute paths only the last part."""
    command = record.get("command")
    return without_paths.command(command) if isinstance(command, str) else ""


def trust(record: Record) -> Pairs:
    """What must be known to believe the numbers."""
    split = f"{plain(record['split_digest'])}, seed {plain(record.get('split_seed'))}"
    uses = "yes" if record["uses_validation"] else "no"
    told = {
        "Leak": f"{leak(record)}.",
        "Groups": record.get("groups_note") or "none are known",
        "Split": split,
        "Trains on validation feedback": uses,
    }
    tuning = mapping(record.get("tuning"))
    if tuning:
        told["Tuned"] = (
            f"by study {plain(tuning.get('study'))}, trial {plain(tuning.get('trial'))} of "
            f"{plain(tuning.get('trials'))}, by {plain(tuning.get('objective'))}"
        )
    return [(name, plain(value)) for name, value in told.items()]


def numbers(record: Record) -> list[Facts]:
    """Every metric of the catalogue on test and validation, as tables print it."""
    found = []
    for quantity in of_metrics(list(METRICS)):
        values = []
        for part in _PARTS:
            metrics = record["metrics"].get(part)
            value = None if metrics is None else METRICS[quantity.name].read(metrics)
            values.append(UNDEFINED if value is None else quantity.shown(value))
        found.append(
            {"title": quantity.heading, "texts": values, "definition": quantity.definition}
        )
    return found


def classes(record: Record) -> Facts | None:
    """Each class with its images and rates on the test part, largest in training first."""
    tables = per_class_tables(tables_of([record], lambda _: of_class(lambda record: None)))
    if not tables:
        return None
    rows = []
    for row in tables[0].rows:
        about = row.of_class
        assert about is not None
        cells = []
        for quantity in tables[0].quantities:
            mean = row.cells[quantity.name].mean
            text = UNDEFINED if mean is None else quantity.shown(mean)
            cells.append({"mean": text, "value": mean})
        rows.append(
            {"name": about.name, "counts": [about.num_train, about.num_test], "cells": cells}
        )
    return {"titles": [quantity.heading for quantity in tables[0].quantities], "rows": rows}


def confusion(record: Record) -> Facts | None:
    """The confusion matrix of the test part; of many classes, what is confused most often."""
    test = record["metrics"]["test"]
    matrix = test.get("confusion")
    names = part_of(test, "per_class", "class_names") or record.get("class_names")
    if not isinstance(matrix, list) or not isinstance(names, list) or not _square(matrix, names):
        return None
    if len(names) > MOST_CLASSES:
        found = [
            {"truth": names[i], "predicted": names[j], "count": count, "of": sum(line)}
            for i, line in enumerate(matrix)
            for j, count in enumerate(line)
            if i != j and count
        ]
        found.sort(key=lambda one: (-one["count"], str(one["truth"]), str(one["predicted"])))
        return {"names": names, "rows": None, "most": found[:MOST_CONFUSED]}
    rows = []
    for place, line in enumerate(matrix):
        total = sum(line)
        cells = [
            {
                "count": count,
                "shade": round(_SHADES * count / total) if total else 0,
                "right": column == place,
            }
            for column, count in enumerate(line)
        ]
        rows.append({"name": names[place], "cells": cells, "total": total})
    return {"names": names, "rows": rows, "most": None}


def _square(matrix: list[Any], names: list[Any]) -> bool:
    """Whether a record's confusion matrix is one of its classes."""
    return len(matrix) == len(names) and all(
        isinstance(line, list)
        and len(line) == len(names)
        and all(isinstance(one, int) for one in line)
        for line in matrix
    )


def mistakes_in(run: RunFolder, record: Record, most: int) -> tuple[list[Mistake], str]:
    """(the most confident mistakes on the test part, what is to be said of them)."""
    try:
        predictions = read_part(run, record, "test")
        found, number = confident_mistakes(predictions, most)
    except DataMissingError:
        return [], "The run's predictions are not here, so its mistakes cannot be listed."
    except LtbenchError as error:
        told = str(error).partition("\n")[0].replace(f"{run.path}/", "")
        told = told.removeprefix(f"{run.path}: ")
        return [], f"The run's predictions cannot be used: {without_paths.portable(told)}"
    images = len(predictions.ids)
    if not number:
        return [], f"All {images} test images are classified rightly."
    shown = f"The {len(found)} of {number}" if len(found) < number else f"All {number}"
    return found, (
        f"{shown} wrongly classified test images (of {images}) whose predicted class has the "
        "largest probability, which is the softmax of the stored logits."
    )


def history(run: RunFolder) -> tuple[list[Facts], str]:
    """(a line an epoch, why there is none)."""
    try:
        epochs = run.epochs()
    except LtbenchError as error:
        return [], str(without_paths.portable(str(error).replace(f"{run.path}/", "")))
    if not epochs:
        return [], "The history of its epochs is not here."
    return [
        {
            "stage": plain(line.get("stage")),
            "epoch": _from_1(line.get("epoch")),
            "loss": digits(part_of(line, "train", "loss")),
            "accuracy": digits(part_of(line, "val", "accuracy")),
            "macro_f1": digits(part_of(line, "val", "macro_f1")),
        }
        for line in epochs
        if isinstance(line, dict)
    ], ""


def selected(record: Record) -> list[Facts]:
    """Which epoch of each stage was taken."""
    stages = record.get("selected")
    return [
        {
            "stage": plain(stage.get("stage")),
            "epoch": _from_1(stage.get("epoch")),
            "epochs": plain(stage.get("epochs")),
            "value": digits(stage.get("value")),
        }
        for stage in (stages if isinstance(stages, list) else [])
        if isinstance(stage, dict)
    ]


def _from_1(epoch: Any) -> str:
    """An epoch, which records count from 0, as `status` and figures count it."""
    return plain(epoch + 1 if type(epoch) is int else epoch)


def origin(record: Record) -> dict[str, Pairs]:
    """Where the numbers come from, in groups: machine, code, cost, digests."""
    git = mapping(record.get("git"))
    code = {"commit": git.get("commit"), "uncommitted changes": git.get("dirty")}
    machine = ("device", "num_devices", "batchnorm", "threads", "precision", "render")
    digests = {**mapping(record.get("digests")), "record": record.get("digest")}
    parts = mapping(record.get("key_parts"))
    keyed = {name: value for name, value in parts.items() if name.endswith("_digest")}
    return {
        "Machine": pairs({name.replace("_", " "): record.get(name) for name in machine}),
        "Code and libraries": [*pairs(code), *pairs(mapping(record.get("versions")))],
        "Began with": pairs(
            {
                "weights": part_of(record, "weights", "name"),
                "digest of the weights": part_of(record, "weights", "digest"),
                "another run": part_of(record, "init_from", "run"),
                "first stages of": record.get("taken_over"),
                "seeds": record.get("seeds"),
            }
        ),
        "Cost": pairs(_spaced(mapping(record.get("ledger")))),
        "Digests of predictions and weights": pairs(digests),
        "Digests in the key": pairs(_spaced(keyed)),
    }


def _spaced(facts: Mapping[str, Any]) -> Facts:
    return {name.replace("_", " "): value for name, value in facts.items()}


def config_of(run: RunFolder, record: Record) -> Facts:
    """The resolved configuration: the run's own file, else what its key was made from."""
    try:
        return run.config()
    except LtbenchError:
        return dict(mapping(part_of(record, "key_parts", "config")))


def seed_of(path: Path) -> str:
    """`seed-3` as it is shown."""
    return path.name.removeprefix("seed-")
