"""``llicm info``: what a stream says of itself, without decoding it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from llicm_cli import bitstream
from llicm_cli.cli import console
from llicm_cli.cli.files import Inputs, MaxPixels, read_input, report


def describe(path: Path, max_pixels: int) -> dict[str, Any]:
    """The facts of one stream; raises LlicmError."""
    data = read_input(path)
    stream = bitstream.parse(data, max_pixels)
    return {
        "file": str(path),
        "format": f"LL-ICM {bitstream.VERSION}",
        "width": stream.width,
        "height": stream.height,
        "colour": stream.colour,
        "bytes": len(data),
        "bpp": round(8 * len(data) / (stream.width * stream.height), 5),
        "lambda": round(stream.lmbda, 6),
        "objective": stream.objective,
        "alpha": bool(stream.alpha),
        "metadata": {name: len(value) for name, value in stream.metadata.items()},
        "model": stream.model.hex(),
    }


def info(
    inputs: Inputs,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    max_pixels: MaxPixels = bitstream.MAX_PIXELS,
) -> None:
    """Show what streams contain, without decoding them."""

    def show(path: Path) -> None:
        facts = describe(path, max_pixels)
        if as_json:
            console.show(json.dumps(facts))
        else:
            console.show("\n".join(f"{name:10} {value}" for name, value in facts.items()))

    report(inputs, show)
