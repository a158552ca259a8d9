"""What `export` does: write the model, prove it, and put its card beside it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from ltbench.data.feed import Part
from ltbench.errors import DataMissingError
from ltbench.exporting.card import model_card
from ltbench.exporting.facts import model_facts
from ltbench.files import storage_errors, write_bytes, write_text
from ltbench.inference import renderer_of
from ltbench.reevaluation import data_of
from ltbench.results import RunFolder
from ltbench.trained import Trained, load_trained

__all__ = ["Exported", "export_run", "render"]

_NUM_REAL = 16


@dataclass(frozen=True)
class Exported:
    """Files that were written.

    Attributes:
        differences: of ONNX, how far its logits are from torch's, by kind of input.
        note: why no real pictures were tried; "" where they were.
    """

    file: Path
    card: Path
    num_bytes: int
    differences: dict[str, float] = field(default_factory=dict)
    note: str = ""

    def as_facts(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "file": str(self.file),
            "card": str(self.card),
            "num_bytes": self.num_bytes,
            "largest_difference": self.differences,
            "note": self.note,
        }


def export_run(
    folder: RunFolder,
    kind: Literal["onnx", "safetensors"],
    out: Path,
    *,
    data_root: Path | None = None,
) -> Exported:
    """Write a finished run's model to `out`, and its card beside it, with `.md` after the name.

    ONNX holds `predict` with the input's normalisation, and is written only when ONNX Runtime gives
    the same logits as torch on random pictures, and on pictures of the test part where the data are
    here. Safetensors holds the weights by name, with the same facts as metadata.

    Raises:
        DataMissingError: the run, its weights or a package is not here.
        VerificationError: the weights are not the record's, or the ONNX model gives other logits.
    """
    card = out.with_name(f"{out.name}.md")
    trained = load_trained(folder)
    trained.method.eval()
    differences, note = dict[str, float](), ""
    if kind == "onnx":
        from ltbench.exporting.onnx_model import check_onnx, onnx_bytes

        data = onnx_bytes(trained)
        real, note = _real(trained, data_root)
        differences = check_onnx(data, trained, real)
    else:
        data = _safetensors(trained)
    with storage_errors(out.parent):
        out.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(out, data)
    write_text(card, model_card(trained, kind, differences))
    return Exported(out, card, len(data), differences, note)


def render(found: Exported) -> str:
    """For a terminal."""
    lines = [f"Wrote {found.file} ({found.num_bytes} bytes) and its card {found.card}"]
    lines += [
        f"ONNX Runtime's logits are off from torch's by at most {off:.2g} on {kind} pictures"
        for kind, off in found.differences.items()
    ]
    return "\n".join([*lines, *([f"note: {found.note}"] if found.note else [])])


def _safetensors(trained: Trained) -> bytes:
    from safetensors.torch import save

    # Copies: parts of a method may share their tensors, which the format cannot say.
    state = {
        name: value.detach().cpu().contiguous().clone()
        for name, value in trained.method.state_dict().items()
    }
    return _sorted_header(save(state, metadata=model_facts(trained, normalised_inside=False)))


def _sorted_header(data: bytes) -> bytes:
    """The same file with its header in one order: the library's changes from call to call.

    A file is the header's length (8 bytes, little-endian), the header (JSON, padded with spaces to
    a multiple of 8 bytes), and the tensors, whose places count from its end.
    """
    length = int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8 : 8 + length]), sort_keys=True, separators=(",", ":"))
    text = header.encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


def _real(trained: Trained, data_root: Path | None) -> tuple[np.ndarray | None, str]:
    """(some test pictures on the scale 0..1, or why there are none)."""
    try:
        source, split, _ = data_of(trained.folder, data_root)
    except DataMissingError as error:
        return None, f"tried on random pictures only: {str(error).splitlines()[0]}"
    part = Part.of(source, split.test[:_NUM_REAL])
    renderer = renderer_of(trained, part, torch.device("cpu"), normalised=False)
    batch = next(renderer.in_order(trained.method.eval_views[0], _NUM_REAL))
    return batch.images.contiguous().numpy(), ""
