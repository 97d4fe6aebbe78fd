"""Likelihoods and the choice of symbols."""

from __future__ import annotations

import torch

from llicm_cli.models.entropy import (
    MAGNITUDE_MAX,
    SCALE_LEVELS,
    blur_magnitudes,
    choose_symbols,
    gaussian_bits,
    scale_of,
)


def test_bits_are_those_of_a_distribution():
    symbols = torch.arange(-2000, 2001.0)
    for index in (0, 20, 40, 60):
        bits = gaussian_bits(symbols, scale_of(torch.tensor(float(index))))
        assert abs(float((2 ** -bits.double()).sum()) - 1) < 1e-4


def test_chosen_symbols_cost_no_more_than_the_nearest():
    generator = torch.Generator().manual_seed(0)
    scale = scale_of(SCALE_LEVELS * torch.rand(10_000, generator=generator))
    residual = 1.5 * scale * torch.randn(10_000, generator=generator)
    chosen, nearest = choose_symbols(residual, scale), residual.round()
    assert torch.equal(chosen, chosen.round())
    assert ((nearest - chosen).abs() <= 1).all() and (chosen.abs() <= nearest.abs()).all()
    saved = gaussian_bits(nearest, scale) - gaussian_bits(chosen, scale)
    lost = (residual - chosen).square() - (residual - nearest).square()
    changed = chosen != nearest
    assert 0.01 < changed.float().mean() < 0.5
    assert (saved[changed] > 0).all() and (lost[changed] > 0).all()


def test_a_wide_distribution_leaves_rounding_alone():
    residual = torch.linspace(-40, 40, 1001)
    wide = torch.full_like(residual, 200.0)
    assert (choose_symbols(residual, wide) == residual.round()).float().mean() > 0.98


def test_magnitudes_spread_to_their_neighbours_and_are_capped():
    symbols = torch.zeros(1, 1, 5, 5)
    symbols[..., 2, 2] = -3
    expected = 3 * torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]])
    assert torch.equal(blur_magnitudes(symbols)[0, 0, 1:4, 1:4], expected)
    assert blur_magnitudes(symbols).sum() == 16 * 3
    assert blur_magnitudes(torch.full((1, 1, 5, 5), 1e6)).max() == 16 * MAGNITUDE_MAX
