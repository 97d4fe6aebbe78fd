"""Degraded training pictures with their clean originals, made on the fly."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from llicm_cli.degrade import Dice, degrade
from llicm_cli.errors import InputError, UsageError
from llicm_cli.image_io import open_rgb
from llicm_cli.models.restorer import TONES, tones
from llicm_cli.tasks import CLASSES, TASKS
from llicm_cli.training.data import Crops, find_photos

HERE = torch.device("cpu")  # where pictures are degraded
REAL_SHARE = 0.85  # of the samples of a task that has real pairs
Batch = tuple[Tensor, Tensor, Tensor, Tensor]  # as of ``DegradedCrops.batch``
RENDERED_SHARE = 0.5  # of the photographs, which are shown as another camera would
GREY_SHARE = 0.15  # of the photographs: what disturbs a grey picture is alike in all channels


class Pairs:
    """Real degraded pictures and their ground truth: two folders ``input`` and ``gt`` with equal names.

    Args:
        folder: of both.
        largest: the largest crop that will be asked for, pixels a side.

    Raises:
        InputError: a file that is no picture, or a pair that differs in size.
        UsageError: no pair is large enough for the largest crop.
    """

    def __init__(self, folder: Path, largest: int) -> None:
        self.pictures: list[tuple[Tensor, Tensor, Tensor]] = []
        for path in find_photos([folder / "input"]):
            pair = [open_rgb(path), open_rgb(folder / "gt" / path.name)]
            if pair[0].size != pair[1].size:
                raise InputError(f"{path}: input and ground truth differ in size")
            a, b = (torch.from_numpy(np.array(p)).permute(2, 0, 1).contiguous() for p in pair)
            self.pictures.append((a, b, tones(a[None])[0]))
        if not self._large_enough(largest):
            raise UsageError(f"no pair in {folder} is at least {largest} pixels a side")

    def _large_enough(self, size: int) -> list[tuple[Tensor, Tensor, Tensor]]:
        return [pair for pair in self.pictures if min(pair[0].shape[1:]) >= size]

    def crop(self, size: int, dice: Dice) -> tuple[Tensor, Tensor, Tensor]:
        """A random crop of a random pair that is large enough, (3, size, size) in 0..1, half of them
        mirrored; and the tones of the whole degraded picture, (15,)."""
        fitting = self._large_enough(size)
        *pair, whole = fitting[dice.integer(0, len(fitting) - 1)]
        top = dice.integer(0, pair[0].shape[1] - size)
        left = dice.integer(0, pair[0].shape[2] - size)
        cut = [p[:, top : top + size, left : left + size].float() / 255 for p in pair]
        if dice.chance(0.5):
            cut = [c.flip(2) for c in cut]
        return cut[0], cut[1], whole


def parse_pairs(texts: Sequence[str], largest: int) -> dict[str, Pairs]:
    """``TASK=FOLDER`` arguments -> the pairs of each task, for crops of at most ``largest`` pixels a side.

    Raises:
        UsageError: an argument of another form, a task named twice, or no pair that is large enough.
        InputError: as ``Pairs``.
    """
    pairs = {}
    for text in texts:
        task, equals, folder = text.partition("=")
        if task not in TASKS or not equals:
            raise UsageError(f"{text!r} is not of the form TASK=FOLDER, TASK one of {', '.join(TASKS)}")
        if task in pairs:
            raise UsageError(f"pairs for {task} are named twice")
        pairs[task] = Pairs(Path(folder), largest)
    return pairs


def held_out_batch(photos: list[Path], device: torch.device, each: int, size: int) -> Batch:
    """``DegradedCrops.batch`` of ``each`` crops a class, the same at every call."""
    batch = DegradedCrops(Crops(photos, HERE, size, 0), Dice(0)).batch(each * len(CLASSES), size)
    return tuple(part.to(device) for part in batch)  # type: ignore[return-value]


class DegradedCrops:
    """Random crops with a random degradation each, all on the CPU.

    Args:
        crops: where clean crops come from.
        dice: chooses class, strength and place.
        pairs: real pairs for some tasks.
        decks: names of classes, dealt out again and again in random order; for every batch one of the decks
            is drawn, larger ones more often.
        render: how others show the photographs, given one and the task that follows, input and truth alike.
    """

    def __init__(
        self,
        crops: Crops,
        dice: Dice,
        pairs: dict[str, Pairs] | None = None,
        decks: Sequence[Sequence[str]] = (CLASSES,),
        render: Callable[[Tensor, str, Dice], Tensor] | None = None,
    ) -> None:
        self.crops, self.dice, self.pairs, self.render = crops, dice, pairs or {}, render
        self.decks = [np.array([CLASSES.index(name) for name in deck]) for deck in decks]
        self.shares = np.array([len(deck) for deck in decks]) / sum(len(deck) for deck in decks)

    def draw_anew(self, seed: int) -> None:
        """Go on with other draws, here and in torch, so that a resumed run does not repeat itself."""
        torch.manual_seed(seed)
        self.crops.rng = np.random.default_rng(seed)
        self.dice.numbers = np.random.default_rng(seed)
        self.dice.fields.manual_seed(seed)

    def batches(self, count: int, size: int, around: int, workers: int, seed: int) -> Iterator[Batch]:
        """Batches without end; with ``workers``, made by so many processes, each with draws of its own, and
        in memory that a GPU reads by itself."""
        if not workers:
            while True:
                yield self.batch(count, size, around)
        dataset = _Batches(self, count, size, around, seed)
        yield from DataLoader(
            dataset, batch_size=None, num_workers=workers, pin_memory=torch.cuda.is_available()
        )

    def batch(self, count: int, size: int, around: int = 1) -> Batch:
        """Degraded and clean crops, and what there is to say of them.

        Args:
            count: of crops.
            size: pixels a side of a crop.
            around: crops are cut out of degraded pictures this many times as large, which their tones are of.

        Returns:
            (degraded, clean), both (count, 3, size, size) in 0..1 and channels_last; the index in ``CLASSES``
            of what was done, (count,); the tones of the degraded pictures, (count, 15).
        """
        whole = self.crops.batch(count, size * around)
        place = self.dice.numbers.integers(0, size * (around - 1) + 1, (count, 2))
        drawn = self.dice.numbers.choice(len(self.decks), p=self.shares) if len(self.decks) > 1 else 0
        deck = self.decks[drawn]
        order = [self.dice.numbers.permutation(deck) for _ in range(-(-count // len(deck)))]
        labels = torch.from_numpy(np.concatenate(order)[:count])
        clean = whole.new_empty((count, 3, size, size)).contiguous(memory_format=torch.channels_last)
        degraded, seen = torch.empty_like(clean), whole.new_empty(count, TONES)
        for i, label in enumerate(labels.tolist()):
            task = CLASSES[label]
            if task in self.pairs and self.dice.chance(REAL_SHARE):
                degraded[i], clean[i], seen[i] = self.pairs[task].crop(size, self.dice)
            else:
                if self.render and self.dice.chance(RENDERED_SHARE):
                    whole[i] = self.render(whole[i], task, self.dice)
                if grey := self.dice.chance(GREY_SHARE):
                    whole[i] = whole[i].mean(0)
                wrong = degrade(whole[i], task, self.dice, grey)
                cut = (slice(None), *(slice(start, start + size) for start in place[i]))
                degraded[i], clean[i], seen[i] = wrong[cut], whole[i][cut], tones(wrong[None])[0]
        return degraded, clean, labels, seen


class _Batches(IterableDataset[Batch]):
    """What one process of ``DegradedCrops.batches`` makes."""

    def __init__(self, degraded: DegradedCrops, count: int, size: int, around: int, seed: int) -> None:
        self.degraded, self.sizes, self.seed = degraded, (count, size, around), seed

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        assert worker is not None
        self.degraded.draw_anew(self.seed + 2**33 * (1 + worker.id))  # seeds of users end before
        while True:
            yield self.degraded.batch(*self.sizes)
