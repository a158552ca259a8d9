"""What an evaluation starts from: a run's record and its stored predictions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ltbench.errors import VerificationError
from ltbench.predictions import Predictions
from ltbench.results import SCHEMA_VERSION, RunFolder, training_counts
from ltbench.stored_predictions import predictions_digest

__all__ = ["Material", "read_material", "read_part"]


@dataclass(frozen=True)
class Material:
    """A run, or an external test of one.

    Attributes:
        record: of the run or of the external test.
        trained: the record of the run that was trained; the same as `record` but for external
            tests.
        validation: of the run that was trained; None where its protocol has none.
    """

    folder: RunFolder
    record: Mapping[str, Any]
    trained: Mapping[str, Any]
    validation: Predictions | None
    test: Predictions

    @property
    def is_external(self) -> bool:
        """Whether the test images are of other data than the run's own."""
        return "trained_on" in self.record

    @property
    def train_counts(self) -> list[int]:
        """Images of the training part by class."""
        return training_counts(self.trained)

    @property
    def class_groups(self) -> Mapping[str, list[str]]:
        """Classes that the data set sets against the rest; runs of older versions say none."""
        declared: Mapping[str, list[str]] = self.trained.get("class_groups") or {}
        return declared

    @property
    def group_noun(self) -> str:
        """What a group is, in one word; runs of older versions do not say it."""
        return str(self.record.get("group_noun") or "group")

    @property
    def name(self) -> str:
        """Of the folder, as commands take it."""
        if not self.is_external:
            return self.folder.name
        origin = RunFolder(self.folder.path.parents[1])
        return f"{origin.name}/external/{self.folder.path.name}"


def read_material(folder: RunFolder) -> Material:
    """Read what is stored of a run, or of an external test in its folder `external/`.

    Raises:
        DataMissingError: the run is not done, or its predictions are gone.
        VerificationError: a file is damaged or of another schema version, or predictions are not
            those of the record.
    """
    record = _known_record(folder)
    origin, trained = folder, record
    if "trained_on" in record:
        origin = RunFolder(folder.path.parents[1])
        trained = _known_record(origin)
    test = read_part(folder, record, "test")
    validation = None
    if trained["metrics"].get("val") is not None:
        validation = read_part(origin, trained, "val")
    if validation is not None and validation.class_names != test.class_names:
        raise VerificationError(
            f"{folder.path}: expected validation and test of the same classes, found "
            f"{', '.join(validation.class_names)} and {', '.join(test.class_names)}. Restore the "
            "predictions from a copy, or run the cell again."
        )
    return Material(folder, record, trained, validation, test)


def _known_record(folder: RunFolder) -> Mapping[str, Any]:
    record = folder.record()
    if record["schema_version"] != SCHEMA_VERSION:
        raise VerificationError(
            f"{folder.path} has a record of schema version {record['schema_version']}, expected "
            f"{SCHEMA_VERSION}. Read it with the ltbench that wrote it, or run the cell again."
        )
    return record


def read_part(folder: RunFolder, record: Mapping[str, Any], part: str) -> Predictions:
    """The predictions of "val" or "test", refused where they are not those of the record.

    Raises:
        DataMissingError: they are gone.
        VerificationError: the file is damaged, or holds others than the record was made from.
    """
    predictions = folder.read_predictions(part)
    expected = (record.get("digests") or {}).get(part)
    if expected is not None and predictions_digest(predictions) != expected:
        raise VerificationError(
            f"{folder.path}: the predictions of '{part}' are not those its record was made from: "
            f"expected digest {expected[:16]}..., found {predictions_digest(predictions)[:16]}.... "
            "Restore them from a copy, or run the cell again."
        )
    return predictions
