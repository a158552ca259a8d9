"""The conformance suite on the data sets whose images are always here."""

from ltbench.testing import DatasetConformance
from ltbench.testing.tiny import TOY_BLOBS


class TestDigits(DatasetConformance):
    dataset = "digits_lt"


class TestToyBlobs(DatasetConformance):
    dataset = "toy_blobs"
    plugins = (TOY_BLOBS,)
