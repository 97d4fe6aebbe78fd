"""Stage 3, ``llicm train restorer``: the restoration head, with codec and guide frozen.

Half of the pictures have been through the codec at a random rate, and half of those were restored before
they were coded, as objective rpo does: of them the head sees what its own restoration and the codec have
left. A step shows one specialist what it is there for. Many small crops come first: what the head learns
early takes many different samples, not many pixels (at equal cost, 306 steps of 48 crops of 64x64 denoised
1.9 dB better than 335 steps of 12 crops of 128x128). Half of the photographs are shown in other light:
without dark scenes the head leaves what lies behind haze too bright. Those before noise and blur are softer,
too: from photographs that were reduced, sharper than what leaves a camera, it learns to take the grain of a
camera for texture, and to invent fine detail.

The loss is the root mean squared error of every crop. Its gradient is as large for a crop that is nearly
right as for one that is far off (with the logarithm of the squared error, crops that need little dominate),
and its best guess at what cannot be known is the mean, which is what PSNR asks for: under the mean absolute
error the best guess at a raindrop that is hard to find is to do nothing, and 184 minutes taught no more. Each
class counts by the inverse of its usual error, so that a tenth less error is worth as much against JPEG
blocks as against haze; with equal weights, 35 minutes taught the head nothing about blur and blocks.

What recurs in the error of every group of 4x4 pixels that the head works on counts once more: it is seen as
a faint grid in flat parts long before it shows in the squared error.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llicm_cli.degrade import Dice, behind_haze, exposure, unreduced
from llicm_cli.models.codec import Codec
from llicm_cli.models.guide import Guide
from llicm_cli.models.restorer import GROUP, SPECIALISTS, Restorer, source, tones
from llicm_cli.tasks import CLASSES
from llicm_cli.training.data import Crops
from llicm_cli.training.degraded import HERE, Batch, DegradedCrops, Pairs, held_out_batch
from llicm_cli.training.guide import through_codec
from llicm_cli.training.loop import Options, Run, train_only

CROPS = ((0.0, 64), (0.65, 128))  # pixels a side, from which share of the run on
AROUND = 2  # times a crop's side: the picture whose tones the head is told
LARGEST = AROUND * CROPS[-1][1]
CROP = 128  # what ``batch`` counts; steps with other crops take as many pixels
RDO_SHARE, RPO_SHARE = 0.25, 0.25  # of the pictures; the others are not coded
DECK = (  # what gains most from more samples comes up more often
    *CLASSES, *6 * ("denoise",), *4 * ("derain", "dehaze", "deblur"), "deraindrop", "deshadow", "lowlight",
)  # fmt: skip
DECKS = {one: [name for name in DECK if name in classes] for one, classes in SPECIALISTS.items()}
LEAST_ERROR = 0.02  # no class counts more than one of this root mean squared error
LEAST_SQUARE = 1e-6  # added to squared errors: the root of zero has no gradient
VALIDATION_EACH, VALIDATION_CROP = 12, 192


def shown(x: Tensor, task: str, dice: Dice) -> Tensor:
    """A photograph, (3, H, W) in 0..1, in other light; softer before noise and blur, darker behind haze."""
    how = {"deblur": unreduced, "dehaze": behind_haze, "denoise": unreduced}.get(task, exposure)
    return how(x, dice)


def estimate(head: nn.Module, x: Tensor, task: Tensor, tone: Tensor) -> Tensor:
    """Pictures restored that were not coded, given what disturbs them and their tones: what objective rpo
    codes."""
    restored: Tensor = head(x, task, source(False, False, x.new_zeros(len(x))), tone)
    return restored.float().clamp(0, 1)


def restoration_loss(restored: Tensor, clean: Tensor) -> tuple[Tensor, Tensor]:
    """Root mean squared and mean squared error of every picture, both (B,)."""
    mse = (restored - clean).square().mean((1, 2, 3))
    return (mse + LEAST_SQUARE).sqrt(), mse


def grid_error(error: Tensor) -> Tensor:
    """What recurs in every ``GROUP`` x ``GROUP`` pixels of errors (B, 3, H, W): the root mean square, over
    colours and places in a group, of a place's mean error less that of its colour; (B,)."""
    places = F.pixel_unshuffle(error, GROUP).mean((2, 3)).unflatten(1, (-1, GROUP**2))
    return ((places - places.mean(2, keepdim=True)).square().mean((1, 2)) + LEAST_SQUARE).sqrt()


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
    specialists: Sequence[str],
) -> tuple[Restorer, Run]:
    """Run the stage.

    Args:
        restorer: the head to train, new or to go on from.
        guide: whose texts the head is told; another one may be in use later.
        codec: frozen; half of the pictures go through it.
        train: photographs to learn from.
        validation: photographs for the figures in the log.
        pairs: real degraded pictures.
        options: see ``Options``; ``batch`` counts crops of ``CROP`` pixels a side.
        specialists: the only ones to train, while all else stays as it is; none: all of the head.

    Returns:
        The averaged head and the run that made it.
    """
    device = options.device
    torch.manual_seed(options.seed)
    dice = Dice(options.seed)
    decks = [DECKS[one] for one in specialists or SPECIALISTS]
    degraded = DegradedCrops(Crops(train, HERE, LARGEST, options.seed), dice, pairs, decks, shown)
    codec, importance = codec.to(device).eval(), ClassWeights(device)
    seen, wanted, truth, seen_tones = held_out_batch(validation, device, VALIDATION_EACH, VALIDATION_CROP)

    @functools.cache
    def batches(size: int) -> Iterator[Batch]:
        count = max(4, options.batch * CROP**2 // size**2)
        return degraded.batches(count, size, AROUND, options.workers, options.seed + run.step)

    def loss(model: nn.Module, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        size = next(side for start, side in reversed(CROPS) if progress >= start)
        x, clean, task, tone = (part.to(device, non_blocking=True) for part in next(batches(size)))
        count = len(x)
        t = torch.rand(count, device=device)
        rpo, coded = round(count * RPO_SHARE), round(count * (RPO_SHARE + RDO_SHARE))
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16):
            x[:rpo] = estimate(model, x[:rpo], task[:rpo], tone[:rpo])
        x[:rpo] = through_codec(codec, x[:rpo], t[:rpo], rpo=True)
        x[rpo:coded] = through_codec(codec, x[rpo:coded], t[rpo:coded], rpo=False)
        origin = torch.cat(
            (source(True, True, t[:rpo]), source(True, False, t[rpo:coded]), source(False, False, t[coded:]))
        )
        tone[:rpo] = tones(x[:rpo])
        with torch.autocast(device.type, torch.bfloat16):
            restored = model(x, task, origin, tone)
        each, mse = restoration_loss(restored, clean)
        psnr = decibels(mse)
        each = each + grid_error(restored - clean)
        return (importance(each, task) * each).mean(), {
            "rpo": psnr[:rpo].mean(),
            "rdo": psnr[rpo:coded].mean(),
            "uncoded": psnr[coded:].mean(),
        }

    def evaluate(model: nn.Module) -> dict[str, float]:
        errors = []
        for i in range(0, len(seen), 11):
            part = slice(i, i + 11)
            with torch.autocast(device.type, torch.bfloat16):
                restored = estimate(model, seen[part], truth[part], seen_tones[part])
            errors.append((restored - wanted[part]).square().mean((1, 2, 3)))
        return psnr_by_class(torch.cat(errors), truth)

    before = psnr_by_class((seen - wanted).square().mean((1, 2, 3)), truth)
    options.report("held-out input: " + "  ".join(f"{k} {v:.2f}" for k, v in before.items()))
    restorer = restorer.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    learning = [restorer.specialists[one] for one in specialists] or [restorer]
    train_only(restorer, (parameter for part in learning for parameter in part.parameters()))
    with torch.no_grad():
        restorer.prompts.copy_(guide.prompts())
    run = Run(restorer, options, loss, evaluate, beside=importance.error)
    degraded.draw_anew(options.seed + run.step)
    trained = run.to_the_end()
    assert isinstance(trained, Restorer)
    return trained, run
