"""Picture sets: pairs of input and ground truth, real ones or clean pictures degraded with a fixed seed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from llicm_cli import pipeline
from llicm_cli.errors import InputError, UsageError, about
from llicm_cli.image_io import is_picture, open_opaque, open_rgb
from llicm_cli.tasks import CLEAN


def find_pictures(folder: Path) -> list[Path]:
    """The pictures of a folder, sorted by name; raises InputError or UsageError."""
    try:
        found = sorted(p for p in folder.iterdir() if is_picture(p))
    except OSError as error:
        raise InputError(f"{folder}: {error.strerror}") from error
    if not found:
        raise UsageError(f"{folder} holds no pictures")
    return found


@dataclass(frozen=True)
class PictureSet:
    """Where a test set lies and what its inputs are.

    A folder with ``input`` and ``gt`` inside, of equal names, holds real pairs. Any other holds clean
    pictures: picture i becomes its own input (task ``clean``), or is degraded as ``llicm degrade --task TASK
    --seed SEED+i`` does, or gets Gaussian noise of standard deviation ``sigma`` (0..255) with that seed, grey
    on a grey picture.
    """

    folder: Path
    task: str = CLEAN
    sigma: float | None = None
    seed: int = 0
    limit: int | None = None

    def __post_init__(self) -> None:
        if self.sigma is not None and (self.task != "denoise" or self.paired):
            raise UsageError("--sigma goes with --task denoise on a folder of clean pictures")

    @property
    def paired(self) -> bool:
        """It holds real pairs, and they are asked for."""
        return self.task != CLEAN and (self.folder / "input").is_dir() and (self.folder / "gt").is_dir()

    @property
    def source(self) -> str:
        """How its inputs came about, in words."""
        if self.task == CLEAN:
            return "clean pictures"
        if self.paired:
            return "pairs"
        if self.sigma is not None:
            return f"Gaussian noise of sigma {self.sigma:g}, seed {self.seed}+i"
        return f"llicm degrade --task {self.task} --seed {self.seed}+i"

    @property
    def paths(self) -> list[Path]:
        """Its pictures, sorted by name; of ``limit`` the first ones of an even spread over all. Raises
        InputError or UsageError as ``find_pictures``."""
        found = find_pictures(self.folder / "input" if self.paired else self.folder)
        if self.limit is None or self.limit >= len(found):
            return found
        return [found[i * len(found) // self.limit] for i in range(self.limit)]

    def pair(self, path: Path) -> tuple[Image.Image, Image.Image]:
        """(input, ground truth) of one of ``paths``, both RGB; raises LlicmError."""
        if self.paired:
            picture, truth = open_rgb(path), open_rgb(self.folder / "gt" / path.name)
            if truth.size != picture.size:
                raise InputError(f"{path}: input and ground truth differ in size")
            return picture, truth
        if self.task == CLEAN:
            picture = open_rgb(path)
            return picture, picture
        picture = open_opaque(path)  # what disturbs a grey picture is grey too
        seed = self.seed + find_pictures(self.folder).index(path)
        if self.sigma is not None:
            pixels = np.asarray(picture)
            noisy = pixels + np.random.default_rng(seed).normal(0, self.sigma, pixels.shape)
            wrong = Image.fromarray(np.clip(np.rint(noisy), 0, 255).astype(np.uint8))
        else:
            with about(path):
                wrong = pipeline.degrade(picture, self.task, seed)
        return wrong.convert("RGB"), picture.convert("RGB")
