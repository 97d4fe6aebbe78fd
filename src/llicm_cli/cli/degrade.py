"""``llicm degrade``: clean pictures to synthetically degraded ones."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llicm_cli.bitstream import MAX_PIXELS
from llicm_cli.cli.files import (
    Inputs,
    Jobs,
    MaxPixels,
    Output,
    Overwrite,
    SkipExisting,
    check_suffix,
    picture_file,
    plan_outputs,
    process,
    read_picture,
)
from llicm_cli.tasks import TASKS, check_task


def degrade(
    inputs: Inputs,
    task: Annotated[
        str, typer.Option(help=f"What to add, named by the task that undoes it: {', '.join(TASKS)}.")
    ],
    output: Output = None,
    seed: Annotated[
        int, typer.Option(min=0, max=2**32, help="Seed of strength and place; equal seeds, equal pictures.")
    ] = 0,
    max_pixels: MaxPixels = MAX_PIXELS,
    overwrite: Overwrite = False,
    skip_existing: SkipExisting = False,
    jobs: Jobs = 1,
) -> None:
    """Degrade pictures, to test or to train restoration: haze, rain, noise and so on, of random strength.

    The task names what would undo the damage: --task dehaze adds haze. Derived names end in .TASK.png.
    """
    check_task(task)
    suffix = f".{task}.png"
    outputs = plan_outputs(inputs, output, suffix)
    check_suffix(output, outputs)
    from llicm_cli import pipeline

    def convert(data: bytes, source: Path, target: Path) -> bytes:
        image = read_picture(data, source, max_pixels=max_pixels)
        return picture_file(pipeline.degrade(image, task, seed), source, target)

    process(inputs, outputs, convert, overwrite=overwrite, skip_existing=skip_existing, jobs=jobs)
