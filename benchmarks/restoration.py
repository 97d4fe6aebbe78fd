"""Restoration without compression: PSNR and SSIM, input and output; whether the guide matters; and whether
what the head changes is of the right size.

    python benchmarks/restoration.py measure ROOT -o results.json [--set rain100l ...]
    python benchmarks/restoration.py guide ROOT -o guide.json
    python benchmarks/restoration.py calibration ROOT [--set cc15_realnoise ...]
    python benchmarks/restoration.py table results.json guide.json

ROOT holds the test sets as folders, see ``SETS``; synthetic ones are made of clean pictures, seeds from 0.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice, pairwise
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from PIL import Image
from scipy.ndimage import uniform_filter

from llicm_cli import pipeline
from llicm_cli.bench.metrics import psnr, ssim
from llicm_cli.bench.sets import PictureSet, find_pictures
from llicm_cli.image_io import open_rgb
from llicm_cli.models.restorer import source
from llicm_cli.models.weights import load_codec, load_guide, load_restorer
from llicm_cli.pipeline import to_image, to_pixels
from llicm_cli.tasks import CLASSES, CLEAN, TASKS

app = typer.Typer(pretty_exceptions_enable=False)
PASSES = {"task": 1, "2 passes": 2, "4 passes": 4}  # of the head, with the task named
NOWHERE = source(False, False, torch.zeros(1))


# Name: (folder, task, sigma of Gaussian noise); folders without pairs hold clean pictures.
SETS: dict[str, tuple[str, str, float | None]] = {
    "cbsd68, sigma 25": ("cbsd68", "denoise", 25.0),
    "cbsd68 in grey, sigma 25": ("cbsd68", "denoise", 25.0),
    "rain100l": ("rain100l", "derain", None),
    "rain100l in grey": ("rain100l", "derain", None),
    "rain100h": ("rain100h", "derain", None),
    "sots_indoor": ("sots_indoor", "dehaze", None),
    "lowlight_sice": ("lowlight_sice", "lowlight", None),
    "gopro_avg18": ("gopro_avg18", "deblur", None),
    "cc15_realnoise": ("cc15_realnoise", "denoise", None),
    "cbsd68, JPEG": ("cbsd68", "dejpeg", None),
    "cbsd68, raindrops": ("cbsd68", "deraindrop", None),
    "cbsd68, shadow": ("cbsd68", "deshadow", None),
    "cbsd68, snow": ("cbsd68", "desnow", None),
    "cbsd68, holes": ("cbsd68", "inpaint", None),
    "kodak, clean": ("kodak", CLEAN, None),
    "kodak in grey, clean": ("kodak", CLEAN, None),
}


def _pairs(root: Path, name: str) -> Iterator[tuple[Image.Image, Image.Image]]:
    """(input, truth) of every picture of a set; in grey, of mode L and of three equal channels."""
    folder, task, sigma = SETS[name]
    pictures = PictureSet(root / folder, task, sigma)
    for i, (wrong, right) in enumerate(map(pictures.pair, pictures.paths)):
        if "in grey" in name:
            grey = right.convert("L")
            wrong, right = wrong.convert("L"), grey.convert("RGB")
            if sigma is not None:  # as strong as in colour
                noise = np.random.default_rng(i).normal(0, sigma, (grey.height, grey.width))
                wrong = Image.fromarray(np.clip(np.rint(np.asarray(grey) + noise), 0, 255).astype(np.uint8))
        yield wrong, right


@app.command()
def measure(
    root: Path,
    output: Annotated[Path, typer.Option("--output", "-o")],
    only: Annotated[list[str] | None, typer.Option("--set", help="Which sets (default all).")] = None,
) -> None:
    """Restore every picture of every set with its task, in one pass and more, and with auto; adds to the
    results file."""
    weights = {"guide": load_guide().id, "head": load_restorer().id}
    results: dict[str, Any] = (
        json.loads(output.read_text()) if output.exists() else {"weights": weights, "sets": {}}
    )
    if results["weights"] != weights:
        raise typer.BadParameter(f"{output} holds results of other weights; name another file")
    for name in only or SETS:
        task = SETS[name][1]
        rows = []
        for wrong, right in _pairs(root, name):
            shown = {"input": wrong, "auto": pipeline.enhance(wrong, "auto")}
            for key, passes in PASSES.items():
                shown[key] = wrong if task == CLEAN else pipeline.enhance(wrong, task, passes=passes)
            seen = {key: picture.convert("RGB") for key, picture in shown.items()}
            rows.append({key: (psnr(picture, right), ssim(picture, right)) for key, picture in seen.items()})
        means = {
            key: np.array([row[key] for row in rows], float).mean(0).round(4).tolist() for key in rows[0]
        }
        summary: dict[str, Any] = {
            "task": task, "pictures": len(rows),
            "psnr": {key: mean[0] for key, mean in means.items()},
            "ssim": {key: mean[1] for key, mean in means.items()},
            "lowest psnr of auto": round(min(row["auto"][0] for row in rows), 4),
        }  # fmt: skip
        results["sets"][name] = summary
        typer.echo(f"{name}: {summary['psnr']}", err=True)
        output.write_text(json.dumps(results, indent=1) + "\n")


@torch.inference_mode()
def _restored(picture: Image.Image, named: str) -> Image.Image:
    """As by ``enhance``, of any class: clean is no task there."""
    return to_image(pipeline._restore(to_pixels(picture), (named,), 1.0, 1, NOWHERE)[0])


@app.command()
def guide(
    root: Path,
    output: Annotated[Path, typer.Option("--output", "-o")],
    photos: Annotated[
        Path | None, typer.Option(help="Clean photographs for the classifier's accuracy.")
    ] = None,
    low: Annotated[float, typer.Option(help="Lambda of the compressed pictures.")] = 0.0018,
    every: Annotated[int, typer.Option(min=1, help="Take every n-th picture.")] = 1,
) -> None:
    """PSNR with the right task, the guide's likeliest class and a wrong task; and how often
    the guide names the right degradation of synthetic pictures, before and after compression."""
    weights = {"codec": load_codec().id.hex(), "guide": load_guide().id, "head": load_restorer().id}
    results: dict[str, Any] = {"weights": weights, "psnr": {}, "accuracy": {}}
    for name in SETS:
        task = SETS[name][1]
        if task == CLEAN:
            continue
        right_one = TASKS.index(task)
        rows = []
        for i, (wrong, right) in enumerate(_pairs(root, name)):
            if i % every:
                continue
            named = pipeline.likeliest(pipeline.inspect(wrong))
            other = TASKS[(right_one + 1 + i % (len(TASKS) - 1)) % len(TASKS)]
            told = {"right task": task, "likeliest class": named, "wrong task": other}
            rows.append([psnr(_restored(wrong, what), right) for what in told.values()])
        means = [round(float(v), 3) for v in np.mean(rows, axis=0)]
        results["psnr"][name] = dict(zip(told, means, strict=True))
        typer.echo(f"{name}: {results['psnr'][name]}", err=True)
        output.write_text(json.dumps(results, indent=1) + "\n")
    hits: dict[str, list[tuple[int, bool]]] = {"pictures": [], "decoded": []}
    for i, path in enumerate(find_pictures(photos or root / "kodak")[::every]):
        clean = open_rgb(path)
        for label, name in enumerate(CLASSES):
            picture = clean if name == CLEAN else pipeline.degrade(clean, name, seed=1000 + i)
            decoded = pipeline.decode(pipeline.encode(picture, low))
            for kind, shown in (("pictures", picture), ("decoded", decoded)):
                hits[kind].append((label, pipeline.likeliest(pipeline.inspect(shown)) == name))
    for kind, found in hits.items():
        results["accuracy"][kind] = {
            "mean": round(float(np.mean([hit for _, hit in found])), 4),
            **{c: round(float(np.mean([h for k, h in found if k == i])), 4) for i, c in enumerate(CLASSES)},
        }
    output.write_text(json.dumps(results, indent=1) + "\n")


def _bands(picture: np.ndarray) -> list[np.ndarray]:
    """(height, width, 3) -> four parts that add up to it: differences of means over 1, 3, 9 and 27 pixels a
    side, fine to coarse, and the last mean."""
    means = [picture, *(uniform_filter(picture, (size, size, 0)) for size in (3, 9, 27))]
    return [fine - coarse for fine, coarse in pairwise(means)] + means[-1:]


def _factor(wanted: np.ndarray, change: np.ndarray) -> float:
    """What times the change is nearest to the wanted one (least squares); NaN if nothing is changed."""
    energy = float(np.square(change).mean())
    return float((wanted * change).mean()) / energy if energy else float("nan")


@app.command()
def calibration(
    root: Path,
    only: Annotated[list[str] | None, typer.Option("--set", help="Which sets (default all).")] = None,
    every: Annotated[int, typer.Option(min=1, help="Take every n-th picture.")] = 1,
) -> None:
    """Print the factor that the head's change lacks, with the task named, as a whole and in four parts from
    fine to coarse; and the mean of output - truth in levels. 1 and 0 are right."""
    typer.echo("| set | pictures | factor | lowest, highest | by parts, fine to coarse | output - truth |")
    typer.echo("|" + "---|" * 6)
    for name in only or [name for name, (_, task, _) in SETS.items() if task != CLEAN]:
        rows = []
        for wrong, right in islice(_pairs(root, name), 0, None, every):
            restored = pipeline.enhance(wrong, SETS[name][1])
            shown, truth, output = (
                np.asarray(picture.convert("RGB"), float) for picture in (wrong, right, restored)
            )
            wanted, change = truth - shown, output - shown
            parts = map(_factor, _bands(wanted), _bands(change))
            rows.append([_factor(wanted, change), (output - truth).mean(), *parts])
        factor, bias, *parts = np.nanmean(rows, axis=0)
        low, high = np.nanquantile(rows, (0, 1), axis=0)[:, 0]
        by_parts = ", ".join(f"{part:.2f}" for part in parts)
        typer.echo(
            f"| {name} | {len(rows)} | {factor:.2f} | {low:.2f}, {high:.2f} | {by_parts} | {bias:+.1f} |"
        )


@app.command()
def table(results: Path, ablation: Path) -> None:
    """Print Markdown tables."""
    measured, guided = json.loads(results.read_text()), json.loads(ablation.read_text())
    shown = "input", "task", *list(PASSES)[1:], "auto"
    heads = " | ".join(f"{metric} {shown[0]} | {' | '.join(shown[1:])}" for metric in ("PSNR", "SSIM"))
    typer.echo(f"| set | pictures | task | {heads} |\n|" + "---|" * (3 + 2 * len(shown)))
    for name, row in measured["sets"].items():
        cells = [f"{row['psnr'][key]:.2f}" for key in shown] + [f"{row['ssim'][key]:.3f}" for key in shown]
        typer.echo(f"| {name} | {row['pictures']} | {row['task']} | {' | '.join(cells)} |")
    keys = list(next(iter(guided["psnr"].values())))
    typer.echo(f"\n| PSNR (dB) | {' | '.join(keys)} |\n|" + "---|" * (len(keys) + 1))
    for name, row in guided["psnr"].items():
        typer.echo(f"| {name} | {' | '.join(f'{row[k]:.2f}' for k in keys)} |")
    typer.echo(f"\n| accuracy (%) | mean | {' | '.join(CLASSES)} |\n|" + "---|" * (len(CLASSES) + 2))
    for kind, row in guided["accuracy"].items():
        typer.echo(f"| {kind} | {' | '.join(f'{100 * row[k]:.0f}' for k in ('mean', *CLASSES))} |")


if __name__ == "__main__":
    app()
