"""Rate-distortion on a folder of pictures: real file bytes, PSNR-RGB and MS-SSIM, means over pictures.

    python benchmarks/rd.py measure DIR -o results.json [--codec llicm --codec jpeg ...]
    python benchmarks/rd.py table results.json [--published curves.json]

``--published`` takes curves in the layout {"curves": {name: {"bpp": [...], "psnr_rgb": [...], ...}}}.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import bjontegaard
import numpy as np
import torch
import typer
from PIL import Image
from pytorch_msssim import ms_ssim

import llicm_cli
from llicm_cli.models.weights import load_codec

app = typer.Typer(pretty_exceptions_enable=False)


def _pillow(name: str, **options: object) -> Callable[[Image.Image, float], tuple[int, Image.Image]]:
    def code(image: Image.Image, quality: float) -> tuple[int, Image.Image]:
        buffer = io.BytesIO()
        image.save(buffer, name, quality=int(quality), **options)
        return buffer.tell(), Image.open(buffer).convert("RGB")

    return code


def _llicm(image: Image.Image, lmbda: float) -> tuple[int, Image.Image]:
    data = llicm_cli.encode(image, lmbda)
    return len(data), llicm_cli.decode(data)


CODECS: dict[str, tuple[Callable[[Image.Image, float], tuple[int, Image.Image]], list[float]]] = {
    "llicm": (_llicm, [0.0018, 0.0035, 0.0067, 0.013, 0.025, 0.0483]),
    "jpeg": (_pillow("JPEG", optimize=True), [5, 10, 20, 30, 40, 50, 60, 70, 80, 90]),
    "webp": (_pillow("WEBP", method=6), [0, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90]),
    "avif": (_pillow("AVIF", speed=6), [10, 20, 30, 40, 50, 60, 70, 80, 90]),
}


def _quality(picture: Image.Image, decoded: Image.Image) -> tuple[float, float]:
    """(PSNR-RGB in dB, MS-SSIM in 0..1) of 8-bit pictures."""
    a, b = (torch.from_numpy(np.array(p)).permute(2, 0, 1)[None].double() for p in (picture, decoded))
    psnr = 10 * torch.log10(255**2 / (a - b).square().mean())
    return float(psnr), float(ms_ssim(a, b, data_range=255))


@app.command()
def measure(
    folder: Path,
    output: Annotated[Path, typer.Option("--output", "-o")],
    codec: Annotated[list[str] | None, typer.Option(help="Which codecs (default all).")] = None,
) -> None:
    """Code every picture at every rate; adds to the results file."""
    results = json.loads(output.read_text()) if output.exists() else {}
    paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in (".png", ".webp"))
    for name in codec or list(CODECS):
        code, rates = CODECS[name]
        curve: dict[str, Any] = {"setting": rates, "bpp": [], "psnr_rgb": [], "ms_ssim_rgb": []}
        for rate in rates:
            rows = []
            for path in paths:
                picture = Image.open(path).convert("RGB")
                size, decoded = code(picture, rate)
                rows.append((8 * size / (picture.width * picture.height), *_quality(picture, decoded)))
            for key, value in zip(("bpp", "psnr_rgb", "ms_ssim_rgb"), np.mean(rows, axis=0), strict=True):
                curve[key].append(round(float(value), 5))
            last = f"{curve['bpp'][-1]:.4f} bpp {curve['psnr_rgb'][-1]:.3f} dB"
            typer.echo(f"{name} {rate:g}: {last}", err=True)
        results[name] = curve | ({"model": load_codec().id.hex()} if name == "llicm" else {})
        output.write_text(json.dumps(results, indent=1) + "\n")


def bd_rate(anchor: dict[str, Any], test: dict[str, Any], key: str) -> str:
    """BD-rate of ``test`` against ``anchor`` in %, or why there is none."""
    scale = (lambda q: -10 * np.log10(1 - np.array(q))) if key == "ms_ssim_rgb" else np.array
    if not anchor.get(key):
        return "n/a"
    curves = []
    for curve in (anchor, test):
        order = np.argsort(curve["bpp"])
        curves += [np.array(curve["bpp"])[order], scale(np.array(curve[key])[order])]
        if np.any(np.diff(curves[-1]) <= 0):
            return "n/a (not monotone)"
    overlap = min(curves[1][-1], curves[3][-1]) - max(curves[1][0], curves[3][0])
    if overlap < 0.5 * (curves[3][-1] - curves[3][0]):
        return "n/a (little overlap)"
    value = bjontegaard.bd_rate(*curves, method="akima", min_overlap=0, require_matching_points=False)
    return f"{value:+.1f} %"


def _at(curve: dict[str, Any], bpp: float) -> float:
    """PSNR of a curve at a rate, interpolated over log bpp; NaN outside."""
    order = np.argsort(curve["bpp"])
    rates, psnrs = np.log(curve["bpp"])[order], np.array(curve["psnr_rgb"])[order]
    return float(np.interp(np.log(bpp), rates, psnrs, left=np.nan, right=np.nan))


@app.command()
def table(results: Path, published: Annotated[Path | None, typer.Option()] = None) -> None:
    """Print the curve of llicm and its BD-rates as Markdown."""
    curves = json.loads(results.read_text())
    ours = curves.pop("llicm")
    typer.echo("| lambda | bpp | PSNR-RGB (dB) | MS-SSIM |\n|---|---|---|---|")
    for row in zip(ours["setting"], ours["bpp"], ours["psnr_rgb"], ours["ms_ssim_rgb"], strict=True):
        typer.echo("| {:g} | {:.3f} | {:.2f} | {:.4f} |".format(*row))
    known = json.loads(published.read_text())["curves"] if published else {}
    others = known | curves
    shown = {name: others[name] for name in (*curves, "bpg444", "vtm") if name in others}
    typer.echo("\nPSNR-RGB (dB) at the same bpp\n")
    typer.echo(f"| bpp | llicm | {' | '.join(shown)} |\n|{'---|' * (len(shown) + 2)}")
    for bpp, psnr in zip(ours["bpp"], ours["psnr_rgb"], strict=True):
        cells = (f"{_at(curve, bpp):.2f}" for curve in shown.values())
        typer.echo(f"| {bpp:.3f} | {psnr:.2f} | {' | '.join(cells)} |")
    curves |= {f"{name} (published)": curve for name, curve in known.items()}
    typer.echo("\n| against | BD-rate, PSNR | BD-rate, MS-SSIM |\n|---|---|---|")
    for name, curve in curves.items():
        rates = [bd_rate(curve, ours, key) for key in ("psnr_rgb", "ms_ssim_rgb")]
        typer.echo(f"| {name} | {rates[0]} | {rates[1]} |")


if __name__ == "__main__":
    app()
