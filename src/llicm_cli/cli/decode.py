"""``llicm decode``: streams to pictures."""

from __future__ import annotations

from pathlib import Path

from llicm_cli.bitstream import MAX_PIXELS
from llicm_cli.cli.files import (
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
    tell_if_left_alone,
)
from llicm_cli.tasks import NONE

SUFFIX = ".png"


def decode(
    inputs: Inputs,
    output: Output = None,
    task: Task = NONE,
    strength: Strength = 1.0,
    passes: Passes = 1,
    strip: Strip = False,
    deep: Deep = False,
    max_pixels: MaxPixels = MAX_PIXELS,
    overwrite: Overwrite = False,
    skip_existing: SkipExisting = False,
    jobs: Jobs = 1,
) -> None:
    """Decompress streams to pictures, and restore them if a task is given.

    The output's suffix chooses its format, one that keeps every pixel: .png, .tif, .webp, .bmp, .ppm.
    Standard output and derived names are PNG.
    """
    check_tasks(task, strength, passes)
    outputs = plan_outputs(inputs, output, SUFFIX)
    check_suffix(output, outputs, deep)
    from llicm_cli import pipeline

    def convert(data: bytes, source: Path, target: Path) -> bytes:
        image = pipeline.decode(data, task, strength, max_pixels, passes)
        tell_if_left_alone(source, image)
        return picture_file(image, source, target, strip=strip, deep=deep)

    process(inputs, outputs, convert, overwrite=overwrite, skip_existing=skip_existing, jobs=jobs)
