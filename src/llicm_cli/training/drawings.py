"""Drawings: what people code that is no photograph: plain colours, ramps, shapes, lines, text."""

from __future__ import annotations

import string

import numpy as np
from PIL import Image, ImageDraw, ImageFont

LETTERS = np.array(list(string.ascii_letters + string.digits + string.punctuation + 12 * " "))


def _colour(rng: np.random.Generator) -> tuple[int, ...]:
    """Any colour, or as often white, black or a grey, as paper and screens are."""
    if rng.random() < 0.5:
        return tuple(rng.integers(256, size=3).tolist())
    return 3 * (int(rng.choice([0, 255, rng.integers(256)])),)


def _ground(rng: np.random.Generator, side: int) -> Image.Image:
    """One colour, or as often a ramp between two in any direction."""
    start, end = np.array(_colour(rng)), np.array(_colour(rng))
    if rng.random() < 0.5:
        end = start
    angle = rng.uniform(0, 2 * np.pi)
    place = np.arange(side) / side - 0.5
    way = 0.5 + (place * np.cos(angle) + place[:, None] * np.sin(angle)) / np.sqrt(2)
    return Image.fromarray((start + way[..., None] * (end - start)).round().astype(np.uint8))


def _write(rng: np.random.Generator, canvas: ImageDraw.ImageDraw, side: int, smooth: int) -> None:
    """A page of one to twelve lines of letters."""
    lines = ["".join(rng.choice(LETTERS, rng.integers(1, 40))) for _ in range(rng.integers(1, 13))]
    font = ImageFont.load_default(smooth * int(rng.integers(9, 33)))
    place = rng.uniform(-0.1, 0.6, 2) * side
    canvas.multiline_text((place[0], place[1]), "\n".join(lines), _colour(rng), font)


def drawing(rng: np.random.Generator, side: int) -> np.ndarray:
    """A drawing of ``side`` x ``side`` pixels, uint8 (side, side, 3): a third of them only a ground of one
    colour or a ramp, a third with text, the others with one to eight shapes; edges are smooth in half."""
    smooth = int(rng.integers(1, 3))
    picture = _ground(rng, smooth * side)
    canvas = ImageDraw.Draw(picture)
    kind = rng.integers(3)
    if kind == 1:
        _write(rng, canvas, smooth * side, smooth)
    for _ in range(rng.integers(1, 9) if kind == 2 else 0):
        corners = rng.uniform(-0.2, 1.2, (4, 2)) * smooth * side
        width = smooth * int(rng.integers(1, 9))
        box = [*corners[:2].min(0), *corners[:2].max(0)]
        match rng.integers(4):
            case 0:
                canvas.ellipse(box, _colour(rng), _colour(rng), width)
            case 1:
                canvas.rectangle(box, _colour(rng), _colour(rng), width)
            case 2:
                canvas.polygon(corners.flatten().tolist(), _colour(rng))
            case _:
                canvas.line(corners.flatten().tolist(), _colour(rng), width)
    return np.array(picture.reduce(smooth))
