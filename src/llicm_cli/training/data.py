"""Training photographs: decoded once into memory, cropped at random; drawings among them where asked for."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from llicm_cli.errors import UsageError
from llicm_cli.image_io import is_picture, open_rgb
from llicm_cli.training.drawings import drawing

VALIDATION_EVERY = 20  # one photo in twenty (5 %) is never trained on
SIZES = (1, 0.7, 0.5)  # of the sides, at which every photo is learned from
LARGEST_SCALE = 2  # of crops that are enlarged


def find_photos(folders: Sequence[Path]) -> list[Path]:
    """All picture files below the folders, sorted by path; raises UsageError where there is none."""
    for folder in folders:
        if not folder.is_dir():
            raise UsageError(f"{folder} is not a folder")
    found = {p for folder in folders for p in folder.rglob("*") if is_picture(p)}
    if not found:
        raise UsageError("no pictures found in the training folders")
    return sorted(found)


def split(paths: list[Path]) -> tuple[list[Path], list[Path]]:
    """(training, validation): every twentieth photo of the sorted list is held out; raises UsageError."""
    if len(paths) < 2:
        raise UsageError("training takes two photos at least: one is held out")
    held_out = set(paths[min(len(paths), VALIDATION_EVERY) // 2 :: VALIDATION_EVERY])
    return [p for p in paths if p not in held_out], sorted(held_out)


def _read_at_all_sizes(path: Path) -> list[Tensor]:
    """A photo at each of ``SIZES``, uint8 (3, H, W); raises InputError where it is none."""
    picture = open_rgb(path)
    sides = [(max(1, round(picture.width * size)), max(1, round(picture.height * size))) for size in SIZES]
    copies = [np.array(picture.resize(size)) for size in sides]
    return [torch.from_numpy(copy).permute(2, 0, 1).contiguous() for copy in copies]


class Crops:
    """Random square crops of photos held in memory as uint8 on one device.

    Every photo is kept at three sizes, ``SIZES``, drawn alike: reduced pictures are sharper and cleaner, as
    small pictures of the field are, which widens the range of textures. Of the photos that are large enough
    for a crop, larger ones are drawn more often, in proportion to their area.

    Args:
        paths: picture files.
        device: where the photos live and the crops are made.
        largest: the largest crop that will be asked for, pixels a side.
        seed: seeds the choice of crops.

    Raises:
        InputError: a file that is no picture.
        UsageError: no photo is large enough for the largest crop.
    """

    def __init__(self, paths: list[Path], device: torch.device, largest: int, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.photos: list[Tensor] = []
        with ThreadPoolExecutor() as pool:
            for copies in pool.map(_read_at_all_sizes, paths):
                self.photos += [pixels.to(device) for pixels in copies]
        self.sides = np.array([p.shape[1:] for p in self.photos], dtype=np.float64).reshape(-1, 2)
        self.areas = self.sides.prod(1)[:: len(SIZES)].repeat(len(SIZES))  # of the photos at full size
        if not (self.sides.min(1) >= largest).any():
            raise UsageError(
                f"none of {len(paths)} photos to learn from, or held out, is at least {largest} pixels a side"
            )

    def batch(
        self,
        count: int,
        size: int,
        turned: bool = False,
        drawn: float = 0,
        grey: float = 0,
        enlarged: float = 0,
    ) -> Tensor:
        """(count, 3, size, size) float32 in 0..1, channels_last, half of them mirrored; ``turned``: each by
        any number of quarter turns too; ``drawn``: the share of them that are drawings in place of photos;
        ``grey``: the share of all without colour; ``enlarged``: the share of photos that are enlarged, up to
        ``LARGEST_SCALE`` times, soft and smooth as large pictures are from near."""
        crops = []
        weight = self.areas * (self.sides.min(1) >= size)
        for i in self.rng.choice(len(self.photos), count, p=weight / weight.sum()):
            photo, side = self.photos[i], size
            if enlarged and self.rng.random() < enlarged:
                side = round(size / self.rng.uniform(1, LARGEST_SCALE))
            top = self.rng.integers(photo.shape[1] - side + 1)
            left = self.rng.integers(photo.shape[2] - side + 1)
            crop = photo[:, top : top + side, left : left + side]
            if side < size:
                wide = F.interpolate(crop[None].float(), (size, size), mode="bicubic", align_corners=False)[0]
                crop = wide.clamp(0, 255).round().byte()
            crop = crop.flip(2) if self.rng.random() < 0.5 else crop
            crops.append(crop.rot90(int(self.rng.integers(4)), (1, 2)) if turned else crop)
        for i in range(count if drawn else 0):
            if self.rng.random() < drawn:
                crops[i] = torch.from_numpy(drawing(self.rng, size)).permute(2, 0, 1).to(crops[i].device)
        stack = torch.stack(crops).to(memory_format=torch.channels_last).float() / 255
        for i in range(count if grey else 0):
            if self.rng.random() < grey:
                stack[i] = stack[i].mean(0)
        return stack
