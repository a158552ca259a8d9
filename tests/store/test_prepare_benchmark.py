from __future__ import annotations

import importlib.util
from pathlib import Path

from click.testing import CliRunner

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "prepare.py"


def test_the_benchmark_runs_and_prints_its_tables():
    spec = importlib.util.spec_from_file_location("prepare_benchmark", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    done = CliRunner().invoke(script.main, ["--quick"])
    assert done.exit_code == 0, done.output
    rows = [line.split() for line in done.output.splitlines()]
    speed, quality = [row for row in rows if row[:3] == ["600", "x", "450"]]
    assert float(speed[3]) > 0
    stored_kb, mean, p99 = map(float, quality[4:7])
    assert 400 < stored_kb < 420
    assert 0.1 < mean < p99 < 15
    assert any(row[:1] == ["32"] for row in rows)
