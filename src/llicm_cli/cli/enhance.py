"""``llicm enhance``: pictures, or streams, to restored pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from PIL import Image

from llicm_cli.bitstream import MAGIC, MAX_PIXELS
from llicm_cli.cli import console
from llicm_cli.cli.files import (
    STANDARD,
    Deep,
    Inputs,
    Jobs,
    MaxPixels,
    Output,
    Overwrite,
    Passes,
    SkipExisting,
    Strength,
    Strip,
    Task,
    check_suffix,
    check_tasks,
    picture_file,
    plan_outputs,
    process,
    read_input,
    read_picture,
    tell_if_left_alone,
)
from llicm_cli.cli.inspect import table
from llicm_cli.errors import UsageError, about
from llicm_cli.image_io import read_image
from llicm_cli.tasks import AUTO

SUFFIX = ".enhanced.png"


def _read_mask(path: Path, max_pixels: int) -> Image.Image:
    with about(path):
        return read_image(read_input(path), max_pixels)[0]


def _explain(source: Path, shares: dict[str, float]) -> None:
    console.say(f"{source}:", *table(shares).splitlines())


def enhance(
    inputs: Inputs,
    output: Output = None,
    task: Task = AUTO,
    strength: Strength = 1.0,
    passes: Passes = 1,
    mask: Annotated[
        Path | None,
        typer.Option(help="For inpaint: a picture of the same size, white where something is missing. "
                     "Without it, flat black or white parts are what is missing."),
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Also say, on stderr, what the guide sees in each picture.")
    ] = False,
    strip: Strip = False,
    deep: Deep = False,
    max_pixels: MaxPixels = MAX_PIXELS,
    overwrite: Overwrite = False,
    skip_existing: SkipExisting = False,
    jobs: Jobs = 1,
) -> None:  # fmt: skip
    """Restore pictures: undo blur, haze, JPEG blocks, noise, rain, drops, shadow, snow, holes, darkness.

    Inputs are pictures of any format that Pillow reads, or streams, which are decoded as by decode --task.
    Derived names end in .enhanced.png.
    """
    tasks = check_tasks(task, strength, passes)
    if mask is not None and ("inpaint" not in tasks or mask == STANDARD):
        raise UsageError("--mask goes with --task inpaint, and names a file")
    outputs = plan_outputs(inputs, output, SUFFIX)
    check_suffix(output, outputs, deep)
    from llicm_cli import pipeline

    hole = None if mask is None else _read_mask(mask, max_pixels)

    def restored(data: bytes, source: Path) -> Image.Image:
        if data.startswith(MAGIC):
            if hole is not None:
                raise UsageError("a mask is for pictures, not for streams: decode the stream first")
            if explain:
                _explain(source, pipeline.inspect(pipeline.decode(data, max_pixels=max_pixels)))
            return pipeline.decode(data, task, strength, max_pixels, passes)
        image = read_picture(data, source, strip=strip, max_pixels=max_pixels)
        if explain:
            _explain(source, pipeline.inspect(image))
        return pipeline.enhance(image, task, strength, hole, passes=passes)

    def convert(data: bytes, source: Path, target: Path) -> bytes:
        image = restored(data, source)
        tell_if_left_alone(source, image)
        return picture_file(image, source, target, strip=strip, deep=deep)

    process(inputs, outputs, convert, overwrite=overwrite, skip_existing=skip_existing, jobs=jobs)
