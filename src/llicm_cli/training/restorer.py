"""Stage 3, ``llicm train restorer``: the restoration head, with codec and guide frozen.

Half of the pictures have been through the codec at a random rate, and half of those were restored before
they were coded, as objective rpo does: of them the head sees what its own restoration and the codec have
left. Most are conditioned on a text that names their degradation, in some mixed with a little of another
class, the others on what the guide sees in them. It is often wrong about so small crops, and a head that has
learned to distrust it does too little where the guide is nearly sure of a whole picture, and right.
Many small crops come first: what the head learns early is what to do for which prompt, and that takes many
different samples, not many pixels (at equal cost, 306 steps of 48 crops of 64x64 denoised 1.9 dB better than
335 steps of 12 crops of 128x128). Half of the photographs are shown in other light: without dark scenes the
head leaves what lies behind haze too bright. Most of those before noise are softer, too: from photographs
that were reduced, sharper than what leaves a camera, it learns to take the grain of a camera for texture.

The loss is the root mean squared error of every crop. Its gradient is as large for a crop that is nearly
right as for one that is far off (with the logarithm of the squared error, crops that need little dominate),
and its best guess at what cannot be known is the mean, which is what PSNR asks for: under the mean absolute
error the best guess at a raindrop that is hard to find is to do nothing, and 184 minutes taught no more. Each
class counts by the inverse of its usual error, so that a tenth less error is worth as much against JPEG
blocks as against haze; with equal weights, 35 minutes taught the head nothing about blur and blocks. Tasks
that gain most from more samples come up more often.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from llicm_cli.degrade import Dice, exposure, unreduced
from llicm_cli.models.codec import Codec
from llicm_cli.models.guide import Guide
from llicm_cli.models.restorer import Restorer, source, tones
from llicm_cli.tasks import CLASSES, PROMPTS
from llicm_cli.training.data import Crops
from llicm_cli.training.degraded import HERE, Batch, DegradedCrops, Pairs, held_out_batch
from llicm_cli.training.guide import through_codec
from llicm_cli.training.loop import Options, Run

CROPS = ((0.0, 64), (0.65, 128))  # pixels a side, from which share of the run on
AROUND = 2  # times a crop's side: the picture whose tones the head is told
LARGEST = AROUND * CROPS[-1][1]
CROP = 128  # what ``batch`` counts; steps with other crops take as many pixels
RDO_SHARE, RPO_SHARE = 0.25, 0.25  # of the pictures; the others are not coded
SEEN_SHARE = 0.3  # of the pictures that the guide looks at; half of those it describes in place of a text
UNSURE_SHARE = 0.2  # of the texts, which are mixed with another class, as what the guide sees often is ...
UNSURE = 0.4  # ... by up to so much
GRID = 1  # cut-outs of a crop that the guide sees, beside the whole
MORE = (*4 * ("denoise",), *5 * ("derain",), *4 * ("dehaze",), "deblur", "deraindrop")  # gain most from more
DECK = (*CLASSES, *MORE)
LEAST_ERROR = 0.02  # no class counts more than one of this root mean squared error
LEAST_SQUARE = 1e-6  # added to squared errors: the root of zero has no gradient
VALIDATION_EACH, VALIDATION_CROP = 12, 192


def shown(x: Tensor, task: str, dice: Dice) -> Tensor:
    """A photograph, (3, H, W) in 0..1, in other light; softer before noise."""
    return (unreduced if task == "denoise" else exposure)(x, dice)


class Prompter:
    """Chooses what the head is told about training pictures: what the guide sees, or a text, sometimes with a
    little of another class in it.

    Args:
        guide: frozen.
        dice: chooses among the phrases, and between text and sight.
    """

    def __init__(self, guide: Guide, dice: Dice) -> None:
        self.guide, self.dice = guide, dice
        with torch.no_grad():
            self.phrases = [guide.describe(list(PROMPTS[name])) for name in CLASSES]
            self.named = guide.prompts()

    @torch.no_grad()
    def __call__(self, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures and their classes -> prompt (B, D), content (B, V, D), zero if not looked at."""
        prompt = self.named[labels]
        for i, label in enumerate(labels.tolist()):
            if self.dice.chance(0.5):
                phrases = self.phrases[label]
                prompt[i] = phrases[self.dice.integer(0, len(phrases) - 1)]
            if self.dice.chance(UNSURE_SHARE):
                other = self.named[self.dice.integer(0, len(CLASSES) - 1)]
                prompt[i] = torch.lerp(prompt[i], other, self.dice.between(0, UNSURE))
        content = prompt.new_zeros(len(x), 1 + GRID**2, self.guide.width)
        seen = [i for i in range(len(x)) if self.dice.chance(SEEN_SHARE)]
        if seen:
            with torch.autocast(x.device.type, torch.bfloat16):
                guidance = self.guide(x[seen], GRID)
            content[seen] = guidance.content
            for i, belief in zip(seen, self.guide.belief(guidance.degradation, self.named), strict=True):
                if self.dice.chance(0.5):
                    prompt[i] = belief
        return prompt, content

    def estimate(self, head: nn.Module, x: Tensor, labels: Tensor, tone: Tensor) -> Tensor:
        """Pictures restored before they are coded (objective rpo): the head is told what disturbs them and
        their tones, nothing else."""
        blind = x.new_zeros(len(x), 1, self.guide.width)
        nowhere = source(False, False, x.new_zeros(len(x)))
        restored: Tensor = head(x, self.named[labels], blind, nowhere, tone)
        return restored.float().clamp(0, 1)


def restoration_loss(restored: Tensor, clean: Tensor) -> tuple[Tensor, Tensor]:
    """Root mean squared and mean squared error of every picture, both (B,)."""
    mse = (restored - clean).square().mean((1, 2, 3))
    return (mse + LEAST_SQUARE).sqrt(), mse


class ClassWeights:
    """Weights of the classes in the loss: the inverse of their mean errors of late, one on average.

    Attributes:
        error: those mean errors, (classes,); changed in place.
    """

    def __init__(self, device: torch.device) -> None:
        self.error = torch.full((len(CLASSES),), LEAST_ERROR, device=device)

    def __call__(self, each: Tensor, labels: Tensor) -> Tensor:
        """Errors of pictures and their classes, both (B,) -> the weights (B,)."""
        with torch.no_grad():
            total = torch.zeros_like(self.error).index_add(0, labels, each.detach().float())
            count = torch.zeros_like(self.error).index_add(
                0, labels, torch.ones_like(each, dtype=torch.float)
            )
            known = (count > 0) & total.isfinite()
            mean = torch.where(known, total / count.clamp(min=1), self.error)
            self.error.lerp_(mean, 0.02)
            weights = 1 / self.error.clamp(min=LEAST_ERROR)
            return (weights / weights.mean())[labels]


def decibels(mse: Tensor) -> Tensor:
    """PSNR in dB of mean squared errors, at most 100."""
    return -10 * torch.log10(mse.detach().clamp(min=1e-10))


def psnr_by_class(mse: Tensor, labels: Tensor) -> dict[str, float]:
    """Mean PSNR in dB of every class that occurs."""
    psnr = decibels(mse)
    return {
        name: float(psnr[labels == i].mean()) for i, name in enumerate(CLASSES) if bool((labels == i).any())
    }


def train_restorer(
    restorer: Restorer,
    guide: Guide,
    codec: Codec,
    train: list[Path],
    validation: list[Path],
    pairs: dict[str, Pairs],
    options: Options,
) -> tuple[Restorer, Run]:
    """Run the stage.

    Args:
        restorer: the head to train, new or to go on from.
        guide: frozen.
        codec: frozen; half of the pictures go through it.
        train: photographs to learn from.
        validation: photographs for the figures in the log.
        pairs: real degraded pictures.
        options: see ``Options``; ``batch`` counts crops of ``CROP`` pixels a side.

    Returns:
        The averaged head and the run that made it.
    """
    device = options.device
    torch.manual_seed(options.seed)
    dice = Dice(options.seed)
    degraded = DegradedCrops(Crops(train, HERE, LARGEST, options.seed), dice, pairs, DECK, shown)
    codec, guide = codec.to(device).eval(), guide.to(device).eval()
    prompter, importance = Prompter(guide, dice), ClassWeights(device)
    seen, wanted, truth, seen_tones = held_out_batch(validation, device, VALIDATION_EACH, VALIDATION_CROP)
    with torch.no_grad():
        seen_guidance = guide(seen, GRID)

    @functools.cache
    def batches(size: int) -> Iterator[Batch]:
        count = max(4, options.batch * CROP**2 // size**2)
        return degraded.batches(count, size, AROUND, options.workers, options.seed + run.step)

    def loss(model: nn.Module, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        size = next(side for start, side in reversed(CROPS) if progress >= start)
        x, clean, labels, tone = next(batches(size))
        x, clean, tone, owner = (part.to(device, non_blocking=True) for part in (x, clean, tone, labels))
        count = len(x)
        t = torch.rand(count, device=device)
        rpo, coded = round(count * RPO_SHARE), round(count * (RPO_SHARE + RDO_SHARE))
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16):
            x[:rpo] = prompter.estimate(model, x[:rpo], labels[:rpo], tone[:rpo])
        x[:rpo] = through_codec(codec, x[:rpo], t[:rpo], rpo=True)
        x[rpo:coded] = through_codec(codec, x[rpo:coded], t[rpo:coded], rpo=False)
        origin = torch.cat(
            (source(True, True, t[:rpo]), source(True, False, t[rpo:coded]), source(False, False, t[coded:]))
        )
        tone[:rpo] = tones(x[:rpo])
        prompt, content = prompter(x, labels)
        with torch.autocast(device.type, torch.bfloat16):
            restored = model(x, prompt, content, origin, tone)
        each, mse = restoration_loss(restored, clean)
        psnr = decibels(mse)
        return (importance(each, owner) * each).mean(), {
            "rpo": psnr[:rpo].mean(),
            "rdo": psnr[rpo:coded].mean(),
            "uncoded": psnr[coded:].mean(),
        }

    def evaluate(model: nn.Module) -> dict[str, float]:
        errors = []
        for i in range(0, len(seen), 11):
            part = slice(i, i + 11)
            prompt, content = prompter.named[truth[part]], seen_guidance.content[part]
            nowhere = source(False, False, torch.zeros(len(prompt), device=device))
            with torch.autocast(device.type, torch.bfloat16):
                restored = model(seen[part], prompt, content, nowhere, seen_tones[part])
            errors.append((restored.clamp(0, 1) - wanted[part]).square().mean((1, 2, 3)))
        return psnr_by_class(torch.cat(errors), truth)

    before = psnr_by_class((seen - wanted).square().mean((1, 2, 3)), truth)
    options.report("held-out input: " + "  ".join(f"{k} {v:.2f}" for k, v in before.items()))
    restorer = restorer.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    restorer.requires_grad_(True)
    run = Run(restorer, options, loss, evaluate, beside=importance.error)
    degraded.draw_anew(options.seed + run.step)
    trained = run.to_the_end()
    assert isinstance(trained, Restorer)
    return trained, run
