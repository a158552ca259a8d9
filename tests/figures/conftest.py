"""Made runs with validation, history and names that markup would take for its own."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from made_figures import made_folder


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Two rows of three seeds on five classes, the last without a test image."""
    root = tmp_path_factory.mktemp("runs")
    for label in ("ce", "focal"):
        for seed in range(3):
            made_folder(root, label, seed)
    return root


@pytest.fixture
def run(tmp_path):
    """make(...): one run folder."""
    return lambda label="ce", seed=0, **how: made_folder(tmp_path / "runs", label, seed, **how)


@pytest.fixture(autouse=True)
def _no_warning():
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.fixture
def rng():
    return np.random.default_rng(0)
