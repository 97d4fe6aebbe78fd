"""How fast the networks learn on a device: milliseconds a step, and where a GPU spends them.

    python benchmarks/steps.py PHOTOS --device cuda --batch 48 --workers 15

Steps of the codec on crops of 256x256, on a GPU compiled too; of the head on crops of 128x128; what so many
processes degrade in a second.
"""

from __future__ import annotations

import time
from pathlib import Path

import torch
import typer
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from llicm_cli.degrade import Dice
from llicm_cli.models.codec import Codec, CodecConfig
from llicm_cli.models.restorer import Restorer, RestorerConfig, source, tones
from llicm_cli.tasks import CLASSES
from llicm_cli.training.codec import (
    TrainedCodec,
    compile_codec,
    draw,
    rate_distortion,
    stratified_positions,
)
from llicm_cli.training.data import Crops, find_photos
from llicm_cli.training.degraded import HERE, DegradedCrops
from llicm_cli.training.loop import Budget, Loss, Options, Run
from llicm_cli.training.restorer import DECKS, restoration_loss, shown

STEPS, WARM_UP = 10, 3
LINES = 15  # of a profile


def measure(name: str, model: nn.Module, loss: Loss, options: Options, codec: Codec | None = None) -> None:
    """Print what a step of training takes, with this codec compiled."""
    on_gpu = options.device.type == "cuda"

    def steps(count: int) -> tuple[float, float]:
        """Seconds until they were told to the device, and until they were done."""
        start = time.perf_counter()
        for _ in range(count):
            run._one_step(0.5)
        told = time.perf_counter() - start
        if on_gpu:
            torch.cuda.synchronize()
        return told, time.perf_counter() - start

    model = model.to(options.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    run = Run(model, options, loss, lambda model: {})
    if codec:
        compile_codec(codec)
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    _, first = steps(WARM_UP)
    told, done = (1000 * seconds / STEPS for seconds in steps(STEPS))
    typer.echo(f"{name}: {done:.1f} ms a step, told in {told:.1f}, the first {WARM_UP} in {first:.1f} s")
    if on_gpu:
        with profile(activities=[ProfilerActivity.CUDA]) as seen:
            steps(1)
        rows = sorted(seen.key_averages(), key=lambda row: -row.self_device_time_total)
        busy = sum(row.self_device_time_total for row in rows) / 1000
        typer.echo(f"  busy {busy:.1f} ms, memory {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB")
        for row in rows[:LINES]:
            typer.echo(f"  {row.self_device_time_total / 1000:8.2f} ms {row.count:5d}  {row.key[:90]}")


def main(photos: Path, device: str = "cpu", batch: int = 9, workers: int = 2) -> None:
    """See the module; BATCH counts crops of 256x256."""
    place, paths = torch.device(device), find_photos([photos])
    crops = Crops(paths, place, 256, 0)
    options = Options(
        budget=Budget(steps=100), device=place, checkpoint=Path("unused.pt"), resume=False, seed=0,
        batch=batch, muon_rate=0.003, adam_rate=0.0006, ema_decay=0.998, save_every=60, workers=workers,
        report=typer.echo, tick=lambda done, words: None,
    )  # fmt: skip

    def codec_loss(model: nn.Module, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        x, t = draw(crops, batch, 256), stratified_positions(batch, place)
        return rate_distortion(model, x, t, "noisy")[0], {}

    def head_loss(model: nn.Module, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        clean = crops.batch(4 * batch, 128)
        x = (clean + 0.1 * torch.randn_like(clean)).clamp(0, 1)
        task, nothing = torch.arange(len(x), device=place) % len(CLASSES), torch.zeros(len(x), device=place)
        told = task, source(False, False, nothing), tones(x)
        with torch.autocast(place.type, torch.bfloat16):
            restored = model(x, *told)
        return restoration_loss(restored, clean)[0].mean(), {}

    measure("codec", TrainedCodec(CodecConfig()), codec_loss, options)
    if place.type == "cuda":
        coder = TrainedCodec(CodecConfig())
        measure("codec, compiled", coder, codec_loss, options, coder.codec)
    measure("head", Restorer(RestorerConfig()), head_loss, options)

    degraded = DegradedCrops(Crops(paths, HERE, 256, 0), Dice(0), decks=list(DECKS.values()), render=shown)
    made = degraded.batches(16, 128, 2, workers, seed=0)
    for _ in range(4 * workers):
        next(made)  # so many are made ahead
    count, start = 8 * workers, time.perf_counter()
    for _ in range(count):
        next(made)
    speed = 16 * count / (time.perf_counter() - start)
    typer.echo(f"{workers} processes degrade {speed:.0f} crops of 128x128 a second")


if __name__ == "__main__":
    typer.run(main)
