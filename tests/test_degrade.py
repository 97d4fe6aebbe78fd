"""Synthetic degradations: reproducible, of every strength, on any size, and what they claim to be."""

from __future__ import annotations

import pytest
import torch
from conftest import photograph
from torch import Tensor

from llicm_cli.coding import to_unit
from llicm_cli.degrade import Dice, behind_haze, convolve, degrade, exposure, hole_mask, rendering, unreduced
from llicm_cli.errors import UsageError
from llicm_cli.pipeline import to_pixels
from llicm_cli.tasks import AUTO, CLEAN, NONE, PROMPTS, TASKS, parse_tasks


@pytest.fixture(scope="module")
def x() -> Tensor:
    return to_unit(to_pixels(photograph("astronaut").crop((100, 40, 260, 168))))


@pytest.mark.parametrize("task", TASKS)
def test_equal_seeds_give_equal_pictures_and_others_do_not(x: Tensor, task: str):
    first, again, other = (degrade(x, task, Dice(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first, x)


@pytest.mark.parametrize("task", TASKS)
def test_results_are_pictures_of_8_bits(x: Tensor, task: str):
    for seed in range(6):
        y = degrade(x, task, Dice(seed))
        assert y.shape == x.shape and y.min() >= 0 and y.max() <= 1
        assert torch.allclose(y * 255, (y * 255).round(), atol=1e-4)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("size", [(1, 1), (3, 40), (17, 16)])
def test_any_size_can_be_degraded(x: Tensor, task: str, size: tuple[int, int]):
    small = x[:, : size[0], : size[1]]
    for seed in range(8):
        assert degrade(small, task, Dice(seed)).shape == small.shape


def test_clean_means_untouched(x: Tensor):
    assert torch.allclose(degrade(x, CLEAN, Dice(0)), x, atol=1e-6)


def test_a_rendering_is_the_same_at_every_place(x: Tensor):
    pieces = [rendering(part, Dice(3)) for part in (x[:, :50], x[:, 50:])]
    assert torch.allclose(rendering(x, Dice(3)), torch.cat(pieces, 1), atol=1e-6)
    spreads = [float(y.std() / x.std()) for y in (rendering(x, Dice(seed)) for seed in range(20))]
    assert min(spreads) < 0.7 and max(spreads) > 0.95, "from flat to as it is"


def test_an_exposure_is_the_same_at_every_place_and_mostly_darker(x: Tensor):
    pieces = [exposure(part, Dice(3)) for part in (x[:, :50], x[:, 50:])]
    assert torch.equal(exposure(x, Dice(3)), torch.cat(pieces, 1))
    means = [float(exposure(x, Dice(seed)).mean() / x.mean()) for seed in range(20)]
    assert max(means) > 1 and sum(mean < 1 for mean in means) > 10


def test_an_unreduced_picture_is_an_exposure_softer(x: Tensor):
    for seed in range(20):
        lit, seen = exposure(x, Dice(seed)), unreduced(x, Dice(seed))
        assert abs(float(seen.mean() - lit.mean())) < 0.002 and seen.min() >= 0 and seen.max() <= 1
        detail = float(seen.diff(dim=2).abs().mean() / lit.diff(dim=2).abs().mean())
        assert 0.2 < detail < 0.98


def test_what_lies_behind_haze_is_no_lighter(x: Tensor):
    for seed in range(8):
        seen = behind_haze(x, Dice(seed))
        assert bool((seen <= x).all()) and 0.2 < seen.mean() / x.mean() < 0.99


def test_each_degradation_goes_its_own_way(x: Tensor):
    def mean(task: str, of) -> float:  # type: ignore[no-untyped-def]
        return float(torch.stack([of(degrade(x, task, Dice(seed))) for seed in range(8)]).mean())

    def detail(y: Tensor) -> Tensor:
        return y.diff(dim=2).abs().mean()

    assert mean("lowlight", torch.mean) < 0.5 * x.mean()
    assert mean("deshadow", torch.mean) < x.mean()
    assert mean("derain", torch.mean) > x.mean()
    assert mean("desnow", torch.mean) > x.mean()
    assert mean("dehaze", torch.std) < 0.8 * x.std()
    assert mean("deblur", detail) < 0.7 * detail(x)
    assert mean("denoise", detail) > 1.5 * detail(x)


def test_noise_leaves_the_tones_and_shows_more_in_red_and_blue():
    """An S-shaped tone curve and its inverse cancel out; white balance amplifies red and blue."""
    grey = torch.full((3, 96, 96), 100 / 255)
    changes = [degrade(grey, "denoise", Dice(seed)) - grey for seed in range(60)]
    assert 1 <= sum(bool((c == c[:1]).all()) for c in changes) <= 12  # noise of brightness alone
    assert max(float(change.mean().abs()) for change in changes) < 0.02
    red, green, blue = torch.stack([change.std((1, 2)).log() for change in changes]).mean(0).tolist()
    assert min(red, blue) > green + 0.02


def test_rain_adds_light_and_takes_none(x: Tensor):
    seen = 0
    for seed in range(12):
        change = degrade(x, "derain", Dice(seed)) - x
        if change.min() > -1 / 255:  # a veil, which heavy rain may have, darkens what is bright
            seen += 1
            assert change.max() > 0.1
    assert seen > 6


def test_haze_follows_the_scattering_model():
    """Through the same haze, two pictures differ by their own difference times the transmission."""
    a, b = torch.full((3, 64, 64), 0.2), torch.full((3, 64, 64), 0.6)
    # Flat pictures have the same depth map, up to its dependence on brightness, which is flat as well.
    hazy = degrade(a, "dehaze", Dice(5)), degrade(b, "dehaze", Dice(5))
    transmission = (hazy[1] - hazy[0]) / 0.4
    assert transmission.min() >= 0 and transmission.max() <= 1.02
    assert torch.allclose(transmission[0], transmission[2], atol=0.02), "equal in all channels"


def test_half_of_the_haze_is_white():
    white = torch.ones(3, 32, 32)
    untouched = sum(torch.equal(degrade(white, "dehaze", Dice(seed)), white) for seed in range(200))
    assert 70 < untouched < 130, "white before white haze stays white"


def test_holes_are_blank_and_the_rest_is_untouched(x: Tensor):
    for seed in range(8):
        y = degrade(x, "inpaint", Dice(seed))
        changed = (y - x).abs().amax(0) > 1e-6
        assert 0 < changed.float().mean() < 0.7
        assert len(y[:, changed].unique()) == 1


def test_holes_have_several_sizes():
    shares = [float(hole_mask(128, 128, Dice(seed)).float().mean()) for seed in range(30)]
    assert min(shares) < 0.05 and max(shares) > 0.15


def test_convolution_agrees_with_torch(x: Tensor):
    kernel = torch.rand(7, 7)
    padded = torch.nn.functional.pad(x[:, None], (3, 3, 3, 3), mode="reflect")
    expected = torch.nn.functional.conv2d(padded, kernel.flip(0, 1)[None, None])[:, 0]
    assert torch.allclose(convolve(x, kernel), expected, atol=1e-4)


def test_task_lists():
    assert parse_tasks("derain, denoise") == ("derain", "denoise")
    assert parse_tasks(AUTO) == (AUTO,)
    assert parse_tasks(NONE) == ()
    assert len(TASKS) == 10 and set(PROMPTS) == {*TASKS, CLEAN}
    for wrong in ("", "clean", "Derain", "derain,,denoise"):
        with pytest.raises(UsageError, match="unknown task"):
            parse_tasks(wrong)
    with pytest.raises(UsageError, match="none stands alone"):
        parse_tasks("derain,none")
