"""``llicm train``: the stages that make the weights."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from llicm_cli.cli import console
from llicm_cli.errors import UsageError
from llicm_cli.image_io import check_output

app = typer.Typer(no_args_is_help=True, help="Train the networks, one stage at a time.")


@app.command()
def codec(
    data: Annotated[list[Path], typer.Argument(help="Folders of clean photographs, searched recursively.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Weights file to write at the end.")],
    steps: Annotated[int | None, typer.Option(min=1, help="Stop after so many steps.")] = None,
    minutes: Annotated[float | None, typer.Option(min=0.01, help="Stop after so many minutes.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    checkpoint: Annotated[Path, typer.Option(help="State of the run.")] = Path("runs/codec.pt"),
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint.")] = False,
    save_every: Annotated[float, typer.Option(help="Minutes between checkpoints.")] = 5,
    batch: Annotated[int, typer.Option(min=1, help="Crops of 192x192 a step.")] = 16,
    muon_rate: Annotated[float, typer.Option(help="Learning rate of dense kernels (Muon).")] = 0.007,
    adam_rate: Annotated[float, typer.Option(help="Learning rate of all else (AdamW).")] = 1e-3,
    ema_decay: Annotated[float, typer.Option(min=0, max=1, help="Decay of the averaged weights.")] = 0.998,
    seed: Annotated[int, typer.Option(help="Seed of weights, crops and rates.")] = 0,
    start_from: Annotated[Path | None, typer.Option(help="Weights file to go on from.")] = None,
) -> None:
    """Rate-distortion training of the codec on clean photographs.

    Give --steps or --minutes. The learning rate falls to zero over that budget.
    """
    import torch

    from llicm_cli.models.codec import CodecConfig
    from llicm_cli.training import card
    from llicm_cli.training.codec import save, train_codec
    from llicm_cli.training.data import find_photos, split
    from llicm_cli.training.loop import Budget, Options

    if checkpoint.exists() and not resume:
        raise UsageError(f"{checkpoint} exists: --resume goes on from it, or remove it to start anew")
    output.parent.mkdir(parents=True, exist_ok=True)
    check_output(output, overwrite=True)
    train, validation = split(find_photos(data))
    try:
        place = torch.device(device)
    except RuntimeError as error:
        raise UsageError(f"no such device: {device}") from error
    with console.progress("train codec") as tick:
        options = Options(
            budget=Budget(steps, minutes), device=place, checkpoint=checkpoint,
            resume=resume, seed=seed, batch=batch, muon_rate=muon_rate, adam_rate=adam_rate,
            ema_decay=ema_decay, save_every=save_every, report=console.say, tick=tick,
        )  # fmt: skip
        model, run = train_codec(CodecConfig(), train, validation, options, start_from)
    sha256 = save(output, model)
    facts = {
        "stage": "codec",
        "configuration": asdict(model.codec.config),
        "parameters": sum(p.numel() for p in model.codec.parameters()),
        "command": card.command_line(),
        "data": [folder.name for folder in data],
        "training_photos": len(train),
        "validation_photos": len(validation),
        "steps": run.step,
        "minutes": round(run.seconds / 60, 1),
        "device": device,
        "batch": batch,
        "muon_rate": muon_rate,
        "adam_rate": adam_rate,
        "ema_decay": ema_decay,
        "seed": seed,
        "started_from": card.read(start_from) if start_from else None,
        "loss": "(bpp + lambda 255^2 MSE) / sqrt(lambda 255^2), lambda log-uniform",
        "validation": {name: round(value, 4) for name, value in run.metrics.items()},
    }
    card.write(output, sha256, facts)
    console.say(f"wrote {output} (model {sha256[:8]})")
