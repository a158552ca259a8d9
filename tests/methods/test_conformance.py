"""The conformance suite on every registered method."""

from __future__ import annotations

from ltbench.registry import METHODS
from ltbench.testing import MethodConformance


class TestCE(MethodConformance):
    method = "ce"


class TestECL(MethodConformance):
    method = "ecl"


class TestECLPaper(MethodConformance):
    method = "ecl@paper"


class TestECLAuthors(MethodConformance):
    method = "ecl@authors"


def test_every_method_is_covered():
    covered = {suite.method.partition("@")[0] for suite in MethodConformance.__subclasses__()}
    missing = [name for name in METHODS.names() if name not in covered and "toy" not in name]
    assert not missing, f"add a conformance class for {missing}"
