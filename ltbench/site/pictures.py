"""Pictures of mistakes: copied small from the data set where it is here, and is the run's."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ltbench.bundles.portable import portable
from ltbench.errors import DataMissingError, LtbenchError, VerificationError
from ltbench.files import canonical_json, sha256_hex
from ltbench.registry import DATASETS, OWN_DATA

if TYPE_CHECKING:
    from ltbench.dataset import Source

__all__ = ["FOLDER", "SIDE", "Shelf", "thumbnail"]

FOLDER: Final = "pictures"
SIDE: Final = 160  # pixels of the longer side
_QUALITY: Final = 85
_NAME_LENGTH: Final = 24

Record = Mapping[str, Any]


@dataclass
class Shelf:
    """The thumbnails of a site, each made once, whichever runs show it.

    Attributes:
        put: takes a thumbnail's path in the site and its bytes.
        data_root: where the data lie; None for the usual place.
        of_strangers: whether configurations are those of other people's bundles.
    """

    put: Callable[[str, bytes], None]
    data_root: Path | None = None
    of_strangers: bool = False
    _opened: dict[str, _Pictures | str] = field(default_factory=dict)
    _digests: dict[str, str] = field(default_factory=dict)

    def why_not(self, record: Record, settings: Mapping[str, Any]) -> str:
        """Why there are no pictures of a run's images; "" where there are.

        Args:
            record: of the run.
            settings: of its data set, as its configuration has them.
        """
        pictures = self._pictures(record, settings)
        return pictures if isinstance(pictures, str) else pictures.why_not(record)

    def take(
        self, record: Record, settings: Mapping[str, Any], ids: Iterable[str]
    ) -> dict[str, tuple[str, str]]:
        """(path, SHA-256) of the thumbnail of each image, where `why_not` has no objection.

        Images whose picture cannot be read are left out.
        """
        pictures = self._pictures(record, settings)
        if isinstance(pictures, str):
            return {}
        found = {}
        for name in ids:
            file = picture_file(record, name)
            if file not in self._digests:
                picture = pictures.of(name)
                if picture is None:
                    continue
                data = thumbnail(picture)
                self.put(file, data)
                self._digests[file] = sha256_hex(data)
            found[name] = file, self._digests[file]
        return found

    def _pictures(self, record: Record, settings: Mapping[str, Any]) -> _Pictures | str:
        name, protocol = record["dataset"], record["protocol"]
        which = canonical_json([name, protocol, dict(settings)])
        if which not in self._opened:
            # Some data sets are held in memory whole: never two of them.
            self._opened = {k: v for k, v in self._opened.items() if isinstance(v, str)}
            try:
                self._opened[which] = self._open(name, protocol, settings)
            except LtbenchError as error:
                self._opened[which] = _first_line(error)
        return self._opened[which]

    def _open(self, name: str, protocol: str, settings: Mapping[str, Any]) -> _Pictures:
        if name not in DATASETS:
            raise DataMissingError(f"The data set '{name}' is not installed here.")
        if self.of_strangers and OWN_DATA in DATASETS.info(name).tags:
            # The places that a stranger's configuration names are files of this machine.
            raise DataMissingError("They are data of the row's maker, which are not on the board.")
        from ltbench.config import dataset_config

        plugin = DATASETS[name]
        dataset = plugin(dataset_config(plugin, {"dataset": dict(settings)}), self.data_root)
        return _Pictures(dataset.load(protocol))


class _Pictures:
    """The pictures of a data set that is here, read one at a time."""

    def __init__(self, source: Source) -> None:
        # Reads a data set, and so torch.
        from ltbench.data.lists import source_digest

        self._images = source.images
        self._digests = {
            "image_digest": source.images.digest(),
            "source_digest": source_digest(source),
        }
        self._position = {name: index for index, name in enumerate(source.ids.tolist())}

    def why_not(self, record: Record) -> str:
        """Why these are not a run's pictures; "" where they are."""
        parts = record.get("key_parts") or {}
        differing = [name for name, found in self._digests.items() if parts.get(name) != found]
        if not differing:
            return ""
        told = " and ".join(name.replace("_", " ") for name in differing)
        return (
            f"The data set here is not the run's: its {told} differs, so an id might name another "
            "picture."
        )

    def of(self, name: str) -> np.ndarray | None:
        """A picture by its id, uint8 (height, width, channels); None where it cannot be read."""
        if name not in self._position:
            return None
        try:
            return self._images.picture(self._position[name])
        except (DataMissingError, VerificationError):
            return None


def picture_file(record: Record, name: str) -> str:
    """Where the thumbnail of an image is: the same for all runs with the same pictures."""
    images = (record.get("key_parts") or {}).get("image_digest")
    digest = sha256_hex(canonical_json([record["dataset"], images, name]).encode())
    return f"{FOLDER}/{digest[:_NAME_LENGTH]}.jpg"


def thumbnail(picture: np.ndarray) -> bytes:
    """A picture as JPEG, its longer side at most `SIDE` pixels; small ones in larger squares.

    Args:
        picture: uint8 (height, width, 1 or 3).
    """
    from PIL import Image

    image = Image.fromarray(
        np.ascontiguousarray(picture[:, :, 0] if picture.shape[2] == 1 else picture)
    )
    longest = max(image.size)
    if longest > SIDE:
        image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    elif longest <= SIDE // 2:
        factor = SIDE // longest
        size = (image.width * factor, image.height * factor)
        image = image.resize(size, Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_QUALITY, optimize=True)
    return buffer.getvalue()


def _first_line(error: LtbenchError) -> str:
    line = str(portable(str(error).partition("\n")[0])).rstrip(".:")
    return f"{line[:1].upper()}{line[1:]}."
