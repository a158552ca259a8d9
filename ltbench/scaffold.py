"""A first version of a plugin that works, and the conformance suite on any plugin."""

from __future__ import annotations

import keyword
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import date
from pathlib import Path

from ltbench.errors import DataMissingError, UsageError
from ltbench.files import storage_errors, write_text
from ltbench.registry import DATASETS, METHODS, normalise, registers

_METHOD = '''"""{title}: say in one line what is new about it."""

import torch.nn.functional as F
from torch import Tensor

from ltbench.method import METHODS, Method, Progress


@METHODS.register(
    "{name}",
    paper="Authors, Title, Venue Year",
    year={year},
    source="owner/repository@commit",
    tags=(),
)
class {title}(Method):
    """What it does.

    l_i = -log softmax(x_i)[y_i]
    """

    def per_sample_loss(self, logits: Tensor, targets: Tensor, progress: Progress) -> Tensor:
        """l_i (B,) of logits (B, C) and targets (B,)."""
        return F.cross_entropy(logits, targets, reduction="none")
'''

_DATASET = '''"""{title}: say in one line what the pictures show."""

import numpy as np

from ltbench.data.images import ArrayImages
from ltbench.data.longtail import held_out
from ltbench.dataset import DATASETS, Dataset, DatasetConfig, Source, Split


@DATASETS.register(
    "{name}",
    paper="Authors, Title, Venue Year",
    year={year},
    source="where the images come from",
    licence="",
    tags=("synthetic",),
)
class {title}(Dataset):
    """What is in it. Here: noise, brighter by class, until you read your own images."""

    Config = DatasetConfig
    protocols = {{"held_out": "validation and test held out"}}
    default_protocol = "held_out"
    default_recipe = "digits"

    def load(self, protocol: str) -> Source:
        """Read the images: uint8 (N, channels, height, width)."""
        targets = np.repeat(np.arange(3), 120)
        noise = np.random.default_rng(0).integers(0, 80, (360, 1, 8, 8))
        return Source(
            images=ArrayImages((noise + 60 * targets[:, None, None, None]).astype(np.uint8)),
            ids=np.array([f"{name}-{{i:04d}}" for i in range(360)]),
            targets=targets.astype(np.int64),
            class_names=("dark", "middle", "bright"),
        )

    def split(self, source: Source, protocol: str, seed: int) -> Split:
        """The same lists for the same seed."""
        return held_out(source, imbalance=5.0, test_fraction=0.3, val_fraction=0.2, seed=seed)
'''

_TEST = '''"""The conformance suite on one plugin."""

from pathlib import Path

from ltbench.testing import {suite}


class TestPlugin({suite}):
    {kind} = {name!r}
    plugins = ({plugins})
    data_root = {data_root}
'''


def new_plugin(name: str, kind: str, folder: Path | None = None) -> Path:
    """Write the scaffold of a method or data set; returns its file.

    Args:
        folder: where to; by default the plugin folder of the checkout ltbench runs from.

    Raises:
        UsageError: a bad or taken name, or no folder to write to.
    """
    name = normalise(name)
    if not name.isidentifier() or keyword.iskeyword(name) or name != name.lower():
        raise UsageError(
            f"'{name}' cannot name a plugin. Expected lower-case letters, digits and underscores, "
            "such as my_method."
        )
    registry = METHODS if kind == "method" else DATASETS
    if name in registry:
        raise UsageError(f"There is a {kind} called '{name}' already: {registry.info(name).file}")
    file = (folder or _plugin_folder(kind)) / f"{name}.py"
    if file.exists():
        raise UsageError(f"{file} exists already; it was left as it is. Choose another name.")
    with storage_errors(file.parent):
        file.parent.mkdir(parents=True, exist_ok=True)
    title = "".join(part.capitalize() for part in name.split("_"))
    template = _METHOD if kind == "method" else _DATASET
    write_text(file, template.format(name=name, title=title, year=date.today().year))
    return file


def testable_name(file: Path) -> str:
    """What `plugin test` takes for a plugin: its name where the project looks, else its file."""
    registry = DATASETS if registers(file, "DATASETS") else METHODS
    return file.stem if file.resolve().parent in registry.folders() else shlex.quote(str(file))


def run_suite(
    name: str, kind: str | None, plugins: Sequence[Path] = (), data_root: Path | None = None
) -> int:
    """Run the conformance suite on a plugin in a fresh process; returns its exit code.

    Args:
        name: of the plugin, or its file.
        kind: method or dataset; None to go by what the file registers, or the name is known as.
        data_root: where a data set's files lie.
    """
    try:
        import pytest  # noqa: F401
    except ModuleNotFoundError as error:
        raise DataMissingError(
            "The conformance suite needs pytest. Install it: pip install 'ltbench[test]'"
        ) from error
    if name.endswith(".py"):
        file = Path(name)
        kind = kind or ("dataset" if registers(file, "DATASETS") else "method")
        name = (METHODS if kind == "method" else DATASETS).add_file(file)
        plugins = (*plugins, file)
    kind = kind or ("dataset" if name in DATASETS and name not in METHODS else "method")
    registry = METHODS if kind == "method" else DATASETS
    _ = registry[name]  # an unknown or broken plugin is named before pytest starts
    suite = "MethodConformance" if kind == "method" else "DatasetConformance"
    paths = "".join(f"Path({str(Path(file).resolve())!r}), " for file in plugins)
    where = f"Path({str(data_root.resolve())!r})" if data_root else None
    text = _TEST.format(
        suite=suite, kind=kind, name=normalise(name), plugins=paths, data_root=where
    )
    with tempfile.TemporaryDirectory(prefix="ltbench-") as folder:
        file = Path(folder) / "test_plugin.py"
        file.write_text(text, encoding="utf-8")
        arguments = ["-q", "-p", "no:cacheprovider", "--rootdir", folder, str(file)]
        return subprocess.run(
            [sys.executable, "-m", "pytest", *arguments], check=False, env=os.environ
        ).returncode


def _plugin_folder(kind: str) -> Path:
    checkout = Path(__file__).resolve().parents[1]
    folder = checkout / f"{kind}s"
    if not (checkout / "pyproject.toml").is_file() or not folder.is_dir():
        raise UsageError(
            "ltbench runs from an installed package, so it has no folder for new plugins. Give "
            "one with --dir, and pass the file with --plugin FILE."
        )
    return folder
