"""BCL and TSC learn: short runs on real digits, far above the majority class."""

from __future__ import annotations

import pytest

from ltbench.config import Request
from ltbench.runner import Place, run

MAJORITY = 0.1  # balanced accuracy of one class for all images, of ten


@pytest.mark.slow
@pytest.mark.parametrize("method", ["bcl", "tsc", "tsc@kcl"])
def test_learns(method, tmp_path):
    settings = {"epochs": 20, "machine.threads": 1}
    request = Request(method=method, dataset="digits_lt", settings=settings)
    record = run(request, Place(results=tmp_path)).record
    assert record["metrics"]["test"]["balanced_accuracy"] > MAJORITY + 0.4
