"""Running the command line inside a test: `main` itself, with its exit code and both outputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest

from ltbench.cli import main

TINY = ["--dataset", "digits_lt", "--epochs", "1", "--threads", "1"]


class Answer(NamedTuple):
    code: int
    out: str
    err: str


Bench = Callable[..., Answer]


def bench_of(capsys: pytest.CaptureFixture[str]) -> Bench:
    def bench(*arguments: object) -> Answer:
        capsys.readouterr()
        code = 0
        try:
            main([str(one) for one in arguments])
        except SystemExit as stop:
            assert isinstance(stop.code, int)
            code = stop.code
        return Answer(code, *capsys.readouterr())

    return bench
