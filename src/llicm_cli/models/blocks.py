"""The few building blocks every network here is made of.

Dense layers are 1x1 convolutions whose kernel is kept as a matrix (out, in), the form the Muon
optimiser works on; resolution changes by pixel (un)shuffling, never by strided kernels. All
tensors are (B, C, H, W); channels_last is the fast layout on CPUs.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Pointwise(nn.Module):
    """A 1x1 convolution, (B, c_in, H, W) -> (B, c_out, H, W).

    Args:
        c_in: input channels.
        c_out: output channels.
        zero: start from a zero matrix, so that a branch ending here starts as "no change".
        bias: add a learned bias.
    """

    def __init__(self, c_in: int, c_out: int, *, zero: bool = False, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(c_out, c_in) * (0.0 if zero else 1 / math.sqrt(c_in)))
        self.bias = nn.Parameter(torch.zeros(c_out)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_compiling():  # on GPUs: a plain matrix product, no layout to choose
            return F.linear(x.permute(0, 2, 3, 1), self.weight, self.bias).permute(0, 3, 1, 2)
        return F.conv2d(x, self.weight[:, :, None, None], self.bias)


class Depthwise(nn.Conv2d):
    """A 3x3 convolution of every channel by itself, (B, width, H, W) -> the same."""

    def __init__(self, width: int) -> None:
        super().__init__(width, width, 3, padding=1, groups=width)

    def forward(self, x: Tensor) -> Tensor:
        if not torch.compiler.is_compiling():
            return super().forward(x)
        # The same as nine shifted products, which the compiler makes one kernel of, forward and backward.
        height, width = x.shape[2:]
        around = F.pad(x, (1, 1, 1, 1))
        assert self.bias is not None
        y = self.bias[:, None, None]
        for i in range(3):
            for j in range(3):
                y = y + self.weight[:, :, i, j, None] * around[:, :, i : i + height, j : j + width]
        return y.to(x.dtype)


Show = Callable[[Tensor], Tensor]


def _as_it_is(x: Tensor) -> Tensor:
    return x


class Block(nn.Module):
    """Residual block: 1x1 - depthwise 3x3 - 1x1 mixes space, then 1x1 - 1x1 mixes channels.

    Costs ``6 * width**2 + 9 * width`` multiplications a position; reaches one position further
    in every direction.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.enter = Pointwise(width, width)
        self.depthwise = Depthwise(width)
        self.leave = Pointwise(width, width, zero=True)
        self.expand = Pointwise(width, 2 * width)
        self.reduce = Pointwise(2 * width, width, zero=True)

    def forward(self, x: Tensor, space: Show = _as_it_is, mix: Show = _as_it_is) -> Tensor:
        """``space``, ``mix``: what of x the two halves are shown, such as a normalisation of it."""
        x = x + self.leave(self.depthwise(F.leaky_relu(self.enter(space(x)), 0.1, inplace=True)))
        return x + self.reduce(F.leaky_relu(self.expand(mix(x)), 0.1, inplace=True))


class Down(nn.Module):
    """Halve height and width: (B, c_in, H, W) -> (B, c_out, H/2, W/2); H and W must be even."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.mix = Pointwise(4 * c_in, c_out)

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(F.pixel_unshuffle(x, 2))


class Up(nn.Module):
    """Double height and width: (B, c_in, H, W) -> (B, c_out, 2H, 2W)."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.mix = Pointwise(c_in, 4 * c_out)

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(self.mix(x), 2)


class RateTable(nn.Module):
    """A learned vector for every rate: one row per anchor, linear in between.

    The position along the anchors is ``t`` in 0..1, the place of lambda on a logarithmic axis
    (see ``Codec.position``), so that exponentiated rows interpolate geometrically, as in the gained
    VAE (Cui et al., CVPR 2021).
    """

    def __init__(self, anchors: int, channels: int) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.zeros(anchors, channels))

    def forward(self, t: Tensor) -> Tensor:
        """t: (B,) in 0..1 -> (B, channels, 1, 1)."""
        place = t * (len(self.rows) - 1)
        low = place.detach().floor().clamp(0, len(self.rows) - 2).long()
        weight = (place - low)[:, None]
        vector = torch.lerp(self.rows[low], self.rows[low + 1], weight)
        return vector[:, :, None, None]

    def amplify(self, x: Tensor, t: Tensor) -> Tensor:
        """x (B, channels, H, W) times the exponential of the vectors of t, in the precision of x: under
        autocast, what follows stays in bf16."""
        return x * self(t).exp().to(x.dtype)
