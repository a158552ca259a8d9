"""Branches and stages learn: real digits, and two devices."""

import pytest

from ltbench.config import Request
from ltbench.runner import Place, run
from ltbench.testing.processes import two_process_digests

METHODS_HERE = ("bbn", "crt", "hybrid_sc", "hybrid_sc@psc", "scl")


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS_HERE)
def test_learns_digits(method, tmp_path):
    settings = {"epochs": 20, "machine.threads": 1}
    outcome = run(Request(method, "digits_lt", settings=settings), Place(results=tmp_path))
    # The majority class alone would give 0.1.
    assert outcome.record["metrics"]["test"]["balanced_accuracy"] > 0.5


@pytest.mark.slow
def test_two_devices_agree_and_resume(tmp_path):
    settings = {"epochs": 2, "batch_size": 4, "dataset.train_counts": [40, 20, 10, 2]}
    methods = [name for name in METHODS_HERE if "@" not in name]
    for method, digests in two_process_digests(methods, tmp_path, settings).items():
        assert digests["resumed"] == digests["whole"], method
        assert digests["states"][0] == digests["states"][1], method
