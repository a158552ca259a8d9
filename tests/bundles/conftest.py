"""A good bundle, and what a forger does with it."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ltbench import stored_predictions
from ltbench.bundles.making import bundle_members
from ltbench.bundles.members import MANIFEST, zip_bytes
from ltbench.files import canonical_json, sha256_hex
from ltbench.metrics import evaluate
from ltbench.stored_predictions import predictions_digest
from ltbench.testing import tiny_run

Members = dict[str, bytes]


class Forger:
    """Changes members and makes all digests fit again, as somebody would who means it."""

    def __init__(self, members: Members, path: Path) -> None:
        self.members, self.path = dict(members), path

    def json(self, name: str, change: Callable[[dict], object]) -> Forger:
        """Change a JSON member in place."""
        told = json.loads(self.members[name])
        change(told)
        self.members[name] = json.dumps(told).encode()
        return self

    def arrays(self, change: Callable[[dict[str, np.ndarray]], object], seed: int = 0) -> Forger:
        """Change the arrays of a seed, without making its record fit."""
        name = f"seed-{seed}/predictions.npz"
        with np.load(io.BytesIO(self.members[name])) as stored:
            found = dict(stored)
        change(found)
        buffer = io.BytesIO()
        np.savez(buffer, **found)
        self.members[name] = buffer.getvalue()
        return self

    def record_fits(self, seed: int = 0, *, metrics: bool = True) -> Forger:
        """Write the digests and metrics of the changed predictions into the record."""
        name = f"seed-{seed}/predictions.npz"
        file = self.path.with_suffix(".npz")
        file.write_bytes(self.members[name])
        parts = {part: stored_predictions.read(file, part) for part in ("val", "test")}

        def fit(record: dict) -> None:
            counts = record["metrics"]["test"]["per_class"]["train_count"]
            for part, predictions in parts.items():
                record["digests"][part] = predictions_digest(predictions)
                if metrics:
                    record["metrics"][part] = evaluate(predictions, counts)
            digests = record["digests"]
            record["digest"] = sha256_hex("".join(digests[k] for k in sorted(digests)).encode())

        return self.json(f"seed-{seed}/record.json", fit)

    def write(self, **manifest: object) -> Path:
        """The bundle, its manifest fitting its members; further facts of it as given."""
        told = json.loads(self.members[MANIFEST])
        others = {name: data for name, data in self.members.items() if name != MANIFEST}
        told["members"] = {name: sha256_hex(data) for name, data in others.items()}
        told |= manifest
        others[MANIFEST] = canonical_json(told).encode()
        self.path.write_bytes(zip_bytes(others))
        return self.path


@pytest.fixture(scope="session")
def tiny_runs(tmp_path_factory):
    """Two seeds of one configuration, and where they lie."""
    results = tmp_path_factory.mktemp("results")
    runs = [tiny_run("ce", results, {"epochs": 2, "seed": seed}).folder for seed in (0, 1)]
    return results, runs


@pytest.fixture(scope="session")
def good_members(tiny_runs):
    _, runs = tiny_runs
    return bundle_members(runs)


@pytest.fixture
def good(good_members, tmp_path):
    """A bundle that nothing is wrong with."""
    path = tmp_path / "good.zip"
    path.write_bytes(zip_bytes(good_members))
    return path


@pytest.fixture
def forger(good_members, tmp_path):
    return Forger(good_members, tmp_path / "forged.zip")


@pytest.fixture(scope="session")
def built_board(tiny_runs, tmp_path_factory):
    """A board of another configuration of the same split, never changed."""
    from ltbench.bundles.work import build

    results = tmp_path_factory.mktemp("others")
    tiny_run("ce", results, {"epochs": 1})
    folder = tmp_path_factory.mktemp("boards") / "toy"
    build([results], folder)
    return folder


@pytest.fixture
def board(built_board, tmp_path):
    """A copy to be changed."""
    return Path(shutil.copytree(built_board, tmp_path / "board"))


@pytest.fixture
def raw_zip(good_members, tmp_path):
    """raw_zip(entries) -> path of a zip file with the good members and these entries."""

    def write(entries: list[tuple[zipfile.ZipInfo | str, bytes]]) -> Path:
        path = tmp_path / "raw.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in [*good_members.items(), *entries]:
                archive.writestr(name, data)
        return path

    return write
