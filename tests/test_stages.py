"""``llicm train guide``, ``restorer`` and ``joint``, for a few steps each, one after the other."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from itertools import combinations, islice
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SMALL, Result, photograph
from PIL import Image

from llicm_cli.bench.metrics import SQUEEZENET_FILE
from llicm_cli.degrade import Dice, behind_haze, exposure, unreduced
from llicm_cli.errors import InputError, UsageError
from llicm_cli.models.guide import compact_guide
from llicm_cli.models.perceptual import SqueezeNetDistance
from llicm_cli.models.weights import load_codec, load_guide, load_restorer, read_parts
from llicm_cli.tasks import CLASSES
from llicm_cli.training.data import Crops, find_photos
from llicm_cli.training.degraded import DegradedCrops, Pairs, parse_pairs
from llicm_cli.training.restorer import shown

Llicm = Callable[..., Result]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("photos")
    for i, name in enumerate(["astronaut", "grace_hopper"] * 3):
        photograph(name).crop((9 * i, 0, 9 * i + 452, 452)).save(place / f"{i:02}.png")
    return place


@pytest.fixture(scope="module")
def pairs(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real pairs: the input is half as bright."""
    place = tmp_path_factory.mktemp("pairs")
    for kind, factor in (("input", 0.5), ("gt", 1.0)):
        (place / kind).mkdir()
        for path in list(photos.iterdir())[:2]:
            Image.open(path).point(lambda v, f=factor: v * f).save(place / kind / path.name)
    return place


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small networks where weights are new, and few pictures to validate on."""
    monkeypatch.setattr("llicm_cli.models.codec.CodecConfig", lambda: SMALL)
    monkeypatch.setattr("llicm_cli.training.guide.VALIDATION_EACH", 1)
    monkeypatch.setattr("llicm_cli.training.restorer.VALIDATION_EACH", 1)
    monkeypatch.setattr("llicm_cli.training.joint.VALIDATION_EACH", 1)


@pytest.mark.usefixtures("quick")
def test_the_stages_follow_each_other(
    llicm: Llicm, photos: Path, pairs: Path, squeezenet: Path, tmp_path: Path
):
    names = "codec", "guide", "restorer", "more", "joint"
    codec, guide, restorer, more, joint = (tmp_path / f"{name}.safetensors" for name in names)

    def train(stage: str, output: Path, *options: object, batch: int = 4) -> None:
        state = output.with_suffix(".pt")
        result = llicm(
            "train", stage, photos, "-o", output, "--checkpoint", state, "--batch", batch, *options
        )
        assert result.code == 0, result.stderr

    train("codec", codec, "--steps", 2, batch=2)
    train("guide", guide, "--codec", codec, "--steps", 4)
    towers, controller = (
        torch.load(tmp_path / f, weights_only=True) for f in ("guide.pt", "guide.controller.pt")
    )
    assert (towers["step"], controller["step"]) == (2, 2)
    train("guide", guide, "--codec", codec, "--steps", 6, "--resume")
    frozen = ["--codec", codec, "--guide", guide]
    train("restorer", restorer, *frozen, "--steps", 2, "--pairs", f"lowlight={pairs}")
    errors = torch.load(tmp_path / "restorer.pt", weights_only=True)["beside"]
    assert errors.shape == (len(CLASSES),) and len(errors.unique()) > 1
    more_of = ["--start-from", restorer, *2 * ["--mean-with", restorer], "--workers", 1]
    train("restorer", more, *frozen, "--steps", 1, *more_of, "--specialist", "blur")
    before, after = (load_restorer(path).state_dict() for path in (restorer, more))
    changed = [name for name, value in before.items() if not torch.equal(value, after[name])]
    assert changed and all(name.startswith("specialists.blur.") for name in changed)
    files = ["--codec", codec, "--restorer", restorer]
    train("joint", joint, *files, "--steps", 3)
    features = squeezenet / SQUEEZENET_FILE
    train("joint", joint, *files, "--steps", 5, "--resume", "--perceptual", features)

    cards = {p.stem: json.loads(p.read_text()) for p in tmp_path.glob("*.json")}
    assert [part["steps"] for part in cards["guide"]["parts"]] == [3, 3]
    assert cards["restorer"]["pairs"] == [f"lowlight={pairs.name}"]
    assert cards["restorer"].pop("history") == []
    assert cards["more"]["history"] == [cards["restorer"]]
    assert cards["more"]["mean_with"] == 2 * [cards["restorer"]]
    assert cards["joint"]["steps"] == 5 and "bpp at 0.025" in cards["joint"]["validation"]
    assert "distance at 0.025" in cards["joint"]["validation"] and cards["joint"]["delta"] > 0
    assert [card["stage"] for card in cards["joint"]["history"]] == ["codec"]
    assert cards["joint"]["restorer"] == load_restorer(restorer).id
    assert cards["restorer"]["guide"] == load_guide(guide).id
    assert str(tmp_path) not in json.dumps(cards), "cards name no folders of the machine"
    before, after = load_codec(codec).codec.state_dict(), load_codec(joint).codec.state_dict()
    changed = [name for name, value in before.items() if not torch.equal(value, after[name])]
    blocks = {found[0] if (found := re.search(r"\w+_rpo", name)) else name for name in changed}
    assert blocks == {"coarse_rpo", "fine_rpo", "body_rpo"}, "streams of objective rdo stay what they were"
    load_guide(guide)
    _, parts, _ = read_parts(guide)
    towers = torch.load(tmp_path / "guide.pt", weights_only=True)["average"]
    learned = {name: value for name, value in parts["guide."].items() if name.startswith("clip.visual.conv")}
    assert learned and all(torch.equal(v, towers[f"module.{n}"].half()) for n, v in learned.items())
    words = parts["guide."]["clip.token_embedding.weight"].float().abs().sum(1)
    assert 20 < (words > 0).sum() < 200, "words that were never trained mean nothing"

    seeing_more = tmp_path / "seeing_more.safetensors"
    train("guide", seeing_more, "--codec", codec, "--steps", 1, "--start-from", guide)
    old, new = load_guide(guide), load_guide(seeing_more)
    assert new.id != old.id and torch.equal(new.prompts(), old.prompts())
    assert torch.allclose(load_restorer(restorer).prompts, old.prompts(), atol=1e-3)


def test_a_guide_on_another_backbone_is_trained_and_stored(
    llicm: Llicm, photos: Path, tmp_path: Path, quick: None
):
    import open_clip
    from test_guide import TINY_VIT

    folder = tmp_path / "vit"
    folder.mkdir()
    clip = open_clip.CLIP(**TINY_VIT)  # type: ignore[arg-type]
    torch.save(clip.state_dict(), folder / "open_clip_pytorch_model.bin")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": TINY_VIT}))
    out = tmp_path / "guide.safetensors"
    common = [
        "train",
        "guide",
        photos,
        "-o",
        out,
        "--checkpoint",
        tmp_path / "g.pt",
        "--batch",
        2,
        "--steps",
        2,
    ]
    result = llicm(*common, "--backbone", f"local-dir:{folder}")
    assert result.code == 0, result.stderr
    guide = load_guide(out)
    assert guide.width == 32
    frozen = guide.clip.visual.state_dict()
    for name, value in clip.visual.state_dict().items():
        assert torch.equal(frozen[name], value.half().float()), f"{name} was frozen"
    assert any(link.weight.abs().sum() > 0 for link in guide.links), "links were trained"


def test_the_perceptual_distance_can_be_learned_from(squeezenet: Path):
    distance = SqueezeNetDistance(squeezenet / SQUEEZENET_FILE)
    wanted = torch.rand(3, 3, 64, 64)
    grey, black = torch.full((3, 64, 64), 0.5), torch.zeros(3, 64, 64)
    picture = torch.stack((wanted[0], grey, black)).requires_grad_()
    apart = distance(picture, wanted)
    assert apart[0] == 0 and 0 < apart[1] < 4
    apart.sum().backward()
    assert picture.grad is not None and torch.isfinite(picture.grad).all()
    closer = (picture - 0.5 * picture.grad / picture.grad.norm()).detach()
    assert distance(closer, wanted)[1] < apart[1]


def test_degraded_crops_cover_all_classes_and_use_real_pairs(photos: Path, pairs: Path):
    device = torch.device("cpu")
    real = {"lowlight": Pairs(pairs, 64)}
    crops = DegradedCrops(Crops(find_photos([photos]), device, 64, 0), Dice(0), real)
    seen: list[int] = []
    exact = 0
    for _ in range(6):
        degraded, clean, labels, _ = crops.batch(11, 64)
        assert degraded.shape == clean.shape == (11, 3, 64, 64)
        seen += labels.tolist()
        i = labels.tolist().index(CLASSES.index("lowlight"))
        exact += bool((degraded[i] * 255 - clean[i] * 255 * 0.5).abs().max() <= 1)
    assert np.bincount(seen).tolist() == [6] * len(CLASSES)
    assert exact > 0, "half as bright, as the real pairs are"
    deck = ("denoise", "denoise", "clean")
    _, _, labels, _ = DegradedCrops(crops.crops, Dice(0), decks=(deck,)).batch(9, 64)
    assert sorted(CLASSES[i] for i in labels.tolist()) == 3 * ["clean"] + 6 * ["denoise"]
    decks = ("derain", "desnow"), ("dehaze",)
    several = DegradedCrops(crops.crops, Dice(0), decks=decks)
    dealt = [{CLASSES[i] for i in several.batch(2, 64)[2].tolist()} for _ in range(24)]
    assert {frozenset(names) for names in dealt} == {frozenset(deck) for deck in decks}, "one deck a batch"
    assert dealt.count({"dehaze"}) < len(dealt) / 2, "the larger one more often"


@pytest.mark.parametrize("share", [0, 1])
def test_grey_photos_are_degraded_as_such(photos: Path, monkeypatch: pytest.MonkeyPatch, share: int):
    monkeypatch.setattr("llicm_cli.training.degraded.GREY_SHARE", share)
    degraded, clean, _, _ = DegradedCrops(
        Crops(find_photos([photos]), torch.device("cpu"), 64, 0), Dice(0)
    ).batch(22, 64)
    for x in (degraded, clean):
        grey = (x - x[:, :1]).abs().amax((1, 2, 3)) < 1e-6
        assert bool(grey.all()) if share else int(grey.sum()) <= 2  # as holes may fill a crop


def test_processes_degrade_pictures_of_their_own(photos: Path):
    crops = DegradedCrops(Crops(find_photos([photos]), torch.device("cpu"), 64, 0), Dice(0))

    def made(seed: int) -> list[torch.Tensor]:
        return [degraded for degraded, *_ in islice(crops.batches(3, 32, 2, workers=2, seed=seed), 4)]

    first = made(1)
    assert all(torch.equal(a, b) for a, b in zip(first, made(1), strict=True))
    others = [*first, *made(2)]
    assert not any(torch.equal(a, b) for a, b in combinations(others, 2))


def test_half_of_the_photographs_are_rendered_anew_input_and_truth_alike(
    photos: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("llicm_cli.training.degraded.GREY_SHARE", 0)  # grey comes after it
    rendered: list[torch.Tensor] = []
    changed: list[float] = []

    def noted(x: torch.Tensor, task: str, dice: Dice) -> torch.Tensor:
        rendered.append(shown(x, task, dice))
        changed.append(float((rendered[-1] - x).abs().mean()))
        return rendered[-1]

    crops = Crops(find_photos([photos]), torch.device("cpu"), 64, 0)
    degraded, clean, _, _ = DegradedCrops(crops, Dice(0), decks=(("clean",),), render=noted).batch(32, 64)
    assert (degraded - clean).abs().max() <= 1 / 255, "clean is clean, in whatever rendering"
    assert 8 < len(rendered) < 24
    assert min(changed) > 0.01
    assert all(any(torch.equal(truth, picture) for truth in clean) for picture in rendered)


@pytest.mark.parametrize(
    ("task", "how"),
    [
        ("denoise", unreduced),
        ("deblur", unreduced),
        ("dehaze", behind_haze),
        ("derain", exposure),
        ("clean", exposure),
    ],
)
def test_the_head_sees_softer_photographs_before_noise_and_blur_and_darker_ones_behind_haze(task: str, how):
    x = torch.rand(3, 24, 24, generator=torch.Generator().manual_seed(0))
    assert all(torch.equal(shown(x, task, Dice(seed)), how(x, Dice(seed))) for seed in range(4))


def test_pairs_are_drawn_for_the_crops_that_fit_into_them(tmp_path: Path):
    for kind in ("input", "gt"):
        (tmp_path / kind).mkdir()
        for name, side, grey in (("small.png", 40, 50), ("large.png", 80, 200)):
            Image.new("RGB", (side, 80), (grey, grey, grey)).save(tmp_path / kind / name)
    real, dice = Pairs(tmp_path, 64), Dice(0)

    def greys(size: int) -> set[int]:
        return {round(float(real.crop(size, dice)[0].mean()) * 255) for _ in range(20)}

    assert greys(32) == {50, 200}
    assert greys(64) == {200}
    with pytest.raises(UsageError, match="at least 96"):
        Pairs(tmp_path, 96)
    (tmp_path / "gt" / "large.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match="gt/large.png: not a picture"):
        Pairs(tmp_path, 64)


@pytest.mark.parametrize("text", ["lowlight", "haze=x", "=x"])
def test_malformed_pairs_are_wrong_usage(llicm: Llicm, photos: Path, tmp_path: Path, text: str):
    command = ["train", "restorer", photos, "-o", tmp_path / "x.safetensors", "--steps", 1, "--pairs", text]
    result = llicm(*command, "--checkpoint", tmp_path / "r.pt")
    assert result.code == 2 and "TASK=FOLDER" in result.stderr


def test_an_unknown_specialist_is_wrong_usage(llicm: Llicm, photos: Path, tmp_path: Path):
    command = ["train", "restorer", photos, "-o", tmp_path / "x.safetensors", "--steps", 1]
    result = llicm(*command, "--checkpoint", tmp_path / "r.pt", "--specialist", "blur", "--specialist", "fog")
    assert result.code == 2 and "haze" in result.stderr and not list(tmp_path.iterdir())


def test_a_mean_needs_a_start(llicm: Llicm, photos: Path, tmp_path: Path):
    command = ["train", "restorer", photos, "-o", tmp_path / "x.safetensors", "--steps", 1]
    result = llicm(*command, "--mean-with", tmp_path / "head.safetensors")
    assert result.code == 2 and "--start-from" in result.stderr


def test_pairs_of_one_task_are_named_once(pairs: Path):
    with pytest.raises(UsageError, match="derain"):
        parse_pairs([f"{task}={pairs}" for task in ("lowlight", "derain", "derain")], 32)


def test_the_start_of_a_guide_depends_on_the_seed():
    a, b = (compact_guide(seed).clip.token_embedding.weight for seed in (0, 1))
    assert not torch.equal(a, b)
