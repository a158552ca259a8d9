"""A finished run's method, built again from its folder, without the data it was trained on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from ltbench.composition import Composition
from ltbench.config import rebuild
from ltbench.errors import VerificationError
from ltbench.method import Method, Task
from ltbench.models import BackboneFactory
from ltbench.registry import METHODS
from ltbench.results import RunFolder
from ltbench.run_config import RunConfig
from ltbench.run_weights import reported_weights
from ltbench.views.view import View

__all__ = ["Trained", "load_trained"]


@dataclass(frozen=True)
class Trained:
    """A method with the weights its run reported, ready to predict.

    Attributes:
        mean, std: of the inputs by channel, on the scale 0..1.
    """

    folder: RunFolder
    record: dict[str, Any]
    config: RunConfig
    method: Method
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def class_names(self) -> tuple[str, ...]:
        """In the order of the logits."""
        return tuple(self.record["class_names"])

    def views(self) -> dict[str, View]:
        """The recipe's views."""
        return {name: View(transforms) for name, transforms in self.config.views.items()}


def load_trained(folder: RunFolder) -> Trained:
    """Build the method of a finished run and load its weights.

    Raises:
        DataMissingError: the run is not done, or its weights are gone.
        VerificationError: the weights are not those of its record, or the record is too old.
    """
    record, state = reported_weights(folder)
    config = rebuild(folder.config())
    if "input" not in record:
        raise VerificationError(
            f"{folder.name} was made by an older version, whose records do not hold what the "
            "inputs were normalised with. Run the cell again."
        )
    torch.manual_seed(0)
    method: Method = METHODS[config.method_name](config.method, _task(record, config))
    method.load_state_dict(state)
    inputs = record["input"]
    return Trained(folder, record, config, method, tuple(inputs["mean"]), tuple(inputs["std"]))


def _task(record: dict[str, Any], config: RunConfig) -> Task:
    """What the method was told when it was built."""
    inputs, counts = record["input"], tuple(record["train_counts"])
    feedback = record["feedback_counts"]
    return Task(
        class_names=tuple(record["class_names"]),
        class_counts=counts,
        validation_counts=None if feedback is None else tuple(feedback),
        input_shape=tuple(inputs["shape"]),
        epochs=config.epochs,
        batch_size=config.batch_size,
        steps_per_epoch=inputs["steps_per_epoch"],
        make_backbone=BackboneFactory(config.backbone, inputs["shape"][0]),
        composition=Composition(
            reweight=config.reweight, mix=config.mix, class_counts=counts, seed=config.seeds.loader
        ),
    )
