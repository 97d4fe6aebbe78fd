"""The restoration head: one forward pass from a degraded picture to a restored one.

A U-Net at 1/4, 1/8 and 1/16 of the resolution, made of 1x1 and depthwise convolutions. Every block is
conditioned (FiLM, Perez et al., AAAI 2018) on the text embedding of what is to be undone, on where the
picture comes from, and on the tones of the whole picture, which a tile cannot know. The output is a gain and
an offset for every pixel.

What works at 1/4, where fine detail is told from what disturbs it, exists once for each group of related
tasks, the ``SPECIALISTS``: the same for all, it learns too little of any (docs/training.md). A picture passes
through one of them; films and the coarser levels serve all.

Shapes: x (B, 3, H, W) in 0..1, H and W multiples of 16; task (B,), indices in ``CLASSES``; source (B, 3);
tones (B, 15).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llicm_cli.models.blocks import Block, Down, Pointwise, Show, Up
from llicm_cli.tasks import CLASSES, CLEAN

GROUP = 4  # pixels a side that are one position at the finest resolution
STRIDE = 16  # height and width must be multiples of this
REACH = 160  # pixels; nothing farther away than this from a 16x16 block influences it
NORM_FLOOR = 0.2
SOURCE = 3  # numbers that say where a picture comes from
QUANTILES = (0.02, 0.25, 0.5, 0.75, 0.98)
TONES = 3 * len(QUANTILES)
SPECIALISTS = {  # and the classes of each
    "noise": ("denoise",),
    "blur": ("deblur",),
    "blocks": ("dejpeg", CLEAN),
    "streaks": ("derain", "desnow"),
    "gaps": ("deraindrop", "inpaint"),
    "haze": ("dehaze",),
    "light": ("lowlight", "deshadow"),
}
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


class Films(nn.Module):
    """A ``Film`` for each half of a residual block."""

    def __init__(self, width: int, condition: int) -> None:
        super().__init__()
        self.film_space = Film(width, condition)
        self.film_mix = Film(width, condition)

    def forward(self, c: Tensor) -> tuple[Show, Show]:
        return partial(self.film_space, c=c), partial(self.film_mix, c=c)


class ConditionedBlock(nn.Module):
    """A residual block with films of its own."""

    def __init__(self, width: int, condition: int) -> None:
        super().__init__()
        self.films = Films(width, condition)
        self.block = Block(width)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        y: Tensor = self.block(x, *self.films(c))
        return y


class Specialist(nn.Module):
    """The finest level for one group of tasks; the films of its blocks are everybody's."""

    def __init__(self, config: RestorerConfig) -> None:
        super().__init__()
        self.enter = Pointwise(3 * GROUP**2, config.fine)
        self.fine_in = nn.ModuleList(Block(config.fine) for _ in range(config.fine_blocks))
        self.fine_out = nn.ModuleList(Block(config.fine) for _ in range(config.fine_blocks))
        self.gain = Pointwise(config.fine, 3 * GROUP**2, zero=True)
        self.offset = Pointwise(config.fine, 3 * GROUP**2, zero=True)

    def look(self, films: nn.ModuleList, x: Tensor, c: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) -> features (B, fine, H/4, W/4)."""
        y: Tensor = self.enter(F.pixel_unshuffle(x - 0.5, GROUP))
        for block, film in zip(self.fine_in, films, strict=True):
            y = block(y, *film(c))
        return y

    def answer(self, films: nn.ModuleList, fine: Tensor, x: Tensor, c: Tensor) -> Tensor:
        """Features (B, fine, H/4, W/4) of pictures (B, 3, H, W) -> restored pictures."""
        for block, film in zip(self.fine_out, films, strict=True):
            fine = block(fine, *film(c))
        gain, offset = (F.pixel_shuffle(m(fine), GROUP).float() for m in (self.gain, self.offset))
        return x + x * gain + offset


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
        self.owner: Tensor
        owner = [i for name in CLASSES for i, tasks in enumerate(SPECIALISTS.values()) if name in tasks]
        self.register_buffer("owner", torch.tensor(owner), persistent=False)
        self.understand = nn.Sequential(
            Pointwise(c.embedding + SOURCE + TONES, c.condition),
            nn.SiLU(),
            Pointwise(c.condition, c.condition),
        )

        def stage(width: int, blocks: int) -> nn.ModuleList:
            return nn.ModuleList(ConditionedBlock(width, c.condition) for _ in range(blocks))

        self.specialists = nn.ModuleDict({name: Specialist(c) for name in SPECIALISTS})
        self.fine_in = nn.ModuleList(Films(c.fine, c.condition) for _ in range(c.fine_blocks))
        self.down = Down(c.fine, c.middle)
        self.middle_in = stage(c.middle, c.middle_blocks)
        self.down_again = Down(c.middle, c.coarse)
        self.coarse_in = stage(c.coarse, c.coarse_blocks // 2)
        self.coarse_out = stage(c.coarse, c.coarse_blocks - c.coarse_blocks // 2)
        self.up = Up(c.coarse, c.middle)
        self.middle_out = stage(c.middle, c.middle_blocks)
        self.up_again = Up(c.middle, c.fine)
        self.fine_out = nn.ModuleList(Films(c.fine, c.condition) for _ in range(c.fine_blocks))

    def forward(self, x: Tensor, task: Tensor, source: Tensor, tones: Tensor) -> Tensor:
        """Restored pictures (B, 3, H, W), not clamped."""
        owner = self.owner[task]
        order = owner.argsort()
        sizes = owner.bincount(minlength=len(self.specialists)).tolist()
        x = x[order].contiguous(memory_format=torch.channels_last)
        prompt = self.prompts[task] * self.config.embedding**0.5  # entries of unit size
        c = F.silu(self.understand(torch.cat((prompt, source, tones), 1)[order][..., None, None]))

        def each(part: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
            """What everybody makes of their pictures."""
            shares = zip(self.specialists.values(), *(t.split(sizes) for t in inputs), strict=True)
            return torch.cat([part(one, *own) for one, *own in shares if len(own[0])])

        fine = each(lambda one, x, c: one.look(self.fine_in, x, c), x, c)
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
        restored = each(lambda one, *own: one.answer(self.fine_out, *own), fine, x, c)
        return restored[order.argsort()]
