"""``llicm inspect``: what the guide sees in pictures."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from llicm_cli.bitstream import MAGIC, MAX_PIXELS
from llicm_cli.cli import console
from llicm_cli.cli.files import Inputs, MaxPixels, read_input, report
from llicm_cli.image_io import read_image

BAR = 40  # characters of a bar that stands for certainty


def table(shares: dict[str, float]) -> str:
    """Probabilities as lines of name, percentage and bar, the likeliest first."""
    order = sorted(shares.items(), key=lambda item: -item[1])
    return "\n".join(f"{name:11}{100 * p:6.1f} %  {'#' * round(BAR * p)}".rstrip() for name, p in order)


def inspect(
    inputs: Inputs,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    max_pixels: MaxPixels = MAX_PIXELS,
) -> None:
    """Show what is wrong with pictures: the probability of each degradation, and of none (clean).

    The name of a degradation is that of the task which undoes it. Streams are decoded first.
    """
    from llicm_cli import pipeline

    decode = partial(pipeline.decode, max_pixels=max_pixels)

    def show(path: Path) -> None:
        data = read_input(path)
        image = decode(data) if data.startswith(MAGIC) else read_image(data, max_pixels)[0]
        shares = pipeline.inspect(image)
        if as_json:
            console.show(json.dumps({"file": str(path), **{k: round(p, 4) for k, p in shares.items()}}))
        else:
            console.show(f"{path}\n{table(shares)}")

    report(inputs, show)
