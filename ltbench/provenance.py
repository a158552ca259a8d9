"""Where a number comes from: code, libraries, device."""

from __future__ import annotations

import functools
import importlib.metadata
import io
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ltbench.files import write_bytes

PACKAGES = ("ltbench", "torch", "torchvision", "timm", "lightning-fabric", "numpy", "scikit-learn")


def versions() -> dict[str, str]:
    """Versions of what takes part in a number."""
    found = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"python": platform.python_version(), **found}


@functools.cache
def git_state() -> dict[str, Any] | None:
    """Commit and dirty flag of the checkout this code runs from; None where it is not one."""
    folder = Path(__file__).resolve().parent

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(folder), *arguments],
                capture_output=True,
                text=True,
                timeout=10,
                check=True,
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    tracked = git("ls-files", "--error-unmatch", Path(__file__).name)
    commit = git("rev-parse", "HEAD") if tracked else None
    if commit is None:
        return None
    return {"commit": commit, "dirty": bool(git("status", "--porcelain", "--untracked-files=no"))}


def device_name(device: torch.device) -> str:
    """The device as a reader knows it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return "cpu"


def save_weights(path: Path, state: dict[str, Tensor]) -> None:
    """`torch.save` of a state dict, atomically; `torch.load(..., weights_only=True)` reads it."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_bytes(path, buffer.getvalue())
