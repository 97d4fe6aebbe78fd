"""How fast the networks learn on a device: milliseconds a step, and where a GPU spends them.

    python benchmarks/steps.py PHOTOS --device cuda --batch 48 --workers 15

Steps of the codec on crops of 256x256, as they are and compiled; of the head on crops of 128x128; what so
many processes degrade in a second.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch
import typer
from torch import Tensor, nn

from llicm_cli.degrade import Dice
from llicm_cli.models.codec import Codec, CodecConfig
from llicm_cli.models.distortion import distortion
from llicm_cli.models.restorer import Restorer, RestorerConfig, source, tones
from llicm_cli.training.codec import TrainedCodec, stratified_positions
from llicm_cli.training.data import Crops, find_photos
from llicm_cli.training.degraded import DegradedCrops
from llicm_cli.training.loop import Budget, Loss, Options, Run
from llicm_cli.training.restorer import DECK, restoration_loss, shown

STEPS, WARM_UP = 10, 3
LINES = 15  # of a profile


def measure(name: str, model: nn.Module, loss: Loss, options: Options, ready: Callable[[], None]) -> None:
    """Print what a step of training takes; ``ready`` is called once the average is made."""
    device = options.device

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    run = Run(model, options, loss, lambda model: {})
    ready()
    start = time.monotonic()
    for _ in range(WARM_UP):
        run._one_step(0.5)
    wait()
    warm, start = time.monotonic() - start, time.monotonic()
    for _ in range(STEPS):
        run._one_step(0.5)
    asked = (time.monotonic() - start) / STEPS
    wait()
    done = (time.monotonic() - start) / STEPS
    typer.echo(f"{name}: {1000 * done:.1f} ms a step, told in {1000 * asked:.1f}, first {warm:.1f} s")
    if device.type == "cuda":
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as seen:
            run._one_step(0.5)
            wait()
        rows = sorted(seen.key_averages(), key=lambda row: -row.self_device_time_total)
        typer.echo(f"  GPU {sum(r.self_device_time_total for r in rows) / 1000:.1f} ms, of memory "
              f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB")  # fmt: skip
        for row in rows[:LINES]:
            typer.echo(
                f"  {row.self_device_time_total / 1000:8.2f} ms {row.count:5d}  {row.key[:110]}", flush=True
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=9, help="crops of 256x256 a step")
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    device, count = torch.device(arguments.device), arguments.batch
    options = Options(
        budget=Budget(steps=100), device=device, checkpoint=Path("unused.pt"), resume=False, seed=0,
        batch=count, muon_rate=0.003, adam_rate=0.0006, ema_decay=0.998, save_every=60,
        workers=arguments.workers, report=typer.echo, tick=lambda done, words: None,
    )  # fmt: skip
    paths = find_photos([arguments.photos])
    crops = Crops(paths, device, 256, 0)

    def codec_loss(network: nn.Module, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        x, t = crops.batch(count, 256), stratified_positions(count, device)
        with torch.autocast(device.type, torch.bfloat16):
            x_hat, bpp = network(x, t, "noisy", rpo=False)
        weight = Codec.lambda_at(t) * 255**2
        return ((bpp + weight * distortion(x_hat, x)) / weight.sqrt()).mean(), {}

    def head_loss(head: nn.Module, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        clean = crops.batch(4 * count, 128)
        x = (clean + 0.1 * torch.randn_like(clean)).clamp(0, 1)
        prompt = torch.randn(len(x), 128, device=device) / 128**0.5
        nowhere = source(False, False, torch.zeros(len(x), device=device))
        with torch.autocast(device.type, torch.bfloat16):
            restored = head(x, prompt, torch.zeros(len(x), 2, 128, device=device), nowhere, tones(x))
        return restoration_loss(restored, clean)[0].mean(), {}

    for name, compiled in (("codec", False), ("codec, compiled", True)):
        model = TrainedCodec(CodecConfig())
        if device.type == "cuda" or not compiled:
            ready = (lambda model=model: model.codec.compile(dynamic=False)) if compiled else (lambda: None)
            measure(name, model, codec_loss, options, ready)
    measure("head", Restorer(RestorerConfig()), head_loss, options, lambda: None)

    dice = Dice(0)
    degraded = DegradedCrops(Crops(paths, dice.device, 256, 0), dice, deck=DECK, render=shown)
    made = degraded.batches(16, 128, 2, arguments.workers, 0)
    for _ in range(4 * arguments.workers):
        next(made)  # so many are made ahead
    start = time.monotonic()
    for _ in range(8 * arguments.workers):
        next(made)
    speed = 8 * arguments.workers * 16 / (time.monotonic() - start)
    typer.echo(f"{arguments.workers} processes degrade {speed:.0f} crops of 128x128 a second")


if __name__ == "__main__":
    main()
