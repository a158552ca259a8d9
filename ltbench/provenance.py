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

from ltbench.files import sha256_hex, write_bytes

FOLDER = Path(__file__).resolve().parent
PACKAGES = ("ltbench", "torch", "torchvision", "timm", "lightning-fabric", "numpy", "scikit-learn")


def versions() -> dict[str, str]:
    """Versions of what takes part in a number."""
    found = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"python": platform.python_version(), **found}


def code_files() -> list[Path]:
    """The harness's source files, sorted: all but the plugins, which have digests of their own."""
    plugins = {FOLDER / name for name in ("methods", "datasets", "published")}
    return sorted(file for file in FOLDER.rglob("*.py") if not plugins & set(file.parents))


@functools.cache
def code_digest() -> str:
    """SHA-256 of the names and contents of `code_files`."""
    lines = (
        f"{file.relative_to(FOLDER).as_posix()} {sha256_hex(file.read_bytes())}\n"
        for file in code_files()
    )
    return sha256_hex("".join(lines).encode())


@functools.cache
def git_state() -> dict[str, Any] | None:
    """Commit and dirty flag of the checkout this code runs from; None where it is not one."""

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(FOLDER), *arguments],
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
