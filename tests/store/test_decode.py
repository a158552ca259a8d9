from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile, ImageOps

from ltbench.store.decode import BrokenImageError, decode, read_size


def by_pillow(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def reason_of(data):
    with pytest.raises(BrokenImageError) as caught:
        decode(data)
    return caught.value.reason


@pytest.mark.parametrize("size", [(40, 60), (39, 61), (1, 1), (3, 7)])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": "4:4:4"}])
def test_jpegs_are_those_of_pillow(draw, encode, size, options):
    data = encode(draw(*size), "JPEG", quality=90, **options)
    decoded = decode(data)
    assert decoded.conversions == ()
    assert decoded.pixels.dtype == np.uint8
    assert (decoded.pixels == by_pillow(data)).all()


@pytest.mark.parametrize(
    ("mode", "kind", "conversions"),
    [
        ("L", "JPEG", ("grey",)),
        ("L", "PNG", ("grey",)),
        ("1", "PNG", ("1-bit",)),
        ("LA", "PNG", ("grey with alpha",)),
        ("P", "PNG", ("palette",)),
        ("P", "GIF", ("palette",)),
        ("RGBA", "PNG", ("rgba",)),
        ("RGBA", "WEBP", ("rgba",)),
        ("CMYK", "JPEG", ("cmyk",)),
        ("CMYK", "TIFF", ("cmyk",)),
        ("YCbCr", "TIFF", ("other colours",)),
        ("RGB", "PNG", ()),
        ("RGB", "BMP", ()),
        ("RGB", "PPM", ()),
        ("RGB", "TIFF", ()),
    ],
)
def test_other_modes_become_rgb_as_in_pillow(draw, encode, mode, kind, conversions):
    picture = Image.fromarray(draw(20, 30)).convert(mode)
    if mode in ("LA", "RGBA"):
        picture.putalpha(Image.fromarray(draw(20, 30)[..., 0]))
    data = encode(picture, kind)
    decoded = decode(data)
    assert decoded.conversions == conversions
    assert decoded.pixels.shape == (20, 30, 3)
    assert (decoded.pixels == by_pillow(data)).all()


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_16_bit_grey_is_scaled_and_not_clipped(encode, kind):
    values = np.array([[0, 128, 129, 257, 1000, 32896, 65535]], dtype=np.uint16)
    decoded = decode(encode(values, kind))
    assert decoded.conversions == ("16-bit", "grey")
    assert decoded.pixels[0, :, 0].tolist() == np.round(values[0] / 257).astype(int).tolist()
    assert (decoded.pixels == decoded.pixels[..., :1]).all()


def png_of_16_bit_colour(values):
    def chunk(name, body):
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    height, width, _ = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    end = chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + end


def test_16_bit_colour_is_counted():
    values = np.arange(5 * 4 * 3).reshape(5, 4, 3) * 1000
    decoded = decode(png_of_16_bit_colour(values))
    assert decoded.conversions == ("16-bit",)
    assert (decoded.pixels == values >> 8).all()
    assert decode(b"P6 1 1 65535\n" + b"\x10\x20" * 3).conversions == ("16-bit",)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_exif_orientation_is_applied_once(draw, encode, tmp_path, kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(draw(20, 30), kind, exif=exif)
    turned = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    decoded = decode(data)
    assert decoded.conversions == (("exif-rotated",) if orientation > 1 else ())
    assert (decoded.pixels == np.asarray(turned)).all()
    assert decoded.pixels.flags.c_contiguous
    file = tmp_path / "picture"
    file.write_bytes(data)
    assert read_size(file) == decoded.pixels.shape[:2]


@pytest.mark.parametrize("orientation", [0, 9, 4000])
def test_orientations_that_mean_nothing_are_ignored(draw, encode, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert decode(encode(draw(20, 30), "JPEG", exif=exif)).pixels.shape == (20, 30, 3)


def test_damaged_exif_spoils_no_picture(draw, encode):
    exif = Image.Exif()
    exif[0x0112] = 6
    data = bytearray(encode(draw(20, 30), "JPEG", exif=exif))
    at = data.index(b"Exif\0\0") + 6
    data[at : at + 8] = b"\xff" * 8
    assert decode(bytes(data)).pixels.shape == (20, 30, 3)


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "PNG", "WEBP", "MPO"])
def test_of_several_frames_the_first_is_taken_and_told(draw, encode, kind):
    first, second = Image.fromarray(draw(20, 30)), Image.fromarray(255 - draw(20, 30))
    data = encode(first, kind, save_all=True, append_images=[second])
    decoded = decode(data)
    assert "multi-frame" in decoded.conversions
    assert (decoded.pixels == by_pillow(data)).all()


@pytest.mark.parametrize("progressive", [False, True])
def test_truncated_jpegs_are_refused(draw, encode, progressive):
    data = encode(draw(40, 60), "JPEG", progressive=progressive)
    for length in range(len(data) - 1, 700, -97):
        assert reason_of(data[:length]).startswith("a truncated JPEG (Premature end"), length
    assert "header is truncated" in reason_of(data[:100])


@pytest.mark.parametrize("mode", ["RGB", "CMYK", "L"])
def test_damaged_jpegs_are_refused(draw, encode, mode):
    data = bytearray(encode(Image.fromarray(draw(80, 120)).convert(mode), "JPEG"))
    middle = len(data) * 2 // 3
    data[middle : middle + 300] = bytes(300)
    assert by_pillow(bytes(data)).shape == (80, 120, 3)  # which sees nothing
    assert reason_of(bytes(data)).startswith("a damaged JPEG (Corrupt JPEG data")


def test_a_jpeg_with_an_odd_header_is_read_by_pillow(draw, encode):
    data = bytearray(encode(draw(20, 30), "JPEG"))
    data[data.index(b"JFIF\0") + 5] = 7
    decoded = decode(bytes(data))
    assert decoded.conversions == ("odd jpeg",)
    assert (decoded.pixels == by_pillow(bytes(data))).all()
    assert reason_of(bytes(data[:-50])).startswith("truncated")


def test_checksums_of_png_are_looked_at(draw, encode):
    data = encode(draw(20, 30), "PNG")
    for position in (60, len(data) // 2, len(data) - 20):
        damaged = bytearray(data)
        damaged[position] ^= 1
        assert reason_of(bytes(damaged)).startswith("damaged (broken PNG")
    assert reason_of(data[:-5]).startswith(("truncated", "damaged"))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "it is empty"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "an HTML page"),
        (b"\n<html lang=en>", "an HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        (b"\x00\x01\x02\x03" * 50, "an unknown format; expected JPEG, PNG"),
        (b"P6 30000 20000 255\n", "more than 400 megapixels"),
        (b"P6 0 20 255\n", "unknown format"),
    ],
)
def test_what_is_no_picture_is_called_by_its_name(tmp_path, data, words):
    assert words in reason_of(data)
    file = tmp_path / "picture.jpg"
    file.write_bytes(data)
    with pytest.raises(BrokenImageError, match=words):
        read_size(file)


def test_pixels_of_unknown_range_are_refused(encode):
    for values in (np.ones((4, 4), dtype=np.float32), np.ones((4, 4), dtype=np.int32)):
        assert "range is not known" in reason_of(encode(values, "TIFF"))


def test_large_pictures_are_allowed_whatever_the_caller_has_set(encode, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    data = encode(np.zeros((30, 40, 3), dtype=np.uint8), "BMP")
    assert decode(data).pixels.shape == (30, 40, 3)
    assert reason_of(data[:-50]).startswith("truncated")
    assert Image.MAX_IMAGE_PIXELS == 10
    assert ImageFile.LOAD_TRUNCATED_IMAGES


def test_random_damage_never_raises_anything_else(draw, encode, tmp_path):
    rng, file = np.random.default_rng(0), tmp_path / "picture"
    picture = Image.fromarray(draw(20, 30))
    kinds = ["JPEG", "PNG", "GIF", "BMP", "WEBP", "PPM", "MPO"]
    whole = [encode(picture, kind) for kind in kinds] + [encode(picture.convert("CMYK"), "JPEG")]
    num_refused = 0
    for _ in range(400):
        data = bytearray(whole[rng.integers(len(whole))])
        for position in rng.integers(0, min(len(data), 200), 3):
            data[position] = rng.integers(256)
        file.write_bytes(data)
        try:
            assert read_size(file) == decode(bytes(data)).pixels.shape[:2]
        except BrokenImageError:
            num_refused += 1
    assert 100 < num_refused < 400
