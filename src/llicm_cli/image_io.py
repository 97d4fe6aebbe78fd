"""Pictures and files: reading what Pillow can open, writing whole files or none."""

from __future__ import annotations

import io
import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from llicm_cli.bitstream import MAX_PIXELS, size_problem
from llicm_cli.errors import InputError, OutputError

METADATA = {
    "icc_profile": "ICC profile",
    "exif": "EXIF",
    "xmp": "XMP",
    "XML:com.adobe.xmp": "XMP",
    "photoshop": "IPTC",
    "comment": "comment",
}
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
TIFF_TEXTS = (270, 315, 33432)  # description, artist, copyright
NOT_PICTURES = {"EPS", "WMF", "HDF5", "BUFR", "GRIB", "MPEG"}  # formats that call other programs, or none
# Formats that keep every pixel, by suffix: (Pillow's name, options).
PICTURE_FORMATS: dict[str, tuple[str, dict[str, object]]] = {
    ".png": ("PNG", {}),
    ".tif": ("TIFF", {"compression": "tiff_deflate"}),
    ".tiff": ("TIFF", {"compression": "tiff_deflate"}),
    ".webp": ("WEBP", {"lossless": True}),
    ".bmp": ("BMP", {}),
    ".ppm": ("PPM", {}),
}


def read_bytes(path: Path) -> bytes:
    """The content of a file; raises InputError."""
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise InputError(getattr(error, "strerror", None) or str(error)) from error


@contextmanager
def _our_size_limit() -> Iterator[None]:
    """Let Pillow's guard against decompression bombs, which fires at twice its value, stand at ours."""
    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, MAX_PIXELS // 2
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def read_image(data: bytes) -> tuple[Image.Image, list[str]]:
    """Open a still picture and make it L or RGB, upright.

    Args:
        data: a file of any format that Pillow reads.

    Returns:
        The picture (mode L or RGB, EXIF orientation applied) and a list of what was lost on the way.

    Raises:
        InputError: not a picture, damaged, too large, or with transparency.
    """
    if not data:
        raise InputError("the file is empty")
    Image.init()
    formats = [name for name in Image.OPEN if name not in NOT_PICTURES]
    try:
        with _our_size_limit():
            image = Image.open(io.BytesIO(data), formats=formats)
            if problem := size_problem(*image.size):
                raise InputError(problem)
            deep = _is_deep(image)  # known only until the pixels are loaded
            image.load()
            losses = _losses(image, deep)
            return _upright(_as_grey_or_rgb(image), image), losses
    except InputError:
        raise
    except Image.UnidentifiedImageError as error:
        raise InputError("not a picture in a format that Pillow can read") from error
    except Exception as error:  # Pillow's readers raise nearly anything on damaged files
        raise InputError(f"a damaged or unsupported picture ({error or type(error).__name__})") from error


def _is_deep(image: Image.Image) -> bool:
    """Whether the file has more than 8 bits a channel, also where Pillow reduces them by itself."""
    if image.mode.startswith(("I", "F")):
        return True
    for tile in getattr(image, "tile", ()):
        arguments = tile.args if isinstance(tile.args, tuple) else (tile.args,)
        if image.format == "PPM" and len(arguments) > 1 and int(arguments[1]) > 255:
            return True
        if any(isinstance(a, str) and ";16" in a for a in arguments):
            return True
    return False


def _losses(image: Image.Image, deep: bool) -> list[str]:
    """What coding this picture will not keep, in words."""
    lost = {word for key, word in METADATA.items() if image.info.get(key)}
    tags = getattr(image, "tag_v2", {})
    if getattr(image, "text", None) or any(tag in tags for tag in TIFF_TEXTS):
        lost.add("text")
    losses = []
    if lost:
        losses.append(f"metadata is not kept ({', '.join(sorted(lost))})")
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        losses.append(f"only the first of {frames} frames is coded")
    if deep:
        losses.append("more than 8 bits a channel: coded at 8 bits")
    if image.mode not in ("1", "L", "P", "RGB", "RGBA", "LA", "PA", "RGBX", "I", "I;16", "I;16B", "I;16L"):
        losses.append(f"colours are converted from {image.mode} to RGB")
    return losses


def _as_grey_or_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        if "transparency" in image.info:
            raise InputError("16-bit pictures with a transparent colour are not supported")
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise InputError("integer pictures beyond 16 bits have no fixed range and cannot be coded")
        return Image.fromarray(((values + 128) // 257).astype(np.uint8))
    if image.mode == "F":
        raise InputError("floating-point pictures have no fixed range and cannot be coded")
    if image.has_transparency_data:
        if image.convert("RGBA").getchannel("A").getextrema() != (255, 255):
            raise InputError("transparent parts are not supported yet; flatten the picture first")
        return image.convert("L" if image.mode == "LA" else "RGB")
    if image.mode in ("1", "L") or (image.mode == "P" and _grey_palette(image)):
        return image.convert("L")
    return image.convert("RGB")


def _grey_palette(image: Image.Image) -> bool:
    colours = image.convert("RGB").getcolors(256) or []
    return all(r == g == b for _, (r, g, b) in colours)  # type: ignore[misc]


def _upright(pixels: Image.Image, source: Image.Image) -> Image.Image:
    """Apply the EXIF orientation of ``source``; unreadable EXIF counts as none."""
    try:
        turn = TURNS.get(source.getexif().get(ORIENTATION, 1))
    except Exception:  # as above
        turn = None
    return pixels if turn is None else pixels.transpose(turn)


def picture_bytes(image: Image.Image, suffix: str) -> bytes:
    """The picture as a file of the format that ``suffix`` names, one of ``PICTURE_FORMATS``.

    Raises:
        OutputError: the format cannot hold it (WebP ends at 16383 pixels a side).
    """
    name, options = PICTURE_FORMATS[suffix.lower()]
    buffer = io.BytesIO()
    try:
        image.save(buffer, name, **options)
    except (ValueError, OSError) as error:
        raise OutputError(f"{name} cannot hold this picture ({error})") from error
    return buffer.getvalue()


def write_file(path: Path, data: bytes, *, overwrite: bool) -> None:
    """Write a whole file or nothing: a temporary file beside it, synced, then renamed.

    A symbolic link is followed; a device or named pipe is written to as it is.

    Raises:
        OutputError: it exists and ``overwrite`` is false, or it cannot be written.
    """
    check_output(path, overwrite=overwrite)
    temporary = None
    try:
        path = path.resolve()
        if path.exists() and not path.is_file():
            path.write_bytes(data)
            return
        handle, temporary = tempfile.mkstemp(prefix=".llicm-", dir=path.parent)
        with open(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise OutputError(error.strerror or str(error)) from error
        raise


def check_output(path: Path, *, overwrite: bool) -> None:
    """Raise OutputError early where writing ``path`` is sure to fail."""
    try:
        if path.is_dir():
            raise OutputError("is a folder")
        if os.path.lexists(path) and not overwrite:
            raise OutputError("exists already (use --overwrite to replace it)")
        if not path.parent.is_dir():
            raise OutputError(f"the folder {path.parent} does not exist")
    except OSError as error:
        raise OutputError(error.strerror or str(error)) from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
