"""What a program must know of an exported model to use it rightly; in the file's metadata."""

from __future__ import annotations

import json
from typing import Any

from ltbench.bundles.portable import command
from ltbench.store.dataset import StoredConfig
from ltbench.trained import Trained

__all__ = ["input_shape", "model_facts", "steps_before", "steps_of_view"]


def input_shape(trained: Trained) -> tuple[int, int, int]:
    """(channels, height, width) of the method's input at inference.

    Where the eval view keeps pictures of different sizes, that of training.
    """
    channels, height, width = trained.record["input"]["shape"]
    made = trained.views()[trained.method.eval_views[0]]
    if not made.settles_size:
        return int(channels), int(height), int(width)
    return made.output_shape((int(channels), int(height), int(width)))


def steps_of_view(trained: Trained, view: str) -> list[dict[str, Any]]:
    """The steps of a view with their settings, as a recipe writes them."""
    dumped: dict[str, list[dict[str, Any]]] = trained.config.model_dump(mode="json")["views"]
    return dumped[view]


def steps_before(trained: Trained) -> str:
    """What the data set's store does to a picture before any view; "" where it has none."""
    config = trained.config.dataset
    if not isinstance(config, StoredConfig):
        return ""
    sides = ", ".join(f"{side} x {side}" for side in config.squares)
    square = (
        f"; where a view begins with a resize to {sides}, it is made straight from the full "
        "picture, bilinear"
    )
    return (
        "turned as EXIF says, converted to RGB, and scaled to a shorter side of at most "
        f"{config.short_side} (bicubic){square if sides else ''}; all antialiased"
    )


def model_facts(trained: Trained, *, normalised_inside: bool) -> dict[str, str]:
    """Text by name; lists and numbers as JSON.

    Args:
        normalised_inside: whether the model itself subtracts the mean and divides by the std.
    """
    record, views = trained.record, trained.method.eval_views
    channels, height, width = input_shape(trained)
    scale = "0..1 (8-bit pixels divided by 255)"
    after = "" if normalised_inside else ", then (x - mean) / std by channel"
    facts: dict[str, Any] = {
        "format": "ltbench model 1",
        "run": record["name"],
        "label": record["label"],
        "backbone": trained.config.backbone,
        "method": record["method"],
        "dataset": record["dataset"],
        "protocol": record["protocol"],
        "split_digest": record["split_digest"],
        "class_names": record["class_names"],
        "input": f"float32 (N, {channels}, {height}, {width}), {'RGB' if channels == 3 else 'grey'}"
        f" on the scale {scale}{after}",
        "input_shape": [channels, height, width],
        "normalisation": "inside" if normalised_inside else "outside",
        "mean": record["input"]["mean"],
        "std": record["input"]["std"],
        "before_views": steps_before(trained),
        "views": {view: steps_of_view(trained, view) for view in views},
        "views_note": "What is done to a picture before it is put in. Logits of several views are "
        "averaged.",
        "output": f"float32 (N, {len(record['class_names'])}), logits in the order of class_names; "
        "softmax gives probabilities",
        "precision": record["precision"],
        "weights_digest": record["digests"]["weights"],
        "record_digest": record["digest"],
        "command": command(record["command"]),
    }
    return {
        name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for name, value in facts.items()
    }
