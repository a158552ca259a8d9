"""The model card: what an exported model is, what it was measured to do, and what not to do."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from ltbench.bundles.portable import command
from ltbench.errors import LtbenchError
from ltbench.exporting.facts import input_shape, steps_before, steps_of_view
from ltbench.files import read_json
from ltbench.program import PROGRAM
from ltbench.registry import DATASETS, METHODS
from ltbench.report.as_markdown import escaped
from ltbench.report.footer import leak
from ltbench.report.tables import comparison, per_class, to_markdown
from ltbench.results import RunFolder
from ltbench.trained import Trained

__all__ = ["model_card"]

_LIMITS = """\
- A benchmark's model, for research: to compare methods, to study their errors. It is not a medical
  device, was tested on no other clinic's pictures unless such a test stands below, and must not
  decide about a patient.
- It knows the classes listed here and nothing else: a picture of another thing gets one of these
  classes, often with a high probability. Probabilities are not calibrated for another frequency of
  classes than the training part's.
- Rare classes rest on few test pictures; read the counts beside their numbers."""


def model_card(trained: Trained, kind: str, checks: Mapping[str, float]) -> str:
    """Markdown.

    Args:
        kind: "onnx" or "safetensors".
        checks: how far an ONNX model's logits are from torch's, by kind of input.
    """
    record = trained.record
    parts = [
        escaped(f"# {record['label']}, trained on {record['dataset']}"),
        _what(trained, kind),
        f"## Intended use and limits\n\n{_LIMITS}",
        _input(trained, kind, checks),
        _data(record),
        _results(trained),
        _external(trained.folder),
        _traced(record),
    ]
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def _what(trained: Trained, kind: str) -> str:
    record = trained.record
    info = _info(METHODS, record["method"])
    weights = record["weights"]["name"]
    lines = [
        f"- Method: {escaped(record['label'])}"
        + (f" ({info.paper})" if info and info.paper else ""),
        f"- Network: {trained.config.backbone}, "
        + ("from random weights" if weights == "none" else f"from the weights {weights}")
        + f"; {record['ledger']['num_parameters']} parameters in training",
        f"- File: {kind}, by `{shlex.join(PROGRAM)} export RUN --to {kind}`",
        f"- Made by ltbench {record['versions']['ltbench']}, torch {record['versions']['torch']}",
    ]
    return "\n".join(lines)


def _input(trained: Trained, kind: str, checks: Mapping[str, float]) -> str:
    record, views = trained.record, trained.method.eval_views
    channels, height, width = input_shape(trained)
    colour = "RGB" if channels == 3 else "grey"
    mean, std = ([round(value, 6) for value in record["input"][name]] for name in ("mean", "std"))
    inside = "inside the model" if kind == "onnx" else "yours to do"
    steps = "; ".join(f"{view}: {steps_of_view(trained, view) or 'nothing'}" for view in views)
    averaged = f" The logits of the {len(views)} views are averaged." if len(views) > 1 else ""
    before = steps_before(trained)
    told = ", ".join(f"{off:.1e} on {what} pictures" for what, off in checks.items())
    lines = [
        f"- Input `images`: float32 (N, {channels}, {height}, {width}), {colour}, 8-bit pixels "
        f"divided by 255. Normalisation (mean {mean}, std {std}) is {inside}.",
        *([f"- A picture is first {before}."] if before else []),
        f"- Then it goes through: {steps}.{averaged}",
        f"- Output `logits`: float32 (N, {len(record['class_names'])}), in this order: "
        f"{', '.join(map(_name, record['class_names']))}. Softmax gives probabilities.",
    ]
    if told:
        lines.append(f"- ONNX Runtime's logits are off from torch's by at most {told}.")
    if record["precision"] == "bf16":
        lines.append("- Trained and tested under bf16; this file computes in float32.")
    return "## Input and output\n\n" + "\n".join(lines)


def _data(record: Mapping[str, Any]) -> str:
    info = _info(DATASETS, record["dataset"])
    counts = ", ".join(
        f"{_name(name)} {count}"
        for name, count in zip(record["class_names"], record["train_counts"], strict=True)
    )
    lines = [
        f"- Data set: {record['dataset']}" + (f" ({info.paper})" if info and info.paper else ""),
        f"- Licence of the data: {(info and info.licence) or 'not recorded'}",
        f"- Protocol: {record['protocol']}; split {record['split_digest'][:12]}",
        f"- Training images by class: {counts}",
        f"- Leak: {leak(record)}",
    ]
    if record.get("groups_note"):
        lines.append(f"- {escaped(record['groups_note'])}")
    return "## Data\n\n" + "\n".join(lines)


def _results(trained: Trained) -> str:
    records = _seeds(trained.folder)
    (table,) = comparison(records)
    seeds = ", ".join(str(record["seed"]) for record in records)
    return "\n".join(
        [
            "## Results",
            "",
            f"Of the configuration, over the seeds {seeds}; this file is seed "
            f"{trained.record['seed']}.",
            "",
            to_markdown(table).strip(),
            "",
            "Of this file:",
            "",
            "```text",
            per_class(trained.record).strip(),
            "```",
        ]
    )


def _external(folder: RunFolder) -> str:
    """External tests of this run, where there are any."""
    lines = []
    for file in sorted((folder.path / "external").glob("*/record.json")):
        told = read_json(file)
        score = told["metrics"]["test"]["balanced_accuracy"]
        lines.append(
            f"- {escaped(told['dataset'])}, {escaped(told['protocol'])}: {told['num_images']} "
            f"images, balanced accuracy {100 * score:.2f}"
        )
    return "\n".join(["## Tests on other data", "", *lines]) if lines else ""


def _seeds(folder: RunFolder) -> list[dict[str, Any]]:
    """The records of every finished seed of this configuration."""
    found = []
    for one in sorted(folder.path.parent.glob("seed-*")):
        try:
            found.append(RunFolder(one).record())
        except LtbenchError:
            continue
    return sorted(found, key=lambda record: int(record["seed"]))


def _traced(record: Mapping[str, Any]) -> str:
    git = record.get("git") or {}
    commit = git.get("commit", "not recorded") + (" (with changes)" if git.get("dirty") else "")
    lines = [
        f"- Run: {record['name']}, digest {record['digest']}",
        f"- Weights: SHA-256 {record['digests']['weights']} over names and values",
        f"- Commit: {commit}",
        "- Repeat it:",
        "",
        *(["```sh", command(record["command"]), "```"] if record["command"] else ["not recorded"]),
    ]
    return "## Where it comes from\n\n" + "\n".join(lines)


def _name(of_class: str) -> str:
    """A class's name in a list, as Markdown shows it: one that holds a comma in quotes."""
    return escaped(f'"{of_class}"' if "," in of_class else of_class)


def _info(registry: Any, name: str) -> Any:
    """What a plugin says of itself; None where it is not known here."""
    return registry.info(name) if name in registry else None
