"""Checkpoints that are whole or refused: a digest over the bytes, tensors and plain values only."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import torch

from ltbench.errors import VerificationError
from ltbench.files import write_bytes

CHECKPOINT = "checkpoint.pt"  # in the folder of a run that is not finished
_MAGIC = b"ltbench-checkpoint-1\n"


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write atomically: what is at `path` is the old checkpoint or the new one, never a part."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    payload = buffer.getvalue()
    write_bytes(path, _MAGIC + hashlib.sha256(payload).digest() + payload)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read and verify.

    Raises:
        VerificationError: the file is damaged or is no checkpoint.
    """
    data = path.read_bytes()
    head, payload = data[: len(_MAGIC) + 32], data[len(_MAGIC) + 32 :]
    if not head.startswith(_MAGIC) or hashlib.sha256(payload).digest() != head[len(_MAGIC) :]:
        raise VerificationError(
            f"The checkpoint {path} is damaged: its bytes do not have the digest it was written "
            f"with ({len(data)} bytes found). It was left as it is. To train this cell anew, "
            "move it away or run again with --resume never."
        )
    state: dict[str, Any] = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    return state
