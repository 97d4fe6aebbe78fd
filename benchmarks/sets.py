"""Test sets: pairs of degraded picture and ground truth, real or made with a fixed seed.

A set is named by its folder. One with ``input`` and ``gt`` inside holds pairs; any other holds clean
pictures, which are degraded here: ``cbsd68:denoise25`` adds Gaussian noise of sigma 25, ``cbsd68:derain``
rain as ``llicm degrade --task derain --seed i`` does to picture i, ``kodak:clean`` nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from llicm_cli import pipeline

TASK_OF = {
    "rain100l": "derain", "rain100h": "derain", "sots_indoor": "dehaze", "lowlight_sice": "lowlight",
    "gopro_avg18": "deblur", "cc15_realnoise": "denoise",
}  # fmt: skip
SYNTHETIC = ("dejpeg", "deraindrop", "deshadow", "desnow", "inpaint")
RESTORATION_SETS = ("cbsd68:denoise25", *TASK_OF, *(f"cbsd68:{task}" for task in SYNTHETIC))


def pictures(folder: Path) -> list[Path]:
    """The pictures of a folder, sorted by name."""
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in (".png", ".webp"))


def task_of(name: str) -> str:
    """The task that a set is a test of."""
    folder, _, kind = name.partition(":")
    return "denoise" if kind == "denoise25" else kind or TASK_OF[folder]


def pairs(root: Path, name: str) -> Iterator[tuple[Image.Image, Image.Image]]:
    """(degraded, ground truth) of every picture of a set."""
    folder, _, kind = name.partition(":")
    if not kind:
        for path in pictures(root / folder / "input"):
            yield Image.open(path).convert("RGB"), Image.open(root / folder / "gt" / path.name).convert("RGB")
        return
    for i, path in enumerate(pictures(root / folder)):
        clean = Image.open(path).convert("RGB")
        if kind == "clean":
            yield clean, clean
        elif kind == "denoise25":
            noise = np.random.default_rng(i).normal(0, 25, (clean.height, clean.width, 3))
            noisy = np.clip(np.rint(np.asarray(clean) + noise), 0, 255).astype(np.uint8)
            yield Image.fromarray(noisy), clean
        else:
            yield pipeline.degrade(clean, kind, seed=i), clean


def psnr(a: Image.Image, b: Image.Image) -> float:
    """PSNR over R, G and B together in dB, 100 for equal pictures."""
    error = np.square(np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)).mean()
    return 100.0 if error == 0 else float(10 * np.log10(255**2 / error))
