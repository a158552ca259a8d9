"""How this installation is called, and where it keeps results unless told otherwise."""

from __future__ import annotations

from pathlib import Path

DEFAULT_RESULTS = Path("results/runs")
DEFAULT_TUNED = Path("results/tuned")

_CHECKOUT = Path(__file__).resolve().parents[1]
# How this installation is called: from its checkout, or by the command the wheel installs.
PROGRAM = ["python", "bench.py"] if (_CHECKOUT / "bench.py").is_file() else ["ltbench"]
