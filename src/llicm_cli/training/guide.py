"""Stage 2, ``llicm train guide``: the guide, in two parts.

The *towers* of a compact model are trained first, from nothing: pictures against the text of their
degradation, views of a picture against other views of it, and texts apart from those of other degradations. A
pretrained open_clip model skips this.
Then they are frozen and the *controller* is trained, as DA-CLIP is: its degradation embedding against
the texts, and the content embedding of a degraded picture against the frozen tower's embedding of the
clean one. A third of the pictures have been through the codec, at a random rate.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llicm_cli.degrade import Dice, rendering
from llicm_cli.models.codec import Codec, Pass
from llicm_cli.models.guide import GRID, Guide, class_means, pooled, views
from llicm_cli.tasks import CLASSES, PROMPTS
from llicm_cli.training.data import Crops
from llicm_cli.training.degraded import HERE, DegradedCrops, Pairs, held_out_batch
from llicm_cli.training.loop import Budget, Loss, Options, Run

CROPS, SHARES = (128, 192, 320, 448), (0.1, 0.3, 0.3, 0.3)  # pixels a side, and how often
CROP = 192  # what ``batch`` counts; steps with other crops take as many pixels
CUT_OUT = 128  # pixels a side of a crop for each cut-out a side, up to the number taken in use
TOWER_SHARE = 0.5  # of the budget, where the towers are trained too
TEMPERATURE = 0.1  # of the contrast between pictures
VALIDATION_EACH, VALIDATION_CROP = 8, 256
VALIDATION_LAMBDA = 0.0018


@torch.no_grad()
def through_codec(codec: Codec, x: Tensor, t: Tensor, rpo: bool) -> Tensor:
    """What a decoder would show: (B, 3, H, W), H and W multiples of 64, at rate positions t (B,), coded with
    objective rpo or rdo."""
    with torch.autocast(x.device.type, torch.bfloat16):
        seen: Pass = codec(x, t, "chosen", rpo)
    return seen.x_hat.float().clamp(0, 1)


def _grid(size: int) -> int:
    """Cut-outs a side of a crop of so many pixels a side."""
    return min(GRID, size // CUT_OUT)


def _contrast(a: Tensor, b: Tensor) -> Tensor:
    """Symmetric InfoNCE between two lists of unit vectors (B, D) that belong together pairwise."""
    logits = a @ b.T / TEMPERATURE
    own = torch.arange(len(a), device=a.device)
    return 0.5 * (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own))


def _pick(phrases: Tensor, rng: np.random.Generator) -> Tensor:
    """The embedding of one phrase a class, (len(CLASSES), D), of all phrases in order."""
    counts = [len(PROMPTS[name]) for name in CLASSES]
    starts = np.cumsum([0, *counts[:-1]])
    return phrases[[int(start + rng.integers(count)) for start, count in zip(starts, counts, strict=True)]]


@torch.no_grad()
def _forget_unused_words(guide: Guide) -> None:
    """Give words that were never trained no meaning, rather than a random one."""
    used = guide.tokenise([phrase for phrases in PROMPTS.values() for phrase in phrases]).unique()
    rows = guide.clip.token_embedding.weight
    keep = torch.zeros(len(rows), 1, device=rows.device)
    keep[used] = 1
    rows.mul_(keep)


def train_guide(
    guide: Guide,
    towers: bool,
    codec: Codec,
    train: list[Path],
    validation: list[Path],
    pairs: dict[str, Pairs],
    options: Options,
) -> tuple[Guide, list[Run]]:
    """Run the stage.

    Args:
        guide: an untrained or pretrained model.
        towers: train the towers first and start the controller anew, instead of taking both as they are.
        codec: what a third of the pictures go through.
        train: photographs to learn from.
        validation: photographs for the figures in the log.
        pairs: real degraded pictures.
        options: see ``Options``; the controller's part of a run with two parts has a checkpoint of its own,
            ``NAME.controller.pt`` beside ``NAME.pt``; ``batch`` counts crops of ``CROP`` pixels a side.

    Returns:
        The averaged model and the runs that made it.
    """
    device = options.device
    torch.manual_seed(options.seed)
    clean_crops = Crops(train, HERE, max(CROPS), options.seed)
    degraded = DegradedCrops(
        clean_crops, Dice(options.seed), pairs, render=lambda x, task, dice: rendering(x, dice)
    )
    seen, _, truth, _ = held_out_batch(validation, device, VALIDATION_EACH, VALIDATION_CROP)
    codec = codec.to(device).eval()
    low = Codec.position(torch.full((len(seen),), VALIDATION_LAMBDA, device=device))
    compressed = torch.cat(
        [through_codec(codec, *part, rpo=False) for part in zip(seen.split(22), low.split(22), strict=True)]
    )

    def batch() -> tuple[Tensor, Tensor, Tensor]:
        size = int(clean_crops.rng.choice(CROPS, p=SHARES))
        made = degraded.batch(max(2, options.batch * CROP**2 // size**2), size)
        x, clean, labels, _ = (part.to(device) for part in made)
        coded = -(-len(x) // 3)
        x[:coded] = through_codec(codec, x[:coded], torch.rand(coded, device=device), rpo=False)
        return views(x, guide.size, _grid(size)), views(clean, guide.size, _grid(size)), labels

    def tower_loss(model: nn.Module, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        assert isinstance(model, Guide)
        x, _, labels = batch()
        phrases, owner = model.phrases()
        with torch.autocast(device.type, torch.bfloat16):
            seen = model.clean_content(x)
        told = F.cross_entropy(model.logits(pooled(seen), _pick(phrases, clean_crops.rng)), labels)
        shown = _contrast(seen[:, 0], seen[:, 1])
        apart = F.cross_entropy(phrases @ class_means(phrases, owner).T / TEMPERATURE, owner)
        figures = {"text": told, "content": shown, "texts apart": apart}
        return told + 0.2 * shown + apart, {k: v.detach() for k, v in figures.items()}

    def controller_loss(model: nn.Module, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        assert isinstance(model, Guide)
        x, clean, labels = batch()
        with torch.autocast(device.type, torch.bfloat16):
            with torch.no_grad():
                target = model.clean_content(clean)
            guidance = model.look(x)
        prompts = _pick(texts, clean_crops.rng)
        told = F.cross_entropy(model.logits(guidance.degradation, prompts), labels)
        shown = _contrast(pooled(guidance.content), pooled(target))
        apart = 1 - (guidance.content * target).sum(-1).mean()
        figures = {"text": told, "content": shown, "distance": apart}
        return told + 0.5 * shown + apart, {k: v.detach() for k, v in figures.items()}

    def evaluate(model: nn.Module) -> dict[str, float]:
        assert isinstance(model, Guide)
        prompts = model.prompts()
        figures = {}
        for name, pictures in (("accuracy", seen), ("accuracy compressed", compressed)):
            looks = [_degradation(model, part) for part in pictures.split(22)]
            guess = model.logits(torch.cat(looks), prompts).argmax(-1)
            figures[name] = float((guess == truth).float().mean())
        return figures

    def _degradation(model: Guide, x: Tensor) -> Tensor:
        grid = _grid(VALIDATION_CROP)
        return model(x, grid) if controlled else pooled(model.clean_content(views(x, model.size, grid)))

    def start(share: float, loss: Loss) -> Run:
        budget = options.budget
        budget = Budget(
            budget.steps and max(1, round(budget.steps * share)), budget.minutes and budget.minutes * share
        )
        file = second if towers and controlled else options.checkpoint
        resume = options.resume and (file.exists() or file == options.checkpoint)
        run = Run(guide, replace(options, budget=budget, checkpoint=file, resume=resume), loss, evaluate)
        degraded.draw_anew(options.seed + run.step)
        return run

    second = options.checkpoint.with_suffix(".controller" + options.checkpoint.suffix)
    if not options.resume:
        second.unlink(missing_ok=True)  # of an earlier run
    runs = []
    controlled = False
    guide = guide.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if towers:
        guide.controller.requires_grad_(False)
        guide.clip.visual.train()
        run = start(TOWER_SHARE, tower_loss)
        if run.options.budget.progress(run.step, run.seconds) < 1:
            second.unlink(missing_ok=True)  # a controller of the towers as they were
        trained = run.to_the_end()
        assert isinstance(trained, Guide)
        guide = trained
        _forget_unused_words(guide)
        guide.copy_tower()
        runs.append(run)
    controlled = True
    guide = guide.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    guide.clip.requires_grad_(False)
    guide.clip.logit_scale.requires_grad_(True)
    guide.controller.requires_grad_(True)
    guide.links.requires_grad_(True)
    with torch.no_grad():
        texts, _ = guide.phrases()
    run = start(1 - TOWER_SHARE * towers, controller_loss)
    trained = run.to_the_end()
    assert isinstance(trained, Guide)
    runs.append(run)
    return trained, runs
