"""The guide: DA-CLIP on any open_clip model, and what the shipped one sees."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import open_clip
import pytest
import torch
from conftest import Result, photograph
from PIL import Image
from torch import Tensor

import llicm_cli
from llicm_cli.coding import to_bytes, to_unit
from llicm_cli.degrade import Dice, degrade
from llicm_cli.errors import UsageError
from llicm_cli.models.guide import Guide, compact_guide, guide_on, pooled, views
from llicm_cli.models.weights import load_guide
from llicm_cli.pipeline import likeliest, to_image, to_pixels
from llicm_cli.tasks import CLASSES

Llicm = Callable[..., Result]
TINY_VIT = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="module")
def local_vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An open_clip ViT with random weights, saved as a local folder."""
    folder = tmp_path_factory.mktemp("vit")
    torch.manual_seed(0)
    model = open_clip.CLIP(**TINY_VIT)  # type: ignore[arg-type]
    torch.save(model.state_dict(), folder / "open_clip_pytorch_model.bin")
    config = {"model_cfg": TINY_VIT, "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def x() -> Tensor:
    return to_unit(to_pixels(photograph("coffee").crop((100, 60, 300, 220))))[None]


def test_views_are_the_whole_and_cut_outs():
    x = torch.arange(200 * 300).float().view(200, 300).expand(2, 3, -1, -1) / 60000
    seen = views(x, 96, 2)
    assert seen.shape == (2, 5, 3, 96, 96)
    assert torch.equal(seen[0, 1], x[0, :, 26:122, 51:147])
    assert seen[0, 0, 0, 0, 0] < seen[0, 0, 0, -1, -1]


@pytest.mark.parametrize("size", [(1, 1), (5, 200), (96, 96)])
def test_small_pictures_have_views(size: tuple[int, int]):
    assert views(torch.rand(1, 3, *size), 96).shape == (1, 10, 3, 96, 96)


def test_the_whole_picture_counts_as_much_as_all_cut_outs():
    whole, one, other = torch.eye(3)
    wanted = torch.tensor([2.0, 1.0, 1.0])
    assert torch.allclose(pooled(torch.stack((whole, one, other))[None])[0], wanted / wanted.norm())
    wanted = torch.tensor([2.0, 5.0, 1.0])  # a longer embedding counts for more
    assert torch.allclose(pooled(torch.stack((whole, 5 * one, other))[None])[0], wanted / wanted.norm())


@pytest.mark.parametrize("kind", ["compact", "vit"])
def test_links_start_at_zero_and_then_matter(kind: str, local_vit: Path, x: Tensor):
    guide = compact_guide(0) if kind == "compact" else guide_on(f"local-dir:{local_vit}", None)
    with torch.no_grad():
        pictures = views(x, guide.size)
        tower = guide.clean_content(pictures)
        assert torch.allclose(guide.look(pictures).content, tower, atol=1e-5)
        for link in guide.links:
            link.weight += 0.05 * torch.randn_like(link.weight)
        assert not torch.allclose(guide.look(pictures).content, tower, atol=1e-3)
        assert torch.allclose(guide.clean_content(pictures), tower), "the tower itself is unchanged"


def test_guidance_is_unit_vectors_in_the_space_of_the_texts(x: Tensor):
    guide = load_guide()
    with torch.no_grad():
        content, degradation = guide.look(views(x, guide.size))
        assert torch.allclose(guide(x), degradation, atol=1e-6)
        prompts = guide.prompts()
    assert content.shape == (1, 10, guide.width) and degradation.shape == (1, guide.width)
    for vectors in (content, degradation, prompts):
        assert torch.allclose(vectors.norm(dim=-1), torch.tensor(1.0), atol=1e-4)
    assert prompts.shape == (len(CLASSES), guide.width)
    alike = prompts @ prompts.T - 2 * torch.eye(len(CLASSES))
    assert alike.max() < 0.9, "the texts of different degradations differ"


def test_probabilities_sum_to_one(crop: Image.Image):
    shares = llicm_cli.inspect(crop)
    assert set(shares) == set(CLASSES)
    assert sum(shares.values()) == pytest.approx(1, abs=1e-4)


def test_the_shipped_guide_names_most_degradations():
    hits = tries = 0
    for name in ("astronaut", "coffee", "grace_hopper"):
        photo = photograph(name)
        photo = photo.crop((0, 0, min(photo.width, 400), min(photo.height, 400)))
        for task in CLASSES:
            picture = to_image(to_bytes(degrade(to_unit(to_pixels(photo)), task, Dice(7))), grey=False)
            shares = llicm_cli.inspect(picture)
            hits += likeliest(shares) == task
            tries += 1
    assert hits / tries > 0.6


def test_a_local_backbone_keeps_its_pretrained_towers(local_vit: Path):
    guide = guide_on(f"local-dir:{local_vit}", None)
    saved = torch.load(local_vit / "open_clip_pytorch_model.bin", weights_only=True)
    for name, value in guide.clip.state_dict().items():
        assert torch.equal(value, saved[name])
    assert torch.allclose(guide.mean.flatten(), torch.tensor(0.5))


def test_a_named_backbone_with_a_local_file(tmp_path: Path):
    config = open_clip.get_model_config("RN50")
    assert config is not None
    torch.manual_seed(0)
    file = tmp_path / "rn50.pt"
    torch.save(open_clip.create_model("RN50").half().state_dict(), file)
    guide = guide_on("RN50", str(file))
    assert guide.width == config["embed_dim"] and guide.size == 224
    with torch.no_grad():
        content, degradation = guide.look(views(torch.rand(1, 3, 64, 64), guide.size, 1))
    assert content.shape == (1, 2, 1024) and degradation.isfinite().all()


@pytest.mark.parametrize("backbone", ["no-such-model", "local-dir:/no/such/folder", "local-dir:", "RN50"])
def test_a_backbone_that_cannot_be_had_is_wrong_usage(backbone: str):
    with pytest.raises(UsageError, match="open_clip cannot make"):
        guide_on(backbone, None)


def test_the_same_seed_gives_the_same_start():
    assert isinstance(compact_guide(1), Guide)
    a, b = (compact_guide(1).state_dict() for _ in range(2))
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_inspect_prints_a_bar_table_or_json(llicm: Llicm, crop: Image.Image, tmp_path: Path):
    path = tmp_path / "a.png"
    crop.save(path)
    table = llicm("inspect", path)
    assert table.code == 0 and table.stderr == ""
    lines = table.stdout.decode().splitlines()
    assert lines[0] == str(path) and len(lines) == 1 + len(CLASSES)
    assert {line.split()[0] for line in lines[1:]} == set(CLASSES)
    stream = tmp_path / "a.llic"
    stream.write_bytes(llicm_cli.encode(crop))
    result = llicm("inspect", path, stream, "--json")
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row.pop("file") for row in rows] == [str(path), str(stream)]
    for row in rows:
        assert sum(row.values()) == pytest.approx(1, abs=0.01)


def test_inspect_goes_on_after_a_bad_file(llicm: Llicm, crop: Image.Image, tmp_path: Path):
    (tmp_path / "bad.png").write_bytes(b"nothing")
    crop.save(tmp_path / "good.png")
    result = llicm("inspect", tmp_path / "bad.png", tmp_path / "good.png", "--json")
    assert result.code == 3 and len(result.stdout.splitlines()) == 1
    assert "bad.png" in result.stderr and result.stderr.splitlines()[-1].startswith("llicm: 1 of 2 failed")
