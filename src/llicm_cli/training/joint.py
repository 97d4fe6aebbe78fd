"""Stage 4, ``llicm train joint``: rate-perception optimisation (LL-ICM, arXiv 2412.03841).

A picture X is coded, and the head makes X_hat_H of what was decoded, X_hat; X_ideal is what it should have
been. With objective rpo, X is what the head makes of the given picture before it is coded. The codec learns
to serve the head behind it, through it:

    beta * R + lambda * 255**2 * (alpha * D(X_hat, X) + gamma * E(X_hat_H, X))

divided by ``sqrt(lambda * 255**2)``; D and E are ``models.distortion``. Added to this is ``delta`` times a
deep perceptual distance between X_hat_H and X_ideal, at every rate alike.

The paper's E compares with X_ideal. Here X is an estimate of it, and what separates the two, such as how
bright haze and darkness ought to be, outweighs all that a codec can do: against X, it learns the same from
less noise.

Only the blocks that serve rpo streams are trained (``Codec.rpo_parameters``): a stream of objective rdo stays
what stage 1 made it, a faithful copy. The head stays as it is, too. It has learned from decoded pictures in
stage 3; trained on here, with what is left of a step for it, it lost more than the codec won
(docs/training.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from llicm_cli.degrade import Dice
from llicm_cli.models.codec import Codec
from llicm_cli.models.distortion import distortion
from llicm_cli.models.perceptual import SqueezeNetDistance
from llicm_cli.models.restorer import Restorer, source, tones
from llicm_cli.tasks import CLASSES, TASKS
from llicm_cli.training.codec import TrainedCodec, stratified_positions
from llicm_cli.training.data import Crops
from llicm_cli.training.degraded import HERE, DegradedCrops, Pairs, held_out_batch
from llicm_cli.training.loop import Options, Run, train_only
from llicm_cli.training.restorer import AROUND, DECK, decibels, estimate

CROP = 128
DELTA = 0.02  # usual weight of the perceptual distance
VALIDATION_EACH, VALIDATION_CROP = 2, 192
VALIDATION_LAMBDAS = (0.0018, 0.0067, 0.025)


@dataclass(frozen=True)
class Weights:
    """Of the terms of the loss, see the module."""

    alpha: float
    beta: float
    gamma: float
    delta: float


def train_joint(
    coder: TrainedCodec,
    head: Restorer,
    train: list[Path],
    validation: list[Path],
    pairs: dict[str, Pairs],
    weights: Weights,
    options: Options,
    distance: SqueezeNetDistance | None = None,
) -> tuple[TrainedCodec, Run]:
    """Run the stage.

    Args:
        coder: trained codec; its blocks for rpo are trained on.
        head: trained, frozen.
        train: photographs to learn from.
        validation: photographs for the figures in the log.
        pairs: real degraded pictures.
        weights: of the terms of the loss.
        options: see ``Options``; ``batch`` counts crops of 128x128.
        distance: the perceptual one; without it, ``delta`` has no meaning.

    Returns:
        The averaged codec and the run that made it.
    """
    device = options.device
    torch.manual_seed(options.seed)
    crops = Crops(train, HERE, AROUND * CROP, options.seed)
    degraded = DegradedCrops(crops, Dice(options.seed), pairs, (DECK,))
    head = head.to(device).eval()
    if distance is not None:
        distance = distance.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    seen, wanted, truth, seen_tones = held_out_batch(validation, device, VALIDATION_EACH, VALIDATION_CROP)
    wrong = torch.tensor([CLASSES[i] in TASKS for i in truth.tolist()], device=device)
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16):
        to_code = estimate(head, seen, truth, seen_tones)

    def loss(model: nn.Module, _: float) -> tuple[Tensor, dict[str, Tensor]]:
        x, clean, labels, tone = (part.to(device, non_blocking=True) for part in next(batches))
        t = stratified_positions(len(x), device)
        with torch.autocast(device.type, torch.bfloat16):
            with torch.no_grad():
                given = estimate(head, x, labels, tone)
            x_hat, bpp = model(given, t, "noisy", rpo=True)
        shown = x_hat.clamp(0, 1)
        with torch.autocast(device.type, torch.bfloat16):
            restored = head(shown, labels, source(True, True, t), tones(shown.detach()))
        error = weights.alpha * distortion(x_hat, given) + weights.gamma * distortion(restored, given)
        price = Codec.lambda_at(t) * 255**2
        total = ((weights.beta * bpp + price * error) / price.sqrt()).mean()
        figures = {"bpp": bpp.detach().mean(), "psnr": _psnr(restored, clean)}
        if distance is not None:
            with torch.autocast(device.type, torch.bfloat16):
                apart = distance(restored.clamp(0, 1), clean).mean()
            total = total + weights.delta * apart
            figures["distance"] = apart.detach()
        return total, figures

    def evaluate(model: nn.Module) -> dict[str, float]:
        """Rate, PSNR and distance of the restored picture; mean over the tasks."""
        figures = {}
        for lmbda in VALIDATION_LAMBDAS:
            t = Codec.position(torch.full((len(seen),), lmbda, device=device))
            with torch.autocast(device.type, torch.bfloat16):
                x_hat, bpp = model(to_code, t, "chosen", rpo=True)
                x_hat = x_hat.clamp(0, 1)
                restored = head(x_hat, truth, source(True, True, t), tones(x_hat))
            figures[f"bpp at {lmbda:g}"] = float(bpp[wrong].mean())
            figures[f"psnr at {lmbda:g}"] = float(_psnr(restored[wrong], wanted[wrong]))
            if distance is not None:
                apart = distance(restored.float().clamp(0, 1)[wrong], wanted[wrong])
                figures[f"distance at {lmbda:g}"] = float(apart.mean())
        return figures

    coder = coder.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    train_only(coder, coder.codec.rpo_parameters())
    run = Run(coder, options, loss, evaluate)
    degraded.draw_anew(options.seed + run.step)
    batches = degraded.batches(options.batch, CROP, AROUND, options.workers, options.seed + run.step)
    trained = run.to_the_end()
    assert isinstance(trained, TrainedCodec)
    return trained, run


def _psnr(a: Tensor, b: Tensor) -> Tensor:
    """Mean PSNR in dB of pictures (B, 3, H, W)."""
    return decibels((a.float().clamp(0, 1) - b).square().mean((1, 2, 3))).mean()
