"""A trained method's `predict` as an ONNX model, its input normalisation inside."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from ltbench.errors import DataMissingError, RunFailedError, VerificationError
from ltbench.exporting.facts import input_shape, model_facts
from ltbench.method import Method
from ltbench.trained import Trained

__all__ = ["OPSET", "TOLERANCE", "Inference", "check_onnx", "onnx_bytes"]

OPSET: Final = 18
INPUT, OUTPUT = "images", "logits"

TOLERANCE: Final = 1e-4
"""How far logits may be off from torch's, relative to the largest where that is above 1."""

_INSTALL = "pip install 'ltbench[export]'"
_BATCHES = (1, 2, 7)


class Inference(nn.Module):
    """Pictures on the scale 0..1 to inference logits, float32 (N, C)."""

    mean: Tensor
    std: Tensor

    def __init__(self, trained: Trained) -> None:
        super().__init__()
        self.method: Method = trained.method
        for name, values in (("mean", trained.mean), ("std", trained.std)):
            self.register_buffer(name, torch.tensor(values).view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Logits of pictures, float32 (N, channels, height, width) in [0, 1]."""
        return self.method.predict((images - self.mean) / self.std).float()


def onnx_bytes(trained: Trained) -> bytes:
    """The model as a file: opset `OPSET`, any number of pictures, facts in its metadata.

    Raises:
        DataMissingError: a package is not installed.
        RunFailedError: torch cannot export this method's `predict`.
    """
    import_needed("onnx", "onnxscript")
    from onnx.helper import set_model_props

    net = Inference(trained).eval()
    example = torch.rand(2, *input_shape(trained))
    with _quiet():
        try:
            program = torch.onnx.export(
                net,
                (example,),
                dynamo=True,
                opset_version=OPSET,
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                input_names=[INPUT],
                output_names=[OUTPUT],
                verbose=False,
            )
        except (torch.onnx.errors.OnnxExporterError, torch._dynamo.exc.Unsupported) as error:
            raise RunFailedError(
                f"torch cannot turn the `predict` of '{trained.record['method']}' into ONNX: "
                f"{str(error).splitlines()[0]} Use --to safetensors, or write `predict` in plain "
                "tensor operations."
            ) from error
    assert program is not None
    proto = program.model_proto
    _strip(proto)
    set_model_props(proto, dict(model_facts(trained, normalised_inside=True)))
    data: bytes = proto.SerializeToString(deterministic=True)
    return data


def check_onnx(data: bytes, trained: Trained, real: np.ndarray | None) -> dict[str, float]:
    """Run the model by ONNX Runtime and compare its logits with torch's.

    Args:
        real: pictures of the data set, float32 (N, channels, height, width) in [0, 1].

    Returns:
        The largest difference by kind of input, "random" and "real", relative to the largest logit
        where that is above 1.

    Raises:
        DataMissingError: ONNX Runtime is not installed.
        VerificationError: the logits differ by more than `TOLERANCE`.
    """
    import_needed("onnxruntime")
    import onnxruntime

    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    net = Inference(trained).eval().cpu()
    generator = np.random.default_rng(0)
    shape = input_shape(trained)
    drawn = [generator.random((n, *shape), dtype=np.float32) for n in _BATCHES]
    inputs: dict[str, list[np.ndarray]] = {"random": drawn}
    if real is not None:
        inputs["real"] = [real]
    found = {}
    for kind, batches in inputs.items():
        found[kind] = max(_difference(session, net, batch) for batch in batches)
        if not found[kind] <= TOLERANCE:
            raise VerificationError(
                f"The ONNX model of {trained.folder.name} gives other logits than torch, off by "
                f"{found[kind]:.3g} on {kind} pictures; expected at most {TOLERANCE:g}. It was not "
                "written. Report the method and the versions of torch, onnx and onnxruntime."
            )
    return found


def _difference(session: Any, net: Inference, images: np.ndarray) -> float:
    with torch.no_grad():
        expected = net(torch.from_numpy(images)).numpy()
    (came,) = session.run([OUTPUT], {INPUT: images})
    if came.shape != expected.shape:
        return float("inf")
    return float(np.abs(came - expected).max() / max(1.0, float(np.abs(expected).max())))


def import_needed(*packages: str) -> None:
    """Refuse, with the command that mends it, where a package is not installed."""
    import importlib.util

    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise DataMissingError(
            f"ONNX export needs {', '.join(missing)}, which is not installed. Run: {_INSTALL}"
        )


def _strip(proto: Any) -> None:
    """Leave out what the exporter notes of the source code: paths and lines of this machine."""
    graphs = [proto.graph, *proto.functions]
    for graph in graphs:
        for part in ("node", "value_info", "input", "output", "initializer"):
            for one in getattr(graph, part, ()):
                if hasattr(one, "metadata_props"):
                    del one.metadata_props[:]
                if hasattr(one, "doc_string") and not isinstance(one, str):
                    one.doc_string = ""
        if hasattr(graph, "metadata_props"):
            del graph.metadata_props[:]
        graph.doc_string = ""
    del proto.metadata_props[:]


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter's own warnings are for its developers; what matters is checked afterwards."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    before: Mapping[str, int] = {logger.name: logger.level for logger in loggers}
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger in loggers:
            logger.setLevel(before[logger.name])
