"""Fashion-MNIST-LT: 70 000 real 28 x 28 grey pictures of clothes, made long-tailed."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
from pydantic import Field

from ltbench.data.images import ArrayImages
from ltbench.data.longtail import Imbalance, held_out, published
from ltbench.data.places import data_home
from ltbench.dataset import DATASETS, Dataset, DatasetConfig, FetchRequest, Source, Split
from ltbench.errors import DataMissingError, UsageError, VerificationError

VAL_FRACTION = 1 / 6  # 1000 of the 6000 training images a class
CLASS_NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
# Of the uncompressed files: Debian compresses anew, so the digests of .gz files differ.
MD5 = {
    "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
    "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
    "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
    "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
}
PREFIXES = {"train": "train", "test": "t10k"}
BELOW = (".", "FashionMNIST/raw", "fashion-mnist")
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
FETCH = "python bench.py data fetch fashion_mnist_lt"


@DATASETS.register(
    "fashion_mnist_lt",
    paper="Xiao, Rasul and Vollgraf, Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine "
    "Learning Algorithms, arXiv 1708.07747",
    year=2017,
    source="zalandoresearch/fashion-mnist; Debian package dataset-fashion-mnist",
    licence="MIT",
    tags=("clothes", "balanced-origin"),
)
class FashionMnistLT(Dataset):
    """Ten kinds of clothes, 6000 training and 1000 test images each."""

    class Config(DatasetConfig):
        """Settings of fashion_mnist_lt."""

        imbalance: Imbalance = Field(
            default=100.0, description="largest over smallest class of the training part"
        )
        balanced_validation: bool = Field(
            default=False,
            description="held_out only: the same number of validation images of every class",
        )

    protocols: ClassVar[Mapping[str, str]] = {
        "held_out": "validation from 1000 training images a class, tail cut from the other 5000",
        "published": "tail cut from all 6000 images a class, official test, no validation",
    }
    default_protocol = "held_out"
    default_recipe = "fashion"
    image_origins = frozenset({"Fashion-MNIST"})
    config: Config

    def load(self, protocol: str) -> Source:
        """All 70 000 images, the official training part first.

        Raises:
            DataMissingError: a file is not found; the message says how to get it.
            VerificationError: a file is damaged.
        """
        arrays = {name: parse_idx(*self._read(name)) for name in MD5}
        pixels, targets, ids = [], [], []
        for part, prefix in PREFIXES.items():
            images = arrays[f"{prefix}-images-idx3-ubyte"]
            labels = arrays[f"{prefix}-labels-idx1-ubyte"]
            if len(images) != len(labels):
                raise VerificationError(
                    f"Expected one label an image, the {part} part has {len(images)} images and "
                    f"{len(labels)} labels. Get the files anew: {FETCH}"
                )
            pixels.append(images[:, None])
            targets.append(labels.astype(np.int64))
            ids.append([f"fashion-{part}-{i:05d}" for i in range(len(labels))])
        return Source(
            images=ArrayImages(np.concatenate(pixels)),
            ids=np.array([name for part in ids for name in part]),
            targets=np.concatenate(targets),
            class_names=CLASS_NAMES,
            partition=np.repeat(list(PREFIXES), [len(part) for part in targets]),
            groups_note="No groups are known: which pictures show one garment is not recorded.",
        )

    def split(self, source: Source, protocol: str, seed: int) -> Split:
        """By image; see `held_out` and `published` in `ltbench.data.longtail`."""
        if protocol == "published":
            return published(source, imbalance=self.config.imbalance, seed=seed)
        return held_out(
            source,
            imbalance=self.config.imbalance,
            seed=seed,
            val_fraction=VAL_FRACTION,
            balanced_validation=self.config.balanced_validation,
        )

    def fetch(self, request: FetchRequest) -> None:
        """Download the four files (30 MB) into the data root, or into the default folder.

        Raises:
            DataMissingError: the download failed; the message names the other ways.
            VerificationError: a file is damaged.
        """
        from torchvision.datasets import FashionMNIST

        root = self.data_root or data_home()
        if request.from_dir is not None:
            raise UsageError(
                f"{self.info.name} takes no --from-dir: put the files into {root} yourself."
            )
        if self._is_here():
            request.say("Every file is here already.")
            return
        try:
            root.mkdir(parents=True, exist_ok=True)
            FashionMNIST(str(root), download=True)
        except (OSError, RuntimeError) as error:
            raise DataMissingError(
                f"The download into {root} failed: {str(error).strip()}\n{self._ways()}"
            ) from error
        for name in MD5:
            self._read(name)

    def _is_here(self) -> bool:
        try:
            for name in MD5:
                self._read(name)
        except DataMissingError:
            return False
        return True

    def _folders(self) -> list[Path]:
        # A folder that was named is the only one: other files in its place would be a surprise.
        if self.data_root is not None:
            return [self.data_root / below for below in BELOW]
        return [*(data_home() / below for below in BELOW), DEBIAN_FOLDER]

    def _ways(self) -> str:
        return (
            f"Expected the files {', '.join(MD5)}, each as it is or with .gz. Three ways:\n"
            f"1. {FETCH}{f' --data-root {self.data_root}' if self.data_root else ''}\n"
            "2. on Debian and Ubuntu: apt-get install dataset-fashion-mnist\n"
            "3. by hand from github.com/zalandoresearch/fashion-mnist into "
            f"{self.data_root or data_home()}"
        )

    def _read(self, name: str) -> tuple[bytes, Path]:
        """The checked, uncompressed content of a file, and where it lies."""
        places = [folder / f"{name}{end}" for folder in self._folders() for end in ("", ".gz")]
        file = next((place for place in places if place.is_file()), None)
        if file is None:
            looked = ", ".join(str(folder) for folder in self._folders())
            raise DataMissingError(
                f"Fashion-MNIST is not here: no {name} in {looked}.\n{self._ways()}"
            )
        return read_checked(file, MD5[name]), file


def read_checked(file: Path, md5: str) -> bytes:
    """The content of a file, uncompressed if it ends in .gz, with the expected MD5.

    Raises:
        VerificationError: the content is not the expected one.
    """
    try:
        data = file.read_bytes()
        data = gzip.decompress(data) if file.suffix == ".gz" else data
        found = hashlib.md5(data, usedforsecurity=False).hexdigest()
    except (OSError, EOFError, zlib.error) as error:
        data, found = b"", f"no readable content ({error})"
    if found != md5:
        raise VerificationError(
            f"{file} is damaged: expected MD5 {md5} of the uncompressed content, found {found}. "
            f"Delete the file, then get it anew: {FETCH}"
        )
    return data


def parse_idx(data: bytes, file: Path) -> np.ndarray:
    """Read the idx format: 0, 0, 8 (uint8), number of sizes, big-endian 32-bit sizes, values.

    Returns:
        uint8, of the shape the header says.

    Raises:
        VerificationError: the header or the length is wrong.
    """
    num_sizes = data[3] if len(data) > 3 else 0
    start = 4 + 4 * num_sizes
    shape = np.frombuffer(data[4:start], dtype=">u4") if len(data) >= start else np.array([])
    if data[:3] != b"\x00\x00\x08" or num_sizes not in (1, 3) or len(shape) != num_sizes:
        raise VerificationError(
            f"{file} is not an idx file of bytes: expected a header 00 00 08 with 1 or 3 sizes, "
            f"found {data[:4].hex(' ')}. Delete the file, then get it anew: {FETCH}"
        )
    expected = int(np.prod(shape.astype(np.int64)))
    if len(data) - start != expected:
        raise VerificationError(
            f"{file} is cut short or too long: expected {expected} values after the header, found "
            f"{len(data) - start}. Delete the file, then get it anew: {FETCH}"
        )
    return np.frombuffer(data, dtype=np.uint8, offset=start).reshape(shape.astype(np.int64))
