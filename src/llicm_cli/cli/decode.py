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

    The output's suffix chooses its format, one that keeps every pixel: .png, .tif, .webp, .bmp, .ppm.
    Standard output and derived names are PNG.
    """
    outputs = plan_outputs(inputs, output, SUFFIX)
    named = output is not None and outputs == [Path(output)] != [STANDARD]
    if named and outputs[0].suffix.lower() not in PICTURE_FORMATS:
        known = " ".join(PICTURE_FORMATS)
        raise UsageError(f"{output}: the suffix must name a lossless picture format: {known}")
    from llicm_cli import pipeline

    def convert(data: bytes, target: Path, warn: Callable[[str], None]) -> bytes:
        return picture_bytes(pipeline.decode(data), target.suffix or SUFFIX)

    process(inputs, outputs, convert, overwrite=overwrite)
