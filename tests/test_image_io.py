"""Reading pictures: everything Pillow opens as a still picture, and nothing lost in silence."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
import png
import pytest
from PIL import Image, ImageCms, PngImagePlugin, TiffImagePlugin, TiffTags, features

from llicm_cli.errors import InputError, OutputError
from llicm_cli.image_io import picture_bytes, read_image


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
    assert losses == [] and image.getexif()[0x0112] == 1


def test_orientation_counts_behind_two_marks(crop: Image.Image):
    exif = Image.Exif()
    exif[0x0112] = 6
    data = saved(crop, "JPEG", exif=b"Exif\0\0" + exif.tobytes())
    assert read_image(data)[0].size == (crop.height, crop.width)
    assert crop.height != crop.width


def test_palette(crop: Image.Image):
    palette = crop.quantize(32)
    image, losses = read_image(saved(palette, "PNG"))
    assert image.mode == "RGB" and losses == []
    assert np.array_equal(image, palette.convert("RGB"))


def test_a_palette_of_several_transparencies(crop: Image.Image, recwarn: pytest.WarningsRecorder):
    palette = crop.quantize(32)
    image, losses = read_image(saved(palette, "PNG", transparency=bytes(range(0, 256, 8))))
    assert image.mode == "RGBA" and losses == [] and not recwarn.list
    assert np.array_equal(image.getchannel("A"), 8 * np.asarray(palette))


def test_one_bit_and_grey_palette_become_grey(crop: Image.Image):
    for picture in (crop.convert("1"), crop.convert("L").convert("P")):
        image, _ = read_image(saved(picture, "PNG"))
        assert image.mode == "L" and np.array_equal(image, picture.convert("L"))


@pytest.mark.parametrize("mode", ["1", "P"])
def test_grey_stays_grey_where_one_level_is_transparent(crop: Image.Image, mode: str):
    picture = crop.convert("1") if mode == "1" else crop.convert("L").convert("P")
    image, losses = read_image(saved(picture, "PNG", transparency=0))
    shown = np.asarray(picture)
    assert image.mode == "LA" and losses == []
    assert np.array_equal(image.getchannel("A"), np.where(shown == 0, 0, 255))
    assert np.array_equal(image.getchannel("L"), picture.convert("L"))


def test_a_grey_palette_keeps_a_profile_of_colours(crop: Image.Image):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image, losses = read_image(saved(crop.convert("L").convert("P"), "PNG", icc_profile=profile))
    assert image.mode == "RGB" and image.info["icc_profile"] == profile and losses == []


def test_an_opaque_alpha_channel_costs_nothing(crop: Image.Image):
    image, losses = read_image(saved(crop.convert("RGBA"), "PNG"))
    assert losses == [] and np.array_equal(image, crop)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "I;16"])
def test_transparency_is_read(crop: Image.Image, mode: str):
    if mode == "P":
        picture = crop.quantize(32)
        data = saved(picture, "PNG", transparency=0)
        expected = np.where(np.asarray(picture) == 0, 0, 255)
    elif mode == "I;16":
        deep = np.asarray(crop.convert("L")).astype(np.uint16) * 257
        data = saved(Image.fromarray(deep), "PNG", transparency=int(deep[0, 0]))
        expected = np.where(deep == deep[0, 0], 0, 255)
    else:
        picture = crop.convert(mode)
        picture.putalpha(Image.linear_gradient("L").resize(crop.size))
        data, expected = saved(picture, "PNG"), np.asarray(picture.getchannel("A"))
    image, _ = read_image(data)
    assert image.mode == ("LA" if mode in ("LA", "I;16") else "RGBA")
    assert np.array_equal(image.getchannel("A"), expected)


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


# 4x4 pixels of one grey in RGB, in files that Pillow cannot write: JPEG 2000 of 16 bits, AVIF of 10.
HIDDEN_BITS = {
    "JPEG2000": (
        "/0//UQAvAAAAAAAEAAAABAAAAAAAAAAAAAAABAAAAAQAAAAAAAAAAAADDwEBDwEBDwEB/1IADAAAAAEBAAQEAAH/XAAEQID/ZAAl"
        "AAFDcmVhdGVkIGJ5IE9wZW5KUEVHIHZlcnNpb24gMi41LjT/kAAKAAAAAAAjAAH/k8P/AAcAFABciELhIPKfBgeVMl+AgP/Z"
    ),
    "AVIF": (
        "AAAAIGZ0eXBhdmlmAAAAAGF2aWZtaWYxbWlhZk1BMUEAAADrbWV0YQAAAAAAAAAhaGRscgAAAAAAAAAAcGljdAAAAAAAAAAAAAAA"
        "AAAAAAAOcGl0bQAAAAAAAQAAAB5pbG9jAAAAAEQAAAEAAQAAAAEAAAETAAAAIAAAAChpaW5mAAAAAAABAAAAGmluZmUCAAAAAAEA"
        "AGF2MDFDb2xvcgAAAABqaXBycAAAAEtpcGNvAAAAFGlzcGUAAAAAAAAABAAAAAQAAAAQcGl4aQAAAAADCgoKAAAADGF2MUOBIEAA"
        "AAAAE2NvbHJuY2x4AAIAAgAGgAAAABdpcG1hAAAAAAAAAAEAAQQBAoMEAAAAKG1kYXQSAAoIOAR9rAgIGkAyEheCYwTDDDDPIIQA"
        "kD0+s1evgA=="
    ),
}


@pytest.mark.parametrize("kind", HIDDEN_BITS)
def test_bits_that_pillow_drops_in_silence_are_told(crop: Image.Image, kind: str):
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    image, losses = read_image(base64.b64decode(HIDDEN_BITS[kind]))
    assert image.mode == "RGB" and image.getcolors() == [(16, (156, 156, 156))]
    assert any("8 bits" in loss for loss in losses)
    assert not any("8 bits" in loss for loss in read_image(saved(crop, kind))[1])


@pytest.mark.parametrize("value", [70_000, 200])
def test_integers_beyond_16_bits_are_refused(value: int):
    with pytest.raises(InputError, match="16 bits"):
        read_image(saved(Image.fromarray(np.full((4, 4), value, dtype=np.int32)), "TIFF"))


@pytest.mark.parametrize(("low", "high", "told"), [(0, 65536, False), (7000, 8500, True)])
def test_few_grey_levels_of_many_are_told(low: int, high: int, told: bool):
    """As of a thermal camera, which uses a small part of 16 bits."""
    values = np.random.default_rng(0).integers(low, high, (64, 64)).astype(np.uint16)
    image, losses = read_image(saved(Image.fromarray(values), "PNG"))
    left, before = len(image.getcolors() or []), len(np.unique(values))
    assert any(f"{left} of {before} grey levels" in loss for loss in losses) == told


def tagged(data: bytes, tag: int, value: int) -> bytes:
    """A little-endian TIFF with a short of its first folder set to another value."""
    changed = bytearray(data)
    start = struct.unpack_from("<I", data, 4)[0]
    for place in range(start + 2, start + 2 + 12 * struct.unpack_from("<H", data, start)[0], 12):
        if struct.unpack_from("<H", data, place)[0] == tag:
            struct.pack_into("<H", changed, place + 8, value)
    assert changed != data
    return bytes(changed)


@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_a_tiff_whose_zero_is_white_is_no_negative(crop: Image.Image, depth: type):
    scale = 257 if depth is np.uint16 else 1
    grey = np.asarray(crop.convert("L"))
    data = saved(Image.fromarray(((255 - grey).astype(depth) * scale).astype(depth)), "TIFF")
    assert np.array_equal(read_image(tagged(data, 262, 0))[0], grey)


def test_a_preview_is_not_taken_for_the_picture(crop: Image.Image):
    """Camera raw files are TIFFs that begin with a small copy."""
    version = {50706: b"\1\4\0\0"}
    for data in (saved(crop, "TIFF", tiffinfo={254: 1}), saved(crop, "TIFF", tiffinfo=version)):
        with pytest.raises(InputError, match="preview"):
            read_image(data)


def test_further_bands_are_told(crop: Image.Image):
    four = np.dstack([np.asarray(crop), np.asarray(crop.convert("L"))])
    image, losses = read_image(saved(Image.frombuffer("RGBX", crop.size, four.tobytes()), "TIFF"))
    assert np.array_equal(image, crop) and any("bands" in loss for loss in losses)
    assert read_image(saved(crop, "TIFF"))[1] == []


@pytest.mark.parametrize("bits", [2, 4, 8, 16])
def test_the_transparent_colour_of_a_png_is_found_at_every_depth(bits: int):
    white = 2**bits - 1
    file = io.BytesIO()
    png.Writer(2, 1, greyscale=True, bitdepth=bits, transparent=white).write(file, [[0, white]])
    assert np.asarray(read_image(file.getvalue())[0]).tolist() == [[[0, 255], [255, 0]]]
    if bits >= 8:
        colour, file = (white, white // 2, 0), io.BytesIO()
        writer = png.Writer(2, 1, greyscale=False, bitdepth=bits, transparent=colour)
        writer.write(file, [[0, 0, 0, *colour]])
        assert np.asarray(read_image(file.getvalue())[0]).tolist() == [[[0, 0, 0, 255], [255, 127, 0, 0]]]


def test_a_large_profile_goes_through_a_png(crop: Image.Image):
    image, losses = read_image(saved(crop, "JPEG", icc_profile=SRGB + bytes(range(256)) * 6000))
    data, told = picture_bytes(image, ".png")
    assert losses == [] and any("ICC" in loss for loss in told)
    assert read_image(data)[0].info["icc_profile"] == image.info["icc_profile"]
    assert picture_bytes(image, ".tif")[1] == []


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
def test_resolution_is_kept_or_told(crop: Image.Image, kind: str):
    image, losses = read_image(saved(crop, kind, dpi=(600, 600)))
    if kind == "TIFF":
        assert losses == []
        again = Image.open(io.BytesIO(picture_bytes(image, ".tif")[0]))
        assert again.info["dpi"] == (600, 600)
    else:
        assert losses == ["metadata is not kept (resolution)"]
        assert read_image(saved(crop, kind, dpi=(72, 72)))[1] == []
    exif = Image.Exif()
    exif[282] = 600
    assert read_image(saved(crop, "JPEG", dpi=(600, 600), exif=exif))[1] == []


def test_gamma_is_told(crop: Image.Image):
    data = saved(crop, "PNG")
    for gamma, losses in ((45455, []), (100000, ["metadata is not kept (gamma)"])):
        body = b"gAMA" + struct.pack(">I", gamma)
        chunk = struct.pack(">I", 4) + body + struct.pack(">I", zlib.crc32(body))
        assert read_image(data[:33] + chunk + data[33:])[1] == losses


def with_png_chunk(data: bytes, kind: bytes, content: bytes) -> bytes:
    """A PNG with one chunk more, behind its header."""
    head = data[:33]
    crc = zlib.crc32(kind + content).to_bytes(4, "big")
    return head + len(content).to_bytes(4, "big") + kind + content + crc + data[33:]


@pytest.mark.parametrize(("green", "told"), [((30000, 60000), False), ((26500, 69000), True)])
def test_other_primary_colours_are_told(crop: Image.Image, green: tuple[int, int], told: bool):
    primaries = (31270, 32900, 64000, 33000, *green, 15000, 6000)
    data = with_png_chunk(saved(crop, "PNG"), b"cHRM", struct.pack(">8I", *primaries))
    assert any("primary colours" in loss for loss in read_image(data)[1]) == told
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    data = with_png_chunk(saved(crop, "PNG", icc_profile=profile), b"cHRM", struct.pack(">8I", *primaries))
    assert read_image(data)[1] == [], "the profile counts"


def test_the_text_of_another_program_is_told(crop: Image.Image):
    for program, told in (("llicm", False), ("Photoshop", True)):
        texts = PngImagePlugin.PngInfo()
        texts.add_text("Software", program)
        assert any("text" in loss for loss in read_image(saved(crop, "PNG", pnginfo=texts))[1]) == told


def test_a_broken_exif_block_does_not_cost_the_picture(crop: Image.Image):
    image, losses = read_image(saved(crop, "PNG", exif=b"Exif\0\0garbage"))
    assert np.array_equal(image, crop) and losses == [] and image.info["exif"] == b"garbage"
    for suffix in (".png", ".tif", ".webp"):
        assert np.array_equal(read_image(picture_bytes(image, suffix)[0])[0], crop)


def test_of_a_broken_exif_block_pillow_says_nothing(crop: Image.Image, recwarn: pytest.WarningsRecorder):
    data = saved(crop, "JPEG", dpi=(300, 300), exif=b"Exif\0\0II*\0\x08\0\0\0")  # ends before its tags
    Image.open(io.BytesIO(data)).getexif()
    assert "Corrupt EXIF" in str(recwarn.pop().message)
    read_image(data)
    assert not recwarn.list


def test_a_comment_is_not_kept_and_that_is_told(crop: Image.Image):
    _, losses = read_image(saved(crop, "JPEG", comment=b"taken at noon"))
    assert len(losses) == 1 and "comment" in losses[0]


SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'>field camera</x:xmpmeta>"


def exif(orientation: int, **more: bytes | int) -> bytes:
    tags = Image.Exif()
    for tag, value in more.items():
        tags[int(tag[1:])] = value
    tags[0x010F], tags[0x0112] = "maker", orientation
    tags[0x8769] = {0x9003: "2026:01:02 03:04:05"}
    return tags.tobytes()


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_metadata_goes_from_every_format_to_every_lossless_one(
    crop: Image.Image, kind: str, orientation: int
):
    options: dict[str, object] = {"icc_profile": SRGB, "exif": exif(orientation), "xmp": XMP}
    if kind == "PNG":
        texts = PngImagePlugin.PngInfo()
        texts.add_itxt("XML:com.adobe.xmp", XMP.decode())
        options = options | {"pnginfo": texts}
    if kind == "TIFF":
        options["exif"] = exif(orientation, t700=XMP)
    image, losses = read_image(saved(crop, kind, **options))
    assert losses == []
    assert image.size == (crop.size if orientation == 1 else crop.size[::-1])
    for suffix in (".png", ".tif", ".webp"):
        data, lost = picture_bytes(image, suffix)
        again, _ = read_image(data)
        assert lost == [] and np.array_equal(again, image)
        assert again.info["icc_profile"] == SRGB and again.info["xmp"].strip() == XMP
        tags = again.getexif()
        assert tags[0x010F] == "maker" and tags.get(0x0112, 1) == 1
        assert tags.get_ifd(0x8769)[0x9003] == "2026:01:02 03:04:05"
    assert picture_bytes(image, ".bmp")[1] == ["BMP cannot hold metadata (ICC, EXIF, XMP)"]


def test_xmp_that_is_no_utf_8_is_told_and_left_out_of_a_png(crop: Image.Image):
    picture = crop.copy()
    picture.info["xmp"] = "<x/>".encode("utf-16")
    data, losses = picture_bytes(picture, ".png")
    assert len(losses) == 1 and "UTF-8" in losses[0] and "xmp" not in Image.open(io.BytesIO(data)).info
    data, losses = picture_bytes(picture, ".tif")
    assert losses == [] and Image.open(io.BytesIO(data)).info["xmp"] == picture.info["xmp"]


def test_turning_upright_changes_one_byte_of_exif(crop: Image.Image):
    before = exif(6)
    image, _ = read_image(saved(crop, "JPEG", exif=before))
    kept = image.info["exif"]
    before = before.removeprefix(b"Exif\0\0")
    assert len(kept) == len(before)
    assert sum(a != b for a, b in zip(kept, before, strict=True)) == 1


def test_only_an_orientation_that_can_be_reset_turns(crop: Image.Image):
    texts = PngImagePlugin.PngInfo()
    xmp = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    texts.add_itxt("XML:com.adobe.xmp", xmp)
    image, _ = read_image(saved(crop, "PNG", pnginfo=texts))
    assert np.array_equal(image, crop) and image.info["xmp"] == xmp.encode()


def test_exif_that_tells_of_other_pixels_does_not_spoil_a_tiff(crop: Image.Image):
    picture = crop.convert("L")
    picture.info["exif"] = exif(1, t256=7, t257=9, t262=2, t277=3, t284=2).removeprefix(b"Exif\0\0")
    whole = picture.info["exif"]
    for told, lost in ((whole, False), (whole[:-20], False), (b"II*\0" + b"\xff" * 40, True)):
        picture.info["exif"] = told
        data, losses = picture_bytes(picture, ".tif")
        assert np.array_equal(read_image(data)[0], crop.convert("L"))
        assert bool(losses) == lost


TURNED_XMP = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
@pytest.mark.parametrize("told", [exif(6), b""], ids=["exif", "xmp alone"])
def test_a_picture_is_turned_once(crop: Image.Image, told: bytes, suffix: str):
    image, _ = read_image(saved(crop, "JPEG", exif=told, xmp=TURNED_XMP.encode()))
    assert image.size == (crop.size[::-1] if told else crop.size)
    again, _ = read_image(picture_bytes(image, suffix)[0])
    assert np.array_equal(again, image)
    assert (b'Orientation="1"' in image.info["xmp"]) == bool(told)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
def test_pixels_that_lie_turned_stay_told_so(crop: Image.Image, suffix: str):
    lying = crop.copy()
    lying.info["exif"] = exif(6)
    data, losses = picture_bytes(lying, suffix)
    assert losses == [] and np.array_equal(read_image(data)[0], crop.transpose(Image.Transpose.ROTATE_270))


def test_an_upright_tiff_does_not_tell_of_a_turn_in_xmp(crop: Image.Image):
    xmp = TURNED_XMP.replace('"6"', "'6'").encode()  # Pillow knows double quotes only
    image, _ = read_image(saved(crop, "TIFF", exif=exif(6, t700=xmp)))
    assert image.size == crop.size[::-1] and b"Orientation='1'" in image.info["xmp"]


@pytest.mark.filterwarnings("ignore:Metadata Warning")  # of Pillow, as the file is written
@pytest.mark.parametrize("kind", [TiffTags.SHORT, TiffTags.SIGNED_BYTE])
def test_xmp_that_is_no_text_does_not_cost_a_tiff(crop: Image.Image, kind: int):
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[0x0112] = 1
    tags.tagtype[700] = kind
    tags[700] = (60, 120) if kind == TiffTags.SHORT else (-60, 120)
    image, losses = read_image(saved(crop, "TIFF", tiffinfo=tags))
    assert np.array_equal(image, crop) and losses == ["damaged XMP is not kept"] and "xmp" not in image.info


def test_xmp_of_a_tiff_may_be_a_text(crop: Image.Image):
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[0x0112] = 1  # without, Pillow cannot load it
    tags.tagtype[700] = TiffTags.ASCII
    tags[700] = XMP.decode()
    image, losses = read_image(saved(crop, "TIFF", tiffinfo=tags))
    assert losses == [] and image.info["xmp"] == XMP


@pytest.mark.parametrize("text", [PngImagePlugin.PngInfo.add_text, PngImagePlugin.PngInfo.add_itxt])
def test_texts_by_the_names_of_chunks_are_texts(crop: Image.Image, text: Callable[..., None]):
    texts = PngImagePlugin.PngInfo()
    for name in ("chromaticity", "dpi", "exif", "gamma", "icc_profile", "srgb", "transparency", "xmp"):
        text(texts, name, "300")
    image, losses = read_image(saved(crop, "PNG", pnginfo=texts))
    assert np.array_equal(image, crop) and losses == ["metadata is not kept (text)"]
    assert set(image.info) <= {"exif"}  # Pillow takes a tEXt of that name for it, in bytes


def odd_exif() -> bytes:
    """One GPS tag of a type that Pillow reads and cannot write, and the place of a third folder."""
    tags = Image.Exif()
    tags[0x010F], tags[0x8769] = "maker", {0x9003: "2026:01:02 03:04:05", 0xA005: 99}
    tags[0x8825] = {3: "E", 5: b"\1"}
    before, after = struct.pack(">HHI", 5, 1, 1), struct.pack(">HHI", 5, 2, 1)
    assert tags.tobytes().count(before) == 1
    return tags.tobytes().replace(before, after)  # the sign of the altitude becomes a text


def test_one_damaged_tag_does_not_cost_the_others(crop: Image.Image):
    picture = crop.copy()
    picture.info["exif"] = odd_exif().removeprefix(b"Exif\0\0")
    data, losses = picture_bytes(picture, ".tif")
    tags = Image.open(io.BytesIO(data)).getexif()
    assert losses == ["TIFF cannot hold all of this EXIF"] and tags[0x010F] == "maker"
    assert dict(tags.get_ifd(0x8769)) == {0x9003: "2026:01:02 03:04:05"} and tags.get_ifd(0x8825)[3] == "E"


@pytest.mark.parametrize("following", [3, 10**6])
def test_a_tiff_whose_next_picture_is_nowhere_is_one_picture(crop: Image.Image, following: int):
    data = bytearray(saved(crop, "TIFF"))
    order = "<" if data[:2] == b"II" else ">"
    start = struct.unpack_from(order + "I", data, 4)[0]
    end = start + 2 + 12 * struct.unpack_from(order + "H", data, start)[0]
    assert data[end : end + 4] == bytes(4)
    struct.pack_into(order + "I", data, end, following)
    image, losses = read_image(bytes(data))
    assert np.array_equal(image, crop) and losses == []


def test_damaged_exif_does_not_cost_a_tiff(crop: Image.Image):
    tags = Image.Exif()
    tags.load(odd_exif().replace(struct.pack(">HHI", 5, 2, 1), struct.pack(">HHI", 5, 1, 1)))
    data = saved(crop, "TIFF", exif=tags)
    forms = [tuple(struct.pack(o + "HHIB", 5, kind, 1, 1) for kind in (1, 2)) for o in "<>"]
    (before, after), *_ = [form for form in forms if form[0] in data]
    image, losses = read_image(data.replace(before, after))
    assert np.array_equal(image, crop) and losses == ["damaged EXIF tags are not kept"]
    assert image.getexif()[0x010F] == "maker"


def test_grey_with_premultiplied_alpha(crop: Image.Image):
    grey = crop.convert("L")
    grey.putalpha(grey.point(lambda level: 255 if level > 90 else 128))
    data = saved(Image.merge("LA", grey.convert("La").split()), "TIFF")
    forms = [(struct.pack(o + "HHIH", 338, 3, 1, 2), struct.pack(o + "HHIH", 338, 3, 1, 1)) for o in "<>"]
    (before, after), *_ = [form for form in forms if form[0] in data]  # what the second band is
    image, losses = read_image(data.replace(before, after))
    assert image.mode == "LA" and losses == []
    assert np.abs(np.asarray(image).astype(int) - np.asarray(grey)).max() <= 2


def test_a_broken_cmyk_profile_does_not_cost_the_picture(crop: Image.Image):
    image, losses = read_image(saved(crop.convert("CMYK"), "JPEG", icc_profile=b"no profile"))
    assert image.mode == "RGB" and any("profile is damaged" in loss for loss in losses)


def test_a_profile_that_does_not_fit_the_pixels_is_told(crop: Image.Image):
    image, losses = read_image(saved(crop.convert("L"), "PNG", icc_profile=SRGB))
    assert "icc_profile" not in image.info and any("ICC" in loss for loss in losses)


def test_transparency_needs_a_format_that_has_it(crop: Image.Image):
    with pytest.raises(OutputError, match="transparency"):
        picture_bytes(crop.convert("RGBA"), ".ppm")
    for suffix in (".png", ".tif", ".webp"):
        picture = crop.convert("RGBA")
        picture.putalpha(Image.linear_gradient("L").resize(crop.size))
        assert np.array_equal(read_image(picture_bytes(picture, suffix)[0])[0], picture)


def test_cmyk_is_converted_with_a_warning(crop: Image.Image):
    image, losses = read_image(saved(crop.convert("CMYK"), "TIFF"))
    assert image.mode == "RGB" and any("CMYK" in loss for loss in losses)


def test_further_frames_are_told(crop: Image.Image):
    data = saved(crop.convert("P"), "GIF", save_all=True, append_images=[crop.rotate(90).convert("P")])
    _, losses = read_image(data)
    assert any("first of several frames" in loss for loss in losses)
    assert read_image(saved(crop.convert("P"), "GIF"))[1] == []


def iptc(picture: bytes, size: tuple[int, int]) -> bytes:
    """An IPTC file that says it is RGB of this size, around another file."""
    fields = [(20, size[0]), (30, size[1]), (60, 0x301), (65, 1), (120, 5)]
    told = b"".join(bytes((0x1C, 3, field, 0, 2)) + value.to_bytes(2, "big") for field, value in fields)
    return told + b"\x1c\x08\x0a\x84\0" + len(picture).to_bytes(4, "big") + picture


def test_a_file_within_a_file_is_not_opened(crop: Image.Image):
    data = iptc(saved(crop.convert("L"), "PNG"), crop.size)
    with Image.open(io.BytesIO(data)) as opened:
        opened.load()
        assert opened.format == "IPTC", "Pillow opens what is within"
    with pytest.raises(InputError, match="not a picture"):
        read_image(data)


def test_a_picture_larger_than_its_header_said_is_refused(crop: Image.Image, monkeypatch: pytest.MonkeyPatch):
    load = Image.Image.load

    def grow(image: Image.Image) -> object:
        image._size = (999, 999)
        return load(image)

    monkeypatch.setattr("PIL.PpmImagePlugin.PpmImageFile.load", grow)
    with pytest.raises(InputError, match="999x999"):
        read_image(saved(crop, "PPM"), max_pixels=crop.width * crop.height)


def test_a_decompression_bomb_is_refused_before_it_unfolds():
    header = bytearray(saved(Image.new("L", (8, 8)), "BMP"))
    header[18:26] = (30_000).to_bytes(4, "little") + (30_000).to_bytes(4, "little")
    with pytest.raises(InputError, match="limit of 268435456 pixels"):
        read_image(bytes(header))
    assert read_image(saved(Image.new("L", (8, 8)), "BMP"), 64)[0].size == (8, 8)
    with pytest.raises(InputError, match="limit of 63 pixels"):
        read_image(saved(Image.new("L", (8, 8)), "BMP"), 63)


def test_floating_point_pictures_are_refused():
    with pytest.raises(InputError, match="floating"):
        read_image(saved(Image.fromarray(np.zeros((4, 4), dtype=np.float32)), "TIFF"))


def test_a_tiff_of_several_pages_is_turned_once(crop: Image.Image):
    data = saved(crop, "TIFF", save_all=True, append_images=[crop], tiffinfo={0x0112: 6})
    image, losses = read_image(data)
    assert np.array_equal(image, crop.rotate(-90, expand=True))
    assert len(losses) == 1 and "first of several" in losses[0]


def test_pillows_limit_of_pixels_does_not_hold(crop: Image.Image, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    for kind in ("TIFF", "PNG", "BMP"):
        assert np.array_equal(read_image(saved(crop, kind))[0], crop)
    assert Image.MAX_IMAGE_PIXELS == 100


def test_12_bits_of_grey_are_scaled():
    values = np.array([[0, 16, 2048, 4095]], dtype=np.int64)
    packed = b"".join(
        (int(a) << 12 | int(b)).to_bytes(3, "big")
        for a, b in zip(values[0, ::2], values[0, 1::2], strict=True)
    )
    tags = {256: 4, 257: 1, 258: 12, 259: 1, 262: 1, 273: 8, 277: 1, 278: 1, 279: len(packed)}
    folder = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    start = 8 + len(packed)
    file = b"II*\0" + struct.pack("<I", start) + packed + struct.pack("<H", len(tags)) + folder + bytes(4)
    image, losses = read_image(file)
    assert image.mode == "L" and np.asarray(image).tolist() == [[0, 1, 128, 255]]
    assert len(losses) == 1 and "8 bits" in losses[0]
