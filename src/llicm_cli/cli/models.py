"""``llicm models``: which weights are installed, and where they come from."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from llicm_cli.cli import console


def models(
    as_json: Annotated[bool, typer.Option("--json", help="The model cards, one JSON object a line.")] = False,
) -> None:
    """List the weights in use: id, file, training stage, date. Every file is checked against its card's hash.

    They are those that come with the program, or in the folder of llicm --weights or LLICM_WEIGHTS.
    """
    from llicm_cli.models.weights import folder, installed

    if not as_json:
        console.say(f"weights in {folder()}")
    for name, card in installed().items():
        if as_json:
            console.show(json.dumps({"name": name, **card}))
        else:
            megabytes = (folder() / f"{name}.safetensors").stat().st_size / 1e6
            told = f"{card.get('stage', '?')} stage, {card.get('date', '?')}"
            console.show(f"{name:9}  {card['sha256'][:8]}  {megabytes:5.1f} MB  {told}")
