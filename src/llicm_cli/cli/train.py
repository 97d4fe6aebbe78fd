"""``llicm train``: the stages that make the weights."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llicm_cli.cli import console
from llicm_cli.errors import UsageError, about
from llicm_cli.storage import check_output, make_folder
from llicm_cli.training import card

if TYPE_CHECKING:
    import torch

    from llicm_cli.training.loop import Options, Run

app = typer.Typer(no_args_is_help=True, help="Train the networks, one stage at a time.")

Data = Annotated[list[Path], typer.Argument(help="Folders of clean photographs, searched recursively.")]
Output = Annotated[Path, typer.Option("--output", "-o", help="Weights file to write at the end.")]
Steps = Annotated[int | None, typer.Option(min=1, help="Stop after so many steps.")]
Minutes = Annotated[float | None, typer.Option(min=0.01, help="Stop after so many minutes.")]
Device = Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")]
Checkpoint = Annotated[Path, typer.Option(help="State of the run.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint.")]
SaveEvery = Annotated[float, typer.Option(min=0, help="Minutes between checkpoints.")]
Batch = Annotated[
    int,
    typer.Option(min=1, help="Crops a step, of 192 pixels a side (128 for the restorer); as many pixels of "
                 "other sizes."),
]  # fmt: skip
MuonRate = Annotated[float, typer.Option(min=0, help="Learning rate of dense kernels (Muon).")]
AdamRate = Annotated[float, typer.Option(min=0, help="Learning rate of all else (AdamW).")]
EmaDecay = Annotated[float, typer.Option(min=0, max=1, help="Decay of the averaged weights.")]
Workers = Annotated[
    int, typer.Option(min=0, help="Processes that degrade pictures; on a GPU, as many as there are cores.")
]
Seed = Annotated[int, typer.Option(min=0, max=2**32, help="Seed of weights, crops, rates and degradations.")]
RealPairs = Annotated[
    list[str] | None,
    typer.Option("--pairs", metavar="TASK=FOLDER", help="Real pairs for a task: FOLDER/input, FOLDER/gt."),
]
StartFrom = Annotated[Path | None, typer.Option(help="Weights file to go on from.")]
CodecFile = Annotated[
    Path | None, typer.Option("--codec", help="Weights of the codec, if not the installed ones.")
]
GuideFile = Annotated[
    Path | None, typer.Option("--guide", help="Weights of the guide, if not the installed ones.")
]


@contextmanager
def _options(
    stage: str, output: Path, steps: int | None, minutes: float | None, device: str, checkpoint: Path,
    resume: bool, save_every: float, batch: int, muon_rate: float, adam_rate: float, ema_decay: float,
    seed: int, workers: int = 0,
) -> Iterator[Options]:  # fmt: skip
    """Check what every stage takes, and give it a progress bar."""
    import torch

    from llicm_cli.training.loop import Budget, Options

    budget = Budget(steps, minutes)
    card_file = output.parent / f"{output.stem}.json"  # ``with_suffix`` fails where the output is a folder
    if len({os.path.realpath(path) for path in (output, card_file, checkpoint)}) < 3:
        words = f"weights, model card ({card_file}) and checkpoint ({checkpoint}) need names of their own"
        raise UsageError(f"{output}: {words}; name the weights .safetensors")
    if checkpoint.exists() and not resume:
        raise UsageError(f"{checkpoint} exists: --resume goes on from it, or remove it to start anew")
    try:
        place = torch.zeros(1, device=device).device
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"no such device here: {device}") from error
    for path in (output, card_file, checkpoint):
        make_folder(path.parent)
        with about(path):
            check_output(path, overwrite=True)
    with console.progress(f"train {stage}") as tick:
        yield Options(
            budget=budget, device=place, checkpoint=checkpoint,
            resume=resume, seed=seed, batch=batch, muon_rate=muon_rate, adam_rate=adam_rate,
            ema_decay=ema_decay, save_every=save_every, workers=workers, report=console.say, tick=tick,
        )  # fmt: skip


def _write_card(
    stage: str, output: Path, weights: bytes, options: Options, run: Run, data: list[Path],
    photos: tuple[list[Path], list[Path]], config: Any, network: torch.nn.Module,
    start_from: Path | None, loss: str, **more: Any,
) -> None:  # fmt: skip
    facts = {
        "stage": stage,
        "configuration": asdict(config),
        "parameters": sum(p.numel() for p in network.parameters()),
        "command": card.command_line(),
        "data": [folder.name for folder in data],
        "training_photos": len(photos[0]),
        "validation_photos": len(photos[1]),
        "steps": run.step,
        "minutes": round(run.seconds / 60, 1),
        "device": str(options.device),
        "batch": options.batch,
        "muon_rate": options.muon_rate,
        "adam_rate": options.adam_rate,
        "ema_decay": options.ema_decay,
        "seed": options.seed,
        "loss": loss,
        "validation": {name: round(value, 4) for name, value in run.metrics.items()},
        **more,
    }
    with about(output):
        sha256 = card.write(output, weights, facts, start_from)
    console.say(f"wrote {output} (model {sha256[:8]})")


@app.command()
def codec(
    data: Data,
    output: Output,
    steps: Steps = None,
    minutes: Minutes = None,
    device: Device = "cpu",
    checkpoint: Checkpoint = Path("runs/codec.pt"),
    resume: Resume = False,
    save_every: SaveEvery = 5,
    batch: Batch = 16,
    muon_rate: MuonRate = 0.007,
    adam_rate: AdamRate = 1e-3,
    ema_decay: EmaDecay = 0.998,
    seed: Seed = 0,
    start_from: StartFrom = None,
    decoder_only: Annotated[
        bool,
        typer.Option("--decoder-only", help="Train the synthesis alone, on the symbols that the encoder "
                     "really sends: the last run, from a trained codec."),
    ] = False,
) -> None:  # fmt: skip
    """Rate-distortion training of the codec on clean photographs.

    Give --steps or --minutes. The learning rate falls to zero over that budget.
    """
    if decoder_only and start_from is None:
        raise UsageError("--decoder-only goes on --start-from a trained codec")
    with _options("codec", output, steps, minutes, device, checkpoint, resume, save_every, batch, muon_rate,
                  adam_rate, ema_decay, seed) as options:  # fmt: skip
        from llicm_cli.models.codec import CodecConfig
        from llicm_cli.training.codec import train_codec, weights_file
        from llicm_cli.training.data import find_photos, split

        photos = split(find_photos(data))
        model, tables, run = train_codec(CodecConfig(), *photos, options, start_from, decoder_only)
    network = model.codec
    _write_card(
        "codec", output, weights_file(model, tables), options, run, data, photos, network.config, network,
        start_from,
        "(bpp + lambda 255^2 D) / sqrt(lambda 255^2), lambda log-uniform; D: see models/distortion.py",
    )  # fmt: skip


@app.command()
def guide(
    data: Data,
    output: Output,
    backbone: Annotated[
        str | None,
        typer.Option(help="An open_clip model name, or local-dir:FOLDER; the compact one otherwise."),
    ] = None,
    pretrained: Annotated[
        str | None, typer.Option(help="open_clip's tag of pretrained weights, or a local file.")
    ] = None,
    pairs: RealPairs = None,
    steps: Steps = None,
    minutes: Minutes = None,
    device: Device = "cpu",
    checkpoint: Checkpoint = Path("runs/guide.pt"),
    resume: Resume = False,
    save_every: SaveEvery = 5,
    batch: Batch = 22,
    muon_rate: MuonRate = 0.005,
    adam_rate: AdamRate = 1e-3,
    ema_decay: EmaDecay = 0.995,
    seed: Seed = 0,
    start_from: Annotated[
        Path | None,
        typer.Option(help="Guide to go on from: its controller learns on, its towers stay."),
    ] = None,
    codec: CodecFile = None,
) -> None:
    """Training of the guide: what a picture shows, and what is wrong with it.

    With --backbone, its pretrained image and text towers stay as they are and only the controller is
    trained. Every head works with every guide.
    """
    if (pretrained and not backbone) or (start_from and backbone):
        raise UsageError("--pretrained goes with --backbone, and --start-from with neither")
    with _options("guide", output, steps, minutes, device, checkpoint, resume, save_every, batch, muon_rate,
                  adam_rate, ema_decay, seed) as options:  # fmt: skip
        from llicm_cli.models.guide import compact_guide, guide_on
        from llicm_cli.models.weights import load_codec, load_guide, network_file
        from llicm_cli.training.data import find_photos, split
        from llicm_cli.training.degraded import parse_pairs
        from llicm_cli.training.guide import CROPS, train_guide

        photos = split(find_photos(data))
        real = parse_pairs(pairs or [], max(CROPS))
        if start_from:
            model = copy.deepcopy(load_guide(start_from))
            known = card.read(start_from)
            backbone, pretrained = known.get("backbone"), known.get("pretrained")
        else:
            model = guide_on(backbone, pretrained) if backbone else compact_guide(seed)
        towers = not (start_from or backbone)
        model, runs = train_guide(model, towers, load_codec(codec).codec, *photos, real, options)
    _write_card(
        "guide", output, network_file("guide.", model, model.config), options, runs[-1], data, photos,
        model.config, model, start_from, "cross-entropy against texts + contrast and distance of content",
        backbone=card.short(backbone or "compact"), pretrained=pretrained and card.short(pretrained),
        pairs=[card.short(p) for p in pairs or []],
        parts=[{"steps": r.step, "minutes": round(r.seconds / 60, 1)} for r in runs],
    )  # fmt: skip


@app.command()
def restorer(
    data: Data,
    output: Output,
    pairs: RealPairs = None,
    steps: Steps = None,
    minutes: Minutes = None,
    device: Device = "cpu",
    checkpoint: Checkpoint = Path("runs/restorer.pt"),
    resume: Resume = False,
    save_every: SaveEvery = 5,
    batch: Batch = 12,
    muon_rate: MuonRate = 0.005,
    adam_rate: AdamRate = 1e-3,
    ema_decay: EmaDecay = 0.998,
    seed: Seed = 0,
    workers: Workers = 0,
    start_from: StartFrom = None,
    mean_with: Annotated[
        list[Path] | None, typer.Option(help="Go on from the mean of --start-from and this head; repeatable.")
    ] = None,
    specialist: Annotated[
        list[str] | None, typer.Option(help="Train only this finest level of the head; repeatable.")
    ] = None,
    codec: CodecFile = None,
    guide: GuideFile = None,
) -> None:
    """Training of the restoration head on degraded photographs, half of them decoded from streams.

    Codec and guide stay as they are.
    """
    if mean_with and not start_from:
        raise UsageError("--mean-with goes with --start-from")
    with _options("restorer", output, steps, minutes, device, checkpoint, resume, save_every, batch,
                  muon_rate, adam_rate, ema_decay, seed, workers) as options:  # fmt: skip
        import torch

        from llicm_cli.models.restorer import SPECIALISTS, Restorer, RestorerConfig
        from llicm_cli.models.weights import load_codec, load_guide, load_restorer, network_file
        from llicm_cli.training.data import find_photos, split
        from llicm_cli.training.degraded import parse_pairs
        from llicm_cli.training.loop import meet, take_over
        from llicm_cli.training.restorer import CROPS, train_restorer

        chosen = list(dict.fromkeys(specialist or []))
        if not SPECIALISTS.keys() >= set(chosen):
            raise UsageError(f"--specialist is one of {', '.join(SPECIALISTS)}")
        photos = split(find_photos(data))
        real = parse_pairs(pairs or [], CROPS[-1][1])
        eyes = load_guide(guide)
        torch.manual_seed(seed)
        model = Restorer(RestorerConfig(embedding=eyes.width))
        if start_from:
            take_over(model, load_restorer(start_from))
        if mean_with:
            meet(model, [load_restorer(path) for path in mean_with])
        frozen = eyes, load_codec(codec).codec
        model, run = train_restorer(model, *frozen, *photos, real, options, chosen)
    _write_card(
        "restorer", output, network_file("restorer.", model, model.config), options, run, data,
        photos, model.config, model, start_from, "rms error and its grid, weighed by class",
        guide=eyes.id, pairs=[card.short(p) for p in pairs or []], specialists=chosen,
        **({"mean_with": [card.brief(path) for path in mean_with]} if mean_with else {}),
    )  # fmt: skip


@app.command()
def joint(
    data: Data,
    output: Output,
    pairs: RealPairs = None,
    alpha: Annotated[float, typer.Option(min=0, help="Weight of the plain decoded picture's error.")] = 0.3,
    beta: Annotated[float, typer.Option(min=0, help="Weight of the rate.")] = 1.0,
    gamma: Annotated[float, typer.Option(min=0, help="Weight of the restored picture's error.")] = 0.7,
    perceptual: Annotated[
        Path | None,
        typer.Option(help="SqueezeNet 1.1 features (safetensors): trains on a perceptual distance too."),
    ] = None,
    delta: Annotated[
        float | None,
        typer.Option(min=0, show_default="0.02", help="Weight of that distance of the restored picture."),
    ] = None,
    steps: Steps = None,
    minutes: Minutes = None,
    device: Device = "cpu",
    checkpoint: Checkpoint = Path("runs/joint.pt"),
    resume: Resume = False,
    save_every: SaveEvery = 5,
    batch: Annotated[int, typer.Option(min=1, help="Crops of 128x128 a step.")] = 14,
    muon_rate: MuonRate = 0.003,
    adam_rate: AdamRate = 5e-4,
    ema_decay: EmaDecay = 0.998,
    seed: Seed = 0,
    workers: Workers = 0,
    codec: CodecFile = None,
    restorer: Annotated[
        Path | None, typer.Option("--restorer", help="Weights of the head, if not the shipped ones.")
    ] = None,
) -> None:
    """Rate-perception training: the codec, through the head behind it.

    What serves streams of objective rpo is trained on alpha * D + beta * R + gamma * E; the rest of the
    codec and the head stay as they are.
    """
    if delta is not None and perceptual is None:
        raise UsageError("--delta goes with --perceptual")
    with _options("joint", output, steps, minutes, device, checkpoint, resume, save_every, batch,
                  muon_rate, adam_rate, ema_decay, seed, workers) as options:  # fmt: skip
        from llicm_cli.models.perceptual import SqueezeNetDistance
        from llicm_cli.models.weights import folder, load_codec, load_restorer
        from llicm_cli.training.codec import load_trained, weights_file
        from llicm_cli.training.data import find_photos, split
        from llicm_cli.training.degraded import parse_pairs
        from llicm_cli.training.joint import CROP, DELTA, Weights, train_joint

        codec = codec or folder() / "codec.safetensors"
        photos = split(find_photos(data))
        real = parse_pairs(pairs or [], CROP)
        distance = SqueezeNetDistance(perceptual) if perceptual else None
        weights = Weights(alpha, beta, gamma, (DELTA if delta is None else delta) if distance else 0.0)
        head = load_restorer(restorer)
        tables = load_codec(codec).tables  # streams of objective rdo stay as they are
        model, run = train_joint(load_trained(codec), head, *photos, real, weights, options, distance)
    _write_card(
        "joint", output, weights_file(model, tables), options, run, data, photos, model.codec.config,
        model.codec, codec, "alpha D + beta R + gamma E, see training/joint.py",
        restorer=head.id, pairs=[card.short(p) for p in pairs or []],
        alpha=alpha, beta=beta, gamma=gamma, delta=weights.delta,
    )  # fmt: skip
