"""Encoder-side search: latents refined for one picture, for the same decoder and format (``--effort``).

The analysis guesses latents that are good on average over pictures. Here they are moved, a few rounds long,
by the gradient of what the picture really costs, ``bits + lambda * 255**2 * distortion``, as in Campos et
al. (CVPR workshops, 2019) and Yang et al. (NeurIPS 2020). Symbols are chosen anew in each round, with the
encoder's own rule, and the gradient is taken at what a decoder would see of them, so that nothing stands in
for rounding. With ``y`` the latents, ``y_hat`` what is decoded, ``g`` the gradient at ``y_hat``, a round is

    y <- y - share * (g / CURVATURE - (y_hat - y))

with ``g / CURVATURE`` a quantisation step at most; it rests where the squared rounding error, times
``CURVATURE / 2``, describes the cost around ``y_hat``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from llicm_cli.models.codec import HYPER, PATCH, Codec
from llicm_cli.models.distortion import distortion
from llicm_cli.models.entropy import (
    CERTAIN_ZERO_BELOW,
    choose_symbols,
    gaussian_bits,
    scale_of,
    step_masks,
)
from llicm_cli.models.weights import CodecModel

REFINED_ERROR_BITS = 13.0  # for ``choose_symbols`` in place of its own, once latents are refined
CURVATURE = 16.0  # bits a squared quantisation step
FIRST_SHARE = 0.4  # how far the first round goes, nearly
TILE = 48  # latents a side that are refined at once
MARGIN = 8  # latents around them


def shares(rounds: int) -> Iterator[float]:
    """How far each round goes: half a cosine to nothing, so that latents that pushed one another settle."""
    return (FIRST_SHARE / 2 * (1 + math.cos(math.pi * (i + 0.5) / rounds)) for i in range(rounds))


def _choose(
    model: CodecModel, y: Tensor, means: Tensor, scales: Tensor, unit: Tensor, rate: int
) -> tuple[Tensor, list[Tensor]]:
    """What a decoder would see of latents (C, h, w), and the scale index of every latent by step."""
    prior, first = model.codec.mean_prior, model.codec.mean_prior.first(means)
    y_hat, symbols = torch.zeros_like(y), torch.zeros_like(y, dtype=torch.int16)
    indices = []
    for step, mask in enumerate(step_masks(*y.shape)):
        mean = prior(step, means, first, (y_hat / unit)[None])[0] * unit
        index = model.scale_prior.index(step, scales, symbols, rate)
        chosen = choose_symbols(y - mean, scale_of(index), REFINED_ERROR_BITS)
        chosen = chosen * (mask & (index >= CERTAIN_ZERO_BELOW))
        y_hat += torch.where(mask, chosen + mean, 0)
        symbols += chosen.short()
        indices.append(index)
    return y_hat, indices


def _cost(
    codec: Codec,
    y_hat: Tensor,
    means: Tensor,
    unit: Tensor,
    indices: list[Tensor],
    t: Tensor,
    rpo: bool,
    x: Tensor,
) -> Tensor:
    """Bits of later latents, whose means depend on ``y_hat``, and price of the decoded picture's error."""
    prior, first = codec.mean_prior, codec.mean_prior.first(means)
    earlier = torch.zeros_like(y_hat, dtype=torch.bool)
    bits = y_hat.new_zeros(())
    for step, (mask, index) in enumerate(zip(step_masks(*y_hat.shape), indices, strict=True)):
        if step:
            known = torch.where(earlier, y_hat, 0) / unit
            mean = prior(step, means, first, known[None])[0] * unit
            coded = mask & (index >= CERTAIN_ZERO_BELOW)
            spent = gaussian_bits(y_hat.detach() - mean, scale_of(index))
            bits = bits + torch.where(coded, spent, 0).sum()
        earlier = earlier | mask
    error = distortion(codec.decode_latents(y_hat[None], t, rpo), x)[0] * x.shape[2] * x.shape[3]
    return bits + Codec.lambda_at(t)[0] * 255**2 * error


@torch.inference_mode(False)  # no gradient can pass its tensors
def _refine_tile(
    model: CodecModel, x: Tensor, y: Tensor, z_hat: Tensor, rate: int, t: Tensor, rpo: bool, rounds: int
) -> Tensor:
    codec = model.codec
    x, y, z_hat, t = x.clone(), y.clone(), z_hat.clone(), t.clone()
    unit = codec.unit(t)[0]
    with torch.no_grad():
        height, width = y.shape[1:]
        means = codec.mean_prior.body(z_hat[None])[:, :, :height, :width]
        scales = model.scale_prior.features(z_hat)[:, :height, :width]
    for share in shares(rounds):
        with torch.no_grad():
            y_hat, indices = _choose(model, y, means, scales, unit, rate)
        with torch.enable_grad():
            y_hat.requires_grad_()
            (g,) = torch.autograd.grad(_cost(codec, y_hat, means, unit, indices, t, rpo, x), y_hat)
        y = y - share * ((g / CURVATURE).clamp(-1, 1) - (y_hat.detach() - y))
    return y


def refine(
    model: CodecModel,
    read: Callable[[int, int], Tensor],
    y: Tensor,
    z_hat: Tensor,
    rate: int,
    t: Tensor,
    rpo: bool,
    rounds: int,
) -> None:
    """Refine the latents of a picture in place, tile by tile, so that memory is bounded.

    Args:
        model: the codec.
        read: (first, last) row of latents, last exclusive -> the pixels there, (1, 3, 16 rows, 16 w) in 0..1.
        y: (C, h, w), the analysis's latents in quantisation steps.
        z_hat: (Z, ceil(h/4), ceil(w/4)), rounded; stays as it is.
        rate: rate index of the stream.
        t: its rate position, (1,).
        rpo: whether that is its objective.
        rounds: how often; each takes about as long as coding.
    """
    height, width = y.shape[1:]
    for top in range(0, height, TILE):
        first, last = max(0, top - MARGIN), min(height, top + TILE + MARGIN)
        band, latents = read(first, last), y[:, first:last].clone()
        for left in range(0, width, TILE):
            start, end = max(0, left - MARGIN), min(width, left + TILE + MARGIN)
            x = band[..., start * PATCH : end * PATCH].contiguous(memory_format=torch.channels_last)
            cells = z_hat[:, first // HYPER : -(-last // HYPER), start // HYPER : -(-end // HYPER)]
            better = _refine_tile(model, x, latents[:, :, start:end], cells, rate, t, rpo, rounds)
            core = better[:, top - first :, left - start :][:, :TILE, :TILE]
            y[:, top : top + TILE, left : left + TILE] = core
