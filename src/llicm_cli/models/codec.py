"""The codec: analysis, synthesis, hyperprior and context model, from top to bottom.

    x --analysis--> y --(quantise, code)--> y_hat --synthesis--> x_hat
                    |                         ^
                    +--hyper analysis--> z ---+ (means: float; scales: integers, see entropy.py)

Heavy work happens at 1/8 and 1/16 of the resolution, in 1x1 and depthwise convolutions. A linear path
runs beside each transform: a block transform on 16x16 patches, started from their principal components
(Karhunen-Loeve), so that training begins with a working transform codec. A small post-filter at half the
resolution ends the synthesis. One model serves every rate: learned gains scale the latents (gained VAE, Cui
et al., CVPR 2021).

Streams of objective rpo pass a few residual blocks more, in analysis and synthesis, that the joint stage
trains: what it does for restored pictures costs those that are coded as they are (rdo) nothing.

Shapes: x (B, 3, H, W) in 0..1, H and W multiples of 16; y (B, C, H/16, W/16); z (B, Z, ceil(H/64),
ceil(W/64)).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llicm_cli.bitstream import LAMBDA_MAX, LAMBDA_MIN
from llicm_cli.models.blocks import Block, Depthwise, Down, Pointwise, RateTable, Up
from llicm_cli.models.entropy import STEPS, ScalePrior, choose_symbols, gaussian_bits, scale_of, step_masks

PATCH = 16  # pixels a side of one latent position
Quantiser = Literal["noisy", "chosen"]
"""How a training pass stands in for quantisation: ``noisy`` decodes rounded symbols (straight-through) but
counts bits with additive uniform noise (Balle et al., ICLR 2017); ``chosen`` takes the symbols that the
encoder really sends, and is not meant to be trained through."""
HYPER = 4  # latent positions a side of one hyper-latent position
TILE = 64  # places of features (8x8 pixels) a side that the post-filter works on at once


@dataclass(frozen=True)
class CodecConfig:
    """Sizes of the networks (channels, blocks a stage); stored with the weights."""

    latent: int = 320
    fine: int = 128  # width at 1/8 resolution
    coarse: int = 256  # width at 1/16 resolution
    filter: int = 32  # width of the post-filter, at 1/2 resolution
    fine_blocks: int = 6
    coarse_blocks: int = 6
    filter_blocks: int = 10
    hyper: int = 128
    prior: int = 192  # width of the hyper transforms
    context: int = 256
    scale: int = 128
    anchors: int = 9


@dataclass(frozen=True)
class Pass:
    """What a training pass makes of pictures x.

    Attributes:
        x_hat: (B, 3, H, W), not clamped.
        bits: of y, (B,).
        z: before quantisation, (B, Z, H/64, W/64).
        symbols: of y, (B, C, H/16, W/16).
        index: their scale indices, real valued.
    """

    x_hat: Tensor
    bits: Tensor
    z: Tensor
    symbols: Tensor
    index: Tensor


class Analysis(nn.Module):
    """x -> latents in image units, before the gain."""

    def __init__(self, c: CodecConfig) -> None:
        super().__init__()
        self.linear = Pointwise(3 * PATCH**2, c.latent, bias=False)
        self.enter = Pointwise(3 * 64, c.fine)
        self.fine_rate = RateTable(c.anchors, c.fine)
        self.fine = nn.Sequential(*(Block(c.fine) for _ in range(c.fine_blocks)))
        self.down = Down(c.fine, c.coarse)
        self.coarse_rate = RateTable(c.anchors, c.coarse)
        self.coarse = nn.Sequential(*(Block(c.coarse) for _ in range(c.coarse_blocks)))
        self.coarse_rpo = Block(c.coarse)
        self.leave = Pointwise(c.coarse, c.latent, zero=True)

    def forward(self, x: Tensor, t: Tensor, rpo: bool) -> Tensor:
        """(B, 3, H, W) in 0..1, sides multiples of ``PATCH``, at rate positions (B,) -> (B, latent, h, w)."""
        x = x - 0.5
        f = self.fine_rate.amplify(self.enter(F.pixel_unshuffle(x, 8)), t)  # (B, fine, H/8, W/8)
        f = self.coarse(self.coarse_rate.amplify(self.down(self.fine(f)), t))  # (B, coarse, H/16, W/16)
        if rpo:
            f = self.coarse_rpo(f)
        return self.linear(F.pixel_unshuffle(x, PATCH)) + self.leave(f)


class PostFilter(nn.Module):
    """What a picture lacks, found at half its resolution in itself and in the features that it was made of.

    Each 8x8 pixels come from one place of the features; here they meet their neighbours. Called with a
    picture (B, 3, H, W), 0 in the middle, those features (B, fine, H/8, W/8) and rate positions (B,). Works
    in tiles that overlap by its reach: near a CPU's cache, in less time than one pass and less memory.
    """

    def __init__(self, c: CodecConfig) -> None:
        super().__init__()
        self.up = Pointwise(c.fine, 16 * c.filter)
        self.enter = Pointwise(3 * 4, c.filter)
        self.rate = RateTable(c.anchors, c.filter)
        self.body = nn.Sequential(*(Block(c.filter) for _ in range(c.filter_blocks)))
        self.body_rpo = Block(c.filter)
        self.leave = Pointwise(c.filter, 3 * 4, zero=True)
        self.margin = -(-(c.filter_blocks + 1) // 4)  # places of features; a block reaches a quarter of one

    def forward(self, x: Tensor, features: Tensor, t: Tensor, rpo: bool) -> Tensor:
        height, width = features.shape[2:]
        return torch.cat(
            [
                torch.cat([self._tile(x, features, t, rpo, top, left) for left in range(0, width, TILE)], 3)
                for top in range(0, height, TILE)
            ],
            2,
        )

    def _tile(self, x: Tensor, features: Tensor, t: Tensor, rpo: bool, top: int, left: int) -> Tensor:
        first, start = max(0, top - self.margin), max(0, left - self.margin)
        last, end = top + TILE + self.margin, left + TILE + self.margin  # the picture may end before
        f = F.pixel_shuffle(self.up(features[:, :, first:last, start:end]), 4)
        f = f + self.enter(F.pixel_unshuffle(x[:, :, 8 * first : 8 * last, 8 * start : 8 * end], 2))
        f = self.body(self.rate.amplify(f, t))  # (B, filter, 4 rows, 4 columns)
        if rpo:
            f = self.body_rpo(f)
        made = F.pixel_shuffle(self.leave(f), 2)[:, :, 8 * (top - first) :, 8 * (left - start) :]
        return made[:, :, : 8 * TILE, : 8 * TILE]


class Synthesis(nn.Module):
    """Latents in image units, plain and normalised -> x_hat."""

    def __init__(self, c: CodecConfig) -> None:
        super().__init__()
        self.linear = Pointwise(c.latent, 3 * PATCH**2, bias=False)
        self.enter = Pointwise(c.latent, c.coarse)
        self.coarse_rate = RateTable(c.anchors, c.coarse)
        self.coarse = nn.Sequential(*(Block(c.coarse) for _ in range(c.coarse_blocks)))
        self.coarse_rpo = Block(c.coarse)
        self.up = Up(c.coarse, c.fine)
        self.fine_rate = RateTable(c.anchors, c.fine)
        self.fine = nn.Sequential(*(Block(c.fine) for _ in range(c.fine_blocks)))
        self.fine_rpo = Block(c.fine)
        self.leave = Pointwise(c.fine, 3 * 64, zero=True)
        self.post_filter = PostFilter(c)

    def forward(self, plain: Tensor, normalised: Tensor, t: Tensor, rpo: bool) -> Tensor:
        """Latents (B, latent, h, w) as they are and divided by the gain, rate positions (B,) -> x_hat
        (B, 3, H, W), not clamped."""
        f = self.coarse(self.coarse_rate.amplify(self.enter(normalised), t))
        if rpo:
            f = self.coarse_rpo(f)
        f = self.fine(self.fine_rate.amplify(self.up(f), t))
        if rpo:
            f = self.fine_rpo(f)
        x = F.pixel_shuffle(self.linear(plain), PATCH) + F.pixel_shuffle(self.leave(f), 8)
        return x + self.post_filter(x, f, t, rpo) + 0.5


class HyperAnalysis(nn.Module):
    """Normalised latents -> hyper-latent z."""

    def __init__(self, c: CodecConfig) -> None:
        super().__init__()
        self.enter = Pointwise(c.latent, c.prior)
        self.rate = RateTable(c.anchors, c.prior)
        self.body = nn.Sequential(
            Block(c.prior), Down(c.prior, c.prior), Block(c.prior), Down(c.prior, c.hyper)
        )

    def forward(self, y: Tensor, t: Tensor) -> Tensor:
        """(B, latent, h, w), normalised, at rate positions (B,) -> (B, hyper, h/4, w/4)."""
        return self.body(self.rate.amplify(self.enter(y), t))


class MeanPrior(nn.Module):
    """Means of the (normalised) latents: from the hyper-latent, then corrected at every step by
    what is already decoded. Floating point: it moves pixels by 1e-7, never the parse."""

    def __init__(self, c: CodecConfig) -> None:
        super().__init__()
        self.body = nn.Sequential(
            Pointwise(c.hyper, c.prior), Block(c.prior), Up(c.prior, c.prior), Block(c.prior),
            Up(c.prior, c.prior), Block(c.prior),
        )  # fmt: skip
        self.first = Pointwise(c.prior, c.latent)
        self.from_hyper = nn.ModuleList(Pointwise(c.prior, c.context) for _ in range(STEPS - 1))
        self.from_known = nn.ModuleList(Pointwise(c.latent, c.context, bias=False) for _ in range(STEPS - 1))
        self.spread = nn.ModuleList(Depthwise(c.context) for _ in range(STEPS - 1))
        self.mix = nn.ModuleList(Pointwise(c.context, c.context) for _ in range(STEPS - 1))
        self.leave = nn.ModuleList(Pointwise(c.context, c.latent, zero=True) for _ in range(STEPS - 1))

    def forward(self, step: int, features: Tensor, first: Tensor, known: Tensor) -> Tensor:
        """Means for one coding step.

        Args:
            step: 0 .. STEPS - 1.
            features: ``body(z_hat)`` at latent size.
            first: ``first(features)``, the means before anything is decoded.
            known: decoded latents so far (normalised), else zero.
        """
        if not step:
            return first
        i = step - 1
        f = F.leaky_relu(self.from_hyper[i](features) + self.from_known[i](known), 0.1)
        correction: Tensor = self.leave[i](F.leaky_relu(self.mix[i](self.spread[i](f)), 0.1))
        return first + correction


def round_straight_through(x: Tensor) -> Tensor:
    """Round in the forward pass, identity in the backward pass."""
    return x + (x.round() - x).detach()


def is_for_rpo(name: str) -> bool:
    """Whether a tensor of the codec's, by its name, belongs to the blocks for objective rpo."""
    return "_rpo." in name


def is_new(name: str) -> bool:
    """Whether a tensor of the codec's, by its name, belongs to a part that older weights files lack: those
    parts began without effect."""
    return is_for_rpo(name) or ".post_filter." in name


class Codec(nn.Module):
    """All networks of the codec and the passes built from them."""

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        self.config = config
        self.analysis = Analysis(config)
        self.synthesis = Synthesis(config)
        self.hyper_analysis = HyperAnalysis(config)
        self.mean_prior = MeanPrior(config)
        self.scale_prior = ScalePrior(config.latent, config.hyper, config.scale, config.anchors)
        self.gain = RateTable(config.anchors, config.latent)  # log of quantisation steps a unit
        self.inverse_gain = RateTable(config.anchors, config.latent)
        self.log_spread = nn.Parameter(torch.zeros(config.latent))  # log of each latent's size

    def rpo_parameters(self) -> list[nn.Parameter]:
        """What serves streams of objective rpo alone."""
        return [parameter for name, parameter in self.named_parameters() if is_for_rpo(name)]

    def decoder_parameters(self) -> list[nn.Parameter]:
        """What turns latents into pictures of objective rdo, and nothing else."""
        synthesis = (p for name, p in self.synthesis.named_parameters() if not is_for_rpo(name))
        return [*synthesis, *self.inverse_gain.parameters()]

    @staticmethod
    def position(lmbda: Tensor) -> Tensor:
        """Place of lambda between LAMBDA_MIN (0) and LAMBDA_MAX (1) on a logarithmic axis."""
        return torch.log(lmbda / LAMBDA_MIN) / math.log(LAMBDA_MAX / LAMBDA_MIN)

    @staticmethod
    def lambda_at(t: Tensor) -> Tensor:
        """The inverse of ``position``."""
        return LAMBDA_MIN * (LAMBDA_MAX / LAMBDA_MIN) ** t

    def unit(self, t: Tensor) -> Tensor:
        """Size of one normalised unit in quantisation steps, (B, C, 1, 1)."""
        return (self.gain(t) + self.log_spread[:, None, None]).exp()

    def analyse(self, x: Tensor, t: Tensor, rpo: bool) -> Tensor:
        """x -> y in quantisation steps, before rounding; ``rpo``: whether that is the objective."""
        y: Tensor = self.analysis(x, t, rpo).float() * self.gain(t).exp()
        return y

    def hyper_latents(self, y: Tensor, t: Tensor) -> Tensor:
        """y -> z before rounding; y is extended by repetition to whole hyper-latent cells."""
        h, w = y.shape[-2:]
        cells = y / self.unit(t)
        if h % HYPER or w % HYPER:
            cells = F.pad(cells, (0, -w % HYPER, 0, -h % HYPER), mode="replicate")
        return self.hyper_analysis(cells, t).float()

    def decode_latents(self, y_hat: Tensor, t: Tensor, rpo: bool) -> Tensor:
        """y_hat (B, C, h, w), in quantisation steps -> x_hat (B, 3, 16h, 16w), not clamped; ``rpo``: whether
        that is the objective."""
        plain = y_hat * self.inverse_gain(t).exp()
        return self.synthesis(plain, plain / self.log_spread.exp()[:, None, None], t, rpo).float()

    def forward(self, x: Tensor, t: Tensor, quantiser: Quantiser, rpo: bool) -> Pass:
        """Training pass.

        Args:
            x: (B, 3, H, W) in 0..1, H and W multiples of 64.
            t: (B,) rate positions.
            quantiser: see ``Quantiser``.
            rpo: whether that is the objective of the streams.
        """
        y = self.analyse(x, t, rpo)
        z = self.hyper_latents(y, t)
        z_hat = round_straight_through(z)
        means = self.mean_prior.body(z_hat)
        first = self.mean_prior.first(means)
        full_precision = torch.autocast(x.device.type, enabled=False)  # for scale indices
        with full_precision:
            scales = self.scale_prior.features(z_hat)
        masks = step_masks(y.shape[1], y.shape[2], y.shape[3], y.device)
        unit = self.unit(t)
        y_hat, residual, index, symbol = (torch.zeros_like(y) for _ in range(4))  # of the steps so far
        for step, mask in enumerate(masks.contiguous(memory_format=torch.channels_last)):
            mean = self.mean_prior(step, means, first, y_hat / unit).float() * unit
            residual = torch.where(mask, y - mean, residual)
            with full_precision:
                index = torch.where(mask, self.scale_prior.index(step, scales, symbol, t), index)
            if quantiser == "chosen":
                now = choose_symbols(residual, scale_of(index))
            else:
                now = residual.detach().round()
            symbol = torch.where(mask, now, symbol)
            y_hat = torch.where(mask, y + (symbol - residual).detach(), y_hat)
        error = torch.rand_like(y) - 0.5 if quantiser == "noisy" else (symbol - residual).detach()
        bits = gaussian_bits(residual + error, scale_of(index)).sum((1, 2, 3))
        return Pass(self.decode_latents(y_hat, t, rpo), bits, z, symbol, index)
