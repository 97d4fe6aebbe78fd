"""``llicm decode``: streams to pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from llicm_cli.cli.files import STANDARD, Inputs, Output, Overwrite, plan_outputs, process
from llicm_cli.errors import UsageError
from llicm_cli.image_io import PICTURE_FORMATS, picture_bytes

SUFFIX = ".png"


def decode(inputs: Inputs, output: Output = None, overwrite: Overwrite = False) -> None:
    """Decompress streams to pictures.

    The output's suffix chooses its format, one that keeps every pixel: .png, .tif, .webp, .bmp, .ppm,
    .pgm. Standard output and derived names are PNG.
    """
    outputs = plan_outputs(inputs, output, SUFFIX)
    for path in outputs:
        if path != STANDARD and path.suffix.lower() not in PICTURE_FORMATS:
            known = " ".join(PICTURE_FORMATS)
            raise UsageError(f"{path}: the suffix must name a lossless picture format: {known}")
    from llicm_cli import pipeline

    def convert(data: bytes, target: Path, warn: Callable[[str], None]) -> bytes:
        return picture_bytes(pipeline.decode(data), target.suffix or SUFFIX)

    process(inputs, outputs, convert, overwrite=overwrite)
