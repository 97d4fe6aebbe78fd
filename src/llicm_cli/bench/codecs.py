"""The codecs that are compared: real files in memory, each at settings from small to large.

To add one, write a ``Codec``: a function from picture and setting to the bytes of a file, one back, and the
settings; then put it into ``CODECS``.
"""

from __future__ import annotations

import importlib.util
import io
import shutil
import struct
import subprocess
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import numpy as np
import torch
from PIL import Image, features

from llicm_cli import pipeline
from llicm_cli.coding import to_bytes, to_unit
from llicm_cli.errors import InputError, UsageError
from llicm_cli.models.weights import load_codec
from llicm_cli.version import __version__

RPO = "llicm-rpo"  # is told the task when it codes
RESTORED_FIRST = "avif-restored-first"  # the common head works before the codec, not after
OWN_HEAD = ("llicm-rdo", RPO)  # restored by ``llicm decode --task``, the others by the common head


@dataclass(frozen=True)
class Codec:
    """One competitor.

    Attributes:
        encode: an RGB picture and a setting -> the bytes of a file.
        decode: those bytes -> an RGB picture of the same size.
        settings: from small files to large, to span about 0.05 to 1.5 bits a pixel.
        version: what made the files; None where it is not installed.
        between: settings between these mean something too.
    """

    encode: Callable[[Image.Image, float], bytes]
    decode: Callable[[bytes], Image.Image]
    settings: tuple[float, ...]
    version: Callable[[], str | None]
    between: bool = True


def _open(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data)).convert("RGB")


def _save(name: str, image: Image.Image, quality: float, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, name, quality=round(quality), **options)
    return buffer.getvalue()


def _pillow(feature: str) -> str | None:
    if not features.check(feature):
        return None
    return f"Pillow {version_of('pillow')}, {feature} {features.version(feature)}"


def _jpeg2000(image: Image.Image, bpp: float) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG2000", quality_mode="rates", quality_layers=[24 / bpp], irreversible=True, mct=1)
    return buffer.getvalue()


def _plugin(module: str, package: str) -> str | None:
    return f"{package} {version_of(package)}" if importlib.util.find_spec(module) else None


def _jxl(image: Image.Image, quality: float) -> bytes:
    import pillow_jxl  # noqa: F401 - registers itself with Pillow

    return _save("JXL", image, quality, effort=7)


def _heic(image: Image.Image, quality: float) -> bytes:
    import pillow_heif

    pillow_heif.register_heif_opener()
    return _save("HEIF", image, quality)


def _vvc_version() -> str | None:
    if not (shutil.which("vvencapp") and shutil.which("vvdecapp")):
        return None
    told = subprocess.run(["vvencapp", "--version"], capture_output=True, text=True, check=False)
    return f"{(told.stdout.strip() or 'vvencapp').splitlines()[0]}, preset slow, 4:2:0"


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        lines = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()
        raise InputError(f"{command[0]} failed: {lines[-1] if lines else done.returncode}")


def _vvc_encode(image: Image.Image, quality: float) -> bytes:
    """VVC of 4:2:0 planes; the setting is 63 - QP, so that larger is better. Sides are made even."""
    width, height = image.width + image.width % 2, image.height + image.height % 2
    even = Image.fromarray(
        np.pad(np.asarray(image), ((0, height - image.height), (0, width - image.width), (0, 0)), "edge")
    )
    y, cb, cr = even.convert("YCbCr").split()
    planes = b"".join(p.tobytes() for p in (y, cb.reduce(2), cr.reduce(2)))
    with tempfile.TemporaryDirectory() as folder:
        raw, coded = Path(folder, "x.yuv"), Path(folder, "x.266")
        raw.write_bytes(planes)
        shape = ["-s", f"{width}x{height}", "-c", "yuv420", "-r", "1"]
        _run(
            ["vvencapp", "--preset", "slow", "--qpa", "0", "-q", str(63 - round(quality)), *shape]
            + ["-i", str(raw), "-o", str(coded)]
        )
        return struct.pack("<HH", image.width, image.height) + coded.read_bytes()


def _vvc_decode(data: bytes) -> Image.Image:
    width, height = struct.unpack_from("<HH", data)
    w, h = width + width % 2, height + height % 2
    with tempfile.TemporaryDirectory() as folder:
        coded, raw = Path(folder, "x.266"), Path(folder, "x.yuv")
        coded.write_bytes(data[4:])
        _run(["vvdecapp", "-b", str(coded), "-o", str(raw)])
        samples = raw.read_bytes()
    if len(samples) == 2 * (w * h * 3 // 2):  # ten bits in two bytes
        ten = np.frombuffer(samples, "<u2").astype(np.uint32)
        samples = ((ten + 2) // 4).clip(0, 255).astype(np.uint8).tobytes()
    half = (w // 2, h // 2)
    parts = np.split(np.frombuffer(samples, np.uint8), [w * h, w * h + half[0] * half[1]])
    sizes = ((w, h), half, half)
    planes = [
        Image.fromarray(p.reshape(s[1], s[0])).resize((w, h)) for p, s in zip(parts, sizes, strict=True)
    ]
    return Image.merge("YCbCr", planes).convert("RGB").crop((0, 0, width, height))


def _zoo_urls() -> dict[str, dict[str, dict[int, str]]]:
    """Where CompressAI's models are: {architecture: {metric: {quality: address}}}."""
    with warnings.catch_warnings():  # of its own dependencies, which are no business of our users
        warnings.simplefilter("ignore")
        from compressai.zoo.image import model_urls
    found: dict[str, dict[str, dict[int, str]]] = model_urls
    return found


def _zoo_file(architecture: str, quality: int) -> Path | None:
    """The checkpoint of a model of CompressAI's zoo (trained for MSE), if it was downloaded before."""
    url = _zoo_urls()[architecture]["mse"].get(quality)
    path = Path(torch.hub.get_dir(), "checkpoints", Path(urlparse(url or "").path).name)
    return path if url and path.is_file() else None


@cache
def _zoo_model(architecture: str, quality: int) -> Any:
    from compressai.zoo import image_models

    return image_models[architecture](quality=quality, metric="mse", pretrained=True, progress=False).eval()


@torch.inference_mode()
def _zoo_encode(architecture: str, image: Image.Image, quality: float) -> bytes:
    x = to_unit(pipeline.to_pixels(image))[None]
    x = torch.nn.functional.pad(x, (0, -image.width % 64, 0, -image.height % 64), mode="replicate")
    out = _zoo_model(architecture, round(quality)).compress(x)
    strings = [s[0] for s in out["strings"]]
    head = struct.pack("<BHHHHB", round(quality), *image.size, *out["shape"], len(strings))
    return head + b"".join(struct.pack("<I", len(s)) + s for s in strings)


@torch.inference_mode()
def _zoo_decode(architecture: str, data: bytes) -> Image.Image:
    quality, width, height, h, w, count = struct.unpack_from("<BHHHHB", data)
    place, strings = struct.calcsize("<BHHHHB"), []
    for _ in range(count):
        (length,) = struct.unpack_from("<I", data, place)
        strings.append([data[place + 4 : place + 4 + length]])
        place += 4 + length
    x = _zoo_model(architecture, quality).decompress(strings, (h, w))["x_hat"][0, :, :height, :width]
    return pipeline.to_image(to_bytes(x))


def _zoo() -> dict[str, Codec]:
    """Every model of the zoo that has checkpoints on disk, as ``zoo-NAME``."""
    found = {}
    for name, metrics in _zoo_urls().items():
        qualities = tuple(float(q) for q in metrics.get("mse", {}) if _zoo_file(name, q))
        if qualities:
            encode, decode = partial(_zoo_encode, name), partial(_zoo_decode, name)
            found[f"zoo-{name}"] = Codec(
                encode, decode, qualities, lambda: f"compressai {version_of('compressai')}", between=False
            )
    return found


def _ours() -> str:
    return f"llicm {__version__}, model {load_codec().id.hex()}"


AVIF = Codec(
    partial(_save, "AVIF", speed=6), _open, (5, 15, 27, 40, 52, 64, 76, 86), partial(_pillow, "avif")
)
LAMBDAS = (0.001, 0.0018, 0.0035, 0.0067, 0.013, 0.025, 0.0483, 0.1)

CODECS: dict[str, Codec] = {
    "llicm": Codec(pipeline.encode, pipeline.decode, LAMBDAS, _ours),
    "llicm-effort-8": Codec(partial(pipeline.encode, effort=8), pipeline.decode, LAMBDAS, _ours),
    "llicm-rdo": Codec(pipeline.encode, pipeline.decode, LAMBDAS, _ours),
    RPO: Codec(partial(pipeline.encode, objective="rpo"), pipeline.decode, LAMBDAS, _ours),
    RESTORED_FIRST: AVIF,
    "jpeg": Codec(
        partial(_save, "JPEG", optimize=True), _open, (3, 8, 16, 30, 50, 70, 85, 93),
        partial(_pillow, "libjpeg_turbo"),
    ),
    "jpeg2000": Codec(
        _jpeg2000, _open, (0.05, 0.1, 0.2, 0.35, 0.6, 1.0, 1.6, 2.4), partial(_pillow, "jpg_2000")
    ),
    "webp": Codec(
        partial(_save, "WEBP", method=6), _open, (0, 8, 20, 40, 62, 80, 88, 95), partial(_pillow, "webp")
    ),
    "avif": AVIF,
    "avif-444": replace(AVIF, encode=partial(_save, "AVIF", speed=4, subsampling="4:4:4")),
    "jxl": Codec(
        _jxl, _open, (3, 10, 22, 40, 60, 75, 86, 93), partial(_plugin, "pillow_jxl", "pillow-jxl-plugin")
    ),
    "heic": Codec(
        _heic, _open, (5, 14, 24, 34, 44, 55, 66, 77), partial(_plugin, "pillow_heif", "pillow-heif")
    ),
    "vvc": Codec(_vvc_encode, _vvc_decode, (16, 21, 26, 31, 36, 41, 46), _vvc_version),
}  # fmt: skip


def known() -> dict[str, Codec]:
    """All codecs, with CompressAI's models for which there are checkpoints."""
    return CODECS | _zoo()


def choose(names: list[str] | None) -> dict[str, Codec]:
    """The codecs asked for, or all that are installed.

    Raises:
        UsageError: an unknown one, or one that is not installed.
    """
    codecs = known()
    for name in names or ():
        if name not in codecs:
            raise UsageError(f"unknown codec {name!r}; known are {', '.join(codecs)}")
        if codecs[name].version() is None:
            raise UsageError(f"codec {name} is not installed")
    return {name: codecs[name] for name in names or codecs if codecs[name].version() is not None}
