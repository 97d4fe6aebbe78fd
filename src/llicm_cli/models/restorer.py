"""The restoration head: one forward pass from a degraded picture to a restored one.

A U-Net at 1/4, 1/8 and 1/16 of the resolution, made of 1x1 and depthwise convolutions. Every block is
conditioned (FiLM, Perez et al., AAAI 2018) on the prompt, the text embedding of what is to be undone, on
where the picture comes from, and on the tones of the whole picture, which a tile cannot know.
The output is a gain and an offset for every pixel.

Shapes: x (B, 3, H, W) in 0..1, H and W multiples of 16; prompt (B, D); source (B, 3); tones (B, 15).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llicm_cli.models.blocks import Depthwise, Down, Pointwise, Up
from llicm_cli.tasks import CLASSES

GROUP = 4  # pixels a side that are one position at the finest resolution
STRIDE = 16  # height and width must be multiples of this
REACH = 160  # pixels; nothing farther away than this from a 16x16 block influences it
NORM_FLOOR = 0.2
SOURCE = 3  # numbers that say where a picture comes from
QUANTILES = (0.02, 0.25, 0.5, 0.75, 0.98)
TONES = 3 * len(QUANTILES)
TONES_SIDE = 32  # pixels a side of the picture that the tones are taken of: noise is averaged away


@dataclass(frozen=True)
class RestorerConfig:
    """Sizes of the network; stored with the weights."""

    embedding: int = 128  # D, of the guide that it was trained with
    fine: int = 96  # width at 1/4 resolution
    middle: int = 160  # width at 1/8
    coarse: int = 256  # width at 1/16
    fine_blocks: int = 5  # on either side
    middle_blocks: int = 2  # on either side
    coarse_blocks: int = 4
    condition: int = 128


def source(coded: bool, restoring: bool, t: Tensor) -> Tensor:
    """Where pictures come from, for the head: (B, 3) of coded or not, by which objective, rate position.

    Args:
        coded: it was decoded from a stream.
        restoring: the stream was made with objective rpo.
        t: (B,) rate positions, 0 for pictures that were not coded.
    """
    flags = torch.full_like(t, coded), torch.full_like(t, coded and restoring)
    return torch.stack((*flags, t * coded), 1)


def tones(x: Tensor) -> Tensor:
    """How bright a whole picture is, for the head: quantiles of every channel on a logarithmic scale.

    How much light is missing is a question to the whole picture: over pairs of dark and well exposed frames,
    the logarithm of the best gain of a 128x128 part is guessed to 0.23 from the part, to 0.19 from both.

    Args:
        x: (B, 3, H, W), float in 0..1 or uint8, any size.

    Returns:
        (B, 15), about -2.4 (black) .. 1.5 (white).
    """
    side = (TONES_SIDE, TONES_SIDE)
    small = F.interpolate(x, side, mode="bilinear", antialias=True, align_corners=False).flatten(2)
    small = small.float() / 255 if small.dtype == torch.uint8 else small.float()
    levels = torch.quantile(small.clamp(min=0), small.new_tensor(QUANTILES), dim=2)  # (quantiles, B, 3)
    return (levels.permute(1, 0, 2).flatten(1) + 0.02).log() + 1.5


class Film(nn.Module):
    """Normalise every position over its channels, then scale and shift the channels as told.

    The floor keeps the size of small features, such as noise on mid grey (0.3 dB after 400 steps).
    """

    def __init__(self, width: int, condition: int) -> None:
        super().__init__()
        self.tell = Pointwise(condition, 2 * width, zero=True)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """c: (B, condition, 1, 1)."""
        scale, shift = self.tell(c).chunk(2, 1)
        # As x / sqrt(mean(x^2) + floor^2), in the fewest passes over memory.
        norm = torch.linalg.vector_norm(x, dim=1, keepdim=True, dtype=torch.float32)
        size = (norm.square() / x.shape[1] + NORM_FLOOR**2).rsqrt().to(x.dtype)
        return torch.addcmul(shift, x * size, 1 + scale)


class ConditionedBlock(nn.Module):
    """The residual block of ``blocks.Block``, with a ``Film`` before each of its halves."""

    def __init__(self, width: int, condition: int) -> None:
        super().__init__()
        self.film_space = Film(width, condition)
        self.enter = Pointwise(width, width)
        self.depthwise = Depthwise(width)
        self.leave = Pointwise(width, width, zero=True)
        self.film_mix = Film(width, condition)
        self.expand = Pointwise(width, 2 * width)
        self.reduce = Pointwise(2 * width, width, zero=True)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        inner = F.leaky_relu(self.enter(self.film_space(x, c)), 0.1, inplace=True)
        x = x + self.leave(self.depthwise(inner))
        return x + self.reduce(F.leaky_relu(self.expand(self.film_mix(x, c)), 0.1, inplace=True))


class Restorer(nn.Module):
    """The head; see the module.

    Attributes:
        prompts: (len(CLASSES), D) the text embeddings of the classes, of the guide that it was trained with:
            the task is named, by the user or by any guide, in these words. (Pictures and texts lie apart in
            CLIP's space, Liang et al., NeurIPS 2022: told degradation embeddings themselves, a head would
            have to learn two languages.)
        id: of the weights file it comes from: the first 8 hex digits of its SHA-256.
    """

    def __init__(self, config: RestorerConfig) -> None:
        super().__init__()
        self.config = c = config
        self.id = ""
        self.prompts: Tensor
        self.register_buffer("prompts", torch.zeros(len(CLASSES), c.embedding))
        self.understand = nn.Sequential(
            Pointwise(c.embedding + SOURCE + TONES, c.condition),
            nn.SiLU(),
            Pointwise(c.condition, c.condition),
        )

        def stage(width: int, blocks: int) -> nn.ModuleList:
            return nn.ModuleList(ConditionedBlock(width, c.condition) for _ in range(blocks))

        self.enter = Pointwise(3 * GROUP**2, c.fine)
        self.fine_in = stage(c.fine, c.fine_blocks)
        self.down = Down(c.fine, c.middle)
        self.middle_in = stage(c.middle, c.middle_blocks)
        self.down_again = Down(c.middle, c.coarse)
        self.coarse_in = stage(c.coarse, c.coarse_blocks // 2)
        self.coarse_out = stage(c.coarse, c.coarse_blocks - c.coarse_blocks // 2)
        self.up = Up(c.coarse, c.middle)
        self.middle_out = stage(c.middle, c.middle_blocks)
        self.up_again = Up(c.middle, c.fine)
        self.fine_out = stage(c.fine, c.fine_blocks)
        self.gain = Pointwise(c.fine, 3 * GROUP**2, zero=True)
        self.offset = Pointwise(c.fine, 3 * GROUP**2, zero=True)

    def forward(self, x: Tensor, prompt: Tensor, source: Tensor, tones: Tensor) -> Tensor:
        """Restored pictures (B, 3, H, W), not clamped."""
        told = torch.cat((prompt * prompt.shape[1] ** 0.5, source, tones), 1)  # entries of unit size
        c = F.silu(self.understand(told[..., None, None]))
        fine = self.enter(F.pixel_unshuffle(x - 0.5, GROUP))  # (B, fine, H/4, W/4)
        for block in self.fine_in:
            fine = block(fine, c)
        middle = self.down(fine)  # (B, middle, H/8, W/8)
        for block in self.middle_in:
            middle = block(middle, c)
        coarse = self.down_again(middle)  # (B, coarse, H/16, W/16)
        for block in self.coarse_in:
            coarse = block(coarse, c)
        for block in self.coarse_out:
            coarse = block(coarse, c)
        middle = middle + self.up(coarse)
        for block in self.middle_out:
            middle = block(middle, c)
        fine = fine + self.up_again(middle)
        for block in self.fine_out:
            fine = block(fine, c)
        gain, offset = (F.pixel_shuffle(m(fine), GROUP).float() for m in (self.gain, self.offset))
        return x + x * gain + offset
