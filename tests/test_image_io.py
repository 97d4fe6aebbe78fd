"""Reading pictures: everything Pillow opens as a still picture, and nothing lost in silence."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, features

from llicm_cli.errors import InputError
from llicm_cli.image_io import read_image


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "BMP", "PPM", "JPEG", "AVIF"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_formats(crop: Image.Image, kind: str, mode: str):
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    lossy = kind in ("JPEG", "AVIF")
    picture = crop.convert(mode)
    options = {"lossless": True} if kind == "WEBP" else {"quality": 95} if lossy else {}
    image, losses = read_image(saved(picture, kind, **options))
    assert image.size == picture.size and losses == []
    assert image.mode == mode or kind in ("WEBP", "AVIF")  # these have no grey
    difference = np.abs(np.asarray(image.convert(mode)).astype(int) - np.asarray(picture))
    assert difference.mean() < 4 if lossy else not difference.any()


def test_orientation_is_applied(crop: Image.Image):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise to view
    image, losses = read_image(saved(crop, "PNG", exif=exif))
    assert np.array_equal(image, crop.rotate(-90, expand=True))
    assert any("EXIF" in loss for loss in losses)


def test_palette(crop: Image.Image):
    palette = crop.quantize(32)
    image, losses = read_image(saved(palette, "PNG"))
    assert image.mode == "RGB" and losses == []
    assert np.array_equal(image, palette.convert("RGB"))


def test_one_bit_and_grey_palette_become_grey(crop: Image.Image):
    for picture in (crop.convert("1"), crop.convert("L").convert("P")):
        image, _ = read_image(saved(picture, "PNG"))
        assert image.mode == "L" and np.array_equal(image, picture.convert("L"))


def test_an_opaque_alpha_channel_costs_nothing(crop: Image.Image):
    image, losses = read_image(saved(crop.convert("RGBA"), "PNG"))
    assert losses == [] and np.array_equal(image, crop)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_is_refused(crop: Image.Image, mode: str):
    if mode == "P":
        data = saved(crop.quantize(32), "PNG", transparency=0)
    else:
        picture = crop.convert(mode)
        picture.putalpha(Image.linear_gradient("L").resize(crop.size))
        data = saved(picture, "PNG")
    with pytest.raises(InputError, match="transparent"):
        read_image(data)


def test_16_bits_are_coded_at_8_with_a_warning(crop: Image.Image):
    grey = np.asarray(crop.convert("L"))
    image, losses = read_image(saved(Image.fromarray(grey.astype(np.uint16) * 257), "PNG"))
    assert image.mode == "L" and np.array_equal(image, grey)
    assert any("8 bits" in loss for loss in losses)


def deep_colour(crop: Image.Image, kind: str) -> bytes:
    """16-bit RGB files, which Pillow cannot write."""
    pixels = np.asarray(crop).astype(np.uint16) * 257
    if kind == "PPM":
        return b"P6 %d %d 65535\n" % crop.size + pixels.astype(">u2").tobytes()
    rows = b"".join(b"\0" + row.tobytes() for row in pixels.astype(">u2"))
    header = struct.pack(">IIBBBBB", *crop.size, 16, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    crcs = [struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks]
    joined = (struct.pack(">I", len(b)) + n + b + c for (n, b), c in zip(chunks, crcs, strict=True))
    return b"\x89PNG\r\n\x1a\n" + b"".join(joined)


@pytest.mark.parametrize("kind", ["PNG", "PPM"])
def test_16_bits_of_colour_are_told_too(crop: Image.Image, kind: str):
    image, losses = read_image(deep_colour(crop, kind))
    assert image.mode == "RGB" and np.array_equal(image, crop)
    assert any("8 bits" in loss for loss in losses)


def test_integers_beyond_16_bits_are_refused():
    with pytest.raises(InputError, match="16 bits"):
        read_image(saved(Image.fromarray(np.full((4, 4), 70_000, dtype=np.int32)), "TIFF"))


def test_a_broken_exif_block_does_not_cost_the_picture(crop: Image.Image):
    image, losses = read_image(saved(crop, "PNG", exif=b"Exif\0\0garbage"))
    assert np.array_equal(image, crop) and any("EXIF" in loss for loss in losses)


@pytest.mark.parametrize(
    ("kind", "options", "word"),
    [
        ("PNG", {"icc_profile": b"profile"}, "ICC"),
        ("JPEG", {"comment": b"taken at noon"}, "comment"),
        ("WEBP", {"xmp": b"<x/>"}, "XMP"),
        ("TIFF", {"tiffinfo": {270: "a description"}}, "text"),
    ],
)
def test_metadata_that_is_not_kept_is_told(
    crop: Image.Image, kind: str, options: dict[str, object], word: str
):
    _, losses = read_image(saved(crop, kind, **options))
    assert len(losses) == 1 and word in losses[0]


def test_cmyk_is_converted_with_a_warning(crop: Image.Image):
    image, losses = read_image(saved(crop.convert("CMYK"), "TIFF"))
    assert image.mode == "RGB" and any("CMYK" in loss for loss in losses)


def test_further_frames_are_told(crop: Image.Image):
    data = saved(crop.convert("P"), "GIF", save_all=True, append_images=[crop.rotate(90).convert("P")])
    _, losses = read_image(data)
    assert any("first of 2 frames" in loss for loss in losses)


def test_a_decompression_bomb_is_refused_before_it_unfolds():
    header = bytearray(saved(Image.new("L", (8, 8)), "BMP"))
    header[18:26] = (30_000).to_bytes(4, "little") + (30_000).to_bytes(4, "little")
    with pytest.raises(InputError, match="limit"):
        read_image(bytes(header))


def test_floating_point_pictures_are_refused():
    with pytest.raises(InputError, match="floating"):
        read_image(saved(Image.fromarray(np.zeros((4, 4), dtype=np.float32)), "TIFF"))
