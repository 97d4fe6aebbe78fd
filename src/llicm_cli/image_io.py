"""Pictures as files: reading what Pillow can open, making files that keep every pixel."""

from __future__ import annotations

import io
import re
import struct
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import numpy as np
import png
from PIL import Image, ImageCms, PngImagePlugin

from llicm_cli.bitstream import MAX_PIXELS, METADATA_LIMIT, size_problem
from llicm_cli.errors import InputError, OutputError, about
from llicm_cli.storage import read_bytes

INFO = {"icc": "icc_profile", "exif": "exif", "xmp": "xmp"}  # our names of metadata: Pillow's in ``info``
SOFTWARE = ("Software", "llicm")  # beside ``llicm``, the text that ``picture_bytes`` writes itself
NOT_KEPT = {"photoshop": "IPTC", "comment": "comment"}
EXIF_MARK = b"Exif\0\0"
PNG_XMP = "XML:com.adobe.xmp"
ICC_SPACES = {"L": b"GRAY", "LA": b"GRAY", "RGB": b"RGB ", "RGBA": b"RGB "}  # bytes 16..20 of a profile
ORIENTATION = 0x0112  # EXIF tag
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
XMP_TURN = re.compile(rb"""(tiff:Orientation(?:\s*=\s*["']|>\s*))[2-8]""")
TIFF_DPI = 282
# Of a TIFF, or of EXIF, all that is not about the layout of pixels: camera, author, dates, ratings.
TIFF_TAGS = (270, 271, 272, TIFF_DPI, 283, 296, 305, 306, 315, 316, 18246, 18249, 33432, *range(40091, 40096))
# EXIF of how pixels lie and are to be understood:
OF_PIXELS = {
    *range(254, 260), 262, 266, 273, ORIENTATION, *range(277, 280), 284, 301, 318, 319, *range(529, 533),
}  # fmt: skip
TIFF_KIND, TIFF_WHITE, TIFF_EXTRA, DNG_VERSION = 254, 262, 338, 50706
USUAL_DPI = {0, 1, 72, 96}
SRGB_GAMMA = 0.45455  # of a PNG's gAMA
SRGB_PRIMARIES = (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)  # and its white, of a PNG's cHRM
FEW_GREYS = 64
TIFF_FOLDERS = (0x8769, 0x8825)  # EXIF and GPS
INTEROPERABILITY = 0xA005  # the place of a third folder, within EXIF
TIFF_XMP = 700
# Formats that call other programs, that open whatever they find within, or that are no pictures:
NOT_PICTURES = {"EPS", "WMF", "IPTC", "HDF5", "BUFR", "GRIB", "MPEG"}
# Formats that keep every pixel, by suffix: (Pillow's name, options).
PICTURE_FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    ".png": ("PNG", {}),
    ".tif": ("TIFF", {"compression": "tiff_deflate"}),
    ".tiff": ("TIFF", {"compression": "tiff_deflate"}),
    ".webp": ("WEBP", {"lossless": True, "exact": True}),
    ".bmp": ("BMP", {}),
    ".ppm": ("PPM", {}),
}
# What Pillow says of a PNG's chunks in ``info``, where it also puts texts under any name:
OF_CHUNKS = {"chromaticity", "dpi", "exif", "gamma", "icc_profile", "srgb", "transparency", "xmp"}
BARE = ("BMP", "PPM")  # hold neither metadata nor transparency


_opening = threading.Lock()


@contextmanager
def _unlimited() -> Iterator[None]:
    """Without Pillow's limits of pixels and of metadata, and without its warnings; one thread at a time."""
    with _opening, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK
        Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK = None, METADATA_LIMIT
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK = before


def open_unlimited(data: bytes, formats: list[str]) -> Image.Image:
    """``Image.open`` without Pillow's own limit of pixels; the caller checks the size before loading them.

    Raises:
        Exception: nearly anything, as Pillow's readers do on damaged files.
    """
    with _unlimited():
        return Image.open(io.BytesIO(data), formats=formats)


def picture_formats() -> list[str]:
    """Pillow's names of the formats that are read."""
    Image.init()
    return [name for name in Image.OPEN if name not in NOT_PICTURES]


def is_picture(path: Path) -> bool:
    """Whether this is a file whose name is that of a picture which can be read."""
    formats = picture_formats()
    return Image.registered_extensions().get(path.suffix.lower()) in formats and path.is_file()


def open_opaque(path: Path) -> Image.Image:
    """The pixels of a picture as L or RGB, without its metadata; raises InputError, which names the file."""
    with about(path):
        image = read_image(read_bytes(path), strip=True)[0]
    return image.convert("L" if image.mode in ("L", "LA") else "RGB")


def open_rgb(path: Path) -> Image.Image:
    """``open_opaque``, as RGB."""
    return open_opaque(path).convert("RGB")


def read_image(
    data: bytes, max_pixels: int = MAX_PIXELS, strip: bool = False
) -> tuple[Image.Image, list[str]]:
    """Open a still picture and make it L, LA, RGB or RGBA, upright.

    Args:
        data: a file of any format that Pillow reads.
        max_pixels: as for ``bitstream.size_problem``; checked before anything is unpacked.
        strip: drop its metadata, and do not count them among what was lost.

    Returns:
        The picture, EXIF orientation applied, with what ``INFO`` names in its ``info`` (EXIF from its byte
        order mark on), and a list of what was lost on the way.

    Raises:
        InputError: not a picture, damaged or too large.
    """
    if not data:
        raise InputError("the file is empty")
    try:
        image = open_unlimited(data, picture_formats())
        if problem := size_problem(*image.size, max_pixels):
            raise InputError(problem)
        if _is_raw(image, data):
            raise InputError(
                "only the preview of a camera's raw file can be read: export it from a raw converter first"
            )
        white = _white(image)  # before the pixels are loaded
        turned = _tag(image, ORIENTATION, 1) in TURNS  # a TIFF, by Pillow, which then drops the tag
        with _unlimited() if image.format in ("TIFF", "PNG") else nullcontext():  # these ask again
            image.load()
        if problem := size_problem(*image.size, max_pixels):  # a header may have told of another size
            raise InputError(problem)
        if image.format == "PNG":
            for name in [n for n in OF_CHUNKS & image.info.keys() if isinstance(image.info[n], str)]:
                del image.info[name]  # no chunk, a text of that name
        dropped = _not_kept(image)
        metadata = _metadata(image, dropped)
        losses = _losses(image, white > 255 or _hides_bits(image, data), _has_more(image.format, data))
        turn = TURNS.get(_orientation(metadata.get("exif", b"")))
        if (turn is not None or turned) and "xmp" in metadata:
            metadata["xmp"] = XMP_TURN.sub(rb"\g<1>1", metadata["xmp"])
        if "exif" in metadata:
            metadata["exif"] = _upright_exif(metadata["exif"])
        pixels = _as_coded(image, white, metadata, losses)
        if turn is not None:
            pixels = pixels.transpose(turn)
        dropped += _unfit(metadata, pixels.mode)
        if strip:
            metadata, dropped = {}, []
        pixels.info = {INFO[name]: value for name, value in metadata.items()}
        return pixels, dropped + losses
    except InputError:
        raise
    except MemoryError as error:
        raise InputError("reading it takes more memory than there is") from error
    except Image.UnidentifiedImageError as error:
        raise InputError("not a picture in a format that Pillow can read") from error
    except Exception as error:  # Pillow's readers raise nearly anything on damaged files
        raise InputError(
            f"a damaged or unsupported picture ({str(error) or type(error).__name__})"
        ) from error


def _has_more(name: str | None, data: bytes) -> bool:
    """Whether a file shows more than one picture; asked of a copy, as looking may damage it."""
    if name == "PSD":
        return False  # Pillow reads the sum of its layers
    with suppress(Exception):
        image = open_unlimited(data, picture_formats())
        with _unlimited():
            image.seek(1)
            return True
    return False


def _is_raw(image: Image.Image, data: bytes) -> bool:
    """Whether this is a TIFF that begins with a small copy of a larger picture, which Pillow cannot read."""
    preview = bool(_tag(image, TIFF_KIND, 0) & 1) or _tag(image, DNG_VERSION, None) is not None
    return preview or (image.format == "TIFF" and data[8:10] == b"CR")


def _tag(image: Image.Image, number: int, default: Any) -> Any:
    """A tag of a TIFF; the default where it has none, and of other files."""
    return image.tag_v2.get(number, default) if image.format == "TIFF" else default  # type: ignore[attr-defined]


def _white(image: Image.Image) -> int:
    """The largest value of a channel in the file, also where Pillow reduces them by itself."""
    for tile in getattr(image, "tile", ()):
        arguments = tile.args if isinstance(tile.args, tuple) else (tile.args,)
        if image.format == "PPM" and len(arguments) > 1 and int(arguments[1]) > 255:
            return 65535
        if "I;12" in arguments:
            return 4095
        if "L;2" in arguments or "L;4" in arguments:
            return 3 if "L;2" in arguments else 15
        if any(isinstance(a, str) and ";16" in a for a in arguments):
            return 65535
    return 65535 if image.mode.startswith(("I", "F")) else 255


def _hides_bits(image: Image.Image, data: bytes) -> bool:
    """Whether a file has more bits a channel than the 8 that Pillow reads without a word."""
    if image.format == "AVIF":  # high_bitdepth of an AV1CodecConfigurationRecord (AV1-ISOBMFF 2.3.3)
        _, found, record = data.partition(b"av1C")
        return bool(found) and record[2] & 0x40 > 0
    if image.format == "JPEG2000":  # Ssiz of the first component (ISO/IEC 15444-1, A.5.1)
        _, found, header = data.partition(b"\xff\x4f\xff\x51")
        return bool(found) and header[38] & 0x7F > 7
    return False


def _not_kept(image: Image.Image) -> list[str]:
    """Metadata that find no place in ``INFO``, in words."""
    info = image.info
    lost = {word for key, word in NOT_KEPT.items() if info.get(key)}
    texts: dict[str, str] = getattr(image, "text", {})
    if any(name not in ("llicm", PNG_XMP) and (name, text) != SOFTWARE for name, text in texts.items()):
        lost.add("text")
    if _resolution(image):
        lost.add("resolution")
    if "srgb" not in info and abs(info.get("gamma", SRGB_GAMMA) - SRGB_GAMMA) > 0.01:
        lost.add("gamma")
    if "srgb" not in info and "icc_profile" not in info:
        primaries = info.get("chromaticity", SRGB_PRIMARIES)
        if max(abs(a - b) for a, b in zip(primaries, SRGB_PRIMARIES, strict=True)) > 0.002:
            lost.add("primary colours")
    return [f"metadata is not kept ({', '.join(sorted(lost))})"] if lost else []


def _losses(image: Image.Image, deep: bool, more: bool) -> list[str]:
    """What of the pixels is not read, in words; ``deep``: they have more than 8 bits a channel; ``more``: the
    file shows other pictures too."""
    losses = []
    if more:
        losses.append("only the first of several frames is read")
    if deep:
        losses.append("more than 8 bits a channel: read at 8 bits")
    if image.mode not in ("1", "L", "P", "RGB", "RGBA", "LA", "PA", "RGBX", "RGBa", "La") and not deep:
        losses.append(f"colours are converted from {image.mode} to RGB")
    if 0 in _tag(image, TIFF_EXTRA, ()):
        losses.append("bands beyond those of the colour are not kept")
    return losses


def _resolution(image: Image.Image) -> bool:
    """Whether a picture tells its dots per inch, not those of any screen, and in no place that is kept."""
    if image.format == "TIFF" or {round(dots) for dots in image.info.get("dpi", ())} <= USUAL_DPI:
        return False
    with suppress(Exception), _unlimited():  # EXIF may be damaged
        return TIFF_DPI not in image.getexif()
    return True


def _metadata(image: Image.Image, losses: list[str]) -> dict[str, bytes]:
    """ICC profile, EXIF (from its byte order mark on) and XMP of a picture as they are in its file."""
    info = image.info
    xmp = info.get("xmp") or info.get(PNG_XMP) or b""
    if not isinstance(xmp, str | bytes):  # of a TIFF whose tag is of another type
        losses.append("damaged XMP is not kept")
        xmp = b""
    exif = info.get("exif") or (_exif_of_tiff(image, losses) if image.format == "TIFF" else b"")
    while exif.startswith(EXIF_MARK):  # some files have it twice
        exif = exif.removeprefix(EXIF_MARK)
    found = {
        "icc": info.get("icc_profile") or b"",
        "exif": exif,
        "xmp": xmp.encode() if isinstance(xmp, str) else xmp,
    }
    return {name: value for name, value in found.items() if value}


def _exif_of_tiff(image: Image.Image, losses: list[str]) -> bytes:
    """What a TIFF tells of itself, without the layout of its pixels."""
    with suppress(Exception), _unlimited():
        kept, all_of_it = _sound_tags(image.getexif())
        if not all_of_it:
            losses.append("damaged EXIF tags are not kept")
        return kept.tobytes() if len(kept) else b""
    losses.append("damaged EXIF is not kept")
    return b""


def _place_of_orientation(exif: bytes) -> tuple[int, str] | None:
    """Where the orientation, two bytes, lies in EXIF, and their ``struct`` format; None if it has none."""
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None or len(exif) < 8:
        return None
    start = struct.unpack_from(order + "I", exif, 4)[0]
    if start + 2 > len(exif):
        return None
    count = struct.unpack_from(order + "H", exif, start)[0]
    for place in range(start + 2, min(start + 2 + 12 * count, len(exif) - 11), 12):
        if struct.unpack_from(order + "HH", exif, place) == (ORIENTATION, 3):  # a short
            return place + 8, order + "H"
    return None


def _orientation(exif: bytes) -> int:
    """How the pixels of a picture are to be turned, 1 .. 8; anything unreadable counts as upright. (A TIFF
    is turned by Pillow.)"""
    found = _place_of_orientation(exif)
    return int(struct.unpack_from(found[1], exif, found[0])[0]) if found else 1


def _upright_exif(exif: bytes) -> bytes:
    """EXIF with its orientation set to upright, every other byte as it was."""
    if not (found := _place_of_orientation(exif)):
        return exif
    place, form = found
    return exif[:place] + struct.pack(form, 1) + exif[place + 2 :]


def _unfit(metadata: dict[str, bytes], mode: str) -> list[str]:
    """Take out of metadata what cannot be kept, and say so."""
    losses = []
    for name in [n for n, value in metadata.items() if len(value) > METADATA_LIMIT]:
        del metadata[name]
        losses.append(f"{name.upper()} metadata of more than 2**24 bytes is not kept")
    if "icc" in metadata and metadata["icc"][16:20] != ICC_SPACES[mode]:
        del metadata["icc"]
        losses.append(f"an ICC profile that does not fit {mode} pixels is not kept")
    return losses


def _as_coded(image: Image.Image, white: int, metadata: dict[str, bytes], losses: list[str]) -> Image.Image:
    """The pixels in one of the modes that can be coded; CMYK with a profile becomes sRGB by it."""
    if image.mode == "CMYK" and "icc" in metadata:
        try:
            profile = ImageCms.ImageCmsProfile(io.BytesIO(metadata.pop("icc")))
            srgb = ImageCms.createProfile("sRGB")
            converted = ImageCms.profileToProfile(image, profile, srgb, outputMode="RGB")
            assert converted is not None
            return converted
        except (ImageCms.PyCMSError, OSError):
            losses.append("the CMYK profile is damaged and not used")
    if image.mode.startswith("I"):
        if image.mode == "I" and image.format not in ("PNG", "PPM"):
            raise InputError("integer pictures beyond 16 bits have no fixed range and cannot be coded")
        return _grey_of_16_bits(image, white, losses)
    if image.mode == "F":
        raise InputError("floating-point pictures have no fixed range and cannot be coded")
    if image.mode == "La":
        image = image.convert("LA")
    if image.has_transparency_data:
        _scale_key(image, white)
        whole = image.convert("RGBA")
        clear = whole.getchannel("A").getextrema() != (255, 255)
        if _is_grey(image, metadata):
            return whole.convert("LA" if clear else "L")
        return whole if clear else whole.convert("RGB")
    return image.convert("L" if _is_grey(image, metadata) else "RGB")


def _grey_of_16_bits(image: Image.Image, white: int, losses: list[str]) -> Image.Image:
    values = np.asarray(image)
    levels = np.arange(white + 1)
    if _tag(image, TIFF_WHITE, 1) == 0:
        levels = levels[::-1]  # Pillow does so at 8 bits only
    shown = ((levels * 255 + white // 2) // white).astype(np.uint8)
    used = np.zeros(white + 1, bool)
    used[values] = True
    before, left = np.count_nonzero(used), len(np.unique(shown[used]))
    grey = Image.fromarray(shown[values])
    if left < min(before, FEW_GREYS):
        losses.append(f"{left} of {before} grey levels are left: stretch them before coding")
    if "transparency" in image.info:  # of a PNG
        grey.putalpha(
            Image.fromarray(np.where(values == image.info["transparency"], 0, 255).astype(np.uint8))
        )
    return grey


def _scale_key(image: Image.Image, white: int) -> None:
    """Pillow scales the pixels of a PNG to 8 bits, but not the colour that stands for transparency."""
    key = image.info.get("transparency")
    if image.mode == "L" and isinstance(key, int):
        image.info["transparency"] = key * 255 // white
    elif image.mode == "RGB" and isinstance(key, tuple) and white > 255:
        image.info["transparency"] = tuple(level >> 8 for level in key)


def _is_grey(image: Image.Image, metadata: dict[str, bytes]) -> bool:
    """Whether a picture has no colour by its mode, or by its palette; not where a profile asks for RGB."""
    if image.mode not in ("P", "PA"):
        return image.mode in ("1", "L", "LA")
    colours = image.convert("RGBA").convert("RGB").getcolors(256) or []
    grey = all(r == g == b for _, (r, g, b) in colours)  # type: ignore[misc]
    return grey and metadata.get("icc", b"")[16:20] != ICC_SPACES["RGB"]


def picture_bytes(image: Image.Image, suffix: str, deep: bool = False) -> tuple[bytes, list[str]]:
    """The picture, with the metadata in its ``info``, as a file of the format that ``suffix`` names.

    Args:
        image: mode L, LA, RGB or RGBA.
        suffix: one of ``PICTURE_FORMATS``.
        deep: write 16 bits a channel, every value v as 257 v; PNG only.

    Returns:
        The file, and a list of what it cannot hold.

    Raises:
        OutputError: the format cannot hold the picture: its transparency, its depth, or its size (WebP ends
            at 16383 pixels a side).
    """
    name, options = PICTURE_FORMATS[suffix.lower()]
    metadata = {key: image.info[info] for key, info in INFO.items() if image.info.get(info)}
    losses = []
    if name in BARE:
        if "A" in image.mode:
            raise OutputError(f"{name} cannot hold transparency; name a .png")
        if metadata:
            losses.append(f"{name} cannot hold metadata ({', '.join(m.upper() for m in metadata)})")
    else:
        if name == "PNG" and len(metadata.get("icc", b"")) > PngImagePlugin.MAX_TEXT_CHUNK:
            losses.append(
                "few programs open a PNG with so large an ICC profile (.tif holds it, --strip drops it)"
            )
        if name == "PNG" and not _is_text(metadata.get("xmp", b"")):
            losses.append("PNG cannot hold XMP that is not UTF-8 (.tif does)")
            del metadata["xmp"]
        options = options | _as_options(name, metadata, image.info.get("llicm"), losses)
    if deep:
        if name != "PNG":
            raise OutputError(f"16 bits a channel are not written to {name}; name a .png")
        return _deep_png(image, options), losses
    buffer = io.BytesIO()
    info, image.info = image.info, {}  # Pillow would write of it what ``options`` does not name
    try:
        image.save(buffer, name, **options)
    except (ValueError, OSError) as error:
        raise OutputError(f"{name} cannot hold this picture ({error})") from error
    finally:
        image.info = info
    return buffer.getvalue(), losses


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _deep_png(image: Image.Image, options: dict[str, Any]) -> bytes:
    """A PNG file of 16 bits a channel, which Pillow cannot write: its header and pixels from pypng, all other
    chunks from Pillow."""
    samples, frame, file = io.BytesIO(), io.BytesIO(), io.BytesIO()
    writer = png.Writer(
        *image.size, greyscale=image.mode in ("L", "LA"), alpha="A" in image.mode, bitdepth=16
    )
    pixels = np.asarray(image).reshape(image.height, -1)
    writer.write_packed(samples, (np.repeat(row, 2).tobytes() for row in pixels))  # 257 v is v twice
    Image.new(image.mode, (1, 1)).save(frame, "PNG", **options)
    header, *rest = png.Reader(bytes=samples.getvalue()).chunks()
    told = [c for c in png.Reader(bytes=frame.getvalue()).chunks() if c[0] not in (b"IHDR", b"IDAT", b"IEND")]
    png.write_chunks(file, [header, *told, *rest])
    return file.getvalue()


def _as_options(name: str, metadata: dict[str, bytes], told: str | None, losses: list[str]) -> dict[str, Any]:
    """Pillow's options that put metadata, and what this program says of itself, into a file."""
    options: dict[str, Any] = {}
    if "icc" in metadata:
        options["icc_profile"] = metadata["icc"]
    if "exif" in metadata:
        options["exif"] = EXIF_MARK + metadata["exif"].removeprefix(EXIF_MARK)
    if name == "PNG":
        options["pnginfo"] = texts = PngImagePlugin.PngInfo()
        if told:
            texts.add_text(*SOFTWARE)
            texts.add_text("llicm", told)
        if "xmp" in metadata:
            texts.add_itxt(PNG_XMP, metadata["xmp"].decode())
    elif name == "TIFF" and ("exif" in metadata or "xmp" in metadata):
        exif = metadata.get("exif", b"")
        options["exif"] = tags = _tiff_tags(exif, losses)
        # Where a TIFF does not tell, Pillow would ask XMP.
        tags[ORIENTATION] = _orientation(exif.removeprefix(EXIF_MARK))
        if "xmp" in metadata:
            tags[TIFF_XMP] = metadata["xmp"]  # Pillow takes all tags from one place
        options["compression"] = None  # and writes EXIF into plain TIFF only
    elif "xmp" in metadata:
        options["xmp"] = metadata["xmp"]
    return options


def _tiff_tags(exif: bytes, losses: list[str]) -> Image.Exif:
    """EXIF as tags of a TIFF, without what it says of the layout of pixels; what is damaged is left out."""
    found, whole = Image.Exif(), Image.Exif()
    with suppress(Exception), _unlimited():  # Pillow's reader raises nearly anything
        found.load(exif)
        kept, all_of_it = _sound_tags(found)
        if (exif and not found) or not all_of_it or set(found) - OF_PIXELS - {*TIFF_TAGS, *TIFF_FOLDERS}:
            losses.append("TIFF cannot hold all of this EXIF")
        whole.load(kept.tobytes())  # Pillow writes what it has read
        return whole
    losses.append("damaged EXIF is not kept")
    return Image.Exif()


def _sound_tags(found: Image.Exif) -> tuple[Image.Exif, bool]:
    """The tags that say nothing of the layout of a file and can be written, and whether these are all."""
    kept, all_of_it = Image.Exif(), True
    for folder in (None, *TIFF_FOLDERS):
        content = (
            {tag: found[tag] for tag in TIFF_TAGS if tag in found}
            if folder is None
            else found.get_ifd(folder)
        )
        content = {tag: value for tag, value in content.items() if tag != INTEROPERABILITY}
        sound = {tag: value for tag, value in content.items() if _can_be_written(folder, tag, value)}
        all_of_it &= len(sound) == len(content)
        if folder is None:
            kept.update(sound)
        elif sound:
            kept[folder] = sound
    return kept, all_of_it


def _can_be_written(folder: int | None, tag: int, value: Any) -> bool:
    exif = Image.Exif()
    exif[folder or tag] = {tag: value} if folder else value
    try:
        exif.tobytes()
    except Exception:  # Pillow's writer raises nearly anything on values of the wrong type
        return False
    return True
