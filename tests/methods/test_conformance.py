"""The conformance suite on every registered method."""

from __future__ import annotations

from ltbench.models import CifarResNet
from ltbench.registry import METHODS
from ltbench.testing import MethodConformance


class TestCE(MethodConformance):
    method = "ce"


class TestECL(MethodConformance):
    method = "ecl"


class TestECLPaper(MethodConformance):
    method = "ecl@paper_losses"


class TestECLAuthors(MethodConformance):
    method = "ecl@authors_losses"


def test_every_method_is_covered():
    covered = {suite.method.partition("@")[0] for suite in MethodConformance.__subclasses__()}
    missing = [name for name in METHODS.names() if name not in covered and "toy" not in name]
    assert not missing, f"add a conformance class for {missing}"


class TestBBN(MethodConformance):
    method = "bbn"


class TestCRT(MethodConformance):
    method = "crt"


class TestHybridSC(MethodConformance):
    method = "hybrid_sc"


class TestHybridPSC(MethodConformance):
    method = "hybrid_sc@psc"


class TestSCL(MethodConformance):
    method = "scl"


class TestBCL(MethodConformance):
    method = "bcl"


class TestBCLPaper(MethodConformance):
    method = "bcl@paper"


class TestBCLAuthors(MethodConformance):
    method = "bcl@authors"


# The keys' encoder follows the queries' and is never stepped itself.
MOMENTUM_COPIES = (
    *(f"momentum_backbone.net.{name}" for name, _ in CifarResNet(8, 1).named_parameters()),
    *(f"momentum_projection.{layer}.{name}" for layer in (0, 2) for name in ("weight", "bias")),
)


class TestTSC(MethodConformance):
    method = "tsc"
    untrained = MOMENTUM_COPIES


class TestTSCPaper(MethodConformance):
    method = "tsc@paper"
    untrained = MOMENTUM_COPIES


MATCHING_BY_EPOCH = {"method.matching": "epoch"}


class TestTSCMatchingByEpoch(MethodConformance):
    method = "tsc"
    settings = MATCHING_BY_EPOCH
    untrained = MOMENTUM_COPIES


class TestFocal(MethodConformance):
    method = "focal"


class TestFocalPaper(MethodConformance):
    method = "focal@paper"


class TestFocalAuthors(MethodConformance):
    method = "focal@authors"


class TestLDAMDRW(MethodConformance):
    method = "ldam_drw"


class TestLogitAdjust(MethodConformance):
    method = "logit_adjust"


class TestLogitAdjustPosthoc(MethodConformance):
    method = "logit_adjust@posthoc"


class TestMWNL(MethodConformance):
    method = "mwnl"


class TestMWNLNormal(MethodConformance):
    method = "mwnl@isic2017"


class TestBalancedSoftmax(MethodConformance):
    method = "balanced_softmax"
