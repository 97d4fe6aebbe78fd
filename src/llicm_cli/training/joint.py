"""Stage 4, ``llicm train joint``: rate-perception optimisation (LL-ICM, arXiv 2412.03841).

A picture X is coded, and the head makes X_hat_H of what was decoded, X_hat; X_ideal is what it should have
been. With objective rdo, X is the picture as it is; with rpo, it is what the head makes of it before it is
coded. Codec and head are trained together on

    rpo:  beta * R + lambda * 255**2 * (alpha * D(X_hat, X) + gamma * E(X_hat_H, X))
    rdo:  beta * R + lambda * 255**2 * D(X_hat, X)

each divided by ``sqrt(lambda * 255**2)``; D and E are the distortion of stage 1, and E reaches decoder,
entropy model and encoder through the head. Two objectives keep both promises of one decoder: an rdo stream
is a faithful copy, an rpo stream pays for nothing that the head would remove.

The paper's E compares with X_ideal. Here X is an estimate of it, and what separates the two, such as how
bright haze and darkness ought to be, outweighs all that a codec can do: against X, it learns the same from
less noise. X_ideal comes in by what the head learns beside it, as in stage 3, from uncoded pictures and those
decoded from rdo streams, without reaching the codec; and by ``delta`` times a deep perceptual distance
between X_hat_H and X_ideal, which does reach it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from llicm_cli.degrade import Dice
from llicm_cli.models.codec import Codec
from llicm_cli.models.guide import Guide
from llicm_cli.models.perceptual import SqueezeNetDistance
from llicm_cli.models.restorer import Restorer, source, tones
from llicm_cli.tasks import CLASSES, CLEAN, TASKS
from llicm_cli.training.codec import TrainedCodec, distortion, stratified_positions
from llicm_cli.training.data import Crops
from llicm_cli.training.degraded import DegradedCrops, Pairs, held_out_batch
from llicm_cli.training.loop import Options, Run
from llicm_cli.training.restorer import AROUND, DECK, GRID, ClassWeights, Prompter, decibels, restoration_loss

CROP = 128
PLAIN, PLAIN_CROP = 3, 192  # clean photographs that only the codec sees, in crops that do it justice
HEAD_WEIGHT = 1.0  # of the head's own loss beside those of the codec
RPO_SHARE, RDO_SHARE = 0.36, 0.22  # of the crops; the others are not coded
VALIDATION_EACH, VALIDATION_CROP = 2, 192
VALIDATION_LAMBDAS = (0.0018, 0.0067, 0.025)


@dataclass(frozen=True)
class Weights:
    """Of the terms of the loss, see the module."""

    alpha: float = 0.3
    beta: float = 1.0
    gamma: float = 0.7
    delta: float = 0.01


class Joint(nn.Module):
    """What is trained together."""

    def __init__(self, coder: TrainedCodec, restorer: Restorer) -> None:
        super().__init__()
        self.coder, self.restorer = coder, restorer


def _mse(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).square().mean((1, 2, 3))


def train_joint(
    joint: Joint,
    guide: Guide,
    train: list[Path],
    validation: list[Path],
    pairs: dict[str, Pairs],
    weights: Weights,
    options: Options,
    distance: SqueezeNetDistance | None = None,
) -> tuple[Joint, Run]:
    """Run the stage.

    Args:
        joint: trained codec and head.
        guide: frozen.
        train: photographs to learn from.
        validation: photographs for the figures in the log.
        pairs: real degraded pictures.
        weights: of the terms of the loss.
        options: see ``Options``; ``batch`` counts crops of 128x128, not the plain ones.
        distance: the perceptual one; without it, ``delta`` has no meaning.

    Returns:
        The averaged model and the run that made it.
    """
    device = options.device
    torch.manual_seed(options.seed)
    dice = Dice(options.seed, device)
    degraded = DegradedCrops(Crops(train, device, AROUND * CROP, options.seed), dice, pairs, DECK)
    guide = guide.to(device).eval()
    if distance is not None:
        distance = distance.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    prompter, importance = Prompter(guide, dice), ClassWeights(device)
    seen, wanted, truth, seen_tones = held_out_batch(validation, device, VALIDATION_EACH, VALIDATION_CROP)

    def loss(model: nn.Module, _: float) -> tuple[Tensor, dict[str, float]]:
        assert isinstance(model, Joint)
        count = options.batch
        rpo, rdo = round(count * RPO_SHARE), round(count * RDO_SHARE)
        coded = rpo + rdo
        x, clean, labels, tone = degraded.batch(count, CROP, AROUND)
        as_it_is = slice(rpo, rpo + (rdo + 1) // 2)  # clean photographs, which the head is to leave alone
        x[as_it_is], labels[as_it_is] = clean[as_it_is], CLASSES.index(CLEAN)
        tone[as_it_is] = tones(x[as_it_is])
        plain = degraded.crops.batch(PLAIN, PLAIN_CROP)
        t = stratified_positions(coded + PLAIN, device)
        with torch.autocast(device.type, torch.bfloat16):
            with torch.no_grad():
                estimate = prompter.estimate(model.restorer, x[:rpo], labels[:rpo], tone[:rpo])
            given = torch.cat((estimate, x[rpo:coded]))
            x_hat, bpp = model.coder(given, t[:coded], "noisy")
            plain_hat, plain_bpp = model.coder(plain, t[coded:], "noisy")
        shown = torch.cat((x_hat[:rpo], x_hat[rpo:].detach(), x[coded:])).clamp(0, 1)
        tone[:rpo] = tones(shown[:rpo].detach())
        prompt, content = prompter(shown.detach(), labels)
        nowhere = source(False, False, t.new_zeros(count - coded))
        origin = torch.cat((source(True, True, t[:rpo]), source(True, False, t[rpo:coded]), nowhere))
        with torch.autocast(device.type, torch.bfloat16):
            restored = model.restorer(shown, prompt, content, origin, tone)
        own, perception = restoration_loss(restored, clean)
        fidelity = distortion(x_hat, given)
        for_head = weights.alpha * fidelity[:rpo] + weights.gamma * distortion(restored[:rpo], estimate)
        error = torch.cat((for_head, fidelity[rpo:], distortion(plain_hat, plain)))
        price = Codec.lambda_at(t) * 255**2
        total = ((weights.beta * torch.cat((bpp, plain_bpp)) + price * error) / price.sqrt()).mean()
        total = total + HEAD_WEIGHT * (importance(own[rpo:], labels[rpo:]) * own[rpo:]).mean()
        if distance is not None:
            with torch.autocast(device.type, torch.bfloat16):
                apart = distance(restored[:rpo].clamp(0, 1), clean[:rpo])
            total = total + weights.delta * apart.mean()
        figures = {
            "rpo bpp": float(bpp[:rpo].detach().mean()),
            "rpo psnr": float(decibels(perception[:rpo]).mean()),
            **({} if distance is None else {"rpo distance": float(apart.detach().mean())}),
            "rdo bpp": float(bpp[rpo:].detach().mean()),
            "rdo psnr": float(decibels(_mse(x_hat[rpo:].detach(), given[rpo:])).mean()),
            "plain bpp": float(plain_bpp.detach().mean()),
            "plain psnr": float(decibels(_mse(plain_hat.detach(), plain)).mean()),
            "rdo restored": float(decibels(perception[rpo:coded]).mean()),
            "uncoded restored": float(decibels(perception[coded:]).mean()),
        }  # fmt: skip
        return total, figures

    def evaluate(model: nn.Module) -> dict[str, float]:
        """Rate of the degraded picture, PSNR of the restored one, by objective; mean over the tasks."""
        assert isinstance(model, Joint)
        figures = {}
        told = prompter.named[truth]
        wrong = torch.tensor([CLASSES[i] in TASKS for i in truth.tolist()], device=device)
        for lmbda in VALIDATION_LAMBDAS:
            t = Codec.position(torch.full((len(seen),), lmbda, device=device))
            for name, restoring in (("rdo", False), ("rpo", True)):
                with torch.autocast(device.type, torch.bfloat16):
                    given = prompter.estimate(model.restorer, seen, truth, seen_tones) if restoring else seen
                    x_hat, bpp = model.coder(given, t, "chosen")
                    x_hat = x_hat.clamp(0, 1)
                    content = guide(x_hat, GRID).content
                    restored = model.restorer(x_hat, told, content, source(True, restoring, t), tones(x_hat))
                mse = _mse(restored.float().clamp(0, 1), wanted)[wrong]
                figures[f"{name} bpp at {lmbda:g}"] = float(bpp[wrong].mean())
                figures[f"{name} psnr at {lmbda:g}"] = float(decibels(mse).mean())
                if distance is not None:
                    apart = distance(restored.float().clamp(0, 1)[wrong], wanted[wrong])
                    figures[f"{name} distance at {lmbda:g}"] = float(apart.mean())
        return figures

    joint = joint.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    joint.requires_grad_(True)
    run = Run(joint, options, loss, evaluate)
    degraded.draw_anew(options.seed + run.step)
    trained = run.to_the_end()
    assert isinstance(trained, Joint)
    return trained, run
