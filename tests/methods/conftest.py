"""Fixtures for tests of methods: golden numbers, and a task small enough to step by hand.

Golden cases that were met are reported at the end of the session. They travel in the tests' user
properties, so they survive pytest-xdist; its controller reads this file only when `tests/methods`
is named on the command line (`pytest -n 2 tests/methods`).
"""

import json
import platform
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ltbench.method import Batch, Collective, Method, Task

HERE = Path(__file__).parent
GOLDEN = HERE.parent / "golden"
CHECKS = HERE.parents[1] / "results" / "published" / "golden_checks.json"
COMMAND = "python -m pytest tests/methods -q --write-golden"
NOT_NUMBERS = {"nan", "inf", "-inf", "infinity", "-infinity"}


def numbers(value: Any) -> Any:
    """JSON holds NaN and infinity as strings; make them floats, at any depth."""
    if isinstance(value, dict):
        return {key: numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [numbers(item) for item in value]
    if isinstance(value, str) and value.lower() in NOT_NUMBERS:
        return float(value)
    return value


@cache
def known_files(method: str) -> set[str]:
    """Golden files that the method's card lists."""
    methods = json.loads(CHECKS.read_text("utf-8"))["methods"]
    return {check["case"] for check in methods.get(method, [])}


@pytest.fixture
def golden() -> Callable[[str], Any]:
    """Load a golden file by its stem."""
    return lambda stem: numbers(json.loads((GOLDEN / f"{stem}.json").read_text("utf-8")))


@pytest.fixture
def meets(request: pytest.FixtureRequest) -> Callable[..., None]:
    """meets(case, got, want, rtol=1e-9): equal, relative to the largest number of `want`."""

    def check(case: str, got: Any, want: Any, rtol: float = 1e-9) -> None:
        expected = torch.as_tensor(want, dtype=torch.float64)
        actual = torch.as_tensor(got, dtype=torch.float64).detach()
        assert actual.shape == expected.shape, case
        assert expected.isfinite().all(), f"{case}: the golden number itself is not finite"
        scale = float(expected.abs().max()) or 1.0
        error = float((actual - expected).abs().max()) / scale
        assert error <= rtol, f"{case}: relative error {error:.3g}"
        request.node.user_properties.append(("golden", (case, error, rtol)))
        if not request.config.getoption("--write-golden", default=False):
            assert file_of(case) in known_files(method_of(request.node.nodeid)), (
                f"{case} is not on the method's card: run {COMMAND}, then "
                "python bench.py describe --cards docs/methods"
            )

    return check


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--write-golden",
        action="store_true",
        help="record the golden cases met in results/published, for the methods' cards",
    )


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    passed = [r for r in terminalreporter.stats.get("passed", []) if r.when == "call"]
    met = [
        (method_of(r.nodeid), *value)
        for r in passed
        for name, value in r.user_properties
        if name == "golden"
    ]
    if not met:
        return
    allowed = sorted({rtol for *_, rtol in met})
    worst = {rtol: max(e for *_, e, r in met if r == rtol) for rtol in allowed}
    listed = ", ".join(f"{error:.2g} (allowed {rtol:g})" for rtol, error in worst.items())
    cases = len({case for _, case, *_ in met})
    terminalreporter.write_line(f"golden cases met: {cases}, largest relative error: {listed}")
    # A worker of xdist has seen a part of the tests only.
    if config.getoption("--write-golden", default=False) and not hasattr(config, "workerinput"):
        failed = any(terminalreporter.stats.get(kind) for kind in ("failed", "error"))
        if failed or config.getoption("keyword") or config.args != ["tests/methods"]:
            terminalreporter.write_line(f"golden cases not recorded: run {COMMAND}, all passing")
            return
        CHECKS.write_text(json.dumps(recorded(met), indent=1) + "\n", encoding="utf-8")
        terminalreporter.write_line(f"golden cases recorded in {CHECKS.name}")


def recorded(met: list[tuple[str, str, float, float]]) -> dict[str, Any]:
    """What the methods' cards show: by method and file of golden numbers."""
    methods: dict[str, list[dict[str, Any]]] = {}
    for method, file in sorted({(method, file_of(case)) for method, case, *_ in met}):
        mine = [(e, r) for m, case, e, r in met if (m, file_of(case)) == (method, file)]
        check = {
            "case": file,
            "compared": len(mine),
            "error": max(error for error, _ in mine),
            "allowed": max(rtol for _, rtol in mine),
        }
        methods.setdefault(method, []).append(check)
    machine = {
        "torch": torch.__version__.partition("+")[0],
        "numpy": np.__version__,
        "machine": f"{platform.system()} {platform.machine()}",
    }
    return {"command": COMMAND, "measured": machine, "methods": methods}


def method_of(nodeid: str) -> str:
    """`focal` of tests/methods/test_focal.py::..."""
    return Path(nodeid.partition("::")[0]).stem.removeprefix("test_")


def file_of(case: str) -> str:
    """The golden file of a case, which may name a part of it behind a stroke."""
    return case.partition("/")[0]


class TinyBackbone(nn.Module):
    """Convolution, BatchNorm, mean over the picture."""

    num_features = 6

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(6)

    def forward(self, images: Tensor) -> Tensor:
        return self.bn(self.conv(images)).relu().mean(dim=(2, 3))


@pytest.fixture
def make_task() -> Callable[..., Task]:
    """make_task(**changes): classes of 60, 20 and 4 images, batches of eight 8 x 8 pictures."""

    def make(**changes: Any) -> Task:
        settings: dict[str, Any] = {
            "class_names": ("a", "b", "c"),
            "class_counts": (60, 20, 4),
            "validation_counts": (20, 7, 2),
            "input_shape": (3, 8, 8),
            "epochs": 100,
            "batch_size": 8,
            "steps_per_epoch": 10,
            "make_backbone": TinyBackbone,
        }
        return Task(**(settings | changes))

    return make


@pytest.fixture
def make_method(make_task: Callable[..., Task]) -> Callable[..., Method]:
    """make_method(cls, counts, collective=None, **settings): a method on classes of these sizes."""

    def make(
        cls: type[Method],
        counts: Sequence[int] = (60, 20, 4),
        collective: Collective | None = None,
        **settings: Any,
    ) -> Method:
        torch.manual_seed(0)
        task = make_task(
            class_names=tuple(f"class {i}" for i in range(len(counts))),
            class_counts=tuple(counts),
            collective=collective or Collective(),
        )
        return cls(cls.Config(**settings), task)

    return make


@pytest.fixture
def on_two_devices(tmp_path: Path) -> Callable[[str], None]:
    """on_two_devices(script): run a script that joins two processes with `two_devices.run`."""

    def run(script: str) -> None:
        file = tmp_path / "script.py"
        # A script's own folder leads its path.
        file.write_text(f"import sys\nsys.path[0] = {str(HERE)!r}\n{script}", encoding="utf-8")
        done = subprocess.run(
            [sys.executable, str(file), str(tmp_path / "meet")],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr

    return run


@pytest.fixture
def make_batch() -> Callable[..., Batch]:
    """make_batch(targets, num_views): random pictures from a seed of their own."""

    def make(targets: list[int], num_views: int = 2) -> Batch:
        generator = torch.Generator().manual_seed(7)
        views = torch.randn(num_views, len(targets), 3, 8, 8, generator=generator)
        return Batch(tuple(views), torch.tensor(targets), torch.arange(len(targets)))

    return make
