"""Make the conformance streams anew, with the installed weights: ``python tests/conformance/make.py``.

Every picture comes from a formula. Beside each stream lies the picture it decodes to here, and
``expected.json`` tells the checksum of its symbols.
"""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from llicm_cli import bitstream, pipeline

HERE = Path(__file__).parent


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """Waves, an edge and some noise, in colour."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width].astype(float)
    waves = [np.sin(x / (5 + 3 * c) + c) * np.cos(y / (7 + c)) for c in range(3)]
    planes = np.stack(waves, 2) * 60 + 128 + 50 * (x + y > (width + height) / 2)[..., None]
    return Image.fromarray((planes + rng.normal(0, 6, planes.shape)).clip(0, 255).astype(np.uint8))


def streams() -> dict[str, bytes]:
    """All of them by name."""
    small = picture(48, 40)
    clear = small.copy()
    clear.putalpha(Image.linear_gradient("L").resize(small.size))
    grey_clear = small.convert("LA")
    grey_clear.putalpha(Image.radial_gradient("L").resize(small.size))
    told = small.copy()
    told.info = {"icc_profile": b"a profile", "exif": b"II*\0" + bytes(8), "xmp": b"<x:xmpmeta/>"}
    plain = pipeline.encode(small, 0.01)
    body = plain[:-4] + b"note" + struct.pack("<I", 5) + b"hello"
    found = {
        "rgb": plain,
        "grey": pipeline.encode(small.convert("L"), 0.01),
        "lowest-rate": pipeline.encode(small, bitstream.LAMBDA_MIN),
        "highest-rate": pipeline.encode(small, bitstream.LAMBDA_MAX),
        "between-anchors": pipeline.encode(small, 0.0123),
        "effort": pipeline.encode(small, 0.01, effort=4),
        "one-pixel": pipeline.encode(picture(1, 1), 0.02),
        "one-row": pipeline.encode(picture(70, 1), 0.02),
        "one-column": pipeline.encode(picture(1, 70), 0.02),
        "one-patch": pipeline.encode(picture(16, 16), 0.02),
        "one-cell": pipeline.encode(picture(64, 64), 0.02),
        "one-more-than-a-cell": pipeline.encode(picture(65, 65), 0.02),
        "odd-sides": pipeline.encode(picture(77, 51), 0.02),
        "black": pipeline.encode(Image.new("RGB", (40, 40)), 0.02),
        "white": pipeline.encode(Image.new("RGB", (40, 40), "white"), 0.02),
        "noise": pipeline.encode(Image.effect_noise((48, 48), 90).convert("RGB"), 0.1),
        "two-bands": pipeline.encode(Image.new("RGB", (2112, 2000), (90, 120, 60)), 0.001),
        "transparency": pipeline.encode(clear, 0.01),
        "grey-transparency": pipeline.encode(grey_clear, 0.01),
        "metadata": pipeline.encode(told, 0.01),
        "rpo": pipeline.encode(small, 0.01, "rpo", "denoise"),
        "unknown-chunk": body + struct.pack("<I", zlib.crc32(body)),
    }
    return found


def main() -> None:
    expected = {}
    for old in (*HERE.glob("*.llic"), *HERE.glob("*.png")):
        old.unlink()
    for name, data in streams().items():
        (HERE / f"{name}.llic").write_bytes(data)
        decoded = pipeline.decode(data)
        decoded.info = {}
        decoded.save(HERE / f"{name}.png", optimize=True)
        stream = bitstream.parse(data)
        expected[name] = {
            "symbol_crc": f"{stream.symbol_crc:08x}",
            "mode": decoded.mode,
            "metadata": {key: value.hex() for key, value in stream.metadata.items()},
        }
    (HERE / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    main()
