"""What coding costs: time, memory and multiplications; what batches save; what tiles and integers change.

    python benchmarks/cost.py pictures PICTURE... [--lambda 0.013] [--runs 3]
    python benchmarks/cost.py batch FOLDER
    python benchmarks/cost.py seams PICTURE
    python benchmarks/cost.py integers FOLDER

Times and memory are of whole processes of the installed command, start-up and file access included.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from PIL import Image
from torch import nn

from llicm_cli import bitstream, coding, tiling
from llicm_cli.bench.codecs import LAMBDAS
from llicm_cli.bench.curves import bd_rate
from llicm_cli.bench.metrics import psnr
from llicm_cli.bench.sets import find_pictures
from llicm_cli.image_io import open_rgb
from llicm_cli.models import exact
from llicm_cli.models.blocks import Pointwise
from llicm_cli.models.codec import HYPER, PATCH, Codec
from llicm_cli.models.restorer import source, tones
from llicm_cli.models.weights import folder as weights_folder
from llicm_cli.models.weights import load_restorer
from llicm_cli.pipeline import decode, encode, enhance, to_image, to_pixels
from llicm_cli.training.codec import load_trained

app = typer.Typer(pretty_exceptions_enable=False)


def run(*arguments: object) -> tuple[float, float]:
    """(seconds, peak resident MiB) of one ``llicm`` process."""
    start = time.perf_counter()
    process = os.spawnv(
        os.P_NOWAIT, sys.executable, [sys.executable, "-m", "llicm_cli", *map(str, arguments)]
    )
    _, status, usage = os.wait4(process, 0)
    if status:
        raise SystemExit(f"llicm {arguments[0]} failed")
    return time.perf_counter() - start, usage.ru_maxrss / 1024


def multiplications(side: int = 512) -> tuple[float, float, float]:
    """(encoder, decoder, head) thousand multiplications a pixel: convolutions and the exact path.

    Encoder and decoder are those of objective rdo; rpo takes one and three blocks more (1.5 and 4.7
    thousand), and the encoder the head's besides.
    """
    total = 0.0

    def count(module: nn.Module, _: object, output: torch.Tensor) -> None:
        nonlocal total
        places = output.shape[-2] * output.shape[-1]
        if isinstance(module, Pointwise | nn.Conv2d):
            total += places * module.weight.numel()

    product = exact.ExactScalePrior._product

    def counted(self: exact.ExactScalePrior, layer: str, x: torch.Tensor) -> torch.Tensor:
        nonlocal total
        total += self._w[f"{layer}.weight"].numel() * x.shape[-2] * x.shape[-1]
        return product(self, layer, x)

    exact.ExactScalePrior._product = counted  # type: ignore[method-assign]
    handle = nn.modules.module.register_module_forward_hook(count)
    picture = Image.effect_noise((side, side), 50).convert("RGB")
    stream = encode(picture)
    encoder, total = total, 0.0
    decode(stream)
    decoder, total = total, 0.0
    head = load_restorer()
    x = torch.zeros(1, 3, side, side)
    head(x, torch.zeros(1, dtype=torch.long), source(False, False, torch.zeros(1)), tones(x))
    handle.remove()
    return encoder / side**2 / 1000, decoder / side**2 / 1000, total / side**2 / 1000


@app.command()
def pictures(
    paths: list[Path],
    lmbda: Annotated[float, typer.Option("--lambda")] = 0.013,
    runs: int = 3,
) -> None:
    """Time (the best of the runs) and peak memory of every command on pictures; and multiplications."""
    commands = ("encode", "decode", "decode --task denoise")
    typer.echo(f"| picture | {' | '.join(f'{c} (s) | (MiB)' for c in commands)} |\n|{'---|' * 7}")
    with tempfile.TemporaryDirectory() as folder:
        stream, decoded = Path(folder) / "x.llic", Path(folder) / "x.png"
        for path in paths:
            with Image.open(path) as image:
                name = f"{path.name}, {image.width}x{image.height}"
            cells = []
            for arguments in (
                ("encode", path, "-o", stream, "--lambda", lmbda, "--overwrite"),
                ("decode", stream, "-o", decoded, "--overwrite"),
                ("decode", stream, "-o", decoded, "--task", "denoise", "--overwrite"),
            ):
                results = [run(*arguments) for _ in range(runs)]
                cells += [f"{min(r[0] for r in results):.2f}", f"{max(r[1] for r in results):.0f}"]
            typer.echo(f"| {name} | {' | '.join(cells)} |")
    encoder, decoder, head = multiplications()
    typer.echo(f"\nencoder {encoder:.1f}, decoder {decoder:.1f}, head {head:.1f} kMAC/px")


@app.command()
def batch(folder: Path, lmbda: Annotated[float, typer.Option("--lambda")] = 0.013) -> None:
    """Pictures and megapixels a second: one process for all of a folder, and one a picture."""
    paths = find_pictures(folder)
    pixels = 0
    for path in paths:
        with Image.open(path) as image:
            pixels += image.width * image.height
    typer.echo("| command | how | pictures/s | megapixels/s | peak (MiB) |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as place:
        streams = [Path(place) / f"{path.stem}.llic" for path in paths]
        encode_all: list[object] = ["encode", "--lambda", lmbda, "--overwrite", "-o", f"{place}/"]
        for command, inputs in (
            (encode_all, paths),
            (["decode", "--overwrite", "-o", f"{place}/"], streams),
            (["decode", "--task", "denoise", "--overwrite", "-o", f"{place}/"], streams),
        ):
            ways = {
                "one process": [[*command, *inputs]],
                "one process, --jobs 2": [[*command, "--jobs", 2, *inputs]],
                "one process a picture": [[*command, path] for path in inputs],
            }
            for how, calls in ways.items():
                results = [run(*call) for call in calls]
                seconds, peak = sum(r[0] for r in results), max(r[1] for r in results)
                name = " ".join(map(str, command[: 3 if "--task" in command else 1]))
                figures = f"{len(paths) / seconds:.2f} | {pixels / seconds / 1e6:.2f} | {peak:.0f}"
                typer.echo(f"| {name} | {how} | {figures} |")


@app.command()
def seams(path: Path, lmbda: Annotated[float, typer.Option("--lambda")] = 0.013) -> None:
    """PSNR of a picture decoded and restored in bands and tiles against the same in one piece."""
    image = open_rgb(path)
    decoded, restored = decode(encode(image, lmbda)), enhance(image, "denoise")
    coding.BAND_PIXELS = tiling.CORE = 2**30
    whole = decode(encode(image, lmbda)), enhance(image, "denoise")
    for name, a, b in zip(("decoded", "restored"), (decoded, restored), whole, strict=True):
        typer.echo(f"{name}: {psnr(a, b):.1f} dB")


@app.command()
@torch.no_grad()
def integers(folder: Path) -> None:
    """BD-rate (PSNR) of real payloads, whose tables integers choose, against the bits that the networks
    estimate in floating point, as in training, of the same pictures. The difference is all that integers,
    64 scale levels, latents that are certain zeros and the range coder cost together."""
    model = load_trained(weights_folder() / "codec.safetensors").eval()
    cell = PATCH * HYPER
    figures: dict[str, list[list[tuple[float, float]]]] = {"real": [], "estimated": []}
    torch.manual_seed(0)  # of the noise that stands for the hyper-latent's rounding
    for path in find_pictures(folder):
        image = open_rgb(path)
        image = image.crop((0, 0, image.width // cell * cell, image.height // cell * cell))
        x = coding.to_unit(to_pixels(image))[None].contiguous(memory_format=torch.channels_last)
        real, estimated = [], []
        for lmbda in LAMBDAS:
            stream = encode(image, lmbda)
            bits = 8 * len(bitstream.parse(stream).payload)
            real.append((bits / image.width / image.height, psnr(image, decode(stream))))
            x_hat, bpp = model(x, Codec.position(torch.tensor([lmbda])), "chosen", rpo=False)
            estimated.append((float(bpp), psnr(image, to_image(coding.to_bytes(x_hat[0])))))
        figures["real"].append(real)
        figures["estimated"].append(estimated)
    curves = [tuple(np.array(figures[name]).mean(0).T) for name in ("estimated", "real")]
    typer.echo(f"BD-rate {bd_rate(*curves)} %")


if __name__ == "__main__":
    app()
