"""``llicm encode``: pictures to streams."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llicm_cli.bitstream import DEFAULT_LAMBDA, LAMBDA_MAX, LAMBDA_MIN, MAX_PIXELS, MOST_EFFORT, OBJECTIVES
from llicm_cli.cli.files import (
    Inputs,
    Jobs,
    MaxPixels,
    Output,
    Overwrite,
    SkipExisting,
    Strip,
    plan_outputs,
    process,
    read_picture,
)
from llicm_cli.errors import UsageError
from llicm_cli.tasks import AUTO, parse_tasks

SUFFIX = ".llic"
MOST_BPP = 24  # those of a picture that is not coded


def encode(
    inputs: Inputs,
    output: Output = None,
    lmbda: Annotated[
        float | None,
        typer.Option("--lambda", "-l", min=LAMBDA_MIN, max=LAMBDA_MAX, show_default=str(DEFAULT_LAMBDA),
                     help="Quality: the price of error in bpp + lambda * 255^2 * MSE, as in CompressAI; "
                     "larger is better and larger (the rate-perception lambda of the LL-ICM paper runs "
                     "the other way). "
                     "Kodak photos take: 0.0018: 0.12 bpp, 28.3 dB; 0.0067: 0.28 bpp, 31.2 dB; "
                     "0.013: 0.42 bpp, 32.9 dB; 0.025: 0.61 bpp, 34.6 dB; 0.0483: 0.84 bpp, 36.3 dB."),
    ] = None,
    bpp: Annotated[
        float | None, typer.Option(help="Aim at so many bits a pixel instead (within 3 %).")
    ] = None,
    size: Annotated[
        int | None, typer.Option(min=1, metavar="BYTES", help="Aim at this file size instead (within 3 %).")
    ] = None,
    objective: Annotated[
        str,
        typer.Option(help="rdo: a faithful copy of the picture; noise and rain cost bits. rpo: an estimate "
                     "of the clean picture behind it; what restoration removes is not coded and cannot be "
                     "had back. Coding takes as long as coding and restoring."),
    ] = "rdo",
    task: Annotated[
        str | None,
        typer.Option(metavar="TASK[,TASK...]", show_default=AUTO,
                     help="For rpo: what disturbs the picture, as for enhance."),
    ] = None,
    effort: Annotated[
        int,
        typer.Option(min=0, max=MOST_EFFORT,
                     help="Rounds of search for better symbols. 8 rounds are worth about 6 % of the bits "
                     "at equal quality (at equal lambda the file grows a little, the quality more) and "
                     "take 4 to 8 s for a Kodak photo; decoding stays as fast."),
    ] = 0,
    strip: Strip = False,
    max_pixels: MaxPixels = MAX_PIXELS,
    overwrite: Overwrite = False,
    skip_existing: SkipExisting = False,
    jobs: Jobs = 1,
) -> None:  # fmt: skip
    """Compress pictures; transparency, ICC profile, EXIF and XMP are kept as they are."""
    if bpp is not None and not 0 < bpp <= MOST_BPP:
        raise UsageError(f"--bpp must be a positive number, at most {MOST_BPP}")
    if sum(option is not None for option in (lmbda, bpp, size)) > 1:
        raise UsageError("give only one of --lambda, --bpp and --size")
    if objective not in OBJECTIVES:
        raise UsageError(f"--objective must be one of {', '.join(OBJECTIVES)}")
    if task is not None and objective != "rpo":
        raise UsageError("--task goes with --objective rpo; an rdo stream is restored when it is decoded")
    undo = AUTO if task is None else task
    parse_tasks(undo)
    outputs = plan_outputs(inputs, output, SUFFIX)
    from llicm_cli import pipeline

    def convert(data: bytes, source: Path, _: Path) -> bytes:
        image = read_picture(data, source, strip=strip, max_pixels=max_pixels)
        if bpp is not None:
            return pipeline.encode_to_size(
                image, max(1, round(bpp * image.width * image.height / 8)), objective, undo, effort
            )
        if size is not None:
            return pipeline.encode_to_size(image, size, objective, undo, effort)
        return pipeline.encode(image, DEFAULT_LAMBDA if lmbda is None else lmbda, objective, undo, effort)

    process(inputs, outputs, convert, overwrite=overwrite, skip_existing=skip_existing, jobs=jobs)
