"""Pictures and files: reading what Pillow can open, writing whole files or none."""

from __future__ import annotations

import io
import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, ImageOps

from llicm_cli.bitstream import size_problem
from llicm_cli.errors import InputError, OutputError

METADATA = {"icc_profile": "ICC profile", "exif": "EXIF", "xmp": "XMP", "XML:com.adobe.xmp": "XMP"}
# Formats that keep every pixel, by suffix: (Pillow's name, options).
PICTURE_FORMATS: dict[str, tuple[str, dict[str, object]]] = {
    ".png": ("PNG", {}),
    ".tif": ("TIFF", {"compression": "tiff_deflate"}),
    ".tiff": ("TIFF", {"compression": "tiff_deflate"}),
    ".webp": ("WEBP", {"lossless": True}),
    ".bmp": ("BMP", {}),
    ".ppm": ("PPM", {}),
    ".pgm": ("PPM", {}),
}


def read_bytes(path: Path) -> bytes:
    """The content of a file; raises InputError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(error.strerror or str(error)) from error


@contextmanager
def _our_size_limit() -> Iterator[None]:
    """Pillow's own limit is lower than ours and only warns at first; ours is checked after opening."""
    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
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
    try:
        with _our_size_limit(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data))
            if problem := size_problem(*image.size):
                raise InputError(problem)
            frames = getattr(image, "n_frames", 1)
            image.load()
            losses = _losses(image, frames)
            upright = ImageOps.exif_transpose(image)
            return _as_grey_or_rgb(upright), losses
    except Image.UnidentifiedImageError as error:
        words = "not a picture in a format that Pillow can read" if data else "the file is empty"
        raise InputError(words) from error
    except (OSError, SyntaxError, ValueError, EOFError, MemoryError, TypeError, LookupError) as error:
        raise InputError(f"a damaged or unsupported picture ({error or type(error).__name__})") from error


def _losses(image: Image.Image, frames: int) -> list[str]:
    """What coding this picture will not keep, in words."""
    losses = []
    kept_out = sorted({word for key, word in METADATA.items() if image.info.get(key)})
    if kept_out:
        losses.append(f"metadata is not kept ({', '.join(kept_out)})")
    if frames > 1:
        losses.append(f"only the first of {frames} frames is coded")
    if image.mode.startswith(("I", "F")):
        losses.append("more than 8 bits a channel: coded at 8 bits")
    elif image.mode not in ("1", "L", "P", "RGB", "RGBA", "LA", "PA", "RGBX"):
        losses.append(f"colours are converted from {image.mode} to RGB")
    return losses


def _as_grey_or_rgb(image: Image.Image) -> Image.Image:
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema() != (255, 255):
            raise InputError("transparent parts are not supported yet; flatten the picture first")
        return image.convert("RGB")
    if image.mode.startswith("I;16") or image.mode == "I":
        return image.convert("I").point(lambda v: v / 257).convert("L")
    if image.mode == "F":
        raise InputError("floating-point pictures have no fixed range and cannot be coded")
    if image.mode in ("1", "L"):
        return image.convert("L")
    if image.mode == "P" and image.palette is not None and _grey_palette(image):
        return image.convert("L")
    return image.convert("RGB")


def _grey_palette(image: Image.Image) -> bool:
    colours = image.convert("RGB").getcolors(256) or []
    return bool(colours) and all(r == g == b for _, (r, g, b) in colours)  # type: ignore[misc]


def picture_bytes(image: Image.Image, suffix: str) -> bytes:
    """The picture as a file of the format that ``suffix`` names, one of ``PICTURE_FORMATS``."""
    name, options = PICTURE_FORMATS[suffix.lower()]
    buffer = io.BytesIO()
    image.save(buffer, name, **options)
    return buffer.getvalue()


def write_file(path: Path, data: bytes, *, overwrite: bool) -> None:
    """Write a whole file or nothing: a temporary file beside it, synced, then renamed.

    Raises:
        OutputError: it exists and ``overwrite`` is false, or it cannot be written.
    """
    check_output(path, overwrite=overwrite)
    temporary = None
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name[:100]}.", dir=path.parent)
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
    if path.is_dir():
        raise OutputError("is a folder")
    if path.exists() and not overwrite:
        raise OutputError("exists already (use --overwrite to replace it)")
    if not path.parent.is_dir():
        raise OutputError(f"the folder {path.parent} does not exist")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
