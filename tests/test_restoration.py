"""Restoration: the head, tiles, decode --task and enhance."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Result, psnr
from PIL import Image

import llicm_cli
from llicm_cli import bitstream, pipeline, tiling
from llicm_cli.coding import to_bytes, to_unit
from llicm_cli.errors import InputError, ModelError, UsageError
from llicm_cli.models.guide import COMPACT, Guide, GuideConfig
from llicm_cli.models.restorer import (
    REACH,
    SPECIALISTS,
    STRIDE,
    TONES,
    Restorer,
    RestorerConfig,
    source,
    tones,
)
from llicm_cli.models.weights import (
    folder,
    load_guide,
    load_restorer,
    read_parts,
)
from llicm_cli.tasks import CLASSES, TASKS
from llicm_cli.training.loop import meet, take_over

Llicm = Callable[..., Result]
NOWHERE = source(False, False, torch.zeros(1))
RAIN = torch.tensor([CLASSES.index("derain")])
GREY = torch.zeros(1, TONES)


@pytest.fixture(scope="module")
def noisy(crop: Image.Image) -> Image.Image:
    noise = np.random.default_rng(0).normal(0, 25, (crop.height, crop.width, 3))
    return Image.fromarray(np.clip(np.rint(np.asarray(crop) + noise), 0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def shaken_head() -> Restorer:
    """A head whose zero starts were replaced by noise, so that everything in it matters."""
    torch.manual_seed(0)
    head = Restorer(RestorerConfig()).eval().requires_grad_(False)
    for parameter in (*head.parameters(), head.prompts):
        parameter += 0.05 * torch.randn_like(parameter)
    return head


def test_an_untrained_head_changes_nothing():
    x = torch.rand(2, 3, 32, 48)
    y = Restorer(RestorerConfig())(x, torch.tensor([0, 5]), source(True, False, torch.rand(2)), tones(x))
    assert torch.equal(x, y)


def test_a_grown_head_restores_as_before(shaken_head: Restorer):
    grown = Restorer(replace(shaken_head.config, fine_blocks=6, middle_blocks=3, coarse_blocks=6))
    take_over(grown, shaken_head)
    x, told = torch.rand(1, 3, 32, 48), (RAIN, NOWHERE, GREY)
    with torch.no_grad():
        assert torch.equal(grown(x, *told), shaken_head(x, *told))


def test_heads_meet_in_the_middle(shaken_head: Restorer):
    meeting, third = Restorer(RestorerConfig()), Restorer(RestorerConfig())
    parameters = [m.parameters() for m in (meeting, shaken_head, third)]
    wanted = [sum(three) / 3 for three in zip(*parameters, strict=True)]
    meet(meeting, [shaken_head, third])
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(meeting.parameters(), wanted, strict=True))
    with pytest.raises(UsageError, match="other sizes"):
        meet(meeting, [Restorer(RestorerConfig(fine_blocks=1))])


def test_all_that_the_head_is_told_reaches_it(shaken_head: Restorer):
    torch.manual_seed(1)
    x = torch.rand(1, 3, 32, 32)
    y = shaken_head(x, RAIN, NOWHERE, GREY)
    snow = torch.tensor([CLASSES.index("desnow")])  # of the same specialist
    for changed in (
        shaken_head(x, snow, NOWHERE, GREY),
        shaken_head(x, RAIN, source(True, False, torch.tensor([0.5])), GREY),
        shaken_head(x, RAIN, NOWHERE, GREY - 1),
    ):
        assert (y - changed).abs().max() > 1e-4


def test_every_picture_of_a_batch_goes_to_its_specialist_and_comes_back_in_its_place(shaken_head: Restorer):
    x, task = torch.rand(len(CLASSES), 3, 32, 32), torch.arange(len(CLASSES)).flip(0)
    origin, levels = source(False, False, torch.zeros(len(x))), tones(x)
    together = shaken_head(x, task, origin, levels)
    for i in range(len(x)):
        one = slice(i, i + 1)
        alone = shaken_head(x[one], task[one], origin[one], levels[one])
        assert torch.allclose(together[one], alone, atol=1e-4)
    assert sorted(name for names in SPECIALISTS.values() for name in names) == sorted(CLASSES)


def test_specialists_differ_and_only_ones_own_matters(shaken_head: Restorer):
    x, other = torch.rand(1, 3, 32, 32), Restorer(RestorerConfig()).eval()
    other.load_state_dict(shaken_head.state_dict())
    with torch.no_grad():
        for parameter in other.specialists["haze"].parameters():
            parameter += 0.1
        for task, name in enumerate(CLASSES):
            told = torch.tensor([task]), NOWHERE, GREY
            same = torch.equal(other(x, *told), shaken_head(x, *told))
            assert same == (name != "dehaze")


def test_source_tells_objective_and_rate_only_of_coded_pictures():
    t = torch.tensor([0.25, 0.5])
    assert source(True, True, t).tolist() == [[1, 1, 0.25], [1, 1, 0.5]]
    assert source(True, False, t).tolist() == [[1, 0, 0.25], [1, 0, 0.5]]
    assert source(False, True, t).tolist() == [[0, 0, 0], [0, 0, 0]]


def test_tones_are_those_of_the_whole_picture_whatever_its_size():
    """Black, grey and white thirds: the quantiles are known; and bytes say the same as fractions."""
    x = torch.tensor([0.0, 0.5, 1.0]).repeat_interleave(32).expand(1, 3, 64, 96)
    expected = (torch.tensor([0.0, 0.0, 0.5, 1.0, 1.0]) + 0.02).log() + 1.5
    assert torch.allclose(tones(x).view(5, 3), expected[:, None].expand(5, 3), atol=0.02)
    large = to_bytes(torch.rand(1, 3, 300, 411) * torch.linspace(0, 1, 411))
    assert torch.allclose(tones(large), tones(to_unit(large)), atol=0.05)
    assert tones(torch.rand(2, 3, 1, 1)).shape == (2, TONES)


def test_nothing_beyond_the_reach_matters(shaken_head: Restorer):
    x = torch.rand(1, 3, 48, 512, requires_grad=True)
    shaken_head(x, RAIN, NOWHERE, GREY)[..., 240:256].sum().backward()
    assert x.grad is not None
    reached = x.grad.abs().sum((0, 1, 2)).nonzero().flatten()
    assert reached.min() >= 240 - REACH and reached.max() < 256 + REACH
    assert reached.min() < 240 - 64, "and the test sees what does matter"


@pytest.mark.parametrize("passes", [1, 4])
def test_tiles_join_without_a_seam(monkeypatch: pytest.MonkeyPatch, shaken_head: Restorer, passes: int):
    x = torch.randint(256, (3, 200, 421), dtype=torch.uint8)
    told = RAIN, NOWHERE, GREY
    run = partial(pipeline._run_head, shaken_head, told, 1.0, passes)
    reach = REACH + STRIDE * (passes > 1)
    whole = tiling.in_tiles(x, run, stride=STRIDE, reach=reach)
    monkeypatch.setattr(tiling, "CORE", 96)
    tiled = tiling.in_tiles(x, run, stride=STRIDE, reach=reach)
    assert whole.shape == x.shape
    assert (whole.int() - tiled.int()).abs().max() <= 1 and len(whole.unique()) > 50


def test_moved_pictures_are_moved_back():
    x = torch.randint(256, (1, 3, 33, 50), dtype=torch.uint8)
    told = RAIN, NOWHERE, GREY
    untrained = partial(pipeline._run_head, Restorer(RestorerConfig()), told, 1.0, 4)
    with torch.no_grad():
        assert torch.equal(tiling.in_tiles(x[0], untrained, stride=STRIDE, reach=REACH), x[0])


def test_denoising_denoises(crop: Image.Image, noisy: Image.Image):
    assert psnr(llicm_cli.enhance(noisy, "denoise"), crop) > psnr(noisy, crop) + 5


def test_denoising_denoises_in_grey_too(crop: Image.Image):
    """Noise is alike in all channels there: a head that knows noise of colours alone takes it for detail."""
    grey = crop.convert("L")
    noise = np.random.default_rng(0).normal(0, 25, (grey.height, grey.width))
    noisy = Image.fromarray(np.clip(np.rint(np.asarray(grey) + noise), 0, 255).astype(np.uint8))
    assert psnr(llicm_cli.enhance(noisy, "denoise"), grey) > psnr(noisy, grey) + 5


def test_auto_restores_what_is_bad_and_spares_what_is_good(photo: Image.Image):
    noise = np.random.default_rng(0).normal(0, 30, (photo.height, photo.width, 3))
    bad = Image.fromarray(np.clip(np.rint(np.asarray(photo) + noise), 0, 255).astype(np.uint8))
    assert psnr(llicm_cli.enhance(bad), photo) > psnr(bad, photo) + 5
    assert psnr(llicm_cli.enhance(photo), photo) > 36, "old film may lose its grain, nothing else"


def test_without_a_task_nothing_is_done_and_said_so(noisy: Image.Image):
    same = llicm_cli.enhance(noisy, "none ")
    assert np.array_equal(np.asarray(same), np.asarray(noisy)) and "head=" not in same.info["llicm"]
    with pytest.raises(UsageError, match="none stands alone"):
        llicm_cli.enhance(noisy, "none,derain")


@pytest.mark.parametrize(
    ("seen", "done"),
    [
        ({"denoise": 0.86, "clean": 0.14}, "denoise"),
        ({"denoise": 0.84, "clean": 0.16}, None),
        ({"denoise": 0.05, "clean": 0.95}, None),
    ],
)
def test_auto_does_what_the_guide_is_sure_of_and_nothing_else(
    noisy: Image.Image,
    monkeypatch: pytest.MonkeyPatch,
    llicm: Llicm,
    tmp_path: Path,
    seen: dict[str, float],
    done: str | None,
):
    monkeypatch.setattr(pipeline, "_seen", lambda x: dict.fromkeys(CLASSES, 0.0) | seen)
    wanted = llicm_cli.enhance(noisy, done) if done else noisy
    restored = llicm_cli.enhance(noisy, "auto")
    assert restored.tobytes() == wanted.tobytes()
    assert f"task=auto strength=1 passes=1 did={done or 'none'} guide=" in restored.info["llicm"]
    file, out = tmp_path / "noisy.png", tmp_path / "out.png"
    noisy.save(file)
    for strength, told in ((1, not done), (0, False)):
        result = llicm("enhance", file, "-o", out, "--overwrite", "--strength", strength)
        assert (result.code, "left it as it was" in result.stderr) == (0, told)


def test_auto_among_other_tasks_says_what_it_did(
    noisy: Image.Image, monkeypatch: pytest.MonkeyPatch, llicm: Llicm, tmp_path: Path
):
    monkeypatch.setattr(pipeline, "_seen", lambda x: dict.fromkeys(CLASSES, 0.0) | {"clean": 1.0})
    restored = llicm_cli.enhance(noisy, "auto,denoise")
    assert " did=none,denoise " in restored.info["llicm"]
    assert restored.tobytes() == llicm_cli.enhance(noisy, "denoise").tobytes()
    noisy.save(tmp_path / "noisy.png")
    assert (
        "auto left it as it was" in llicm("enhance", tmp_path / "noisy.png", "--task", "auto,denoise").stderr
    )


def test_auto_never_leaves_a_stream_alone_that_was_made_to_be_restored(
    crop: Image.Image, monkeypatch: pytest.MonkeyPatch
):
    """But what it tells the head on a mere guess is that the picture is clean."""
    changed = {}
    for objective in ("rpo", "rdo"):
        stream = llicm_cli.encode(crop, objective=objective, task="denoise")
        for p in (0.4, 1.0):
            guess = dict.fromkeys(CLASSES, 0.0) | {"dehaze" if p < 1 else "clean": p}
            monkeypatch.setattr(pipeline, "_seen", lambda x, guess=guess: guess)
            changed[objective, p] = llicm_cli.decode(stream, "auto").tobytes()
        assert changed[objective, 0.4] == changed[objective, 1.0]
        assert (changed[objective, 1.0] == llicm_cli.decode(stream).tobytes()) == (objective == "rdo")


@pytest.mark.parametrize("task", TASKS)
def test_every_task_helps_alone_and_after_a_stream(crop: Image.Image, task: str):
    def won(before: Image.Image, after: Image.Image) -> float:
        return psnr(after, crop) - psnr(before, crop)

    least = {"deblur": (0.1, -0.5), "dejpeg": (0.1, -0.5), "deraindrop": (3, 2.5)}.get(task, (3, 3))  # dB
    alone, coded = [], []
    for seed in range(8) if task == "deraindrop" else [4]:  # drops: one small crop wins 7 dB or loses 1
        degraded = llicm_cli.pipeline.degrade(crop, task, seed)
        stream = llicm_cli.encode(degraded, 0.02)
        alone.append(won(degraded, llicm_cli.enhance(degraded, task)))
        coded.append(won(llicm_cli.decode(stream), llicm_cli.decode(stream, task)))
    assert np.mean(alone) > least[0] and np.mean(coded) > least[1], (alone, coded)


@pytest.mark.parametrize("size", [(1, 1), (3, 70), (130, 17)])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_any_size_and_mode_can_be_enhanced(crop: Image.Image, size: tuple[int, int], mode: str):
    small = crop.crop((0, 0, *size)).convert(mode)
    restored = llicm_cli.enhance(small, "denoise,derain")
    assert restored.size == size and restored.mode == mode


def test_strength_goes_from_nothing_to_everything(noisy: Image.Image):
    none, half, full = (
        np.asarray(llicm_cli.enhance(noisy, "denoise", strength), dtype=int) for strength in (0, 0.5, 1)
    )
    assert np.array_equal(none, np.asarray(noisy))
    assert np.abs(2 * half - none - full).max() <= 2
    assert np.abs(full - none).mean() > 5


def test_more_passes_restore_better(noisy: Image.Image, crop: Image.Image):
    once, twice, most = (psnr(llicm_cli.enhance(noisy, "denoise", passes=n), crop) for n in (1, 2, 4))
    assert once + 0.05 < twice < most


def test_strength_mixes_within_a_mask(crop: Image.Image):
    mask = Image.new("L", crop.size)
    mask.paste(255, (40, 40, 70, 80))
    hole = np.asarray(mask) > 0
    none, half, full = (
        np.asarray(llicm_cli.enhance(crop, "inpaint", strength, mask), dtype=int) for strength in (0, 0.5, 1)
    )
    assert np.array_equal(none, np.asarray(crop)) and np.array_equal(half[~hole], none[~hole])
    assert np.abs(2 * half - none - full).max() <= 2
    assert np.abs(full - none)[hole].mean() > 5


def test_a_named_task_needs_no_guide(monkeypatch: pytest.MonkeyPatch, noisy: Image.Image):
    def none() -> Guide:
        raise AssertionError("the guide was asked")

    wanted = llicm_cli.enhance(noisy, "denoise")
    monkeypatch.setattr(pipeline, "load_guide", none)
    assert llicm_cli.enhance(noisy, "denoise").tobytes() == wanted.tobytes()
    assert " guide=" not in wanted.info["llicm"] and " head=" in wanted.info["llicm"]


def test_any_guide_may_tell_the_head_what_it_sees(monkeypatch: pytest.MonkeyPatch, noisy: Image.Image):
    """One with a space of its own, that has learned to name one degradation whatever it is shown."""
    guide = Guide(GuideConfig({**COMPACT, "embed_dim": 32})).eval().requires_grad_(False)
    texts = torch.eye(len(CLASSES), 32)
    monkeypatch.setattr(guide, "prompts", lambda: texts)
    monkeypatch.setattr(guide, "forward", lambda x: texts[[CLASSES.index("denoise")]])
    monkeypatch.setattr(pipeline, "load_guide", lambda: guide)
    seen, named = (np.asarray(llicm_cli.enhance(noisy, task)) for task in ("auto", "denoise"))
    assert np.array_equal(seen, named)


def test_tasks_are_done_in_order(noisy: Image.Image):
    both = llicm_cli.enhance(noisy, "denoise,lowlight")
    one_by_one = llicm_cli.enhance(llicm_cli.enhance(noisy, "denoise"), "lowlight")
    other_way = llicm_cli.enhance(noisy, "lowlight,denoise")
    assert psnr(both, one_by_one) > psnr(both, other_way) + 3
    assert llicm_cli.enhance(noisy, "none").tobytes() == noisy.tobytes()


def test_a_mask_confines_inpainting(photo: Image.Image):
    mask = Image.new("L", photo.size)
    mask.paste(255, (60, 60, 80, 75))
    filled = np.asarray(llicm_cli.enhance(photo, "inpaint", mask=mask), dtype=int)
    original = np.asarray(photo, dtype=int)
    inside = np.asarray(mask) > 0
    assert np.array_equal(filled[~inside], original[~inside])
    black = np.square(original[inside]).mean()
    assert np.square(filled[inside] - original[inside]).mean() < 0.5 * black


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "LA", "RGBA"])
def test_transparent_parts_of_a_mask_are_no_holes(crop: Image.Image, mode: str):
    mask = Image.new("RGBA", crop.size, (255, 255, 255, 0) if "A" in mode else (0, 0, 0, 255))
    mask.paste((255, 255, 255, 255), (40, 40, 70, 80))
    changed = np.asarray(llicm_cli.enhance(crop, "inpaint", mask=mask.convert(mode))) != np.asarray(crop)
    assert changed[40:80, 40:70].any()
    changed[40:80, 40:70] = False
    assert not changed.any()


def test_what_is_asked_must_make_sense(crop: Image.Image):
    wrong = [
        {"task": "polish"},
        {"task": "denoise", "strength": 1.5},
        {"task": "denoise", "strength": float("nan")},
        {"task": "denoise", "passes": 0},
        {"task": "denoise", "passes": 5},
        {"task": "denoise", "mask": Image.new("L", crop.size)},
        {"task": "inpaint", "mask": Image.new("L", (3, 3))},
    ]
    for arguments in wrong:
        with pytest.raises(UsageError):
            llicm_cli.enhance(crop, **arguments)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="mode CMYK"):
        llicm_cli.enhance(crop.convert("CMYK"))
    with pytest.raises(UsageError, match="unknown objective"):
        llicm_cli.encode(crop, objective="best")


def test_rpo_does_not_pay_for_noise_and_rdo_keeps_it(noisy: Image.Image, crop: Image.Image):
    streams = {name: llicm_cli.encode(noisy, 0.05, name, "denoise") for name in bitstream.OBJECTIVES}
    assert all(bitstream.parse(data).objective == name for name, data in streams.items())
    assert len(streams["rpo"]) < 0.6 * len(streams["rdo"])
    assert psnr(llicm_cli.decode(streams["rdo"]), noisy) > 22
    restored = {name: psnr(llicm_cli.decode(data, "denoise"), crop) for name, data in streams.items()}
    assert restored["rpo"] > restored["rdo"] - 1 and restored["rdo"] > psnr(noisy, crop) + 4
    assert psnr(llicm_cli.decode(streams["rpo"]), crop) > psnr(noisy, crop) + 4


def test_rpo_finds_out_by_itself_and_leaves_good_pictures_alone(noisy: Image.Image, crop: Image.Image):
    assert len(llicm_cli.encode(noisy, 0.05, "rpo")) < 0.6 * len(llicm_cli.encode(noisy, 0.05))
    good = llicm_cli.decode(llicm_cli.encode(crop, 0.05, "rpo"))
    assert psnr(good, crop) > psnr(llicm_cli.decode(llicm_cli.encode(crop, 0.05)), crop) - 3


def test_encode_for_restoration(llicm: Llicm, noisy: Image.Image, tmp_path: Path):
    noisy.save(tmp_path / "a.png")
    common = ["encode", tmp_path / "a.png", "--lambda", "0.05", "--objective", "rpo"]
    assert llicm(*common, "--task", "denoise", "-o", tmp_path / "a.llic") == Result(0, b"", "")
    assert (tmp_path / "a.llic").read_bytes() == llicm_cli.encode(noisy, 0.05, "rpo", "denoise")
    for wrong in (["--objective", "rdo", "--task", "denoise"], ["--objective", "rpo", "--task", "polish"]):
        result = llicm("encode", tmp_path / "a.png", "-o", tmp_path / "b.llic", *wrong)
        assert result.code == 2 and not (tmp_path / "b.llic").exists()


def test_enhance_a_picture_or_a_stream(llicm: Llicm, noisy: Image.Image, crop: Image.Image, tmp_path: Path):
    picture, stream = tmp_path / "a.png", tmp_path / "b.llic"
    noisy.save(picture)
    stream.write_bytes(llicm_cli.encode(noisy, 0.05))
    assert llicm("enhance", picture, stream, "--task", "denoise") == Result(0, b"", "")
    for name in ("a.enhanced.png", "b.enhanced.png"):
        assert psnr(Image.open(tmp_path / name), crop) > psnr(noisy, crop) + 4
    out = tmp_path / "c.png"
    assert llicm("decode", stream, "-o", out, "--task", "denoise") == Result(0, b"", "")
    assert Image.open(out).tobytes() == Image.open(tmp_path / "b.enhanced.png").tobytes()


def test_enhance_explains_on_stderr_and_pipes_on_stdout(llicm: Llicm, noisy: Image.Image, tmp_path: Path):
    noisy.save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    result = llicm("enhance", "-", "--explain", stdin=data)
    assert result.code == 0 and result.stdout.startswith(b"\x89PNG")
    lines = result.stderr.splitlines()
    assert (
        len(lines) == 12
        and lines[0] == "-:"
        and any(line.startswith("denoise ") and "%" in line for line in lines)
    )


def test_enhance_with_a_mask(llicm: Llicm, crop: Image.Image, tmp_path: Path):
    crop.save(tmp_path / "a.png")
    mask = Image.new("1", crop.size)
    mask.paste(1, (10, 10, 20, 20))
    mask.save(tmp_path / "mask.png")
    common = ["enhance", tmp_path / "a.png", "--mask", tmp_path / "mask.png", "-o", tmp_path / "b.png"]
    assert llicm(*common, "--task", "inpaint") == Result(0, b"", "")
    changed = np.asarray(Image.open(tmp_path / "b.png")) != np.asarray(crop)
    assert changed[10:20, 10:20].any() and not changed[:10].any() and not changed[:, 20:].any()
    assert llicm(*common, "--task", "derain", "--overwrite").code == 2
    (tmp_path / "mask.png").write_bytes(b"nothing")
    damaged = llicm(*common, "--task", "inpaint", "--overwrite")
    assert damaged.code == 3 and "mask.png" in damaged.stderr


@pytest.mark.parametrize(
    "arguments",
    [["--task", "polish"], ["--strength", "2"], ["-o", "out.jpg"], ["--task", "none,derain"]],
)
def test_wrong_usage_writes_nothing(
    llicm: Llicm, crop: Image.Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
):
    monkeypatch.chdir(tmp_path)
    crop.save(tmp_path / "a.png")
    assert llicm("enhance", tmp_path / "a.png", *arguments).code == 2
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_degrade_is_reproducible(llicm: Llicm, crop: Image.Image, tmp_path: Path):
    crop.save(tmp_path / "a.png")
    assert llicm("degrade", tmp_path / "a.png", "--task", "dehaze").code == 0
    out = [tmp_path / "b.png", tmp_path / "c.png"]
    for path, seed in zip(out, (0, 1), strict=True):
        assert llicm("degrade", tmp_path / "a.png", "-o", path, "--task", "dehaze", "--seed", seed).code == 0
    derived = (tmp_path / "a.dehaze.png").read_bytes()
    assert derived == out[0].read_bytes() != out[1].read_bytes()
    assert Image.open(out[1]).info["llicm"].endswith(" degraded=dehaze seed=1")
    for wrong in ("clean", "auto", "haze"):
        assert llicm("degrade", tmp_path / "a.png", "--task", wrong).code == 2


@pytest.mark.parametrize("name", ["guide", "restorer"])
def test_shipped_networks_have_cards_and_fit_their_limits(name: str):
    card = json.loads((folder() / f"{name}.json").read_text())
    config, _, digest = read_parts(folder() / f"{name}.safetensors")
    assert card["sha256"] == digest.hex() and card["configuration"] == config
    assert (folder() / f"{name}.safetensors").stat().st_size < 25e6


@pytest.mark.parametrize("load, name", [(load_guide, "guide"), (load_restorer, "restorer")])
def test_damaged_networks_are_one_clear_error(load: Callable[[Path], object], name: str, tmp_path: Path):
    path = tmp_path / "x.safetensors"
    with pytest.raises(ModelError, match="no weights"):
        load(path)
    good = (folder() / f"{name}.safetensors").read_bytes()
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    path.with_suffix(".json").write_text((folder() / f"{name}.json").read_text())
    with pytest.raises(ModelError, match="does not match its model card"):
        load(path)
    codec = folder() / "codec.safetensors"
    path.write_bytes(codec.read_bytes())
    path.with_suffix(".json").write_text(codec.with_suffix(".json").read_text())
    with pytest.raises(ModelError, match="does not fit"):
        load(path)
