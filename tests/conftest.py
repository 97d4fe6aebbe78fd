"""Photographs that installed packages carry, and a way to run the command line in this process."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from skimage import data as skimage_data
from torchvision.models import squeezenet1_1

from llicm_cli.bench.metrics import SQUEEZENET_FILE
from llicm_cli.cli.main import run
from llicm_cli.models.codec import CodecConfig

SMALL = CodecConfig(
    latent=96,
    fine=16,
    coarse=16,
    filter=8,
    fine_blocks=1,
    coarse_blocks=1,
    filter_blocks=1,
    hyper=8,
    prior=16,
    context=16,
    scale=16,
)


def photograph(name: str) -> Image.Image:
    if name == "grace_hopper":
        path = files("matplotlib") / "mpl-data" / "sample_data" / "grace_hopper.jpg"
        return Image.open(io.BytesIO(path.read_bytes())).convert("RGB")
    return Image.fromarray(getattr(skimage_data, name)())


@pytest.fixture(scope="session")
def squeezenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a file of SqueezeNet features, untrained."""
    torch.manual_seed(0)
    weights = {f"features.{k}": v for k, v in squeezenet1_1(weights=None).features.state_dict().items()}
    folder = tmp_path_factory.mktemp("squeezenet")
    safetensors.torch.save_file(weights, folder / SQUEEZENET_FILE, {"input": "RGB in 0..1"})
    return folder


@pytest.fixture(scope="session", params=["grace_hopper", "astronaut", "coffee"])
def photo(request: pytest.FixtureRequest) -> Image.Image:
    """Each of three real photographs, cut to 256x192."""
    image = photograph(request.param)
    left, top = image.width // 4, image.height // 6
    return image.crop((left, top, left + 256, top + 192))


@pytest.fixture(scope="session")
def crop() -> Image.Image:
    """One real photograph, 160x128."""
    return photograph("astronaut").crop((130, 60, 290, 188))


def psnr(a: Image.Image, b: Image.Image) -> float:
    difference = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    with np.errstate(divide="ignore"):  # equal pictures
        return float(10 * np.log10(255**2 / np.mean(difference**2)))


@dataclass
class Result:
    code: int
    stdout: bytes
    stderr: str


class _Pipe(io.TextIOWrapper):
    """A text stream over memory that is no terminal."""

    def __init__(self, content: bytes = b"") -> None:
        super().__init__(io.BytesIO(content), encoding="utf-8")


@pytest.fixture
def llicm(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Run ``llicm`` with arguments; stdin takes bytes."""

    def call(*arguments: object, stdin: bytes = b"") -> Result:
        out, err = _Pipe(), _Pipe()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["llicm", *map(str, arguments)])
            patch.setattr(sys, "stdin", _Pipe(stdin))
            patch.setattr(sys, "stdout", out)
            patch.setattr(sys, "stderr", err)
            try:
                run()
                code = 0
            except SystemExit as leave:
                code = leave.code if isinstance(leave.code, int) else int(leave.code is not None)
            out.flush()
            err.flush()
        return Result(code, out.buffer.getvalue(), err.buffer.getvalue().decode())  # type: ignore[attr-defined]

    return call
