"""One file's bytes to 8-bit RGB, with every conversion told and everything damaged refused."""

from __future__ import annotations

import io
import re
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import simplejpeg
from PIL import ExifTags, Image, ImageFile

from ltbench.errors import LtbenchError
from ltbench.fetch.check import HEAD_BYTES, head_fault

__all__ = ["KINDS", "BrokenImageError", "Decoded", "decode", "read_size"]

# Append only: a store keeps the positions.
KINDS = (
    "grey",
    "grey with alpha",
    "1-bit",
    "16-bit",
    "palette",
    "rgba",
    "cmyk",
    "other colours",
    "exif-rotated",
    "multi-frame",
    "odd jpeg",
)
MAX_PIXELS = 400_000_000

_FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "WEBP", "GIF", "PPM", "MPO")
_BEGINNINGS = (b"\xff\xd8", b"\x89PNG", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"RIFF")
_KIND_OF_MODE = {
    "L": ("grey",),
    "LA": ("grey with alpha",),
    "La": ("grey with alpha",),
    "1": ("1-bit",),
    "P": ("palette",),
    "PA": ("palette",),
    "RGBA": ("rgba",),
    "RGBa": ("rgba",),
    "CMYK": ("cmyk",),
    "I;16": ("16-bit", "grey"),
    "I;16B": ("16-bit", "grey"),
    "I;16L": ("16-bit", "grey"),
    "I;16N": ("16-bit", "grey"),
    "I": ("16-bit", "grey"),
    "RGB": (),
}
# What Pillow raises about damaged files, beside its own errors.
_PILLOW_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    RuntimeError,
    LookupError,
    TypeError,
    OverflowError,
    MemoryError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
# What libjpeg says where pixels are lost. Its other warnings are about headers.
_LOST_PIXELS = re.compile(
    r"Premature end|premature end|extraneous bytes|bad Huffman code|instead of RST"
)
# By EXIF orientation; rows become columns first where the two are swapped (5 to 8).
_TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a.swapaxes(0, 1)[:, ::-1],
    7: lambda a: a.swapaxes(0, 1)[::-1, ::-1],
    8: lambda a: a.swapaxes(0, 1)[::-1],
}


class BrokenImageError(LtbenchError):
    """A file that is no whole picture; the message is the reason, to follow the file's name."""

    @property
    def reason(self) -> str:
        """Why."""
        return str(self)


@dataclass(frozen=True)
class Decoded:
    """A picture as networks get it.

    Attributes:
        pixels: uint8 (height, width, 3), RGB, turned as EXIF says, contiguous.
        conversions: what had to be done to the file's pixels, of `KINDS`.
    """

    pixels: np.ndarray
    conversions: tuple[str, ...]


def read_size(file: Path) -> tuple[int, int]:
    """(height, width) after EXIF orientation, from the header alone.

    Raises:
        BrokenImageError: the file is not the beginning of a picture.
        OSError: it cannot be read.
    """
    with file.open("rb") as stream, _pillow():
        image = _opened(stream)
        return _size(image, _orientation(image))


def decode(data: bytes) -> Decoded:
    """Decode a file's bytes fully.

    Pixels are those of Pillow's `convert("RGB")`: alpha is dropped, CMYK converted without a
    profile, 16-bit colour cut to its high byte. Two things differ: 16-bit grey is scaled by
    round(value / 257), where Pillow clips at 255, and EXIF orientation is applied. Of several
    frames the first is taken.

    Raises:
        BrokenImageError: not a picture, truncated, damaged, or larger than `MAX_PIXELS`.
    """
    with _pillow():
        image = _opened(io.BytesIO(data))
        orientation = _orientation(image)
        kinds = _kinds(image)
        if orientation != 1:
            kinds.append("exif-rotated")
        # TIFF pictures are turned by Pillow as they load.
        turn = None if image.format == "TIFF" else _TURNS.get(orientation)
        if image.format in ("JPEG", "MPO"):
            pixels = _jpeg_pixels(data, image, kinds)
        else:
            pixels = _pillow_pixels(data, image)
    if turn is not None:
        pixels = np.ascontiguousarray(turn(pixels))
    return Decoded(pixels, tuple(kinds))


@contextmanager
def _pillow() -> Iterator[None]:
    """Pillow with this module's limit of size, without its warnings, its errors as ours."""
    limit, truncated = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES
    # Pillow warns at the limit and refuses at twice as much.
    Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = MAX_PIXELS // 2, False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except Image.DecompressionBombError as error:
        raise BrokenImageError(
            f"its header asks for more than {MAX_PIXELS // 10**6} megapixels"
        ) from error
    finally:
        Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = limit, truncated


def _opened(stream: io.BufferedReader | io.BytesIO) -> ImageFile.ImageFile:
    try:
        image = Image.open(stream, formats=_FORMATS)
    except Image.DecompressionBombError:
        raise
    except _PILLOW_ERRORS as error:
        stream.seek(0)
        raise BrokenImageError(_not_a_picture(stream.read(HEAD_BYTES))) from error
    if 0 in image.size:
        raise BrokenImageError("it has no pixels")
    return image


def _not_a_picture(head: bytes) -> str:
    fault = head_fault("", head)
    if head.startswith(_BEGINNINGS):
        return f"its header is truncated or damaged; it begins with {head[:16]!r}"
    return fault or (
        "an unknown format; expected JPEG, PNG, TIFF, BMP, WebP, GIF or PPM, and it begins with "
        f"{head[:16]!r}"
    )


def _orientation(image: ImageFile.ImageFile) -> int:
    try:
        # Not image.getexif(): that of PNG decodes the picture.
        value = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
    except _PILLOW_ERRORS:  # a damaged note about the picture; most readers never look at it
        return 1
    return int(value) if value in _TURNS else 1


def _size(image: ImageFile.ImageFile, orientation: int) -> tuple[int, int]:
    width, height = image.size
    if orientation >= 5 and image.format != "TIFF":
        return width, height
    return height, width


def _kinds(image: ImageFile.ImageFile) -> list[str]:
    if image.mode == "F" or (image.mode == "I" and image.format != "PPM"):
        raise BrokenImageError(
            f"pixels of Pillow's mode {image.mode}, whose range is not known; save it with 8 or 16 "
            "bits"
        )
    kinds = list(_KIND_OF_MODE.get(image.mode, ("other colours",)))
    if "16-bit" not in kinds and _is_16_bit(image):
        kinds.append("16-bit")
    try:
        if getattr(image, "is_animated", False):
            kinds.append("multi-frame")
    except _PILLOW_ERRORS as error:
        raise BrokenImageError(_pillow_reason(error)) from error
    return kinds


def _is_16_bit(image: ImageFile.ImageFile) -> bool:
    for tile in image.tile:
        if tile.codec_name == "ppm" and isinstance(tile.args, tuple):
            return int(tile.args[1]) > 255
        return ";16" in str(tile.args)
    return False


def _jpeg_pixels(data: bytes, image: ImageFile.ImageFile, kinds: list[str]) -> np.ndarray:
    cmyk = image.mode == "CMYK"
    try:
        pixels: np.ndarray = simplejpeg.decode_jpeg(data, "CMYK" if cmyk else "RGB")
    except ValueError as error:
        if _LOST_PIXELS.search(str(error)):
            what = "truncated" if "Premature end" in str(error) else "damaged"
            raise BrokenImageError(f"a {what} JPEG ({error})") from error
        # A kind that TurboJPEG's interface does not know, or a header that libjpeg wonders at.
        kinds.append("odd jpeg")
        return _pillow_pixels(data, image)
    return _pillow_pixels(data, image) if cmyk else pixels


def _pillow_pixels(data: bytes, image: ImageFile.ImageFile) -> np.ndarray:
    try:
        if image.format == "PNG":
            # Loading does not look at checksums; a picture that was verified cannot be loaded.
            Image.open(io.BytesIO(data), formats=("PNG",)).verify()
        if image.mode.startswith("I"):
            grey = (np.asarray(image).astype(np.uint32) + 128) // 257
            return np.repeat(grey.astype(np.uint8)[:, :, None], 3, axis=2)
        return np.array(image.convert("RGB"))
    except Image.DecompressionBombError:
        raise
    except _PILLOW_ERRORS as error:
        raise BrokenImageError(_pillow_reason(error)) from error


def _pillow_reason(error: BaseException) -> str:
    if "truncated" in str(error).lower():
        return f"truncated ({error})"
    return f"damaged ({str(error) or type(error).__name__})"
