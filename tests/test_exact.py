"""Only integers choose a table: the exact scale prior, alone and across machines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import photograph, psnr

import llicm_cli
from llicm_cli import bitstream
from llicm_cli.models.codec import MeanPrior
from llicm_cli.models.entropy import STEPS, step_masks
from llicm_cli.models.exact import ExactScalePrior, quantise, restore
from llicm_cli.models.weights import folder, load_codec, load_codec_networks

# Decodes the streams named on the command line; prints the pixels' file and each symbol checksum.
WORKER = """
import contextlib, json, os, sys
import numpy as np, torch
torch.set_num_threads(int(os.environ["THREADS"]))
torch.backends.mkldnn.enabled = os.environ["ONEDNN"] == "on"
from llicm_cli import coding, pipeline
from llicm_cli.models.weights import load_codec
if os.environ["LAYOUT"] == "contiguous":
    load_codec().codec.to(memory_format=torch.contiguous_format)
    keep = torch.Tensor.contiguous
    torch.Tensor.contiguous = lambda self, **_: keep(self)
checksums = []
original = coding._Latents.checksum
coding._Latents.checksum = lambda self: checksums.append(original(self)) or checksums[-1]
pixels = [np.asarray(pipeline.decode(open(p, "rb").read())) for p in sys.argv[2:]]
np.savez(sys.argv[1], *pixels)
print(json.dumps({"checksums": checksums, "capability": torch.backends.cpu.get_cpu_capability()}), flush=True)
"""

PLAIN = {"THREADS": "1", "ONEDNN": "on", "LAYOUT": "channels_last"}
CONFIGURATIONS = {
    "two threads": {"THREADS": "2"},
    "no oneDNN": {"ONEDNN": "off"},
    "oneDNN at SSE4.1": {"ONEDNN_MAX_CPU_ISA": "SSE41"},
    "oneDNN at AVX2": {"ONEDNN_MAX_CPU_ISA": "AVX2"},
    "ATen without AVX, no oneDNN": {"ATEN_CPU_CAPABILITY": "default", "ONEDNN": "off"},
    "ATen at AVX2": {"ATEN_CPU_CAPABILITY": "avx2"},
    "MKL at its compatible level": {"MKL_CBWR": "COMPATIBLE", "ONEDNN": "off"},
    "contiguous": {"LAYOUT": "contiguous"},
}


@pytest.fixture(scope="module")
def streams(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three streams of different photographs and rates, coded in this process."""
    place = tmp_path_factory.mktemp("streams")
    paths = []
    for name, lmbda in (("astronaut", 0.0018), ("coffee", 0.013), ("grace_hopper", 0.0932)):
        picture = photograph(name).crop((20, 30, 500, 390))
        paths.append(place / f"{name}.llic")
        paths[-1].write_bytes(llicm_cli.encode(picture, lmbda))
    return paths


def decode_elsewhere(streams: list[Path], settings: dict[str, str], result: Path) -> dict[str, object]:
    environment = os.environ | PLAIN | {"ONEDNN_VERBOSE": "1"} | settings
    command = [sys.executable, "-W", "ignore", "-c", WORKER, str(result), *map(str, streams)]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    report: dict[str, object] = json.loads(run.stdout.splitlines()[-1])
    report["onednn"] = next((line for line in run.stdout.splitlines() if "cpu,isa:" in line), "unused")
    return report


@pytest.fixture(scope="module")
def reference(streams: list[Path], tmp_path_factory: pytest.TempPathFactory) -> list[np.ndarray]:
    path = tmp_path_factory.mktemp("reference") / "pixels.npz"
    decode_elsewhere(streams, {}, path)
    return list(np.load(path).values())


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_streams_decode_alike_on(name: str, streams: list[Path], reference: list[np.ndarray], tmp_path: Path):
    report = decode_elsewhere(streams, CONFIGURATIONS[name], tmp_path / "pixels.npz")
    assert report["checksums"] == [bitstream.parse(p.read_bytes()).symbol_crc for p in streams]
    settings = CONFIGURATIONS[name]
    if "ATEN_CPU_CAPABILITY" in settings:
        assert str(report["capability"]).lower() == settings["ATEN_CPU_CAPABILITY"]
    if "ONEDNN_MAX_CPU_ISA" in settings:
        assert {"SSE41": "SSE4.1", "AVX2": "AVX2"}[settings["ONEDNN_MAX_CPU_ISA"]] in str(report["onednn"])
    for ours, theirs in zip(reference, np.load(tmp_path / "pixels.npz").values(), strict=True):
        assert np.abs(ours.astype(int) - theirs).max() <= 1


def test_floats_never_choose_a_table(streams: list[Path], monkeypatch: pytest.MonkeyPatch):
    """However wrong the decoder's floating-point means are, it parses the same symbols."""
    forward = MeanPrior.forward
    generator = torch.Generator().manual_seed(0)

    def noisy(self: MeanPrior, *inputs: object) -> torch.Tensor:
        mean = forward(self, *inputs)
        return mean + 0.3 * torch.randn(mean.shape, generator=generator)

    clean = [llicm_cli.decode(p.read_bytes()) for p in streams]
    monkeypatch.setattr(MeanPrior, "forward", noisy)
    for path, picture in zip(streams, clean, strict=True):  # a wrong checksum would raise
        assert psnr(picture, llicm_cli.decode(path.read_bytes())) < 40, "the noise must have had an effect"


def known_symbols(step: int, shape: tuple[int, int, int]) -> torch.Tensor:
    generator = torch.Generator().manual_seed(step)
    symbols = (3 * torch.randn(shape, generator=generator)).round()
    return symbols * step_masks(*shape)[:step].any(0)


def test_the_integer_twin_follows_the_float_network():
    codec, _ = load_codec_networks(folder() / "codec.safetensors")
    exact = load_codec().scale_prior
    z = (2 * torch.randn(codec.config.hyper, 3, 4, generator=torch.Generator().manual_seed(1))).round()
    for rate in (0, 10_000, 65_535):
        t = torch.tensor([rate / 65_535])
        for step in range(STEPS):
            known = known_symbols(step, (codec.config.latent, 12, 16))
            with torch.no_grad():
                index = codec.scale_prior.index(step, codec.scale_prior.features(z[None]), known[None], t)[0]
            twin = exact.index(step, exact.features(z), known.short(), rate)
            assert (index.round() - twin).abs().max() <= 1
            assert (index.round() == twin).float().mean() > 0.97


def test_every_sum_of_products_is_exact(monkeypatch: pytest.MonkeyPatch):
    largest = []
    product = ExactScalePrior._product

    def watched(self: ExactScalePrior, layer: str, x: torch.Tensor) -> torch.Tensor:
        out = product(self, layer, x)
        # the sum of magnitudes bounds every partial sum, in whatever order
        bound = (self._w[f"{layer}.weight"].flatten(1).abs() @ x.flatten(1).abs()).max()
        assert torch.equal(out, out.round()) and torch.equal(x, x.round())
        largest.append(float(bound))
        return out

    monkeypatch.setattr(ExactScalePrior, "_product", watched)
    exact = load_codec().scale_prior
    z = torch.full((load_codec().codec.config.hyper, 2, 2), 1e9)
    z[::2] *= -1
    for step in range(STEPS):
        known = 30_000 * known_symbols(step, (load_codec().codec.config.latent, 8, 8)).sign().short()
        index = exact.index(step, exact.features(z), known, 65_535)
        assert index.min() >= 0 and index.max() <= 63
    assert max(largest) < 2**52


def test_quantising_what_was_restored_changes_nothing():
    codec, _ = load_codec_networks(folder() / "codec.safetensors")
    once = quantise(codec.scale_prior)
    codec.scale_prior.load_state_dict(restore(once))
    assert all(torch.equal(a, once[name]) for name, a in quantise(codec.scale_prior).items())


def test_a_weight_too_large_for_the_format_is_refused():
    codec, _ = load_codec_networks(folder() / "codec.safetensors")
    codec.scale_prior.leave[0].weight.data[0, 0] = 9.0
    with pytest.raises(OverflowError, match="leave.0.weight"):
        quantise(codec.scale_prior)


def test_the_four_steps_code_every_latent_once():
    masks = step_masks(12, 5, 7)
    assert torch.equal(masks.sum(0), torch.ones(12, 5, 7, dtype=torch.long))
    assert all(mask[:, :4, :4].sum() == 12 * 4 for mask in masks)
