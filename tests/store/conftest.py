from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def drawn(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A smooth picture with a little noise, uint8 (height, width, 3)."""
    y, x = np.mgrid[0:height, 0:width]
    waves = [
        200 - 40 * np.sin(x / 7 + y / 11 + seed),
        140 + 30 * np.cos(y / 5),
        120 + 20 * np.sin(x),
    ]
    noise = np.random.default_rng(seed).normal(0, 6, (height, width, 3))
    return (np.stack(waves, axis=-1) + noise).clip(0, 255).astype(np.uint8)


def encoded(picture: np.ndarray | Image.Image, kind: str, **options: object) -> bytes:
    """The bytes of a picture file."""
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture
def draw() -> Callable[..., np.ndarray]:
    return drawn


@pytest.fixture
def encode() -> Callable[..., bytes]:
    return encoded


@pytest.fixture
def make_files(tmp_path: Path) -> Callable[..., tuple[np.ndarray, list[Path]]]:
    """make(count): ids and JPEGs of several sizes, around a shorter side of 32."""

    def make(count: int) -> tuple[np.ndarray, list[Path]]:
        folder = tmp_path / "pictures"
        folder.mkdir()
        sizes = [(40, 60), (64, 48), (33, 33), (20, 90)]
        files = [folder / f"p{i}.jpg" for i in range(count)]
        for i, file in enumerate(files):
            file.write_bytes(encoded(drawn(*sizes[i % 4], seed=i), "JPEG", quality=92))
        return np.array([file.stem for file in files]), files

    return make
