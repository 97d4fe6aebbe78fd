"""The scale prior: which of 64 tables codes each latent; and which of a few codes each hyper-latent.

A decoder that picks one wrong table loses the whole stream, so *only integers choose a table*:
the inputs are integers that were already parsed (the hyper-latent and the symbols of earlier coding
steps), and at coding time the network is evaluated by its integer twin (``ExactScalePrior``), whose
every intermediate value is an integer below 2**53 carried in float64. Such sums are exact in any
order, hence equal on every machine, thread count and memory layout.

Latents are coded in four steps (the quadtree partition of DCVC-DC, Li et al., CVPR 2023): step ``i``
codes one quarter of the positions of every channel, another quarter for each of four channel
groups, so that every step sees neighbours in space and across channels.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llicm_cli.models.blocks import Pointwise, RateTable, Up

STEPS = 4
SCALE_MIN = 0.11
SCALE_MAX = 256.0
SCALE_LEVELS = 64
SCALE_LOG_STEP = math.log(SCALE_MAX / SCALE_MIN) / (SCALE_LEVELS - 1)
SQUARED_ERROR_BITS = 34.0  # bits that one squared quantisation step of error is worth to the encoder
CERTAIN_ZERO_BELOW = 4  # scale index; a latent of the scale below would be non-zero once in 600 times
HYPER_CONTEXTS = 5  # tables of each hyper-latent channel, see ``hyper_context``
MAGNITUDE_MAX = 63  # larger symbols count as this one in the magnitude context


def step_masks(channels: int, height: int, width: int, device: torch.device | None = None) -> Tensor:
    """Which latents each step codes: bool, (STEPS, channels, height, width), a partition.

    Within each 2x2 cell the order is: upper left, lower right, upper right, lower left for the first
    channel group (channel % 4 == 0), and rotated by one step for each following group.
    """
    rows = torch.arange(height, device=device)[:, None] % 2
    columns = torch.arange(width, device=device)[None, :] % 2
    place = (3 * rows + 2 * columns) % STEPS
    group = torch.arange(channels, device=device) % STEPS
    turn = (place[None] + group[:, None, None]) % STEPS
    return torch.stack([turn == i for i in range(STEPS)])


def blur_magnitudes(symbols: Tensor) -> Tensor:
    """Sum of neighbouring magnitudes, weights 1 2 1 / 2 4 2 / 1 2 1, per channel.

    symbols: (..., C, H, W) integers in int16 or a float type, zero where not yet known. Exact: shifts and
    additions of small integers only. Result in 0 .. 16 * MAGNITUDE_MAX.
    """
    m = F.pad(symbols.abs().clamp(max=MAGNITUDE_MAX), (1, 1, 1, 1))
    m = m[..., :-2, :] + 2 * m[..., 1:-1, :] + m[..., 2:, :]
    return m[..., :-2] + 2 * m[..., 1:-1] + m[..., 2:]


def hyper_context(left: Tensor, above: Tensor, contexts: int) -> Tensor:
    """Which of the tables of its channel, 0 .. contexts - 1 (an odd number), codes a hyper-latent symbol: by
    the sum of its neighbours to the left and above, integers, 0 outside the picture."""
    reach = contexts // 2
    return (left + above).clamp(-reach, reach) + reach


class _Bound(torch.autograd.Function):
    """Clamp to [low, high] that lets a gradient through where it leads back inside."""

    @staticmethod
    def forward(ctx, x, low, high):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(x)
        ctx.limits = (low, high)
        return x.clamp(low, high)

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        (x,) = ctx.saved_tensors
        low, high = ctx.limits
        keep = ((x >= low) | (grad < 0)) & ((x <= high) | (grad > 0))
        return grad * keep, None, None


class ScalePrior(nn.Module):
    """Scale indices from the hyper-latent, the rate position and the symbols known so far.

    This is the float form that training differentiates; ``exact.ExactScalePrior`` is built
    from its weights. Only operations with an exact integer counterpart appear: matrix products,
    additions, ReLU, and log2(1 + m) of an integer m, which becomes a table.
    """

    def __init__(self, latent: int, hyper: int, width: int, anchors: int) -> None:
        super().__init__()
        self.enter = nn.Conv2d(hyper, width, 3, padding=1)
        self.up1 = Up(width, width)
        self.up2 = Up(width, width)
        self.from_hyper = nn.ModuleList(Pointwise(width, width) for _ in range(STEPS))
        self.from_known = nn.ModuleList(Pointwise(latent, width, bias=False) for _ in range(STEPS - 1))
        self.leave = nn.ModuleList(Pointwise(width, latent, zero=True) for _ in range(STEPS))
        self.hidden_rate = nn.ModuleList(RateTable(anchors, width) for _ in range(STEPS))
        self.own_magnitude = nn.Parameter(torch.zeros(STEPS - 1, latent))
        self.index_rate = nn.ModuleList(RateTable(anchors, latent) for _ in range(STEPS))

    def features(self, z_hat: Tensor) -> Tensor:
        """z_hat: (B, hyper, h, w) integers -> (B, width, 4h, 4w)."""
        return self.up2(F.relu(self.up1(F.relu(self.enter(z_hat)))))

    def index(self, step: int, features: Tensor, known: Tensor, t: Tensor) -> Tensor:
        """Scale index (real valued, within 0 .. SCALE_LEVELS - 1) of every latent, for one step.

        known: (B, C, H, W) symbols of earlier steps, zero elsewhere (ignored by step 0).
        """
        hidden = self.from_hyper[step](features) + self.hidden_rate[step](t)
        index = self.index_rate[step](t)
        if step:
            magnitude = torch.log2(1 + blur_magnitudes(known))
            hidden = hidden + self.from_known[step - 1](magnitude)
            index = index + self.own_magnitude[step - 1][:, None, None] * magnitude
        index = index + self.leave[step](F.relu(hidden)).float()
        return _Bound.apply(index, 0.0, SCALE_LEVELS - 1.0)


def scale_of(index: Tensor) -> Tensor:
    """Standard deviation of a (real or integer) scale index."""
    return SCALE_MIN * torch.exp(index * SCALE_LOG_STEP)


def gaussian_bits(residual: Tensor, scale: Tensor) -> Tensor:
    """Bits of a residual under a zero-mean Gaussian integrated over one quantisation bin.

    The floor lies so low (about 11 standard deviations) that a scale much too small still feels a gradient.
    """
    v = residual.abs()
    root = math.sqrt(0.5)
    upper = torch.erfc((v - 0.5) / scale * root)
    lower = torch.erfc((v + 0.5) / scale * root)
    return -torch.log2((0.5 * (upper - lower)).clamp(min=1e-30))


@torch.no_grad()
def choose_symbols(residual: Tensor, scale: Tensor, worth: float = SQUARED_ERROR_BITS) -> Tensor:
    """Rate-distortion optimised quantisation: the nearest integer, or the one next to it towards
    zero where that saves more bits than its error is worth. Encoder's choice, free to the decoder.

    Args:
        residual: latents less their means, in quantisation steps.
        scale: standard deviations that will code them, same shape.
        worth: bits that one squared quantisation step of error is worth.
    """
    nearest = residual.round()
    smaller = nearest - nearest.sign()

    def cost(symbol: Tensor) -> Tensor:
        return worth * (residual - symbol).square() + gaussian_bits(symbol, scale)

    return torch.where(cost(smaller) < cost(nearest), smaller, nearest)
