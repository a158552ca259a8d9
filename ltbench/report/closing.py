"""The closing table of one run, as plain text for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tabulate import tabulate

from ltbench.metrics import GROUP_BOUNDS, METRICS
from ltbench.report.quantities import DEFAULT_METRICS, Record


def per_class(record: Record) -> str:
    """The closing table of one run, as plain text: a line a class, then the summary.

    A dash stands for what is undefined.
    """
    metrics = record["metrics"]["test"]
    rows = metrics["per_class"]
    rates = {"Pre": "precision", "Sen": "sensitivity", "Spe": "specificity"}
    rates |= {"F1": "f1", "AUC": "auc"}
    columns = {
        "class": rows["class_names"],
        "train": rows["train_count"],
        "test": rows["support"],
        **{title: [_percent(value) for value in rows[name]] for title, name in rates.items()},
    }
    alignment = ("left", *["right"] * (len(columns) - 1))
    body = tabulate(columns, headers="keys", colalign=alignment, disable_numparse=True)
    title = "{label}, seed {seed}: {dataset}, {protocol}, test part; rates in percent"
    return f"{title.format_map(record)}\n\n{body}\n\n{_summary_lines(metrics)}\n"


def _summary_lines(metrics: Mapping[str, Any]) -> str:
    num_classes, averaged = metrics["num_classes"], metrics["classes_averaged"]
    rows, lines = metrics["per_class"], []
    for name in DEFAULT_METRICS:
        counted = averaged.get(name, num_classes)
        note = "" if counted == num_classes else f"over {counted} of {num_classes} classes"
        lines.append((name.replace("_", " "), _percent(METRICS[name].read(metrics)), note))
    support = dict(zip(rows["class_names"], rows["support"], strict=True))
    for group, bounds in GROUP_BOUNDS.items():
        members = metrics["groups"][group]["classes"]
        tested = sum(support[name] > 0 for name in members)
        note = f"over {tested} of {len(members)} classes with {bounds} training images"
        if not members:
            note = f"no such class ({bounds} training images)"
        sensitivity = _percent(METRICS[f"{group}_sensitivity"].read(metrics))
        lines.append((f"{group} sensitivity", sensitivity, note))
    if metrics["num_tied"]:
        lines.append(("tied images", str(metrics["num_tied"]), "the first class was taken"))
    alignment = ("left", "right", "left")
    return tabulate(lines, tablefmt="plain", colalign=alignment, disable_numparse=True)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"
