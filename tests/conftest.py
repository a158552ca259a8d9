"""Fixtures for tests of the command line."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from ltbench.registry import DATASETS, METHODS


class Answer(NamedTuple):
    """What a command leaves behind."""

    code: int
    out: str
    err: str


@pytest.fixture
def bench(capsys: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    """bench("list", "methods"): the command line in this process, through `ltbench.cli.main`."""
    from ltbench.cli import main

    def call(*arguments: object) -> Answer:
        capsys.readouterr()
        code = 0
        try:
            main([str(one) for one in arguments])
        except SystemExit as stop:
            code = int(stop.code or 0)
        return Answer(code, *capsys.readouterr())

    return call


@pytest.fixture
def own_registries() -> Iterator[None]:
    """Plugin files that the test makes known are forgotten after it."""
    before = {registry: set(registry._files) for registry in (METHODS, DATASETS)}
    yield
    for registry, names in before.items():
        for name in set(registry._files) - names:
            del registry._files[name]
            registry._classes.pop(name, None)
            sys.modules.pop(f"ltbench_plugin_{name}", None)
