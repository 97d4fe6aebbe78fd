"""``llicm train codec``, for a few steps: it learns, resumes, and what it writes codes pictures."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from conftest import SMALL, Result, photograph, psnr
from PIL import Image
from torch import nn

from llicm_cli import bitstream, coding, pipeline
from llicm_cli.errors import ModelError, OutputError, UsageError
from llicm_cli.models.blocks import Block
from llicm_cli.models.codec import PATCH, Codec, Pass, is_for_rpo
from llicm_cli.models.distortion import distortion
from llicm_cli.models.entropy import HYPER_CONTEXTS, SCALE_LEVELS, scale_of
from llicm_cli.models.weights import folder, load_codec, load_codec_networks, read_parts
from llicm_cli.rans import Decoder
from llicm_cli.tables import Tables
from llicm_cli.tasks import CLASSES
from llicm_cli.training.card import short as shortened
from llicm_cli.training.codec import (
    COUNTED_SYMBOL,
    HYPER_GRID,
    TrainedCodec,
    coder_tables,
    count_sent_symbols,
    draw,
    load_trained,
    start_from_principal_components,
    stratified_positions,
    weights_file,
)
from llicm_cli.training.data import Crops, find_photos, split
from llicm_cli.training.drawings import drawing
from llicm_cli.training.loop import Budget, Muon, Options, Run, learning_rate_factor, optimisers, take_over
from llicm_cli.training.restorer import ClassWeights, grid_error

Llicm = Callable[..., Result]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    place = tmp_path / "photos"
    place.mkdir()
    for i, name in enumerate(["astronaut", "coffee", "grace_hopper"] * 4):
        photograph(name).crop((20 * i, 0, 20 * i + 280, 300)).save(place / f"{i:02}.png")
    return place


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """New models are small ones."""
    monkeypatch.setattr("llicm_cli.models.codec.CodecConfig", lambda: SMALL)


def quick_options(checkpoint: Path, report: Callable[[str], None] = print) -> Options:
    return Options(
        budget=Budget(steps=4), device=torch.device("cpu"), checkpoint=checkpoint, resume=False, seed=0,
        batch=1, muon_rate=0.01, adam_rate=0.01, ema_decay=0.9, save_every=9, workers=0, report=report,
        tick=lambda done, words: None,
    )  # fmt: skip


def quick_run(
    checkpoint: Path,
    loss: Callable[[torch.nn.Linear], torch.Tensor],
    report: Callable[[str], None] = print,
    bias: bool = False,
) -> Run:
    """Four steps of a very small model."""
    torch.manual_seed(0)
    options = quick_options(checkpoint, report)
    model = torch.nn.Linear(2, 2, bias=bias)

    def named(model: torch.nn.Module, progress: float) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        assert isinstance(model, torch.nn.Linear)
        value = loss(model)
        return value, {"again": value.detach()}

    return Run(model, options, named, lambda model: {})


def test_mistakes_are_told_before_anything_starts(llicm: Llicm, photos: Path, tmp_path: Path):
    wrong = (([photos, tmp_path / "phtoos"], "x.safetensors"), ([photos], "x.json"), ([photos], "x.pt"))
    for folders, name in wrong:
        files = ["-o", tmp_path / name, "--checkpoint", tmp_path / "x.pt"]
        result = llicm("train", "codec", *folders, *files, "--steps", "1")
        assert result.code == 2 and len(result.stderr.splitlines()) == 1
    assert not list(tmp_path.glob("x.*"))
    for place in (Path("."), tmp_path):
        result = llicm("train", "codec", photos, "-o", place, "--steps", "1")
        assert result.code == 6 and result.stderr == f"llicm: {place}: is a folder\n"
    (tmp_path / "known.pt").touch()
    for state, code in ((tmp_path / "known.pt", 2), (photos / "00.png" / "x.pt", 6)):
        files = ["-o", tmp_path / "new" / "x.safetensors", "--checkpoint", state]
        result = llicm("train", "codec", photos, *files, "--steps", "1")
        assert result.code == code and len(result.stderr.splitlines()) == 1


def test_only_pictures_are_found(photos: Path):
    for name in ("paper.pdf", "film.mpg", "notes.txt"):
        (photos / name).touch()
    assert find_photos([photos]) == sorted(photos.glob("*.png"))


def test_a_checkpoint_that_cannot_be_written_is_told(tmp_path: Path):
    run = quick_run(tmp_path / "gone" / "x.pt", lambda model: model.weight.sum())
    with pytest.raises(OutputError, match=r"x\.pt"):
        run.to_the_end()


def test_what_a_stage_keeps_beside_its_model_goes_with_the_checkpoint(tmp_path: Path):
    def loss(model: torch.nn.Module, _: float) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        kept.add_(1)
        return torch.stack([p.sum() for p in model.parameters()]).sum(), {}

    options = quick_options(tmp_path / "x.pt")
    for steps, before in ((4, 0), (6, 4)):
        kept = torch.zeros(3)
        now = replace(options, budget=Budget(steps=steps), resume=before > 0)
        run = Run(torch.nn.Linear(2, 2), now, loss, lambda model: {}, kept)
        assert kept.tolist() == [before] * 3
        run.to_the_end()


def test_one_overflow_costs_one_step(tmp_path: Path):
    losses = iter([1.0, math.nan, 1.0, 1.0])
    said: list[str] = []
    weights: list[torch.Tensor] = []

    def loss(model: torch.nn.Linear) -> torch.Tensor:
        weights.append(model.weight.detach().clone())
        return (model.weight.sum() + model.bias.sum()) * next(losses)

    run = quick_run(tmp_path / "x.pt", loss, said.append, bias=True)
    run.to_the_end()
    moved = [not torch.equal(a, b) for a, b in pairwise(weights)]
    assert (
        moved == [True, False, True] and run.model.weight.isfinite().all() and run.model.bias.isfinite().all()
    )
    assert run.step == 4 and "nan" not in said[-1]


def test_muon_takes_kernels_of_dense_convolutions_as_matrices(tmp_path: Path):
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3, groups=8)
    model = nn.Sequential(*layers).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    before = [layer.weight.detach().clone() for layer in layers]
    muon, adam = optimisers(model, quick_options(tmp_path / "x.pt"))
    model(torch.randn(2, 3, 9, 9)).square().sum().backward()
    muon.step()
    sees_picture, dense, depthwise = (
        layer.weight.detach() - was for layer, was in zip(layers, before, strict=True)
    )
    assert not sees_picture.any() and not depthwise.any()
    stretch = torch.linalg.svdvals(dense.flatten(1))  # the update of a matrix is nearly orthogonal
    assert stretch.min() > 0.5 * stretch.max() > 0
    adam.step()
    assert not torch.equal(layers[0].weight, before[0]) and not torch.equal(layers[2].weight, before[2])


def test_kernels_of_one_size_step_as_they_would_alone(tmp_path: Path):
    torch.manual_seed(0)
    kernels = [nn.Parameter(torch.randn(*size)) for size in ((8, 4), (4, 8), (8, 4), (8, 4), (4, 2, 3, 3))]
    alone = [nn.Parameter(kernel.detach().flatten(1).clone()) for kernel in kernels]
    ours, theirs = Muon(kernels, lr=0.1), torch.optim.Muon(alone, lr=0.1, weight_decay=0.0)
    for missing in (2, None, 0):
        for i, (kernel, same) in enumerate(zip(kernels, alone, strict=True)):
            kernel.grad = None if i == missing else torch.randn_like(kernel)
            same.grad = None if kernel.grad is None else kernel.grad.flatten(1)
        ours.step()
        theirs.step()
    for kernel, same in zip(kernels, alone, strict=True):
        torch.testing.assert_close(kernel.flatten(1), same, rtol=0, atol=1e-6)


def test_compiled_blocks_compute_the_same():
    torch.manual_seed(0)
    block, x = Block(8), torch.randn(2, 8, 5, 7)
    for parameter in block.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)

    def run(forward: Callable[[torch.Tensor], torch.Tensor]) -> list[torch.Tensor]:
        y = forward(x)
        return [y, *torch.autograd.grad(y.square().sum(), list(block.parameters()))]

    with_convolutions, with_products = run(block), run(torch.compile(block, backend="eager"))
    for a, b in zip(with_convolutions, with_products, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_the_compiled_codec_computes_the_same(shaken: TrainedCodec):
    torch.manual_seed(0)
    x, t, codec = torch.rand(2, 3, 64, 64), torch.tensor([0.3, 0.7]), shaken.codec

    def run(forward: Callable[..., Pass]) -> list[torch.Tensor]:
        seen = forward(x, t, "chosen", rpo=False)
        loss = seen.x_hat.square().sum() + seen.bits.sum()
        used = [p for name, p in codec.named_parameters() if not is_for_rpo(name)]
        gradients = torch.autograd.grad(loss, used, allow_unused=True)
        return [seen.x_hat, seen.bits, *(g for g in gradients if g is not None)]

    plain, compiled = run(codec), run(torch.compile(codec, backend="eager", dynamic=False, fullgraph=True))
    assert len(plain) > 100
    for a, b in zip(plain, compiled, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3 * float(a.detach().abs().max()))


def test_one_overflow_does_not_spoil_the_weights_of_the_classes():
    importance, labels = ClassWeights(torch.device("cpu")), torch.arange(len(CLASSES))
    for worst in (math.nan, math.inf):
        importance(torch.full((len(CLASSES),), 0.05).index_fill(0, torch.tensor(3), worst), labels)
    assert torch.allclose(importance(torch.full((len(CLASSES),), 0.05), labels), torch.ones(1), atol=0.1)


@pytest.mark.usefixtures("small")
def test_the_grid_is_what_recurs_every_four_pixels_beyond_an_offset():
    generator = torch.Generator().manual_seed(1)
    pattern = torch.randn(3, 4, 4, generator=generator)
    pattern -= pattern.mean((1, 2), keepdim=True)
    offset, noise = (
        torch.tensor([0.3, 0.0, -0.2])[:, None, None],
        torch.randn(3, 256, 256, generator=generator),
    )
    repeated = pattern.repeat(1, 64, 64)
    measured = grid_error(torch.stack((repeated + offset, 0 * repeated + offset, 0.02 * noise)))
    assert measured[0] == pytest.approx(float(pattern.square().mean().sqrt()), rel=1e-4)
    assert measured[1] <= 1.001e-3  # the floor under the root
    assert measured[2] < 2e-3


def test_the_decoder_alone_learns(llicm: Llicm, photos: Path, tmp_path: Path):
    def train(name: str, *more: object) -> int:
        files = ["-o", tmp_path / f"{name}.safetensors", "--checkpoint", tmp_path / f"{name}.pt"]
        return llicm("train", "codec", photos, *files, "--steps", "3", "--batch", "2", *more).code

    assert train("a") == 0
    assert train("b", "--start-from", tmp_path / "a.safetensors", "--decoder-only") == 0
    before, after = (load_codec_networks(tmp_path / f"{name}.safetensors")[0] for name in "ab")
    decoder = {id(p) for p in after.decoder_parameters()}
    known = dict(before.named_parameters())
    changed = {name for name, p in after.named_parameters() if not torch.equal(p, known[name])}
    assert changed and changed <= {name for name, p in after.named_parameters() if id(p) in decoder}
    assert train("c", "--decoder-only") == 2, "there is nothing to go on from"


@pytest.mark.usefixtures("small")
def test_train_resume_and_code(llicm: Llicm, photos: Path, tmp_path: Path, crop: Image.Image):
    weights, state = tmp_path / "out" / "codec.safetensors", tmp_path / "run.pt"
    common = ["train", "codec", photos, "-o", weights, "--checkpoint", state, "--batch", "2"]
    first = llicm(*common, "--steps", "4")
    assert first.code == 0, first.stderr
    assert llicm(*common, "--steps", "7").code == 2, "an existing run is not overwritten"
    before = torch.load(state, weights_only=True)
    resumed = llicm(*common, "--steps", "7", "--resume")
    assert resumed.code == 0, resumed.stderr
    after = torch.load(state, weights_only=True)
    # Three more steps change weights a little: neither started anew, nor forgot their optimisers.
    for part, prefix in (("model", ""), ("average", "module.")):
        a, b = (s[part][prefix + "codec.gain.rows"] for s in (before, after))
        assert 0 < (a - b).abs().max() < 0.01
    moments = [s["optimisers"][1]["state"][0]["step"] for s in (before, after)]
    assert moments == [4, 7]
    assert [int(s["average"]["n_averaged"]) for s in (before, after)] == [4, 7]
    card = json.loads(weights.with_suffix(".json").read_text())
    assert card["steps"] == 7 and card["training_photos"] == 11 and card["validation_photos"] == 1
    assert card["sha256"] == load_codec(weights).id.hex() + card["sha256"][8:]
    common[4], common[6] = tmp_path / "more.safetensors", tmp_path / "more.pt"
    again = llicm(*common, "--steps", "2", "--start-from", weights)
    assert again.code == 0, again.stderr
    assert card.pop("history") == []
    assert json.loads(common[4].with_suffix(".json").read_text())["history"] == [card]

    model = load_codec(weights)
    with torch.inference_mode():
        payload, crc = coding.encode_pixels(
            model, partial(pipeline.to_pixels, crop), crop.height, crop.width, 50_000, rpo=False
        )
        stream = bitstream.Stream(*crop.size, "RGB", 50_000, model.id, payload, crc)
        pixels = coding.decode_pixels(model, stream)
    decoded = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    assert psnr(crop, decoded) > 20


@pytest.fixture
def shaken() -> TrainedCodec:
    """A model whose blocks all matter: zero starts would hide what lies before them."""
    torch.manual_seed(0)
    model = TrainedCodec(SMALL)
    for parameter in model.codec.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    return model


def test_a_grown_model_codes_as_before(shaken: TrainedCodec):
    grown = TrainedCodec(replace(SMALL, fine_blocks=2, coarse_blocks=3, filter_blocks=2))
    x, t = torch.rand(1, 3, 64, 64), torch.tensor([0.5])
    take_over(grown, shaken)
    with torch.no_grad():
        for rpo in (False, True):
            a, b = (vars(m.codec(x, t, "chosen", rpo)) for m in (shaken, grown))
            assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("sizes", [{"coarse_blocks": 0}, {"latent": 64}, {"prior": 8}])
def test_a_model_does_not_shrink(shaken: TrainedCodec, sizes: dict[str, int]):
    with pytest.raises(UsageError, match="do not fit"):
        take_over(TrainedCodec(replace(SMALL, **sizes)), shaken)


def test_weights_of_before_blocks_for_rpo_and_post_filter_decode_as_then(
    shaken: TrainedCodec, tmp_path: Path
):
    path = tmp_path / "codec.safetensors"
    for parameter in shaken.codec.synthesis.post_filter.leave.parameters():
        nn.init.zeros_(parameter)
    path.write_bytes(weights_file(shaken, load_codec().tables))
    tensors = safetensors.torch.load_file(path)
    for missing in ("_rpo.", ".post_filter."):
        older = {name: value for name, value in tensors.items() if missing not in name}
        assert len(older) < len(tensors)
        tensors = older
        safetensors.torch.save_file(tensors, path, {"config": json.dumps(asdict(SMALL))})
        new, old = shaken.codec.half().float(), load_codec_networks(path)[0]
        y, t = torch.randn(1, SMALL.latent, 4, 4), torch.tensor([0.5])
        with torch.no_grad():
            as_rpo, as_rdo = (old.decode_latents(y, t, rpo) for rpo in (True, False))
            assert torch.equal(as_rpo, as_rdo) and torch.equal(as_rdo, new.decode_latents(y, t, rpo=False))


@pytest.mark.parametrize("rpo", [False, True])
@pytest.mark.parametrize("side", [1, 4])  # less than they overlap by, more
def test_the_post_filter_shows_no_tiles(monkeypatch: pytest.MonkeyPatch, rpo: bool, side: int):
    torch.manual_seed(0)
    post_filter = load_codec().codec.synthesis.post_filter
    picture, features = torch.rand(1, 3, 56, 80) - 0.5, torch.randn(1, 128, 7, 10)
    with torch.no_grad():
        whole = post_filter(picture, features, torch.tensor([0.5]), rpo)
        monkeypatch.setattr("llicm_cli.models.codec.TILE", side)
        tiles = post_filter(picture, features, torch.tensor([0.5]), rpo)
    assert whole.abs().max() > 0.1
    torch.testing.assert_close(tiles, whole, rtol=0, atol=1e-5)


def test_transforms_reach_no_farther_than_bands_overlap():
    torch.manual_seed(0)
    shipped = load_codec().codec.config
    narrow = replace(shipped, latent=8, fine=8, coarse=8, filter=8, hyper=8, prior=8, context=8, scale=8)
    codec = TrainedCodec(narrow).codec
    for parameter in codec.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    t, row = torch.tensor([0.5]), 20
    for rpo in (False, True):
        x = torch.rand(1, 3, 16 * 41, 32, requires_grad=True)
        y = torch.randn(1, 8, 41, 2, requires_grad=True)
        codec.analyse(x, t, rpo)[:, :, row].sum().backward()
        codec.decode_latents(y, t, rpo)[:, :, 16 * row : 16 * (row + 1)].square().sum().backward()
        for given, side, margin in ((x, PATCH, coding.ANALYSIS_MARGIN), (y, 1, coding.SYNTHESIS_MARGIN)):
            assert given.grad is not None
            reached = given.grad.abs().sum((0, 1, 3)).nonzero().flatten() // side
            assert row - margin <= reached.min() < row - 4
            assert row + 4 < reached.max() <= row + margin


def test_tables_are_of_what_is_sent(shaken: TrainedCodec, photos: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("llicm_cli.training.codec.COUNTED_BATCHES", 1)

    def draws() -> Crops:
        return Crops(find_photos([photos]), torch.device("cpu"), 256, seed=0)

    crops, again = draws(), draws()
    torch.manual_seed(1)
    tables = coder_tables(shaken, *count_sent_symbols(shaken, crops, batch=2))
    assert tables.problem(SCALE_LEVELS + HYPER_CONTEXTS * SMALL.hyper) is None
    torch.manual_seed(1)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        x, t = draw(again, 2, 256), stratified_positions(2, torch.device("cpu"))
        sent = shaken.codec(x, t, "chosen", rpo=False)
    cdfs, _, offsets = tables.lists
    levels, counts = sent.index.round().int().unique(return_counts=True)
    level = int(levels[counts.argmax()])
    zeros = float((sent.symbols[sent.index.round() == level] == 0).double().mean())
    share = (cdfs[level][1 - offsets[level]] - cdfs[level][-offsets[level]]) / 2**16
    gaussian = math.erf(0.5 / float(scale_of(torch.tensor(level))) / math.sqrt(2))
    assert abs(share - zeros) < 0.01 < abs(gaussian - zeros)


def test_hyper_latents_are_counted_by_what_is_beside_them(
    shaken: TrainedCodec, photos: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("llicm_cli.training.codec.COUNTED_BATCHES", 1)
    crops, again = (Crops(find_photos([photos]), torch.device("cpu"), 256, seed=0) for _ in range(2))
    for parameter in shaken.codec.hyper_analysis.body.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    torch.manual_seed(1)
    counts = count_sent_symbols(shaken, crops, batch=2)[1]
    torch.manual_seed(1)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        x, t = draw(again, 2, 256), stratified_positions(2, torch.device("cpu"))
        z = shaken.codec(x, t, "chosen", rpo=False).z.round().int()
    assert z.unique().numel() > 3
    for channel in (0, SMALL.hyper // 2, SMALL.hyper - 1):
        expected = torch.zeros_like(counts[channel])
        for picture in z[:, channel].tolist():
            for i, row in enumerate(picture):
                for j, symbol in enumerate(row):
                    near = (row[j - 1] if j else 0) + (picture[i - 1][j] if i else 0)
                    expected[max(-2, min(2, near)) + 2, symbol + HYPER_GRID] += 1
        assert torch.equal(counts[channel], expected)
    tables = coder_tables(shaken, torch.ones(SCALE_LEVELS, 2 * COUNTED_SYMBOL + 1), 100 * counts)

    def share(channel: int, near: int, symbol: int) -> float:
        """What a table gives a symbol."""
        table = SCALE_LEVELS + channel * HYPER_CONTEXTS + near
        cdf, offset = tables.lists[0][table], tables.lists[2][table]
        return (cdf[symbol - offset + 1] - cdf[symbol - offset]) / 2**16

    channel, near = divmod(int(counts.sum(2).argmax()), HYPER_CONTEXTS)
    seen = counts[channel, near]
    likeliest = int(seen.argmax()) - HYPER_GRID
    assert share(channel, near, likeliest) == pytest.approx(float(seen.max() / seen.sum()), rel=0.05)
    channel, near = (int(i) for i in (counts.sum(2) == 0).nonzero()[0])
    zero = torch.zeros(1, SMALL.hyper, 1, 1)
    with torch.no_grad():
        prior = float(shaken.hyper_prior(zero, training=False)[1][0, channel])
    assert share(channel, near, 0) == pytest.approx(prior, abs=0.01), "nothing seen: as trained"


@pytest.mark.parametrize("size", [(330, 200), (64, 300), (300, 60), (16, 16)])
def test_hyper_latents_come_by_anti_diagonals_with_tables_by_their_neighbours(size: tuple[int, int]):
    """Read again one by one, as the format is described."""
    model = load_codec()
    assert model.hyper_contexts == 5
    picture = photograph("astronaut").crop((100, 0, 100 + size[0], size[1]))
    stream = bitstream.parse(pipeline.encode(picture, 0.02))
    decoder = Decoder(model.tables, stream.payload, 10**6)
    rows, columns = (-(-side // 64) for side in (size[1], size[0]))
    z: dict[tuple[int, int, int], int] = {}
    for diagonal in range(rows + columns - 1):
        for channel in range(model.codec.config.hyper):
            for row in range(max(0, diagonal - columns + 1), min(rows, diagonal + 1)):
                column = diagonal - row
                near = z.get((channel, row, column - 1), 0) + z.get((channel, row - 1, column), 0)
                table = SCALE_LEVELS + 5 * channel + max(-2, min(2, near)) + 2
                z[channel, row, column] = int(decoder.take(np.array([table], np.int32))[0])
    x, t = coding.to_unit(pipeline.to_pixels(picture))[None], coding.position(stream.rate)
    with torch.no_grad():
        x = F.pad(x, (0, -size[0] % PATCH, 0, -size[1] % PATCH), mode="replicate")
        expected = model.codec.hyper_latents(model.codec.analyse(x, t, rpo=False), t)[0].round()
    assert all(expected[place] == symbol for place, symbol in z.items())
    assert any(z.values())


def test_weights_with_one_table_a_hyper_latent_channel_code_as_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Those that streams of format version 1 may name from before there were contexts."""
    shipped = load_codec()
    contexts = shipped.hyper_contexts
    kept = [
        *range(SCALE_LEVELS),
        *range(SCALE_LEVELS + contexts // 2, len(shipped.tables.size), contexts),
    ]
    cdfs, sizes, offsets = shipped.tables.lists
    tables = Tables(
        *(np.array(part, np.int32) for part in (sum((cdfs[i] for i in kept), []),
          [sizes[i] for i in kept], [offsets[i] for i in kept]))
    )  # fmt: skip
    path = tmp_path / "codec.safetensors"
    path.write_bytes(weights_file(load_trained(folder() / "codec.safetensors"), tables))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    path.with_suffix(".json").write_text(json.dumps({"sha256": digest}))
    monkeypatch.setenv("LLICM_WEIGHTS", str(tmp_path))
    older = load_codec()
    assert older.hyper_contexts == 1
    picture = photograph("astronaut").crop((0, 0, 208, 144))
    stream = bitstream.parse(pipeline.encode(picture))
    assert psnr(picture, pipeline.decode(bitstream.write(stream))) > 30
    x, t = coding.to_unit(pipeline.to_pixels(picture))[None], coding.position(stream.rate)
    with torch.no_grad():
        z = older.codec.hyper_latents(older.codec.analyse(x, t, rpo=False), t)[0].round()
    channels = np.repeat(SCALE_LEVELS + np.arange(len(z), dtype=np.int32), 3 * 4)
    taken = Decoder(older.tables, stream.payload, 10**6).take(channels)
    assert z.flatten().tolist() == taken.tolist(), "channel, row, column"


def test_crops_come_from_all_photos_that_are_large_enough(tmp_path: Path):
    for side, value in ((48, 60), (96, 120), (160, 180)):
        Image.new("RGB", (side, side), (value, value, value)).save(tmp_path / f"{side}.png")
    crops = Crops(find_photos([tmp_path]), torch.device("cpu"), 160, seed=0)
    for size, values in ((24, {60, 120, 180}), (64, {120, 180}), (112, {180})):
        batch = crops.batch(64, size)
        assert batch.shape == (64, 3, size, size)
        assert set((batch * 255).round().int().unique().tolist()) == values
    with pytest.raises(UsageError, match="at least 192 pixels a side"):
        Crops(find_photos([tmp_path]), torch.device("cpu"), 192, seed=0)
    with pytest.raises(UsageError, match="two photos"):
        split(find_photos([tmp_path])[:1])


def test_photos_are_learned_from_at_three_sizes_drawn_alike(tmp_path: Path):
    Image.linear_gradient("L").resize((200, 200)).convert("RGB").save(tmp_path / "ramp.png")  # 1.28 a row
    crops = Crops(find_photos([tmp_path]), torch.device("cpu"), 96, seed=0)
    batch = crops.batch(300, 96)
    slopes = (255 * (batch[:, 0, -1, 48] - batch[:, 0, 0, 48]) / 95 / 1.28).tolist()
    for size in (1, 0.7, 0.5):
        assert sum(abs(slope - 1 / size) < 0.05 for slope in slopes) / 300 == pytest.approx(1 / 3, abs=0.1)


def test_every_crop_is_turned_by_itself(tmp_path: Path):
    Image.linear_gradient("L").convert("RGB").save(tmp_path / "ramp.png")  # brighter from row to row
    crops = Crops(find_photos([tmp_path]), torch.device("cpu"), 96, seed=0)

    def directions(turned: bool) -> list[float]:
        x = crops.batch(200, 96, turned)[:, 0]
        down, right = x[:, -1, 0] - x[:, 0, 0], x[:, 0, -1] - x[:, 0, 0]
        return [float(way.double().mean()) for way in (down > 0, down < 0, right > 0, right < 0)]

    assert directions(turned=False) == [1, 0, 0, 0]
    assert directions(turned=True) == pytest.approx([0.25] * 4, abs=0.1)


def test_the_start_is_a_transform_codec(crop: Image.Image):
    torch.manual_seed(0)
    model = TrainedCodec(SMALL)
    x = coding.to_unit(pipeline.to_pixels(crop))[None, :, :128, :128]
    start_from_principal_components(model.codec, torch.cat([x, x.flip(3), x.flip(2), x.transpose(2, 3)]))
    with torch.no_grad():
        x_hat, bpp = model(x, torch.tensor([1.0]), "chosen", rpo=False)
    assert -10 * torch.log10((x - x_hat).square().mean()) > 22
    assert 0 < bpp < 6


@pytest.mark.parametrize("rpo", [False, True])
def test_gradients_reach_every_network(shaken: TrainedCodec, rpo: bool):
    codec = shaken.codec
    codec.hyper_analysis.body[-1].mix.bias.data.normal_()  # so that hyper-latents are not all zero
    seen = codec(torch.rand(2, 3, 64, 64), torch.tensor([0.2, 0.7]), "noisy", rpo)
    (seen.bits.mean() + seen.x_hat.square().mean()).backward()
    dead = {id(p) for p in codec.parameters() if p.grad is None or not p.grad.abs().sum() > 0}
    assert dead == (set() if rpo else {id(p) for p in codec.rpo_parameters()})


def test_learning_rate_rises_and_falls():
    factors = [learning_rate_factor(step, step / 1000) for step in (0, 50, 100, 500, 750, 999)]
    assert factors == pytest.approx([0.01, 0.51, 0.9, 0.5, 0.25, 0.001])


@pytest.mark.parametrize("arguments", [[], ["--steps", "3", "--minutes", "1"]])
def test_a_budget_is_needed(llicm: Llicm, photos: Path, tmp_path: Path, arguments: list[str]):
    new = tmp_path / "new"
    result = llicm(
        "train", "codec", photos, "-o", new / "x.safetensors", "--checkpoint", new / "x.pt", *arguments
    )
    assert result.code == 2 and "--minutes" in result.stderr
    assert not new.exists()


def test_the_model_card_must_have_a_place(llicm: Llicm, photos: Path, tmp_path: Path):
    (tmp_path / "x.json").mkdir()
    output, state = tmp_path / "x.safetensors", tmp_path / "x.pt"
    result = llicm("train", "codec", photos, "-o", output, "--checkpoint", state, "--steps", "1")
    assert result.code == 6 and not output.exists() and not state.exists()


@pytest.mark.parametrize(
    ("word", "short"),
    [
        ("/a/b.pt", "b.pt"), ("--codec=/a/c.safetensors", "--codec=c.safetensors"), ("plain", "plain"),
        ("derain=/a/PAIRS", "derain=PAIRS"), ("--pairs=derain=/a/PAIRS", "--pairs=derain=PAIRS"),
        ("local-dir:/a/vit", "local-dir:vit"), ("-o/a/x.safetensors", "-ox.safetensors"),
        ("hf-hub:timm/vit", "hf-hub:timm/vit"),
    ],
)  # fmt: skip
def test_cards_name_commands_without_folders(word: str, short: str):
    assert shortened(word) == short


def test_delta_weighs_a_distance_only(llicm: Llicm, photos: Path, tmp_path: Path):
    output, state = tmp_path / "x.safetensors", tmp_path / "x.pt"
    command = ["train", "joint", photos, "-o", output, "--checkpoint", state, "--steps", "1"]
    result = llicm(*command, "--delta", "0.1")
    assert result.code == 2 and "--perceptual" in result.stderr


def test_a_foreign_checkpoint_is_one_clear_line(llicm: Llicm, photos: Path, tmp_path: Path):
    state = tmp_path / "run.pt"
    output = tmp_path / "x.safetensors"
    command = ["train", "codec", photos, "-o", output, "--checkpoint", state, "--steps", "1", "--resume"]
    for content in (b"garbage", {"a": 1}, [1, 2], {"model": 3}):
        state.write_bytes(content) if isinstance(content, bytes) else torch.save(content, state)
        result = llicm(*command)
        assert result.code == 3 and "cannot resume" in result.stderr and "Traceback" not in result.stderr


def test_no_photos_is_wrong_usage(llicm: Llicm, tmp_path: Path):
    output, state = tmp_path / "x.safetensors", tmp_path / "x.pt"
    result = llicm("train", "codec", tmp_path, "-o", output, "--checkpoint", state, "--steps", "1")
    assert result.code == 2 and "no pictures" in result.stderr


def steps(card: dict[str, Any]) -> int:
    """Of a run and of all before it."""
    return sum(run["steps"] for run in (card, *card["history"]))


def test_the_shipped_weights_have_a_card_and_fit_their_limits():
    card = json.loads((folder() / "codec.json").read_text())
    config, parts, digest = read_parts(folder() / "codec.safetensors")
    assert card["sha256"] == digest.hex() and card["configuration"] == config
    assert card["validation"] and steps(card) > 30_000
    assert (folder() / "codec.safetensors").stat().st_size < 25e6
    assert {t.dtype for t in parts["codec."].values()} == {torch.float16}


def test_damaged_weights_are_one_clear_error(tmp_path: Path):
    good = (folder() / "codec.safetensors").read_bytes()
    card = (folder() / "codec.json").read_text()
    flipped = bytearray(good)
    flipped[-1] ^= 1
    for name, data, words in [
        ("absent", None, "no weights"),
        ("flipped", bytes(flipped), "does not match its model card"),
        ("truncated", good[:-10], "not a weights file"),
        ("text", b"hello", "not a weights file"),
    ]:
        path = tmp_path / f"{name}.safetensors"
        if data is not None:
            path.write_bytes(data)
            path.with_suffix(".json").write_text(card)
        with pytest.raises(ModelError, match=words):
            load_codec(path)
    config, parts, _ = read_parts(folder() / "codec.safetensors")
    tensors = {p + k: v for p, part in parts.items() for k, v in part.items()}
    fewer = tensors | {
        "tables.size": tensors["tables.size"][:1],
        "tables.offset": tensors["tables.offset"][:1],
    }
    scalar = tensors | {"tables.size": tensors["tables.size"][0].clone()}
    huge = config | {"latent": 2**31}
    for forged, settings, words in (
        (fewer, config, "1 tables where"),
        (scalar, config, "not vectors"),
        ({k: v for k, v in tensors.items() if k != "scale_prior.log_table"}, config, "lacks 'log_table'"),
        (tensors, huge, "does not fit"),
    ):
        safetensors.torch.save_file(forged, path, {"config": json.dumps(settings)})
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        path.with_suffix(".json").write_text(json.dumps({"sha256": sha256}))
        with pytest.raises(ModelError, match=words):
            load_codec(path)
    path.with_suffix(".json").unlink()
    path.write_bytes(good)
    with pytest.raises(ModelError, match="model card"):
        load_codec(path)


def test_positions_span_the_range_of_lambda():
    lambdas = torch.tensor([0.001, 0.01, 0.1])
    assert Codec.position(lambdas).tolist() == pytest.approx([0, 0.5, 1], abs=1e-6)


def test_distortion_counts_lost_structure_beyond_squared_error():
    x = coding.to_unit(pipeline.to_pixels(photograph("astronaut")))[None, :, :128, :128].clamp(0.1, 0.9)
    torch.manual_seed(0)
    coarse = torch.randn(1, 3, 64, 64).sign()  # of two pixels a side
    offset, noise = torch.full_like(x, 0.05), 0.05 * F.interpolate(coarse, scale_factor=2)
    assert float(distortion(x, x)) < 1e-6
    brighter, noisy = float(distortion(x + offset, x)), float(distortion(x + noise, x))
    assert noisy > 1.5 * brighter > 0


def test_drawings_take_their_share_among_the_crops(tmp_path: Path):
    Image.new("RGB", (96, 96), (60, 120, 180)).save(tmp_path / "photo.png")
    crops = Crops(find_photos([tmp_path]), torch.device("cpu"), 48, seed=0)
    photo = torch.tensor([60, 120, 180])[:, None, None] / 255

    def drawings(drawn: float) -> float:
        x = crops.batch(400, 48, drawn=drawn)
        assert x.shape == (400, 3, 48, 48) and 0 <= x.min() <= x.max() <= 1
        return float((x - photo).abs().amax((1, 2, 3)).gt(1e-6).double().mean())

    assert drawings(0) == 0
    assert drawings(0.25) == pytest.approx(0.25, abs=0.07)


def test_grey_crops_take_their_share(tmp_path: Path):
    Image.new("RGB", (96, 96), (60, 120, 180)).save(tmp_path / "photo.png")
    crops = Crops(find_photos([tmp_path]), torch.device("cpu"), 48, seed=0)
    for share in (0, 0.25):
        x = crops.batch(400, 48, grey=share)
        grey = (x == x[:, :1]).all(3).all(2).all(1)
        assert torch.allclose(x[grey], torch.tensor(120 / 255))
        assert float(grey.double().mean()) == pytest.approx(share, abs=0.07 if share else 0)


def test_enlarged_crops_take_their_share(tmp_path: Path):
    stripes = np.zeros((96, 96, 3), np.uint8)
    stripes[:, ::2] = 200
    Image.fromarray(stripes).save(tmp_path / "photo.png")
    crops = Crops(find_photos([tmp_path]), torch.device("cpu"), 48, seed=0)
    crops.photos = crops.photos[:1] * 3  # not reduced
    for share in (0, 0.25):
        x = crops.batch(400, 48, enlarged=share)
        assert x.shape == (400, 3, 48, 48)
        sharp = (x[..., 1:] - x[..., :-1]).abs().amin((1, 2, 3)) > 0.5
        assert float((~sharp).double().mean()) == pytest.approx(share, abs=0.07 if share else 0)


def test_drawings_are_plain_or_ramps_or_hold_shapes_or_text():
    rng = np.random.default_rng(0)
    plain = smooth = 0
    for _ in range(300):
        picture = drawing(rng, 64)
        assert picture.shape == (64, 64, 3) and picture.dtype == np.uint8
        step = max(np.abs(np.diff(picture.astype(int), axis=axis)).max() for axis in (0, 1))
        plain += step == 0
        smooth += 0 < step < 8
    assert 30 < plain < 100 and 30 < smooth < 100  # a sixth each; shapes and letters may miss the picture
