"""Rate-perception: bits of the degraded picture's stream against PSNR of the restored picture.

    python benchmarks/perception.py measure ROOT -o results.json --curve NAME --objective rpo [--head FILE]
    python benchmarks/perception.py table results.json ... --anchor apart --test joint

A curve is a codec objective and a head; ``apart`` is objective rdo with a head trained without the codec
(its weights file is ``--head``), ``joint`` is objective rpo with the head that was trained with it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import sets
import typer
from rd import bd_rate

from llicm_cli import pipeline
from llicm_cli.models.weights import load_codec, load_restorer

app = typer.Typer(pretty_exceptions_enable=False)
SETS = ("cbsd68:denoise25", "rain100l", "sots_indoor", "lowlight_sice")
LAMBDAS = (0.001, 0.0025, 0.0063, 0.016, 0.04, 0.1)


@app.command()
def measure(
    root: Path,
    output: Annotated[Path, typer.Option("--output", "-o")],
    curve: Annotated[str, typer.Option(help="Name of the curve in the results.")],
    objective: Annotated[str, typer.Option()] = "rpo",
    head: Annotated[Path | None, typer.Option(help="Weights of the head, if not the shipped ones.")] = None,
    only: Annotated[list[str] | None, typer.Option("--set", help="Which sets (default all).")] = None,
    every: Annotated[int, typer.Option(min=1, help="Take every n-th picture.")] = 1,
) -> None:
    """Code every picture at every rate and restore it; adds to the results file."""
    results = json.loads(output.read_text()) if output.exists() else {}
    if head:
        chosen = load_restorer(head)
        pipeline.load_restorer = lambda: chosen  # type: ignore[assignment]
    for name in only or SETS:
        points = []
        for lmbda in LAMBDAS:
            rows = []
            for i, (wrong, right) in enumerate(sets.pairs(root, name)):
                if i % every:
                    continue
                data = pipeline.encode(wrong, lmbda, objective)
                plain = sets.psnr(pipeline.decode(data), right)
                restored = sets.psnr(pipeline.decode(data, sets.task_of(name)), right)
                rows.append((8 * len(data) / (wrong.width * wrong.height), restored, plain))
            points.append([round(float(v), 4) for v in np.mean(rows, axis=0)])
            typer.echo(f"{curve} {name} {lmbda:g}: {points[-1]}", err=True)
        bpp, restored, plain = zip(*points, strict=True)
        entry = {
            "lambda": LAMBDAS,
            "bpp": bpp,
            "psnr_rgb": restored,
            "psnr_plain": plain,
            "pictures": len(rows),
        }
        results.setdefault(name, {})[curve] = entry | {"model": load_codec().id.hex()}
        output.write_text(json.dumps(results, indent=1) + "\n")


@app.command()
def table(
    results: list[Path],
    anchor: Annotated[str, typer.Option()] = "apart",
    test: Annotated[str, typer.Option()] = "joint",
) -> None:
    """Print the curves and their BD-rates as Markdown; several files are merged."""
    merged: dict[str, dict[str, Any]] = {}
    for path in results:
        for name, curves in json.loads(path.read_text()).items():
            merged.setdefault(name, {}).update(curves)
    typer.echo(f"| set | {anchor}: bpp / dB | {test}: bpp / dB | BD-rate |\n|---|---|---|---|")
    for name, curves in merged.items():
        cells = [
            " ".join(f"{b:.3f}/{p:.2f}" for b, p in zip(c["bpp"], c["psnr_rgb"], strict=True))
            for c in (curves[anchor], curves[test])
        ]
        rate = bd_rate(curves[anchor], curves[test], "psnr_rgb")
        typer.echo(f"| {name} | {' | '.join(cells)} | {rate} |")


if __name__ == "__main__":
    app()
