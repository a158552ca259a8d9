"""False claims among ten rows without a true difference; see benchmarks/coverage.py."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

FILE = Path(__file__).parents[2] / "benchmarks" / "coverage.py"


@pytest.fixture(scope="module")
def coverage():
    spec = importlib.util.spec_from_file_location("ltbench_benchmark_coverage", FILE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look there for their annotations
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def share_called_different(coverage, effects, repeats, way, **more):
    made = coverage.simulate(effects, repeats, num_resamples=200, **more)
    return np.mean([bool(one[way]) for one in made])


@pytest.mark.parametrize("scenario", [0, 3])
def test_equal_rows_are_rarely_called_different(coverage, scenario):
    """5 %, and what chance allows in 15 repeats."""
    effects = coverage.SCENARIOS[scenario]
    assert share_called_different(coverage, effects, 15, "all pairs") <= 0.2


def test_a_better_row_is_found(coverage):
    effects = coverage.SCENARIOS[0]
    assert share_called_different(coverage, effects, 5, "all pairs", gain=1.5) == 1


@pytest.mark.slow
@pytest.mark.parametrize("scenario", [0, 1, 2, 3, 4])
def test_equal_rows_in_many_repeats(coverage, scenario):
    effects = coverage.SCENARIOS[scenario]
    share = share_called_different(coverage, effects, 400, "all pairs")
    assert share <= 0.05 + 2.5 * (0.05 * 0.95 / 400) ** 0.5


@pytest.mark.slow
def test_comparing_with_the_best_alone_calls_too_many(coverage):
    """The best was chosen by the same numbers, so nine comparisons are not all there are."""
    share = share_called_different(coverage, coverage.SCENARIOS[3], 200, "best only")
    assert share > 0.08
